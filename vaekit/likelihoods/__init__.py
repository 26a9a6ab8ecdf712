"""Likelihoods p(x | z): what a decoder's output means, and how far data is from it in nats."""

from vaekit.likelihoods.autoregressive import Autoregressive
from vaekit.likelihoods.base import Likelihood, registry
from vaekit.likelihoods.bernoulli import Bernoulli
from vaekit.likelihoods.beta import Beta
from vaekit.likelihoods.categorical import Categorical
from vaekit.likelihoods.columns import Columns
from vaekit.likelihoods.continuous_bernoulli import ContinuousBernoulli
from vaekit.likelihoods.discretized_logistic import DiscretizedLogistic
from vaekit.likelihoods.gaussian import Gaussian
from vaekit.likelihoods.laplace import Laplace
from vaekit.likelihoods.library_size import LibrarySize
from vaekit.likelihoods.multimodal import Modalities
from vaekit.likelihoods.negative_binomial import NegativeBinomial, ZeroInflatedNegativeBinomial
from vaekit.likelihoods.poisson import Poisson
from vaekit.likelihoods.student_t import StudentT
from vaekit.likelihoods.support import Support

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = [
    "Autoregressive",
    "Bernoulli",
    "Beta",
    "Categorical",
    "Columns",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "Laplace",
    "LibrarySize",
    "Likelihood",
    "Modalities",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
    "Support",
    "ZeroInflatedNegativeBinomial",
    "create",
    "describe",
    "names",
    "register",
    "registry",
]
