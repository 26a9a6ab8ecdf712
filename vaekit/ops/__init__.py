"""The operator and its noise: see `reparameterize_kl`, `philox`, `reference` and `native`."""

from vaekit.ops.native import build_info, has_native
from vaekit.ops.philox import fold_in, make_key
from vaekit.ops.reparameterize_kl import reparameterize_kl

__all__ = ["build_info", "fold_in", "has_native", "make_key", "reparameterize_kl"]
