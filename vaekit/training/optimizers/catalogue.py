"""The optimizers that there are, by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from vaekit.checks import checked_number
from vaekit.registry import Registry
from vaekit.training.shards import is_part

registry: Registry[torch.optim.Optimizer] = Registry("optimizer", "vaekit.optimizers")

Groups = Iterable[dict[str, Any]]
DECAY_LAYERS_ONLY = {"adamw", "lion"}  # whose decay leaves out biases, norms and tables unless a group says otherwise


@registry.register("adam")
def adam(
    params: Groups, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Steps scaled by running averages of the gradient and of its square. The default.

    Use it first. weight_decay is added to the gradient.

    D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", 2014, arXiv:1412.6980.

    Example:
        >>> import torch, vaekit
        >>> vae, x = vaekit.create_vae(input_shape=(4,), latent_dim=2), torch.rand(64, 4)
        >>> groups = {"decoder.*": {"lr_factor": 0.5}}
        >>> history = vaekit.fit(vae, x, epochs=1, optimizer={"name": "adam", "groups": groups}, progress=False)
    """
    return torch.optim.Adam(params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=True)


@registry.register("adamw")
def adamw(
    params: Groups, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01
) -> torch.optim.Optimizer:
    """Adam with weight decay that shrinks the weights themselves, and is not scaled with the gradient.

    Use it for large networks on little data. In `vaekit.fit` it decays the weights of layers: not parameters with fewer than two
    axes, such as biases and the scales of norms, not embeddings, and not what a part holds itself, such as a codebook or the
    means of a prior. A group that sets weight_decay has its own: {"*": {"weight_decay": 0.01}} decays everything.

    I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101.

    Example:
        >>> import torch, vaekit
        >>> vae, x = vaekit.create_vae(input_shape=(4,), latent_dim=2), torch.rand(64, 4)
        >>> optimizer = {"name": "adamw", "weight_decay": 0.05, "groups": {"decoder.*": {"weight_decay": 0.0}}}
        >>> history = vaekit.fit(vae, x, epochs=1, optimizer=optimizer, progress=False)
    """
    return torch.optim.AdamW(params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=True)


