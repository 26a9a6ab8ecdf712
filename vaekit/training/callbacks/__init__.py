"""Code of one's own within a run, and what comes with vaekit: early stopping, a time limit, pictures, more checkpoints."""

from vaekit.training.callbacks.base import Callback
from vaekit.training.callbacks.early_stopping import EarlyStopping
from vaekit.training.callbacks.model_checkpoint import ModelCheckpoint
from vaekit.training.callbacks.pictures import Pictures
from vaekit.training.callbacks.time_limit import TimeLimit
from vaekit.training.callbacks.together import Callbacks

__all__ = ["Callback", "Callbacks", "EarlyStopping", "ModelCheckpoint", "Pictures", "TimeLimit"]
