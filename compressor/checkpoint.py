"""Training state on disk: nested values <-> one directory of safetensors and JSON, written atomically, never pickled.

DIRECTORY/state.json            the nesting, the plain values, SHA-256 of both files' contents
DIRECTORY/tensors.safetensors   every tensor, named by its place
"""

from __future__ import annotations

import errno
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compressor.recipe import canonical_hash
from profiles.errors import RequestError
from profiles.storage import atomic_directory, read_json, sha256_file, write_json

FORMAT = 1
STATE, TENSORS = "state.json", "tensors.safetensors"


def save_state(path: str | Path, state: Any) -> None:
    """Write nested dicts, lists and tuples of tensors, arrays, numbers, strings, booleans and None.

    What comes back from `load_state` is equal in value, type, dtype and bits; tensors come back on the CPU. Raises
    TypeError, naming the place, for any other type.
    """
    tensors: dict[str, Tensor] = {}
    tree = _encode(state, "state", tensors)
    with atomic_directory(path) as directory:
        _save_tensors(tensors, directory / TENSORS)
        record = {
            "format": FORMAT,
            "tree": tree,
            "tree_sha256": canonical_hash(tree),
            "tensors_sha256": sha256_file(directory / TENSORS),
        }
        write_json(directory / STATE, record)


def load_state(path: str | Path) -> Any:
    """Read what `save_state` wrote. Raises RequestError if a file is missing, changed or of another format."""
    path = Path(path)
    record = read_json(path / STATE)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else None
        raise RequestError(f"{path}: checkpoint format {found!r}, this version reads {FORMAT}")
    if canonical_hash(record.get("tree")) != record.get("tree_sha256"):
        raise RequestError(f"{path / STATE}: changed since it was written (its SHA-256 differs)")
    try:
        if sha256_file(path / TENSORS) != record.get("tensors_sha256"):
            raise RequestError(f"{path / TENSORS}: changed since it was written (its SHA-256 differs)")
        tensors = load_file(path / TENSORS)
    except FileNotFoundError:
        raise RequestError(f"{path / TENSORS}: no such file") from None
    except SafetensorError as error:
        raise RequestError(f"{path / TENSORS}: not readable ({error})") from None
    return _decode(record["tree"], tensors)


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:  # the writer hides the system's error number in its text
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), f"{errno.errorcode.get(int(code[1]), 'error')}: cannot write", str(path)) from error


def _encode(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for one value. What JSON cannot say is an object with one key that starts with "$"."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int) and not isinstance(value, np.generic):
        return int(value)
    if isinstance(value, float):  # numpy's float64 is one
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, np.generic):
        return _encode(value.item(), place, tensors)
    if isinstance(value, Tensor | np.ndarray):
        return _encode_tensor(value, place, tensors)
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{place}.{index}", tensors) for index, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        kind = "$counter" if isinstance(value, Counter) else "$map"
        plain = kind == "$map" and all(isinstance(key, str) and not key.startswith("$") for key in value)
        if plain:
            return {key: _encode(item, f"{place}.{key}", tensors) for key, item in value.items()}
        pairs = [[_encode_key(key, place), _encode(item, f"{place}.{key}", tensors)] for key, item in value.items()]
        return {kind: pairs}
    raise TypeError(f"{place}: a {type(value).__name__} cannot be stored in a checkpoint")


def _encode_key(key: Any, place: str) -> Any:
    if isinstance(key, str | int) and not isinstance(key, bool):
        return key
    raise TypeError(f"{place}: the key {key!r} cannot be stored in a checkpoint")


def _encode_tensor(value: Any, place: str, tensors: dict[str, Tensor]) -> dict[str, str]:
    kind = "$array" if isinstance(value, np.ndarray) else "$tensor"
    tensor = torch.from_numpy(np.ascontiguousarray(value)) if kind == "$array" else value.detach()
    if kind == "$array" and value.ndim == 0:  # ascontiguousarray makes it one-dimensional
        tensor = tensor.reshape(())
    # A copy of its own: safetensors refuses tensors that share memory (tied weights, views).
    tensors[place] = tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
    return {kind: place}


