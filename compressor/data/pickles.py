"""Pickle files that data sets come in, read without running them.

A pickle is a program: `pickle.load` calls whatever it names. Here nothing is called but the stand-ins below, which know
how numpy writes an array of numbers. Anything else that a file names ends the reading.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from profiles.errors import RequestError

NUMBERS = "biuf"  # kinds of numpy's types that are numbers and nothing else


class Type:
    """Stands for numpy.dtype: (name, align, copy), then a state whose second entry is the byte order."""

    def __init__(self, name: str, align: bool = False, copy: bool = True) -> None:
        self.dtype = np.dtype(name)
        if self.dtype.kind not in NUMBERS:
            raise pickle.UnpicklingError(f"an array of {name}, and only numbers are read")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("an unknown byte order")
        self.dtype = self.dtype.newbyteorder(order) if order in "<>" else self.dtype


class Array:
    """Stands for numpy.ndarray: its state is (version, shape, type, column-major, bytes)."""

    def __init__(self) -> None:
        self.value = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, column_major, raw = state
        self._fill(raw.encode("latin1") if isinstance(raw, str) else raw, kind, shape, "F" if column_major else "C")

    def _fill(self, raw: Any, kind: Any, shape: Any, order: Any) -> None:
        """Bytes to numbers in the machine's own byte order. A Python 2 file's bytes come as text."""
        if not isinstance(kind, Type) or not isinstance(raw, bytes | bytearray) or order not in ("C", "F"):
            raise pickle.UnpicklingError("an array whose content is not plain bytes of one type")
        numbers = np.frombuffer(raw, kind.dtype).reshape(shape, order=order)
        self.value = numbers.astype(kind.dtype.newbyteorder("="), order=order)


def _reconstruct(kind: Any, shape: Any, typecode: Any) -> Array:
    """What numpy's function of that name begins: an empty array that gets its state next."""
    return Array()


def _frombuffer(raw: Any, kind: Any, shape: Any, order: Any) -> Array:
    """Protocol 5 writes arrays so."""
    array = Array()
    array._fill(raw, kind, shape, order)
    return array


def _encode(text: str, encoding: str) -> bytes:
    """Protocols 0 to 2 write bytes so."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes as {encoding}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """And these protocols write no bytes at all so."""
    return b""


ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): Type,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
}


class Reader(pickle.Unpickler):
    """Reads with the stand-ins of `admitted`; a reader of files that wrap their arrays in something admits more."""

    admitted: ClassVar[Mapping[tuple[str, str], Any]] = ADMITTED

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.admitted:
            raise pickle.UnpicklingError(f"it names {module}.{name}, and only arrays of numbers are read")
        return self.admitted[module, name]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """A pickled dictionary from names to arrays of numbers, as numpy 1 and 2 and Python 2 and 3 write them.

    Raises RequestError, naming the file, for anything else; nothing that the file names is imported or called.
    """
    try:
        with path.open("rb") as file:
            value = Reader(file, encoding="latin1").load()
    except Exception as error:  # a broken file raises nearly every type there is
        raise RequestError(f"{path}: not a pickle of arrays ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise RequestError(f"{path}: not a pickle of arrays (expected a dictionary by name)")
    strange = next((name for name, array in value.items() if not isinstance(array, Array)), None)
    if strange is not None:
        raise RequestError(f"{path}: not a pickle of arrays ({strange!r} is none)")
    return {name: array.value for name, array in value.items()}
