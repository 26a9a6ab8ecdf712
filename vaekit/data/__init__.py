"""Data: by name, from files, or as it is; and batches of it."""

from vaekit.data.batches import Batches
from vaekit.data.datasets import load, load_test, names
from vaekit.data.download import cache_folder
from vaekit.data.examples import Examples, MappedArray, as_examples
from vaekit.data.shapes import Shapes, shapes

__all__ = ["Batches", "Examples", "MappedArray", "Shapes", "as_examples", "cache_folder", "load", "load_test", "names", "shapes"]
