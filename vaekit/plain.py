"""Plain data with tensors in it, taken apart into a JSON value and named tensors, and put together again. Nothing is pickled.

For the states of loaders, callbacks and whatever else a checkpoint keeps: what comes back has the same types and the same bits as
what was given.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vaekit.weights import name_of, unwritable

_DEEPEST = 100  # levels; below Python's limit on recursion, and JSON's
_KEYS = (str, int, float, bool, bytes, tuple, type(None))


class Packed(NamedTuple):
    """Plain data, taken apart.

    Attributes:
        data: a JSON value: None, True, False, numbers, strings, lists and dictionaries of them; every number is finite.
        tensors: by the names under which `data` mentions them. They share the memory of those that were packed.
    """

    data: Any
    tensors: dict[str, Tensor]


def pack(value: Any, name: str = "state") -> Packed:
    """Take plain data apart, for a file that holds JSON and tensors.

    Plain are None, booleans, whole numbers of any size, floats (NaN and infinity too), strings, bytes, lists, tuples,
    dictionaries whose keys are plain and hold no tensor, `OrderedDict` (what `nn.Module.state_dict` returns; its attributes are
    left out), dense tensors of the dtypes in `vaekit.weights.DTYPES`, on any device, and NumPy's numbers and arrays of numbers. A
    parameter comes back as a plain tensor. A tensor that is in several places is stored once, and comes back as one tensor.

    Args:
        value: the data.
        name: what the data is called in messages; the names of its tensors begin with it.

    Raises:
        TypeError: something in it is not plain; the message says what, and where.
        ValueError: it holds itself, or is nested more than 100 levels deep.

    Example:
        >>> packed = pack({"order": (3, 1), "seed": torch.tensor([7])}, "loader")
        >>> packed.data
        {'dict': {'order': {'tuple': [3, 1]}, 'seed': {'tensor': 'loader.0'}}}
        >>> unpack(*packed)
        {'order': (3, 1), 'seed': tensor([7])}
    """
    packer = _Packer(name)
    return Packed(packer.pack(value, name, 0), packer.tensors)


def unpack(data: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `pack` took apart.

    Args:
        data: `Packed.data`, also after it has been through JSON.
        tensors: `Packed.tensors`, among others perhaps. They become part of the value as they are.

    Raises:
        ValueError: the data was not made by `pack`, or a tensor is missing.
    """
    return _Unpacker(tensors).unpack(data, 0)


def to_text(value: Any, name: str = "state") -> str:
    """Plain data with its tensors in one text, for another process; `from_text` gives it back, with tensors on the CPU.

    Raises:
        TypeError, ValueError: as `pack`.

    Example:
        >>> from_text(to_text({"seed": torch.tensor([7])}))
        {'seed': tensor([7])}
    """
    packed = pack(value, name)
    tensors = {
        key: [name_of(tensor.dtype), list(tensor.shape), base64.b64encode(_bytes_of(tensor)).decode()]
        for key, tensor in packed.tensors.items()
    }
    return json.dumps([packed.data, tensors])


def from_text(text: str) -> Any:
    """The value of which `to_text` made a text."""
    data, tensors = json.loads(text)
    return unpack(data, {key: _tensor_of(*one) for key, one in tensors.items()})


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _tensor_of(dtype: str, shape: list[int], content: str) -> Tensor:
    kind, values = getattr(torch, dtype), bytearray(base64.b64decode(content))
    return torch.frombuffer(values, dtype=kind).reshape(shape) if values else torch.empty(shape, dtype=kind)


