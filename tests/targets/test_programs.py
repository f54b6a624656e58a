from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from profiles.errors import RequestError
from targets.programs import load_program, program_version, save_program
from tests.targets import nets


@pytest.fixture(scope="module")
def exported() -> torch.export.ExportedProgram:
    batch = {0: torch.export.Dim("batch")}
    return torch.export.export(nets.seeded(nets.ShapeNet), (torch.zeros(2, 1, 16, 16),), dynamic_shapes=(batch,))


def edited(source: Path, out: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy of an archive whose members went through `change` (None drops one)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            data = change(info.filename.partition("/")[2], old.read(info))
            if data is not None:
                new.writestr(info.filename, data)
    return out


def test_a_program_comes_back_without_a_pickle_in_the_file(exported, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    save_program(exported, tmp_path / "p.pt2")
    with zipfile.ZipFile(tmp_path / "p.pt2") as archive:
        contents = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    assert contents["data/sample_inputs/model.pt"] == b""
    assert not any(data[:2] == b"\x80\x02" or data[:2] == b"PK" for data in contents.values())
    x = torch.rand(5, 1, 16, 16)
    assert torch.equal(load_program(tmp_path / "p.pt2").module()(x), exported.module()(x))
    assert exported.example_inputs is not None, "saving must leave the caller's program as it was"
    assert program_version(tmp_path / "p.pt2") == torch.__version__


def test_pickled_sample_inputs_are_never_run(exported, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """torch.export.load falls back to the full unpickler for them; ours must not."""
    torch.export.save(exported, tmp_path / "user.pt2")
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (eval, (f"open({str(trap)!r}, 'w')",))

    buffer = io.BytesIO()
    torch.save((Trap(),), buffer)
    poisoned = edited(
        tmp_path / "user.pt2",
        tmp_path / "poisoned.pt2",
        lambda name, data: buffer.getvalue() if name.startswith("data/sample_inputs/") else data,
    )
    load_program(poisoned)
    assert not trap.exists()


def test_weights_and_constants_marked_as_pickles_are_refused(exported, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    save_program(exported, tmp_path / "p.pt2")

    def mark(name: str, data: bytes) -> bytes:
        if name != "data/weights/model_weights_config.json":
            return data
        config = json.loads(data)
        config["config"]["head.bias"]["use_pickle"] = True
        return json.dumps(config).encode()

    with pytest.raises(RequestError, match=r"head\.bias.*pickle"):
        load_program(edited(tmp_path / "p.pt2", tmp_path / "q.pt2", mark))


def test_another_version_is_one_clear_line(exported, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    save_program(exported, tmp_path / "p.pt2")

    def older(name: str, data: bytes) -> bytes:
        if name != "models/model.json":
            return data
        manifest = json.loads(data)
        manifest["schema_version"]["major"] += 1
        manifest["torch_version"] = "9.9.0"
        return json.dumps(manifest).encode()

    with pytest.raises(RequestError, match=r"written by torch 9\.9\.0.*export it again") as caught:
        load_program(edited(tmp_path / "p.pt2", tmp_path / "q.pt2", older))
    assert "\n" not in str(caught.value)


def test_broken_files_are_one_clear_line(exported, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    save_program(exported, tmp_path / "p.pt2")
    whole = (tmp_path / "p.pt2").read_bytes()
    (tmp_path / "half.pt2").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt2").write_text("hello")
    edited(tmp_path / "p.pt2", tmp_path / "empty.pt2", lambda name, data: None if name.startswith("models/") else data)
    for name in ("half.pt2", "text.pt2", "empty.pt2", "missing.pt2"):
        with pytest.raises(RequestError, match=name) as caught:
            load_program(tmp_path / name)
        assert "\n" not in str(caught.value)
