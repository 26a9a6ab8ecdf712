"""Converter of scikit-learn's datasets (`sklearn.utils.Bunch`), which is not imported."""

from __future__ import annotations

from typing import Any

from vaekit.data.examples import Examples, as_examples
from vaekit.data.readers import converter


def _is_bunch(data: Any) -> bool:
    return type(data).__module__.startswith("sklearn.") and isinstance(data, dict) and "data" in data


@converter("datasets of scikit-learn", _is_bunch)
def of_bunch(bunch: Any, **options: Any) -> Examples:
    """The data; its targets are labels, with names where it has some, or vectors [N, 1] where they are not whole numbers."""
    x, y, names = bunch["data"], bunch.get("target"), bunch.get("target_names")
    if y is None:
        return as_examples(x, **options)
    examples = as_examples((x, y), **options)
    return examples if names is None else examples.with_label_names([str(name) for name in names])
