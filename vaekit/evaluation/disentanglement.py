"""How far each latent dimension means one thing: scores against known factors of variation.

All are between 0 and 1 (but for rounding), higher is better, and say different things: F. Locatello et al., "Challenging Common
Assumptions in the Unsupervised Learning of Disentangled Representations", ICML 2019, arXiv:1811.12359, compares them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vaekit.checks import checked_number, checked_size
from vaekit.evaluation.terms import on_device
from vaekit.inputs import checked_batches
from vaekit.modes import evaluation_mode
from vaekit.ops import philox
from vaekit.vae import VAE

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_COLLAPSED = 0.05  # the variance, where the prior's is 1, up to which a dimension says nothing: as in Locatello et al. 2019
_DRAWS = 1000  # from a prior, to estimate its variance


@torch.no_grad()
def disentanglement(
    vae: VAE, data: Any, factors: Any, *, batch_size: int = 500, collapsed: float = _COLLAPSED, seed: int = 0
) -> dict[str, float]:
    """All scores of a model's codes, the posterior means, against the factors that the data was made from.

    Codes are taken in units of the prior's standard deviation in each dimension: 1 for the standard normal prior, and from 1,000
    draws for any other, whose scale is free, so that a small variance alone does not say that a dimension collapsed.

    Args:
        vae: the model; it stays on its device.
        data: what `vaekit.evaluate` takes, in the factors' order.
        factors: integers [N, F], each example's value of each factor, from 0 on: `vaekit.data.shapes().factors` for example.
        batch_size: examples at a time.
        collapsed: the share of the prior's variance up to which a dimension's is left out of "sap" and "factor_vae".
        seed: fixes what is random in the scores.

    Returns:
        "mig" (`mutual_information_gap`), "sap" (`separated_attribute_predictability`), "dci_disentanglement",
        "dci_completeness", "dci_informativeness" (`dci`) and "factor_vae" (`factor_vae_score`).

    Raises:
        ValueError: factors of another length or form, or with one value, or another in each example; fewer than 4 examples; data
            that does not fit the model; a `collapsed` below 0.
        ModuleNotFoundError: scikit-learn is not installed.

    Example:
        >>> import vaekit
        >>> shapes = vaekit.data.shapes(size=8, positions=2, orientations=2)
        >>> vae = vaekit.create_vae(input_shape=(1, 8, 8), latent_dim=2)
        >>> sorted(disentanglement(vae, shapes, shapes.factors))[:2]
        ['dci_completeness', 'dci_disentanglement']
    """
    with evaluation_mode(vae):
        batches = on_device(vae, checked_batches(vae, data, batch_size))
        means = [vae.encode(batch.x, batch.condition).mean.flatten(1).cpu() for batch in batches]
    codes = torch.cat(means).double() / _prior_deviation(vae, seed)
    parts = dci(codes, factors, seed=seed)
    return {
        "mig": mutual_information_gap(codes, factors),
        "sap": separated_attribute_predictability(codes, factors, collapsed=collapsed, seed=seed),
        **{f"dci_{name}": value for name, value in parts.items()},
        "factor_vae": factor_vae_score(codes, factors, collapsed=collapsed, seed=seed),
    }


def mutual_information_gap(codes: Any, factors: Any, *, bins: int = 20) -> float:
    """MIG: how much more the best dimension knows of a factor than the second best, in entropies of the factor.

    1/F sum_k (I(z_first; v_k) - I(z_second; v_k)) / H(v_k): 1 where each factor is known by one dimension, and by no other.
    R. T. Q. Chen et al., "Isolating Sources of Disentanglement in VAEs", 2018, arXiv:1802.04942, equation 6; the mutual
    information is that of the codes in bins of equal width, as in Locatello et al. 2019.

    Args:
        codes: floats [N, D].
        factors: integers [N, F].
        bins: how many for each dimension.

    Raises:
        ValueError: other shapes, or a factor with one value.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(4))
        >>> round(mutual_information_gap(factors.float(), factors), 6)
        1.0
    """
    z, v = _checked(codes, factors)
    checked_size("bins", bins)
    binned = np.stack([_binned(column, bins) for column in z.T], 1)
    information = np.array([[_mutual_information(code, factor) for factor in v.T] for code in binned.T])
    entropies = np.array([_mutual_information(factor, factor) for factor in v.T])
    ordered = np.sort(information, axis=0)[::-1]
    second = ordered[1] if len(ordered) > 1 else 0.0
    return float(np.mean((ordered[0] - second) / entropies))


def factor_vae_score(
    codes: Any, factors: Any, *, examples: int = 64, votes: int = 5000, collapsed: float = _COLLAPSED, seed: int = 0
) -> float:
    """The share of groups with a fixed factor whose least varying dimension tells which one it is.

    Of `votes` groups of `examples` that share the value of one factor, each votes for the dimension with the least variance,
    relative to its variance over all; a majority vote from half of them says which factor a dimension stands for, and the score
    is how often it is right on the other half. H. Kim, A. Mnih, "Disentangling by Factorising", ICML 2018, arXiv:1802.05983,
    section 3. Collapsed dimensions are left out; 0 where there is no other.

    Args:
        codes: floats [N, D].
        factors: integers [N, F].
        examples, votes: sizes, at least 2.
        collapsed: the variance up to which a dimension is left out. 0.05 is meant for a prior of variance 1; take its share of
            the prior's variance for another one.
        seed: fixes the groups.

    Raises:
        ValueError: other shapes or sizes, a factor with one value, or a `collapsed` below 0.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(4))
        >>> factor_vae_score(factors.float(), factors, votes=100)
        1.0
    """
    z, v = _checked(codes, factors)
    if checked_size("examples", examples) < 2 or checked_size("votes", votes) < 2:
        raise ValueError(
            "a group has to have at least 2 examples, to have a variance, and each half at least one vote, got "
            f"examples={examples} and votes={votes}"
        )
    random = np.random.default_rng(seed % 2**32)
    z = _standardised(z, collapsed)
    if not z.size:
        return 0.0
    count = np.zeros((2, z.shape[1], v.shape[1]))
    for vote in range(votes):
        factor = random.integers(v.shape[1])
        value = v[random.integers(len(v)), factor]
        group = random.choice(np.flatnonzero(v[:, factor] == value), examples)
        count[vote % 2, z[group].var(0).argmin(), factor] += 1
    stands_for = count[0].argmax(1)
    return float(count[1][np.arange(len(stands_for)), stands_for].sum() / count[1].sum())


def dci(codes: Any, factors: Any, *, seed: int = 0) -> dict[str, float]:
    """Disentanglement, completeness, informativeness, from what a random forest uses to predict each factor.

    With R_dk the importance of dimension d for factor k, and P its rows (columns) as shares: disentanglement is 1 minus the
    entropy of row d, in units of log F, weighted by the row's importance; completeness 1 minus that of column k in units of
    log D, a mean over factors; informativeness the accuracy on a quarter that is held out, but for one example of each value,
    which the forest has to see. C. Eastwood, C. K. I. Williams, "A Framework for the Quantitative Evaluation of Disentangled
    Representations", ICLR 2018, section 2. It needs scikit-learn.

    The classifier is not the literature's, and scores by another compare only among themselves: here it is scikit-learn's
    RandomForestClassifier of 20 trees, each of which may use all dimensions. Eastwood and Williams regress the factors by lasso
    and by random forests whose depth they choose for each factor, and report an error as informativeness; Locatello et al. 2019
    classify with gradient boosted trees, scikit-learn's GradientBoostingClassifier at its defaults, on other examples than they
    test on.

    Args:
        codes: floats [N, D].
        factors: integers [N, F].
        seed: fixes the forest and what is held out.

    Returns:
        "disentanglement", "completeness" and "informativeness".

    Raises:
        ValueError: other shapes, fewer than 4 examples, or a factor with one value, or another in each example.
        ModuleNotFoundError: scikit-learn is not installed.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(4)).repeat(20, 1)
        >>> scores = dci(factors.float(), factors)
        >>> round(scores["disentanglement"], 3), round(scores["informativeness"], 3)
        (1.0, 1.0)
    """
    z, v = _checked(codes, factors)
    ensemble, order = _sklearn("ensemble"), _shuffled(len(z), seed)
    importance, accuracy = np.zeros((z.shape[1], v.shape[1])), []
    for k, factor in enumerate(v.T):
        known, held_out = _split(k, factor, order)
        forest = ensemble.RandomForestClassifier(n_estimators=20, max_features=None, random_state=seed % 2**32)
        forest.fit(z[known], factor[known])
        importance[:, k] = forest.feature_importances_
        accuracy.append(float((forest.predict(z[held_out]) == factor[held_out]).mean()))
    weights = importance.sum(1) / max(importance.sum(), 1e-300)
    return {
        "disentanglement": float((weights * (1.0 - _relative_entropy(importance, 1))).sum()),
        "completeness": float(np.mean(1.0 - _relative_entropy(importance, 0))),
        "informativeness": float(np.mean(accuracy)),
    }


def separated_attribute_predictability(codes: Any, factors: Any, *, collapsed: float = _COLLAPSED, seed: int = 0) -> float:
    """SAP: how much better the best dimension alone predicts a factor than the second best.

    The accuracy is that of a linear support vector machine on one dimension, on a quarter that is held out, but for one example
    of each value, which the machine has to see; the gap is averaged over the factors. Collapsed dimensions are left out, as in
    `factor_vae_score`. Where one dimension is left, its gap is that to a guess, which is right once in as many times as the
    factor has values, or 0 if it does worse; where none is, the score is 0. A. Kumar, P. Sattigeri, A. Balakrishnan,
    "Variational Inference of Disentangled Latent Concepts from Unlabeled Observations", ICLR 2018, arXiv:1711.00848, section 3.

    The machine is that of Locatello et al. 2019 (C = 0.01, values weighed to count alike), for every factor; but they take codes
    as they are, and here they are standardised first, so that the machine's penalty, and with it the score, does not depend on
    the scale and the mean of a dimension. It needs scikit-learn.

    Args:
        codes: floats [N, D].
        factors: integers [N, F].
        collapsed: the variance up to which a dimension is left out, as in `factor_vae_score`.
        seed: fixes what is held out.

    Raises:
        ValueError: other shapes, fewer than 4 examples, a factor with one value, or another in each example, or a `collapsed`
            below 0.
        ModuleNotFoundError: scikit-learn is not installed.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(2), torch.arange(2)).repeat(50, 1)
        >>> separated_attribute_predictability(factors.float(), factors) > 0.4  # 1 against chance, about a half
        True
    """
    z, v = _checked(codes, factors)
    svm, order = _sklearn("svm"), _shuffled(len(z), seed)
    z = _standardised(z, collapsed)
    if not z.size:
        return 0.0
    gaps = []
    for k, factor in enumerate(v.T):
        known, held_out = _split(k, factor, order)
        accuracy = []
        for column in z.T[:, :, None]:
            machine = svm.LinearSVC(C=0.01, class_weight="balanced", random_state=seed % 2**32, max_iter=5000)
            machine.fit(column[known], factor[known])
            accuracy.append(float((machine.predict(column[held_out]) == factor[held_out]).mean()))
        best, *others = sorted(accuracy, reverse=True)
        gaps.append(best - others[0] if others else max(best - 1.0 / len(np.unique(factor)), 0.0))
    return float(np.mean(gaps))


def _checked(codes: Any, factors: Any) -> tuple[Floats, Ints]:
    z = _numpy(codes).astype(np.float64)
    v = _numpy(factors)
    if z.ndim != 2 or v.ndim != 2 or len(z) != len(v) or not z.size or not v.size:
        raise ValueError(
            "codes have to have the shape [examples, dimensions] and factors [examples, factors], with as many examples, got "
            f"{z.shape} and {v.shape}"
        )
    if not np.isfinite(z).all():
        raise ValueError("the codes hold NaN or infinity")
    if not (np.isfinite(v).all() and np.array_equal(v, np.trunc(v))):
        raise ValueError("factors have to be whole numbers, the value of each as its number; put continuous ones into bins")
    constant = [k for k in range(v.shape[1]) if len(np.unique(v[:, k])) < 2]
    if constant:
        raise ValueError(f"factor {constant[0]} has one value in this data, so that nothing can be said of it; leave it out")
    return z, v.astype(np.int64)


def _prior_deviation(vae: VAE, seed: int) -> Tensor | float:
    """Of each dimension, float64 [D]."""
    if vae.prior.is_standard:
        return 1.0
    weight = next(vae.parameters())
    key = philox.make_key(seed, device=weight.device)
    z = vae.prior.sample((_DRAWS, *vae.latent_shape), key=key, dtype=weight.dtype).flatten(1).cpu().double()
    return z.std(0).clamp(min=1e-12)


def _standardised(z: Floats, collapsed: float) -> Floats:
    """The dimensions whose variance is above `collapsed`, with mean 0 and variance 1."""
    checked_number("collapsed", collapsed, least=0.0)
    scale = z.std(0)
    used = scale**2 > collapsed
    standardised: Floats = (z[:, used] - z[:, used].mean(0)) / scale[used]
    return standardised


def _shuffled(count: int, seed: int) -> Ints:
    if count < 4:
        raise ValueError(f"this score holds out a quarter of the examples, for which there have to be at least 4, got {count}")
    return np.random.default_rng(seed % 2**32).permutation(count)


def _split(k: int, factor: Ints, order: Ints) -> tuple[Ints, Ints]:
    """Examples to learn factor k from, the first of each value among them, and a quarter of all, to predict it for."""
    first = np.unique(factor[order], return_index=True)[1]
    rest = np.delete(order, first)
    if not len(rest):
        raise ValueError(
            f"factor {k} has another value in each example, so that none can be predicted from the others; leave it out, or put "
            "its values into bins"
        )
    count = len(order) // 4
    return np.concatenate((order[first], rest[count:])), rest[:count]


def _numpy(values: Any) -> npt.NDArray[Any]:
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    array: npt.NDArray[Any] = (values.double() if values.is_floating_point() else values).numpy()  # numpy has no bfloat16
    return array


def _binned(values: Floats, bins: int) -> Ints:
    low, high = values.min(), values.max()
    if low == high:
        return np.zeros(len(values), dtype=np.int64)
    numbers: Ints = np.minimum(((values - low) / (high - low) * bins).astype(np.int64), bins - 1)
    return numbers


def _mutual_information(a: Ints, b: Ints) -> float:
    """In nats, of the two columns' joint frequencies."""
    _, a_number = np.unique(a, return_inverse=True)
    _, b_number = np.unique(b, return_inverse=True)
    joint = np.zeros((a_number.max() + 1, b_number.max() + 1))
    np.add.at(joint, (a_number, b_number), 1.0 / len(a))
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


def _relative_entropy(importance: Floats, axis: int) -> Floats:
    """The entropy along an axis of what is there as shares, in units of the largest possible; 1 where there is nothing."""
    count = importance.shape[axis]
    if count == 1:
        return np.zeros(importance.shape[1 - axis])
    total = importance.sum(axis, keepdims=True)
    shares = np.divide(importance, total, out=np.full_like(importance, 1.0 / count), where=total > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    entropy: Floats = -(shares * logs).sum(axis) / np.log(count)
    return entropy


def _sklearn(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"sklearn.{module}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("this score fits classifiers of scikit-learn: pip install scikit-learn") from error
