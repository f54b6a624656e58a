"""torch.export programs (.pt2) without pickle.

`torch.export.load` unpickles parts of the archive: the sample inputs (with a fallback to the unrestricted unpickler),
and any weight or constant that is marked so. `save_program` therefore writes archives without sample inputs, and
`load_program` reads the archive's own manifests first, refuses whatever would have to be unpickled, and hands torch a
copy whose sample inputs are empty. A .pt2 is still a program: run only those whose origin you know.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiles.errors import RequestError, require
from profiles.storage import atomic_file
from targets.quiet import quiet

if TYPE_CHECKING:
    from torch.export import ExportedProgram

SAMPLE_INPUTS = "data/sample_inputs/"
PICKLED_CONSTANTS = ("custom_obj_", "opaque_obj_")


def save_program(program: ExportedProgram, path: str | Path) -> None:
    """Write an exported program, atomically. Raises RequestError if it holds objects that only pickle could store."""
    torch = require("torch", "train")
    kept, program.example_inputs = program.example_inputs, None
    try:
        with atomic_file(path) as temporary:
            buffer = io.BytesIO()
            torch.export.save(program, buffer)
            temporary.write_bytes(buffer.getvalue())
            _read_manifests(temporary, path)
    finally:
        program.example_inputs = kept


def load_program(path: str | Path) -> ExportedProgram:
    """Read an exported program without unpickling anything.

    Raises RequestError, in one line, if the file is missing, is no exported program, holds pickled objects, or was
    written by a version of torch that this one cannot read.
    """
    torch = require("torch", "train")
    path = Path(path)
    written_by = _read_manifests(path, path)
    with quiet():
        try:
            return torch.export.load(_without_sample_inputs(path))
        except Exception as error:  # torch raises many types here, and logs the rest
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise RequestError(
                f"{path}: torch {torch.__version__} cannot read this program, written by torch {written_by}"
                f" ({reason}): export it again with this version, or give an .onnx"
            ) from None


def program_version(path: str | Path) -> str:
    """The version of torch that wrote an exported program. Needs no torch. Raises RequestError as `load_program`."""
    return _read_manifests(Path(path), path)


def _read_manifests(path: Path, shown: str | Path) -> str:
    """Check the archive's manifests; give the version of torch that wrote it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            if "serialized_exported_program.json" in archive.namelist():
                raise RequestError(f"{shown}: written by torch 2.7 or older: export it again with torch 2.9 or later")
            models = [name for name in names if name.startswith("models/")]
            if models != ["models/model.json"]:
                raise RequestError(f"{shown}: not a torch.export program (no models/model.json inside)")
            manifest = json.loads(archive.read(names["models/model.json"]))
            _refuse_pickles(archive, names, shown)
    except FileNotFoundError:
        raise RequestError(f"{shown}: no such file") from None
    except (zipfile.BadZipFile, json.JSONDecodeError, UnicodeDecodeError, KeyError, OSError, EOFError) as error:
        raise RequestError(f"{shown}: not a readable .pt2 file ({error}): copy or export it again") from None
    version = str(manifest.get("torch_version", "unknown"))
    _check_schema(manifest.get("schema_version", {}), version, shown)
    return version


def _check_schema(schema: dict[str, Any], written_by: str, shown: str | Path) -> None:
    """Refuse another major version of torch's schema, if torch is here to say what its own is."""
    try:
        from torch._export.serde.schema import SCHEMA_VERSION
        from torch.version import __version__ as here
    except ModuleNotFoundError:
        return
    if schema.get("major") != SCHEMA_VERSION[0]:
        found = f"{schema.get('major')}.{schema.get('minor')}"
        raise RequestError(
            f"{shown}: program of schema {found}, written by torch {written_by}, but torch {here} reads schema"
            f" {SCHEMA_VERSION[0]}: export it again with this version, or give an .onnx"
        )


def _refuse_pickles(archive: zipfile.ZipFile, names: dict[str, str], shown: str | Path) -> None:
    """Raise RequestError if loading would unpickle a weight or a constant."""
    legacy = [n for n in names if n.startswith(("data/weights/", "data/constants/")) and n.endswith(".pt")]
    pickled = list(legacy)
    for folder in ("weights", "constants"):
        config = json.loads(archive.read(names[f"data/{folder}/model_{folder}_config.json"]))["config"]
        for name, entry in config.items():
            if entry["use_pickle"] or str(entry["path_name"]).startswith(PICKLED_CONSTANTS):
                pickled.append(name)
    if pickled:
        raise RequestError(
            f"{shown}: {pickled[0]!r} is stored as a pickle, which is never loaded: export with plain tensors only"
        )


def _without_sample_inputs(path: Path) -> io.BytesIO:
    """A copy of the archive in memory whose pickled sample inputs are empty."""
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
        for info in source.infolist():
            inner = info.filename.partition("/")[2]
            target.writestr(info.filename, b"" if inner.startswith(SAMPLE_INPUTS) else source.read(info))
    copy.seek(0)
    return copy
