"""What the latent dimensions carry.

Active units: Y. Burda, R. Grosse, R. Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016, arXiv:1509.00519, section 5.2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.evaluation.terms import on_device
from vaekit.inputs import checked_batches
from vaekit.modes import evaluation_mode
from vaekit.ops import philox
from vaekit.vae import VAE


class LatentStatistics(NamedTuple):
    """Each latent dimension over a dataset.

    Attributes:
        kl: float64 [*latent_shape], the divergence from the prior in nats, a mean over the examples.
        variance: float64 [*latent_shape], over the examples, of the posterior's mean.
        active: bool [*latent_shape], where that variance is above the threshold.
        collapsed: the names of the others, "z[3]" or "z[0, 2, 1]".
    """

    kl: Tensor
    variance: Tensor
    active: Tensor
    collapsed: list[str]


@torch.no_grad()
def latent_statistics(vae: VAE, data: Any, *, threshold: float = 0.01, batch_size: int = 500) -> LatentStatistics:
    """Divergence and activity of each latent dimension.

    A dimension is active if the posterior's mean in it varies from example to example by more than `threshold`; a collapsed one
    says nothing of x.

    Args:
        vae: the model, with a posterior and a prior whose divergence is known for each dimension: a diagonal Gaussian from a
            standard normal or learned Gaussian one.
        data: what `vaekit.evaluate` takes.
        threshold: of the variance; 0.01 as in the paper.
        batch_size: examples at a time.

    Returns:
        `LatentStatistics`, on the CPU.

    Raises:
        TypeError: another posterior or prior, in which a divergence is not a sum over dimensions.
        ValueError: fewer than two examples, data that does not fit the model, or posteriors that are not finite; the message
            names the weights that are not.

    Example:
        >>> import vaekit
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=3)
        >>> latent_statistics(vae, torch.rand(100, 4)).kl.shape
        torch.Size([3])
    """
    batches, device, count = checked_batches(vae, data, batch_size), next(vae.parameters()).device, 0
    mean, squares, kl_sum = (
        torch.zeros(vae.latent_shape, dtype=torch.float64) for _ in range(3)
    )  # on the CPU: MPS has no float64
    with evaluation_mode(vae):
        for batch in on_device(vae, batches):
            posterior = vae.encode(batch.x, batch.condition)
            prior = vae.prior_given(batch.condition, len(batch.x))
            _, kl = posterior.rsample_kl_per_dimension(prior, key=philox.make_key(0, device=device))
            kl_sum += kl.cpu().double().sum(0)
            # Means and sums of squared distances of two groups, put together: T. F. Chan, G. H. Golub, R. J. LeVeque, 1983.
            mu, size = posterior.mean.cpu().double(), len(posterior.mean)
            if size == 0:
                continue
            shift = mu.mean(0) - mean
            squares += ((mu - mu.mean(0)) ** 2).sum(0) + shift * shift * (count * size / (count + size))
            mean += shift * (size / (count + size))
            count += size
    if count < 2:
        raise ValueError(f"a variance over the examples needs at least two of them, got {count}")
    variance, kl_mean = (squares / (count - 1)).cpu(), (kl_sum / count).cpu()
    if not (variance.isfinite() & kl_mean.isfinite()).all():
        raise ValueError(f"the posteriors of this data are not finite{_blamed_weights(vae)}")
    active = variance > threshold
    collapsed = [f"z[{', '.join(map(str, place))}]" for place in (~active).nonzero().tolist()]
    return LatentStatistics(kl_mean, variance, active, collapsed)


def _blamed_weights(vae: VAE) -> str:
    """The first parameters with values that are not finite, in words."""
    names = [name for name, parameter in vae.named_parameters() if not parameter.isfinite().all()]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f": NaN or infinity is in the weights {', '.join(names[:3])}{more}" if names else ", though the weights are"