@registry.register("sgd")
def sgd(
    params: Groups, lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Steps along the gradient, or along its running sum with momentum.

    Use it where a run is to be understood step by step; with nats summed over an example's elements its learning rate has to be
    far below Adam's.

    B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964, doi:10.1016/0041-5553(64)90137-5;
    nesterov: I. Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013.

    Example:
        >>> import torch, vaekit
        >>> vae, x = vaekit.create_vae(input_shape=(4,), latent_dim=2), torch.rand(64, 4)
        >>> optimizer = {"name": "sgd", "momentum": 0.9}
        >>> history = vaekit.fit(vae, x, epochs=1, optimizer=optimizer, learning_rate=1e-4, progress=False)
    """
    groups = list(params)
    is_divided = any(is_part(one) for group in groups for one in group["params"])  # which the fused kernel does not know
    kernel = {"foreach": True} if is_divided else {"fused": True}
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, **kernel)


@registry.register("adamax")
def adamax(
    params: Groups, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Adam with the largest gradient in place of the root of the mean square; what IWAE-style models of hierarchies often take.

    Use it where single batches have gradients far above the others', which Adam forgets sooner.

    D. P. Kingma, J. Ba, 2014, arXiv:1412.6980, section 7.1.

    Example:
        >>> import torch, vaekit
        >>> vae, x = vaekit.create_vae(input_shape=(4,), latent_dim=2), torch.rand(64, 4)
        >>> history = vaekit.fit(vae, x, epochs=1, optimizer="adamax", learning_rate=2e-3, progress=False)
    """
    return torch.optim.Adamax(params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, foreach=True)


@registry.register("rmsprop")
def rmsprop(
    params: Groups,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """The gradient divided by the root of a running mean of its square; centered, by its standard deviation.

    Use it to repeat a paper that does; Adam adds a running average of the gradient to it.

    T. Tieleman, G. Hinton, "Lecture 6.5: RMSProp", 2012; centered: A. Graves, "Generating Sequences With Recurrent Neural
    Networks", 2013, arXiv:1308.0850, equations 38 to 41.

    Example:
        >>> import torch, vaekit
        >>> vae, x = vaekit.create_vae(input_shape=(4,), latent_dim=2), torch.rand(64, 4)
        >>> history = vaekit.fit(vae, x, epochs=1, optimizer={"name": "rmsprop", "momentum": 0.9}, progress=False)
    """
    return torch.optim.RMSprop(
        params, lr=lr, alpha=alpha, eps=eps, momentum=momentum, centered=centered, weight_decay=weight_decay, foreach=True
    )


@registry.register("nadam")
def nadam(
    params: Groups,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    momentum_decay: float = 4e-3,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Adam with Nesterov's momentum: each step already uses the average that the next one would.

    Use it in the place of Adam where the first epochs are slow. weight_decay is added to the gradient.

    T. Dozat, "Incorporating Nesterov Momentum into Adam", ICLR workshop 2016, algorithm 2.

    Example:
        >>> import torch, vaekit
        >>> vae, x = vaekit.create_vae(input_shape=(4,), latent_dim=2), torch.rand(64, 4)
        >>> history = vaekit.fit(vae, x, epochs=1, optimizer="nadam", progress=False)
    """
    return torch.optim.NAdam(
        params,
        lr=lr,
        betas=(betas[0], betas[1]),
        eps=eps,
        momentum_decay=momentum_decay,
        weight_decay=weight_decay,
        foreach=True,
    )


@registry.register("radam")
def radam(
    params: Groups, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Adam that does not trust the running mean of the squares before it has seen enough of them.

    Use it where Adam needs a warm-up and you do not want to choose how long. weight_decay is added to the gradient.

    L. Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", 2019, arXiv:1908.03265, algorithm 2.

    Example:
        >>> import torch, vaekit
        >>> vae, x = vaekit.create_vae(input_shape=(4,), latent_dim=2), torch.rand(64, 4)
        >>> history = vaekit.fit(vae, x, epochs=1, optimizer="radam", progress=False)
    """
    return torch.optim.RAdam(params, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, foreach=True)


@registry.register("adafactor")
def adafactor(
    params: Groups,
    lr: float,
    beta2_decay: float = -0.8,
    eps: tuple[float | None, float] = (None, 1e-3),
    d: float = 1.0,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Adam's scaling with a row and a column for each matrix in place of a number for each weight, and without momentum.

    Use it where Adam's two numbers for each weight do not fit into memory. Its learning rate is relative: a step is that part of
    the root mean square of a parameter, or of eps[1] where that is larger, and 1 / sqrt(step) at most; 1e-2 is the usual one.
    On a GPU each step waits for the device, because torch's reads two norms of each parameter.

    N. Shazeer, M. Stern, "Adafactor", 2018, arXiv:1804.04235, algorithms 4 and 5.

    Example:
        >>> import torch, vaekit
        >>> vae, x = vaekit.create_vae(input_shape=(4,), latent_dim=2), torch.rand(64, 4)
        >>> history = vaekit.fit(vae, x, epochs=1, optimizer="adafactor", learning_rate=1e-2, progress=False)
    """
    return torch.optim.Adafactor(
        params, lr=lr, beta2_decay=beta2_decay, eps=(eps[0], eps[1]), d=d, weight_decay=weight_decay, foreach=True
    )


@registry.register("lion")
def lion(params: Groups, lr: float, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """Steps of one size, along the sign of a running average of the gradient; from the package lion-pytorch.

    Use it where Adam's memory is too much, with a learning rate 3 to 10 times lower than Adam's and a weight decay that much
    higher. As `adamw`, it decays the weights of layers only unless a group says otherwise.

    X. Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, arXiv:2302.06675, algorithm 2.

    Raises:
        ModuleNotFoundError: lion-pytorch is not installed.

    Example:
        >>> import torch, vaekit
        >>> vae, x = vaekit.create_vae(input_shape=(4,), latent_dim=2), torch.rand(64, 4)
        >>> history = vaekit.fit(vae, x, epochs=1, optimizer="lion", learning_rate=1e-4, progress=False)
    """
    for beta in (betas[0], betas[1]):  # the package checks with assert
        checked_number("every entry of betas", beta, least=0.0, below=1.0)
    try:
        from lion_pytorch import Lion
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the optimizer 'lion' is in the package lion-pytorch: pip install 'vaekit[lion]'") from error
    made: torch.optim.Optimizer = Lion(
        params,
        lr=checked_number("lr", lr, above=0.0),
        betas=(betas[0], betas[1]),
        weight_decay=checked_number("weight_decay", weight_decay, least=0.0),
    )
    return made
