"""Training: `fit`, its `History`, and callbacks."""

from vaekit.training.callbacks import Callback, EarlyStopping, FitState
from vaekit.training.loop import NonFiniteLossError, fit
from vaekit.training.history import History

__all__ = ["Callback", "EarlyStopping", "FitState", "History", "NonFiniteLossError", "fit"]
