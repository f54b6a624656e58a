"""TeacherCache: outputs of a teacher on disk, keyed by everything that can change them.

    ROOT/HASH/key.json      the key in full, and of every array its shape, dtype and SHA-256
    ROOT/HASH/NAME.npy      one array, opened memory-mapped

An entry is written as a whole or not at all. Two processes that want the same entry at once do not compute it twice:
the second waits for the first (a lock that ends with its process).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.recipe import canonical_hash, canonical_json
from profiles.errors import RequestError
from profiles.storage import atomic_directory, read_json, sha256_file, write_json

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1
KEY = "key.json"

Arrays = Mapping[str, np.ndarray]
_verified: set[tuple[str, str]] = set()  # (file, SHA-256) that this process has hashed


class TeacherCache:
    """Arrays by key. The key must hold everything that can change the arrays: the teacher's weights
    (`weights_hash`), the data's hash, the views and their seed, the size, the code's revision."""

    def __init__(self, root: str | Path, warn: Callable[[str], None] | None = None) -> None:
        self.root = Path(root)
        self._warn = warn or (lambda message: print(message, file=sys.stderr))

    def path(self, key: Mapping[str, Any]) -> Path:
        """Where the entry of this key is, or would be. Raises TypeError if the key is not plain JSON values."""
        return self.root / canonical_hash({"format": FORMAT, "key": key})[:32]

    def get(self, key: Mapping[str, Any], compute: Callable[[], Arrays | Iterable[Arrays]]) -> dict[str, np.ndarray]:
        """The arrays of `key`, memory-mapped and read-only; computed and stored first if they are not there.

        `compute()` returns the arrays by name, or an iterator over chunks of them, each `(n, ...)`, which are written
        as they come and lie one after the other along the first axis. It must not wait for other processes. An entry
        that is damaged is computed again, with a warning. Raises OSError where it cannot be written.
        """
        path = self.path(key)
        arrays = self._read(path, key)
        if arrays is not None:
            return arrays
        with self._lock(path):
            arrays = self._read(path, key)
            if arrays is not None:
                return arrays
            self._write(path, key, compute())
        arrays = self._read(path, key)
        if arrays is None:
            raise RequestError(f"{path}: removed or damaged while it was being read; run the command again")
        return arrays

    def _read(self, path: Path, key: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
        if not path.is_dir():
            return None
        try:
            record = read_json(path / KEY)
            if canonical_json(record["key"]) != canonical_json(key):
                raise RequestError(f"{path / KEY}: belongs to another key")
            return {name: _open(path / f"{name}.npy", about) for name, about in record["arrays"].items()}
        except (RequestError, OSError, ValueError, KeyError, TypeError) as error:
            self._warn(f"cache entry refused, computing it again: {error}")
            return None

    def _write(self, path: Path, key: Mapping[str, Any], result: Arrays | Iterable[Arrays]) -> None:
        chunks = [result] if isinstance(result, Mapping) else result
        try:
            with atomic_directory(path) as directory:
                about = _write_chunks(directory, chunks)
                write_json(directory / KEY, {"format": FORMAT, "key": key, "arrays": about})
        except OSError as error:
            # Without a working lock (some network file systems) another process may have been quicker: its entry stays.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise

    @contextlib.contextmanager
    def _lock(self, path: Path) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / f".{path.name}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def weights_hash(module: nn.Module) -> str:
    """Hex SHA-256 over names, dtypes, shapes and bytes of a module's parameters and persistent buffers."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(plain.numpy().data)
    return digest.hexdigest()


def _open(path: Path, about: Mapping[str, Any]) -> np.ndarray:
    """Open one array: shape, dtype and size are checked every time, the hash once per process."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if list(array.shape) != about["shape"] or array.dtype.str != about["dtype"]:
        raise RequestError(f"{path}: {array.dtype.str} {list(array.shape)}, not {about['dtype']} {about['shape']}")
    seen = (f"{path}:{os.stat(path).st_ino}", about["sha256"])
    if seen not in _verified:
        if sha256_file(path) != about["sha256"]:
            raise RequestError(f"{path}: changed since it was written (its SHA-256 differs)")
        _verified.add(seen)
    return array


def _write_chunks(directory: Path, chunks: Iterable[Arrays]) -> dict[str, Any]:
    writers: dict[str, _Writer] = {}
    with contextlib.ExitStack() as stack:
        for index, chunk in enumerate(chunks):
            if index and chunk.keys() != writers.keys():
                raise ValueError(f"chunk {index} has {sorted(chunk)}, the first had {sorted(writers)}")
            for name, array in chunk.items():
                if name not in writers:
                    writers[name] = stack.enter_context(_Writer(directory, name))
                writers[name].append(np.asarray(array))
    return {name: writer.about() for name, writer in writers.items()}


class _Writer(contextlib.AbstractContextManager["_Writer"]):
    """One .npy file that grows along its first axis. numpy leaves room in the header for the final length."""

    def __init__(self, directory: Path, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise ValueError(f"array name {name!r}: letters, digits, '_', '.', '-' only")
        self.path = directory / f"{name}.npy"
        self.file = open(self.path, "w+b")  # noqa: SIM115 (closed in __exit__)
        self.dtype: np.dtype | None = None
        self.tail: tuple[int, ...] | None = None
        self.shape: tuple[int, ...] = ()

    def append(self, array: np.ndarray) -> None:
        if array.dtype.hasobject:
            raise TypeError(f"{self.path.stem}: holds Python objects; only plain arrays are cached")
        if self.dtype is None:
            self.dtype, self.tail, self.shape = array.dtype, array.shape[1:], array.shape
            self.header_bytes = self._write_header((0, *array.shape[1:]) if array.ndim else ())
        elif array.dtype != self.dtype or array.ndim == 0 or array.shape[1:] != self.tail:
            raise ValueError(
                f"{self.path.stem}: a chunk of {array.dtype} {array.shape} after {self.dtype} {self.shape}"
            )
        else:
            self.shape = (self.shape[0] + array.shape[0], *self.shape[1:])
        self.file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def _write_header(self, shape: tuple[int, ...]) -> int:
        assert self.dtype is not None
        self.file.seek(0)
        description = np.lib.format.dtype_to_descr(self.dtype)
        np.lib.format.write_array_header_1_0(self.file, {"descr": description, "fortran_order": False, "shape": shape})
        return self.file.tell()

    def __exit__(self, *exc: Any) -> None:
        try:
            if exc[0] is None and self.shape and self._write_header(self.shape) != self.header_bytes:
                raise ValueError(f"{self.path.stem}: too long for its header")
        finally:
            self.file.close()

    def about(self) -> dict[str, Any]:
        assert self.dtype is not None
        return {"shape": list(self.shape), "dtype": self.dtype.str, "sha256": sha256_file(self.path)}
