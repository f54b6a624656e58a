"""The directory of one training run: what was asked for, how far it has come, and one writer at a time.

recipe.yaml      the recipe with every default and override resolved
run.json         recipe hash, processes, threads, versions, and of every finished stage its metrics
metrics.jsonl, tensorboard/, checkpoints/, bundle/
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import platform
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from compressor.recipe import RecipeConfig
from profiles.errors import RequestError
from profiles.storage import atomic_file, read_json, write_json

SCHEMA = 1
VERSIONED = ("torch", "numpy", "lightning-fabric", "timm", "torchvision")


class RunDirectory:
    """Opened by the first process of a run; locked until `close`."""

    def __init__(self, path: Path, recipe: RecipeConfig, record: dict[str, Any]) -> None:
        self.path, self.recipe, self.record = path, recipe, record
        self._lock: Any = None

    @classmethod
    def open(cls, path: str | Path, recipe: RecipeConfig, resume: bool, warn: Callable[[str], None]) -> RunDirectory:
        """Start a run in an empty directory, or go on with the run that is there.

        Raises RequestError if there is a run of another recipe, an unfinished one without `resume`, files of somebody
        else, or another process that is training there.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise RequestError(f"{path}: is a file; --out names a directory")
        path.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
        try:
            record = cls._existing(path, recipe, resume)
            run = cls(path, recipe, record or _new_record(recipe))
            run._lock = lock
            if record is None:
                run._begin()
            else:
                run._warn_of_versions(warn)
                remove_leftovers(path)
            return run
        except BaseException:
            lock.close()
            raise

    @staticmethod
    def _existing(path: Path, recipe: RecipeConfig, resume: bool) -> dict[str, Any] | None:
        entries = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
        if not (path / "run.json").is_file():
            # recipe.yaml is written first: a run that was killed right there has nothing else yet.
            if set(entries) - {"recipe.yaml"}:
                raise RequestError(f"{path}: not empty and not a run of ours; choose another --out")
            return None
        record = read_json(path / "run.json")
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise RequestError(f"{path / 'run.json'}: not a run record of schema {SCHEMA}; choose another --out")
        same = record["recipe_hash"] == recipe.hash
        if not set(entries) - {"recipe.yaml", "run.json"} and not (same and resume):
            return None  # it ended before it began, as a wrong name in the recipe ends it
        if not same:
            keys = differing_keys(record["identity"], recipe.identity())
            raise RequestError(f"{path}: holds a run of another recipe (differs in {keys}); choose another --out")
        if not resume and not _is_complete(path, record):
            raise RequestError(f"{path}: holds an unfinished run; go on with --resume, or choose another --out")
        return record

    def _begin(self) -> None:
        with atomic_file(self.path / "recipe.yaml") as temporary:
            text = yaml.safe_dump(self.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            temporary.write_text(text, encoding="utf-8")
        self.save()

    def save(self) -> None:
        write_json(self.path / "run.json", self.record)

    def close(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None

    @property
    def bundle(self) -> Path:
        return self.path / "bundle"

    @property
    def is_complete(self) -> bool:
        return _is_complete(self.path, self.record)

    def settle(self, name: str, value: int, key: str) -> None:
        """Note a fact of the first start that a resumed run must share, such as the number of processes."""
        known = self.record.get(name)
        if known is not None and known != value:
            raise RequestError(f"{self.path}: was started with {known} {name}, now {value}; set {key} as it was")
        if known is None:
            self.record[name] = value
            self.save()

    def finish_stage(self, name: str, facts: Mapping[str, Any]) -> None:
        self.record["stages"][name] = dict(facts)
        self.save()

    def lineage(self) -> dict[str, Any]:
        """What the bundle says about its training."""
        return {name: self.record[name] for name in ("processes", "threads", "versions", "stages")}

    def finish(self) -> None:
        self.record["complete"] = True
        self.save()

    def _warn_of_versions(self, warn: Callable[[str], None]) -> None:
        now = versions()
        changed = [
            f"{name} {old} -> {now.get(name)}" for name, old in self.record["versions"].items() if now.get(name) != old
        ]
        if changed and not self.is_complete:
            warn(f"resumed with other versions ({', '.join(changed)}): the result may differ in its last bits")


def _new_record(recipe: RecipeConfig) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "recipe": recipe.name,
        "recipe_hash": recipe.hash,
        "identity": recipe.identity(),
        "processes": None,
        "threads": None,
        "versions": versions(),
        "stages": {},
        "complete": False,
    }


def _is_complete(path: Path, record: Mapping[str, Any]) -> bool:
    return bool(record.get("complete")) and (path / "bundle" / "bundle.json").is_file()


def versions() -> dict[str, str]:
    """Versions of what computes: Python and the packages of `VERSIONED` that are installed."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def remove_leftovers(root: Path) -> None:
    """Remove the temporary siblings that a killed process left behind (profiles.storage names them .NAME.tmp-...)."""
    for path in sorted(root.rglob(".*.tmp-*")):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def differing_keys(old: Any, new: Any, limit: int = 5) -> str:
    """ "a.b, c.d (and 2 more)": the dotted keys in which two nested values differ."""
    a, b = _flat(old, ""), _flat(new, "")
    keys = [key for key in {**a, **b} if a.get(key, ...) != b.get(key, ...)]
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more


def _flat(value: Any, prefix: str) -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {
            k: v
            for key, item in value.items()
            for k, v in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    return {prefix: value}


def _lock(path: Path) -> Any:
    file = open(path / ".lock", "w")  # noqa: SIM115 (held until close)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RequestError(f"{path}: another process is training here; wait for it, or choose another --out") from None
    return file
