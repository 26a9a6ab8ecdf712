"""Evaluation: what a trained model is worth, in nats and in the data's own units."""

from vaekit.evaluation.bound import Bound, importance_weighted_bound
from vaekit.evaluation.classification import Classification, classification
from vaekit.evaluation.disentanglement import (
    dci,
    disentanglement,
    factor_vae_score,
    mutual_information_gap,
    separated_attribute_predictability,
)
from vaekit.evaluation.errors import reconstruction_error
from vaekit.evaluation.images import SampleQuality, feature_distances, reconstruction_quality, sample_quality
from vaekit.evaluation.imputation import Imputation, imputations, impute
from vaekit.evaluation.inception import inception_features
from vaekit.evaluation.latents import LatentStatistics, latent_statistics
from vaekit.evaluation.sampler import fitted_codes, fitted_mixture
from vaekit.evaluation.scoring import Scores, score, scores
from vaekit.evaluation.terms import evaluate

__all__ = [
    "Bound",
    "Classification",
    "Imputation",
    "LatentStatistics",
    "SampleQuality",
    "Scores",
    "classification",
    "dci",
    "disentanglement",
    "evaluate",
    "factor_vae_score",
    "feature_distances",
    "fitted_codes",
    "fitted_mixture",
    "importance_weighted_bound",
    "imputations",
    "impute",
    "inception_features",
    "latent_statistics",
    "mutual_information_gap",
    "reconstruction_error",
    "reconstruction_quality",
    "sample_quality",
    "score",
    "scores",
    "separated_attribute_predictability",
]
