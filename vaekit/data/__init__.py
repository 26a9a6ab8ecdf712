"""Data by name, from files or from memory, and batches of it."""

from vaekit.data import (  # noqa: F401 (they register what they read)
    amat,
    cifar,
    framed,
    hdf5,
    map_datasets,
    matlab,
    numpy_readers,
    pictures,
    scikit_learn,
    sparse,
    tensor_files,
)
from vaekit.data.ahead import moved
from vaekit.data.batch import Batch
from vaekit.data.batches import Batches
from vaekit.data.cells import Cells
from vaekit.data.datasets import is_named, load, load_parts, load_test, names
from vaekit.data.download import cache_folder
from vaekit.data.examples import Examples, as_examples
from vaekit.data.fingerprint import differences
from vaekit.data.frames import as_frame, is_frame, is_table_source, read_frame
from vaekit.data.kinds import as_batches, with_validation
from vaekit.data.mapped import MappedArray
from vaekit.data.readers import readable
from vaekit.data.schema import Schema
from vaekit.data.sequences import sequences
from vaekit.data.shapes import Shapes, shapes
from vaekit.data.sharding import share
from vaekit.data.shards import open_shards
from vaekit.data.stream import Stream
from vaekit.data.tables import Column
from vaekit.data.whole import Whole

__all__ = [
    "Batch",
    "Batches",
    "Cells",
    "Column",
    "Examples",
    "MappedArray",
    "Schema",
    "Shapes",
    "Stream",
    "Whole",
    "as_batches",
    "as_examples",
    "as_frame",
    "cache_folder",
    "differences",
    "is_frame",
    "is_named",
    "is_table_source",
    "load",
    "load_parts",
    "load_test",
    "moved",
    "names",
    "open_shards",
    "readable",
    "read_frame",
    "sequences",
    "shapes",
    "share",
    "with_validation",
]
