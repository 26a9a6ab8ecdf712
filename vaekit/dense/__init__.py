"""Dense layers at the processor's speed: `Linear` is `torch.nn.Linear`, its products by the faster of two libraries.

torch gives a dense layer's products to MKL, or to whatever BLAS it was built with. On processors that MKL was not written for,
oneDNN, which torch brings for convolutions, does the same up to twice as fast. `choice` measures both, `record` keeps what came
out, `onednn` holds all that torch does not call public, `linear` is the layer.
"""

from vaekit.dense.choice import Products, described, forced, restore, state
from vaekit.dense.linear import Linear, measured_for

__all__ = ["Linear", "Products", "described", "forced", "measured_for", "restore", "state"]
