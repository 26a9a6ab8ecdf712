"""How well a model that infers the class of an example does so."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.evaluation.terms import on_device
from vaekit.inputs import checked_batches
from vaekit.vae import VAE


class Classification(NamedTuple):
    """What q(c | x) is worth on examples whose class is known.

    Attributes:
        accuracy: the share of them whose most probable class is the right one.
        log_loss: the mean of -log q(c | x) at the right one, in nats.
        examples: how many they are; those without a label are left out.
        confusion: int64 [K, K], how many of class i, the row, are taken for class j.
    """

    accuracy: float
    log_loss: float
    examples: int
    confusion: Tensor


@torch.no_grad()
def classification(vae: VAE, data: Any, *, batch_size: int = 500) -> Classification:
    """Accuracy, log loss and confusion of `vae.classify` on the labelled examples of a dataset.

    Args:
        vae: a model whose condition is inferred; it stays on its device.
        data: what `vaekit.evaluate` takes, with labels.
        batch_size: examples at a time; the result does not depend on it.

    Raises:
        TypeError: a model that does not infer its condition.
        ValueError: no example with a label; data that does not fit the model.

    Example:
        >>> import vaekit
        >>> condition = {"name": "inferred_labels", "classes": 3}
        >>> vae = vaekit.create_vae(input_shape=(4,), latent_dim=2, condition=condition, loss="semi_supervised")
        >>> classification(vae, (torch.rand(6, 4), torch.tensor([0, 1, 2, -1, -1, -1]))).examples
        3
    """
    batches, log_probabilities, right = checked_batches(vae, data, batch_size), [], []
    for batch in on_device(vae, batches):
        log_probabilities.append(vae.classify(batch.x, probabilities=True).double().log().cpu())
        assert vae.condition is not None
        told = vae.condition.as_rows(batch.condition, len(batch.x))
        number = torch.where(vae.condition.is_missing(told), -1, vae.condition.numbers(told))
        right.append(number.cpu())
    log_q, known = torch.cat(log_probabilities), torch.cat(right)
    log_q, known = log_q[known >= 0], known[known >= 0]
    if not len(known):
        raise ValueError("no example has a label, so that there is nothing to compare the classes with")
    guessed, classes = log_q.argmax(1), log_q.shape[1]
    confusion = torch.bincount(known * classes + guessed, minlength=classes * classes).view(classes, classes)
    nll = -log_q.gather(1, known[:, None]).mean()
    return Classification(float((guessed == known).double().mean()), float(nll), len(known), confusion)
