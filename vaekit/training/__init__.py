"""Training: `fit`, its `History`, and callbacks."""

from vaekit.training.callbacks import Callback, EarlyStopping, FitState
from vaekit.training.history import History
from vaekit.training.loop import NonFiniteLossError, fit

__all__ = ["Callback", "EarlyStopping", "FitState", "History", "NonFiniteLossError", "fit"]
