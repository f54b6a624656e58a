"""A microcontroller behind a debug probe. A recording stands in for OpenOCD: it runs the firmware under QEMU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from profiles.device import Device
from profiles.errors import MissingError, RequestError
from targets.artifact import Artifact
from targets.firmware.boards import BOARDS
from targets.runners import get_runner
from targets.runners.probe import board
from targets.sandbox import SandboxError
from tests.targets.hand_written import product_artifact, rows, write_artifact
from tests.tools import need

# The arguments go into a file; the one that says "program {FILE}" names what QEMU runs. It reads and writes what the
# firmware does, and what the firmware prints comes after it on the same stream, as from OpenOCD.
FAKE = """#!/bin/sh
printf '%s\\n' "$@" > "$(dirname "$0")/asked"
for last; do :; done
elf=$(echo "$last" | sed 's/program {\\([^}]*\\)}.*/\\1/')
exec qemu-system-arm -M mps2-an386 -display none -serial none -monitor none \\
  -semihosting-config enable=on,target=native -kernel "$elf" 2>&1
"""


@pytest.fixture
def openocd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the fake writes down what it was asked."""
    need("qemu-system-arm", "arm-none-eabi-gcc", "gcc")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "openocd").write_text(FAKE)
    (folder / "openocd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "asked"


def device(**runner: Any) -> Device:
    """The memory of the board that the fake runs."""
    like = BOARDS["m4"]
    options = {
        "kind": "probe", "core": "m4", "interface": "interface/stlink.cfg", "target": "target/stm32f4x.cfg",
        "flash_address": like.vectors, "ram_address": like.ram, **runner,
    }  # fmt: skip
    return Device.model_validate(
        {
            "name": "my-board",
            "class": "wearable",
            "summary": "a board on the desk",
            "runtimes": {"c": {"precisions": ["int8"]}},
            "memory": {"flash_bytes": like.flash_bytes, "ram_bytes": like.ram_bytes},
            "runner": {key: value for key, value in options.items() if value is not None},
        }
    )


def test_the_firmware_goes_through_the_probe_and_its_answers_come_back(openocd: Path, tmp_path: Path) -> None:
    artifact = product_artifact(tmp_path / "a")
    found = get_runner("probe:0669FF").measure(artifact, device(), splits=("validation",))
    assert Artifact.open(artifact.path).status == "verified" and found.parity("net").max_abs == 0
    assert (found.ran_on.kind, found.ran_on.name) == ("device", "my-board")
    evaluation, memory = found.evaluation("validation"), found.memory("net")
    assert evaluation is not None and len(evaluation.scores) == 30 and evaluation.value == 0
    assert found.latency("net") is None and found.cost("net") is None
    assert memory.stack is not None and memory.stack < 256 and memory.arena == 40
    asked = openocd.read_text().splitlines()
    assert asked[:6] == ["-f", "interface/stlink.cfg", "-c", "adapter serial 0669FF", "-f", "target/stm32f4x.cfg"]
    assert asked[6] == "-c" and asked[7].startswith("program {/")
    assert asked[7].endswith("} verify; arm semihosting enable; reset run; wait_halt 86400000; reset halt; shutdown")


def test_a_fault_on_the_device_is_one_line(openocd: Path, tmp_path: Path) -> None:
    fault = "*(volatile int *)0x60000000 = 1; (void)in, (void)out;"
    artifact = write_artifact(tmp_path / "a", fault, rows(2), rows(2))
    with pytest.raises(SandboxError, match=r"FirmwareError .*fault: .*, pc 0x.* in net_run"):
        get_runner("probe").measure(artifact, device(), splits=())


def test_a_probe_that_is_not_there_says_so_in_its_own_words(openocd: Path, tmp_path: Path) -> None:
    (openocd.parent / "openocd").write_text("#!/bin/sh\necho 'Error: open failed' >&2\nexit 1\n")
    artifact = product_artifact(tmp_path / "a")
    with pytest.raises(SandboxError, match="ended with exit code 1: Error: open failed"):
        get_runner("probe").measure(artifact, device(), splits=())
    failed = Artifact.open(artifact.path)
    assert failed.status == "failed" and failed.manifest["graphs"]["net"]["ran_on"] is None


def test_code_and_data_lie_where_the_device_has_its_memory() -> None:
    stm32 = {"core": "m4", "target": "stm32f4x.cfg", "flash_address": 0x0800_0000, "ram_address": 0x2000_0000}
    found = board(stm32, 1 << 20, 128 << 10)
    assert (found.vectors, found.flash, found.ram) == (0x0800_0000, 0x0800_0100, 0x2000_0000)
    assert found.flash + found.flash_bytes == 0x0800_0000 + (1 << 20) and found.ram_bytes == 128 << 10
    assert found.flags == BOARDS["m4"].flags


def test_wrong_options_and_a_missing_openocd_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = product_artifact(tmp_path / "a")
    for options, reason in (
        ({"target": None}, "say target"),
        ({"speed": 4000}, "unknown option 'speed'"),
        ({"core": "m9"}, "no emulated board has the core 'm9'"),
    ):
        with pytest.raises(RequestError, match=reason):
            get_runner("probe").measure(artifact, device(**options))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="apt install openocd"):
        get_runner("probe").measure(artifact, device())
