"""Ethos-U: what vela makes and estimates, what it refuses, and that nothing of it is called verified."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from profiles.errors import MissingError, RequestError
from profiles.flops import count_onnx
from targets.bundle import Bundle
from targets.ethos_u import ACCELERATORS, run_vela, target
from targets.parity import INT8_SQNR_DB
from targets.tflite.schema import read_model
from tests.targets.conftest import write_single
from tests.tools import need_module


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    need_module("ethosu", "litert_torch", "ai_edge_quantizer")


@pytest.fixture(scope="module")
def imu(small_bundle: Callable[[str], Bundle]) -> Bundle:
    return small_bundle("imu")


@pytest.fixture(scope="module")
def imu_int8(small_int8: Callable[[str], Path]) -> Path:
    return small_int8("imu")


@pytest.mark.parametrize("accelerator", ["ethos-u55-32", "ethos-u55-256", "ethos-u65-512", "ethos-u85-1024"])
def test_the_estimate_is_within_what_the_accelerator_can_do_at_most(
    imu: Bundle, imu_int8: Path, tmp_path: Path, accelerator: str
) -> None:
    """The number in its name is MACs per cycle: no estimate may claim more. The MACs are counted by us, too."""
    assert accelerator in ACCELERATORS
    summary = run_vela(imu_int8, {"accelerator": accelerator}, tmp_path / "out.tflite")
    macs_per_cycle = int(accelerator.rsplit("-", 1)[1])
    counted = count_onnx(imu.source("imu").onnx).macs
    assert summary["macs"] == pytest.approx(counted, rel=0.05)
    assert counted / macs_per_cycle <= summary["cycles_npu"] <= summary["cycles_total"] <= 100 * counted
    assert 0 < summary["sram_bytes"] < 65536


def test_the_arena_is_the_scratch_buffer_of_the_file(imu_int8: Path, tmp_path: Path) -> None:
    summary = run_vela(imu_int8, {}, tmp_path / "out.tflite")
    model = read_model(tmp_path / "out.tflite")
    (scratch,) = {tensor.bytes for tensor in model.tensors if tensor.name == "scratch"}
    assert summary["sram_bytes"] == scratch
    assert model.inputs[0].dtype == "int8" and model.outputs[0].dtype == "int8"


def test_the_int8_file_is_checked_and_the_result_is_an_estimate(
    small_bundle: Callable[[str], Bundle], tmp_path: Path
) -> None:
    bundle = small_bundle("gru")
    compiled = target.compile(bundle.source("gru"), tmp_path, "int8", {"accelerator": "ethos-u55-128"})
    assert compiled.problem is None and compiled.precision == "int8"
    assert compiled.quantization["parity_before_vela"]["sqnr_db"] >= INT8_SQNR_DB
    assert compiled.cost is not None and compiled.cost["source"] == "estimated"
    assert compiled.memory is not None and set(compiled.memory) == {"arena", "flash"}
    assert compiled.build["operators_on_cpu"] == {}
    assert compiled.on_device is not None and "num_macs=128" in compiled.on_device
    with pytest.raises(MissingError, match="nothing on this machine runs an Ethos-U"):
        target.open(bundle.graphs["gru"], (tmp_path / "model_vela.tflite",), "int8", {})


class Bag(nn.Module):
    """The mean of some words' embeddings: the U55 has no gather."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(50, 16), nn.Linear(16, 8)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.table(ids).mean(1, keepdim=True).flatten(1))


def test_operators_that_stay_on_the_cpu_are_named(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 50, (16, 7))
    source = write_single(tmp_path / "b", Bag(), {"ids": ids}, ("bag",)).source("net")
    compiled = target.compile(source, tmp_path, "int8", {"accelerator": "ethos-u55-128"})
    assert compiled.build["operators_on_cpu"] == {"GATHER": 1}
    assert compiled.notes[-1] == "1 x GATHER is left on the CPU and not in the estimate"
    assert compiled.problem is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accelerator": "ethos-u55-512"}, "option accelerator: 'ethos-u55-512' is not one of"),
        ({"system_config": "Ethos_U85_SYS_DRAM_Mid"}, "'Ethos_U85_SYS_DRAM_Mid' does not go with ethos-u55-128"),
        ({"memory_mode": "Dedicated_Sram"}, "'Dedicated_Sram' does not go with ethos-u55-128"),
        (
            {"accelerator": "ethos-u85-256", "system_config": "Ethos_U85_SYS_Flash_High"},
            "Dedicated_Sram needs DRAM, Ethos_U85_SYS_Flash_High has none",
        ),
        ({"optimise": "speed"}, "option optimise: 'speed' is not one of Performance, Size"),
        ({"threads": 2}, "unknown option 'threads'"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(
    imu_int8: Path, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        run_vela(imu_int8, options, tmp_path / "out.tflite")
    assert "\n" not in str(caught.value)


def test_velas_own_refusal_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.tflite").write_bytes(b"\0\0\0\0TFL3 and nothing else")
    with pytest.raises(RequestError, match=r"^vela: ") as caught:
        run_vela(tmp_path / "broken.tflite", {}, tmp_path / "out.tflite")
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_only_int8_is_supported(imu: Bundle) -> None:
    assert target.unsupported(imu.source("imu"), "fp32") == "Ethos-U computes in int8, not in fp32"
    assert target.unsupported(imu.source("imu"), "int8") is None


def test_without_vela_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("targets.ethos_u.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"edge-compressor\[mcu\]"):
        target.version()
