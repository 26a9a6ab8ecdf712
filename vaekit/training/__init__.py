"""Training: `fit`, its options, its `History`, and callbacks."""

from vaekit.training import optimizers, trackers
from vaekit.training.callbacks import Callback, EarlyStopping, ModelCheckpoint, Pictures, TimeLimit
from vaekit.training.ema import Average
from vaekit.training.fit import fit
from vaekit.training.guard import NonFiniteLossError
from vaekit.training.history import History
from vaekit.training.options import FitOptions
from vaekit.training.plan import epoch_order, step_key
from vaekit.training.prior_fitting import fit_prior
from vaekit.training.replay import Replayed, replay
from vaekit.training.resume import resume
from vaekit.training.signals import Terminated
from vaekit.training.state import RunState
from vaekit.training.trackers import Tracker

__all__ = [
    "Average",
    "Callback",
    "EarlyStopping",
    "FitOptions",
    "History",
    "ModelCheckpoint",
    "NonFiniteLossError",
    "Pictures",
    "Replayed",
    "RunState",
    "Terminated",
    "TimeLimit",
    "Tracker",
    "epoch_order",
    "fit",
    "fit_prior",
    "optimizers",
    "replay",
    "resume",
    "step_key",
    "trackers",
]
