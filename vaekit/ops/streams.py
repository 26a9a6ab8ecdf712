"""What derived keys are for: the one table of the numbers by which `fold_in` derives them.

A class for each key that others are derived from, a name for each key that is. Two keys of one parent have different numbers, so
that they never share noise. None depends on how a batch is split over processes: rows of a stream are chosen by `row_start`.
Numbers are part of what a seed means; a new stream gets a new number, and an old one keeps its own.
"""

from __future__ import annotations


class Run:
    """Of `make_key(seed)`, the key of a run."""

    STEPS = 0  # parent of each step's key, fold_in(STEPS, step): the noise of training
    ORDER = 1  # parent of each epoch's key, fold_in(ORDER, epoch): the order of the examples
    EVALUATION = 2  # the noise of validation and evaluation, the same for every epoch
    LOADER = 3  # parent of each epoch's key, fold_in(LOADER, epoch): what a loader draws from the global generators
    VALIDATION = 4  # what a loader of validation data draws from the global generators, the same for every epoch


class Step:
    """Of a step's key, which draws z itself, and of the key of an evaluation."""

    OBJECTIVE = 1  # what an objective draws besides z: draws from the prior, permutations, places of codes
    LAYERS = 2  # what layers such as dropout draw from the global generators, and before them a loader for the step;
    # of a run's processes the first draws from it, and process 1, 2, ... from fold_in(LAYERS, rank)
    IMPUTATION = 3  # what an imputation draws besides z
    CLASS = 4  # of a condition that is missing, where draws of it have weights
    SETS = 5  # of modalities that an objective hides; set n has fold_in(SETS, n)
    HEIGHT = 6  # how far directions lie from their mean's; parent of each round's key, fold_in(HEIGHT, n)


class HeightRound:
    """Of round n of HEIGHT."""

    PROPOSAL = 0
    ACCEPTANCE = 1


class Imputation:
    """Of IMPUTATION. Draw m of several has fold_in(CHOICE, m) and fold_in(DATA, m)."""

    CHOICE = 0  # of one z among many
    DATA = 1  # x given z


class Given:
    """Of the key of a sample with given columns."""

    LATENTS = 0  # the draws from the prior among which the given columns choose
    PLACES = 1  # of those that are kept
    DATA = 2  # x given z
    ORDER = 3  # of the rows


class Generators:
    """Of a key whose first word seeds torch's global generators: LOADER of an epoch, VALIDATION, LAYERS."""

    PYTHON = -1
    NUMPY = -2


class Codebook:
    """Of the key of a codebook's update, which draws the vectors that codes are put onto; of several books, each one's.

    Book n has fold_in(key, n), n from 0 on.
    """

    FIRST_PLACES = 1  # k-means++ over the first batch


class Sample:
    """Of the key of `VAE.sample` and of `Prior.sample`, which draws z itself; a prior may use any number of at least 0."""

    COMPONENT = 1  # of a mixture
    DATA = -1  # x given z
    CLASS = -2  # where a condition is missing


class Mixture:
    """Of the key of a draw from a posterior that is a mixture, which draws the noise itself."""

    COMPONENT = 1


class NegativeBinomial:
    """Of the key of a draw, as in the other likelihoods below."""

    RATE = 0
    COUNT = 1
    LOST = 2  # the zeros of the inflated one


class Beta:
    FIRST_GAMMA = 0
    SECOND_GAMMA = 1


class StudentT:
    NORMAL = 0
    PRECISION = 1


class DiscretizedLogistic:
    COMPONENT = 0
    VALUE = 1


class Gamma:
    """Of the key of `log_gamma`, whose round n has fold_in(key, n)."""

    BOOST = -1  # for shapes below 1


class GammaRound:
    NORMAL = 0
    UNIFORM = 1


class Poisson:
    SMALL_MEANS = 0
    LARGE_MEANS = 1  # parent of each round's key, fold_in(LARGE_MEANS, n)


class PoissonRound:
    PROPOSAL = 0
    ACCEPTANCE = 1
