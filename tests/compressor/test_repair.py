"""`--precision auto` on a network that int8 breaks in one place: that place stays float, and everything is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from compressor.bench import BenchRequest, bench
from compressor.repair import Attempt, Combination, repair
from compressor.terminal import print_table
from profiles.device import load_device
from profiles.results import Record
from profiles.storage import read_json
from targets.artifact import Artifact
from targets.bundle import Bundle
from tests.targets.outlier import write_outlier

DEVICE = """
name: desk
class: cpu
summary: A desk
runtimes:
  onnx: {precisions: [fp32, int8], options: {threads: 1}}
budget: {metric_drop: 0.02}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repair")
    np.savez(root / "inputs.npz", **write_outlier(root / "outlier.onnx"))  # type: ignore[arg-type]
    (root / "desk.yaml").write_text(DEVICE)
    return root


def request(folder: Path, out: str, precisions: list[str] | None) -> BenchRequest:
    return BenchRequest(
        subjects=[str(folder / "outlier.onnx")], devices=[str(folder / "desk.yaml")], out=folder / out,
        command="compressor bench", precisions=precisions, data=str(folder / "inputs.npz"),
    )  # fmt: skip


def test_the_layer_that_hurts_stays_float_and_the_file_passes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = bench(request(folder, "auto", None))
    whole = {record.precision_requested: record for record in results.records if record.graph == "*"}
    assert whole["int8"].status == "verified", whole["int8"].reason
    manifest = read_json(folder / "auto/artifacts/outlier/desk/onnx-int8/artifact.json")
    assert "second" in manifest["graphs"]["model"]["quantization"]["excluded_layers"]
    details = json.loads((folder / "auto/details.json").read_text())
    assert any("int8 hurts these layers" in note for notes in details["notes"].values() for note in notes)
    (choice,) = details["choices"]
    assert choice["runtime"] == "onnx" and choice["kept"] in ("fp32", "int8") and choice["dropped"]
    assert "Precisions" in (folder / "auto/report.html").read_text()
    assert "looking for the layers that hurt" in capsys.readouterr().err


def test_int8_that_was_asked_for_by_name_is_int8_or_rejected(folder: Path) -> None:
    results = bench(request(folder, "named", ["int8"]))
    (whole,) = [record for record in results.records if record.graph == "*"]
    assert whole.status == "rejected" and whole.reason is not None and "signal to noise" in whole.reason
    print_table(results)


def test_where_no_file_passes_every_row_says_how_many_layers_were_left_in_float(folder: Path) -> None:
    results = bench(request(folder, "hopeless", ["int8"]))
    artifact = Artifact.open(folder / "hopeless/artifacts/outlier/desk/onnx-int8")
    failed = Attempt(list(results.records), artifact, None)
    tried: list[list[str]] = []

    def attempt(cell: Combination) -> Attempt:
        tried.append(cell.device.runtimes["onnx"].options["exclude_layers"])
        return failed

    cell = Combination(load_device(str(folder / "desk.yaml")), "onnx", "int8")
    found = repair(Bundle.open(folder / "hopeless/bundle"), cell, failed, attempt)
    assert [len(layers) for layers in tried] == [1, 2] and tried[0] == ["second"]  # of three: two are the most
    said = "so it is with 2 of 3 layers in float: train it with quantisation, or keep float"
    assert all(row.reason == f"{was.reason}; {said}" for row, was in rows(found, failed))


def rows(found: Attempt, before: Attempt) -> list[tuple[Record, Record]]:
    return list(zip(found.rows, before.rows, strict=True))