class _Packer:
    def __init__(self, name: str) -> None:
        self._name, self.tensors = name, dict[str, Tensor]()
        self._names: dict[int, tuple[str, Any]] = {}  # with the tensor, lest its id be given to another one

    def pack(self, value: Any, where: str, level: int) -> Any:
        """The JSON value for `value`, which is at `where` in the data. An object is a kind with what belongs to it."""
        if level > _DEEPEST:
            raise ValueError(f"{self._name} is nested more than {_DEEPEST} levels deep, or holds itself; it cannot be stored")
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if -(2**63) <= value < 2**64 else {"int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}
        if kind is bytes:
            return {"bytes": base64.b64encode(value).decode()}
        if kind in (list, tuple):
            entries = [self.pack(entry, f"{where}[{place}]", level + 1) for place, entry in enumerate(value)]
            return entries if kind is list else {"tuple": entries}
        if kind in (dict, OrderedDict):
            return self._pack_mapping(value, where, level, "dict" if kind is dict else "ordered")
        if kind in (Tensor, nn.Parameter):
            return {"tensor": self._stored(value, value.detach(), where)}
        if kind is np.ndarray or isinstance(value, np.generic):
            return self._pack_array(value, where)
        raise TypeError(
            f"{where} is a {kind.__name__}, which cannot be stored without pickle: plain data are None, booleans, numbers, "
            "strings, bytes, lists, tuples, dictionaries, tensors and arrays"
        )

    def _pack_mapping(self, value: Mapping[Any, Any], where: str, level: int, kind: str) -> Any:
        inside = [(key, self.pack(entry, f"{where}[{key!r}]", level + 1)) for key, entry in value.items()]
        if all(type(key) is str for key, _ in inside):
            return {kind: dict(inside)}
        for key, _ in inside:
            if type(key) not in _KEYS:
                raise TypeError(
                    f"{where} has a key that is a {type(key).__name__}, which cannot be stored without pickle: {key!r}"
                )
        before = len(self.tensors)
        items = [[self.pack(key, f"the key {key!r} of {where}", level + 1), entry] for key, entry in inside]
        if len(self.tensors) > before:
            raise TypeError(f"{where} has a key with a tensor in it, which would come back as another key")
        return {f"{kind} items": items}

    def _pack_array(self, value: Any, where: str) -> Any:
        """A NumPy array, or one of NumPy's numbers, as a tensor."""
        array = np.asarray(value)
        if array.dtype.kind not in "fiub" or not array.dtype.isnative:
            raise TypeError(
                f"{where} is an array of {array.dtype}, and only arrays of real numbers in native order can be stored"
            )
        try:
            tensor = torch.from_numpy(array.copy())
        except TypeError as error:  # float128
            raise TypeError(f"{where} is an array of {array.dtype}, which torch does not have") from error
        return {"array" if isinstance(value, np.ndarray) else "number": self._stored(value, tensor, where)}

    def _stored(self, value: Any, tensor: Tensor, where: str) -> str:
        """The name of a tensor, made from `value`."""
        if id(value) in self._names:
            return self._names[id(value)][0]
        if problem := unwritable(tensor):
            raise TypeError(f"{where} is {problem}; it cannot be stored")
        name = f"{self._name}.{len(self.tensors)}"
        self._names[id(value)], self.tensors[name] = (name, value), tensor
        return name


class _Unpacker:
    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def unpack(self, data: Any, level: int) -> Any:
        if level > _DEEPEST:
            raise ValueError(f"stored data are nested more than {_DEEPEST} levels deep")
        if isinstance(data, list):
            return [self.unpack(entry, level + 1) for entry in data]
        if not isinstance(data, dict):
            return data
        if len(data) != 1:
            raise ValueError(f"stored data hold an object of {len(data)} entries, where one names its kind")
        ((kind, content),) = data.items()
        try:
            return self._value(kind, content, level)
        except (TypeError, AttributeError, struct.error) as error:  # the content of another kind
            raise ValueError(f"stored data hold an invalid {kind!r}: {error}") from error

    def _value(self, kind: str, content: Any, level: int) -> Any:
        if kind == "int":
            return int(content, 16)
        if kind == "float":
            return struct.unpack(">d", bytes.fromhex(content))[0]
        if kind == "bytes":
            return base64.b64decode(content, validate=True)
        if kind == "tuple":
            return tuple([self.unpack(entry, level + 1) for entry in content])
        if kind in ("dict", "ordered"):
            made = {key: self.unpack(entry, level + 1) for key, entry in content.items()}
            return made if kind == "dict" else OrderedDict(made)
        if kind in ("dict items", "ordered items"):
            made = {self.unpack(key, level + 1): self.unpack(entry, level + 1) for key, entry in content}
            return made if kind == "dict items" else OrderedDict(made)
        if kind not in ("tensor", "array", "number"):
            raise ValueError(f"stored data hold an object of the unknown kind {kind!r}")
        if content not in self._tensors:
            raise ValueError(f"stored data mention the tensor {content!r}, which is missing")
        tensor = self._tensors[content]
        if kind == "tensor":
            return tensor
        array = tensor.numpy()
        return array if kind == "array" else array[()]
