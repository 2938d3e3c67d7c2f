"""Pickled numpy arrays, read without numpy's own unpickling and without running anything that is in them.

Refusing every class and function that a pickle names, numpy's excepted, is not enough: numpy trusts the state that it is
given. A data type whose flags say that it holds no objects makes it take bytes for addresses of objects, and follow them. So
the names of numpy lead to records here that keep what the pickle says; arrays are built of it afterwards, every size checked.
"""

from __future__ import annotations

import math
import pickle
from typing import IO, Any, Literal

import numpy as np

from editlab.errors import DataError

NUMBERS = "biuf"
"""Kinds of data types that are allowed beside objects: booleans, whole and real numbers."""


class _Type:
    """A data type: its name, and its byte order from the state."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        self.name, self.order = name, ""

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype[Any] | None:
        """The numpy type; None: objects."""
        name = self.name.decode("ascii") if isinstance(self.name, bytes) else self.name
        if not isinstance(name, str) or not isinstance(self.order, str) or self.order not in ("", "<", ">", "=", "|"):
            raise DataError("the pickle holds a data type that is no array's")
        if name in ("O", "O8"):
            return None
        found = np.dtype(name)
        if found.kind not in NUMBERS:
            raise DataError(f"the pickle holds data of type {found.name[:60]}; only numbers are allowed")
        return np.dtype(f"{self.order}{found.str[1:]}") if self.order in ("<", ">") else found


class _Array:
    """An array: shape, type, order and content, as the pickle gives them."""

    def __init__(self) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = tuple(state)[-4:]


class _Subtype:
    """What the pickle calls the class of an array; it is never made."""


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    found = _Array()
    found.state = (shape, dtype, order == "F", content)
    return found


def _scalar(dtype: Any, content: Any) -> _Array:
    found = _Array()
    found.state = ((), dtype, False, content)
    return found


_ALLOWED = {
    ("numpy", "ndarray"): _Subtype,
    ("numpy", "dtype"): _Type,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads arrays of numbers, plain containers and plain values; every other name is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """The record that stands for a name of numpy.

        Raises:
            DataError: the pickle asks for anything else.
        """
        try:
            return _ALLOWED[module, name]
        except KeyError:
            asked = "".join(c if c.isprintable() else "?" for c in f"{module[:60]}.{name[:60]}")
            raise DataError(f"the pickle asks for {asked}; only numpy arrays are allowed") from None


def load_arrays(file: IO[bytes]) -> Any:
    """The object of a pickle: numpy arrays of numbers or of objects, in plain containers.

    Raises:
        DataError: the pickle asks for more than arrays, or an array's size is not that of its content.
        Exception: whatever the standard unpickler raises for a damaged pickle.
    """
    return _plain(ArrayUnpickler(file).load())


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return _array(value)
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(each) for each in value)
    if value is None or isinstance(value, bool | int | float | str | bytes | bytearray):
        return value
    raise DataError(f"the pickle holds a {type(value).__name__.strip('_').lower()} where values are expected")


def _array(record: _Array) -> Any:
    shape, dtype, fortran, content = record.state if len(record.state) == 4 else ((), None, False, None)
    whole = isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)
    if not whole or not isinstance(dtype, _Type):
        raise DataError("the pickle holds a damaged array")
    found, size = dtype.numpy(), math.prod(shape)
    order: Literal["F", "C"] = "F" if fortran else "C"
    if found is None:
        if not isinstance(content, list) or len(content) != size:
            raise DataError(f"the pickle holds an array of {size} objects without its objects")
        array = np.empty(size, dtype=object)
        for k, each in enumerate(content):
            array[k] = _plain(each)
        return array.reshape(shape, order=order)
    if not isinstance(content, bytes | bytearray) or len(content) != size * found.itemsize:
        raise DataError(f"the pickle holds an array of {size} numbers with content of another size")
    return np.frombuffer(bytes(content), dtype=found).reshape(shape, order=order).copy()
