"""Conditions: what a conditional model is told of each example besides x."""

from vaekit.conditions.base import Condition, registry
from vaekit.conditions.labels import Labels
from vaekit.conditions.several import Several
from vaekit.conditions.vector import Vector

register, create, names, describe = registry.register, registry.create, registry.names, registry.describe

__all__ = ["Condition", "Labels", "Several", "Vector", "create", "describe", "names", "register", "registry"]