def _decode(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_decode(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    kind, content = next(iter(tree.items())) if len(tree) == 1 else ("", None)
    if content is None or not kind.startswith("$"):
        return {key: _decode(item, tensors) for key, item in tree.items()}
    if kind == "$tensor":
        return tensors[content]
    if kind == "$array":
        return tensors[content].numpy()
    if kind == "$float":
        return float(content)
    if kind == "$tuple":
        return tuple(_decode(item, tensors) for item in content)
    pairs = {key: _decode(item, tensors) for key, item in content}
    return Counter(pairs) if kind == "$counter" else pairs


class Checkpoints:
    """The checkpoints of one stage: `step-N` (the newest `keep`), and `final` when the stage is done.

    In a run of several processes every process has parts of its own beside them, `step-N.rank-R`; `step-N` itself is
    written last, by the first process, and makes the checkpoint count.
    """

    def __init__(self, root: Path, keep: int = 2, rank: int = 0, world_size: int = 1) -> None:
        self.root, self.keep, self.rank, self.world_size = root, keep, rank, world_size

    def path(self, name: str, rank: int | None = None) -> Path:
        rank = self.rank if rank is None else rank
        return self.root / (f"{name}.rank-{rank}" if rank else name)

    def save(self, name: str, state: Any) -> None:
        """Write this process's part; the first process must call it after all others have returned."""
        save_state(self.path(name), state)

    def load(self, name: str) -> Any:
        return load_state(self.path(name))

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, oldest first."""
        found = [re.fullmatch(r"step-(\d+)", path.name) for path in self.root.glob("step-*")]
        return sorted(int(match[1]) for match in found if match)

    def has_final(self) -> bool:
        return self.path("final", rank=0).is_dir()

    def newest(self, warn: Callable[[str], None]) -> str | None:
        """The newest checkpoint that loads, checking every process's part; None if there is none.

        One that does not load is passed over with a warning. Raises RequestError if none of several loads.
        """
        names = ["final"] if self.has_final() else [f"step-{step}" for step in reversed(self.steps())]
        for name in names:
            try:
                for rank in range(self.world_size):
                    load_state(self.path(name, rank))
                return name
            except RequestError as error:
                warn(f"checkpoint refused: {error}")
        if names:
            raise RequestError(f"{self.root}: no checkpoint loads; remove this directory to start the stage again")
        return None

    def rotate(self) -> None:
        """Remove all but the newest `keep`, and parts that belong to none."""
        kept = {f"step-{step}" for step in self.steps()[-self.keep :]}
        self._remove(lambda name: name.split(".rank-")[0] not in kept)

    def clear_steps(self) -> None:
        self._remove(lambda name: True)

    def _remove(self, condition: Callable[[str], bool]) -> None:
        # Without its own directory a checkpoint does not count, so it goes before the parts of other processes.
        paths = [path for path in self.root.glob("step-*") if condition(path.name)]
        for path in sorted(paths, key=lambda path: ".rank-" in path.name):
            doomed = path.with_name(f".{path.name}.tmp-removed")
            shutil.rmtree(doomed, ignore_errors=True)
            path.rename(doomed)
            shutil.rmtree(doomed)


# --- modules ---


def load_modules(modules: Mapping[str, nn.Module], states: Mapping[str, Any], where: Path) -> None:
    """Strictly: every name and shape must fit. Raises RequestError, one line, where one does not."""
    if modules.keys() != states.keys():
        raise RequestError(f"{where}: has the modules {sorted(states)}, the stage trains {sorted(modules)}")
    for name, module in modules.items():
        try:
            module.load_state_dict(states[name])
        except RuntimeError as error:
            line = " ".join(str(error).split())[:200]
            raise RequestError(f"{where}: does not fit module {name} ({line}); start again in another --out") from None


def module_buffers(modules: Mapping[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    return {name: dict(module.named_buffers()) for name, module in modules.items()}


def load_buffers(modules: Mapping[str, nn.Module], buffers: Mapping[str, Mapping[str, Tensor]]) -> None:
    with torch.no_grad():
        for name, values in buffers.items():
            own = dict(modules[name].named_buffers())
            for key, value in values.items():
                own[key].copy_(value)
