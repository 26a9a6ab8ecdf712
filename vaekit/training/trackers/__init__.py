"""Where what a run records is written down: tables, lines of JSON, TensorBoard, Weights & Biases, MLflow."""

from vaekit.training.trackers.base import Summary, TrackedRun, Tracker, build, create, describe, names, register, registry
from vaekit.training.trackers.csv import Csv
from vaekit.training.trackers.jsonl import JsonLines
from vaekit.training.trackers.mlflow import Mlflow
from vaekit.training.trackers.tensorboard import TensorBoard
from vaekit.training.trackers.wandb import Wandb

__all__ = [
    "Csv",
    "JsonLines",
    "Mlflow",
    "Summary",
    "TensorBoard",
    "TrackedRun",
    "Tracker",
    "Wandb",
    "build",
    "create",
    "describe",
    "names",
    "register",
    "registry",
]
