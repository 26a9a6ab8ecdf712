"""Evaluation: what a trained model is worth, in nats."""

from vaekit.evaluation.terms import evaluate

__all__ = ["evaluate"]
