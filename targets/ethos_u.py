"""Arm Ethos-U NPUs: the full-integer `.tflite`, compiled by vela.

Nothing here can run the result: it is `built`, its cycles and memory are vela's estimates. The int8 file that goes in
is run by LiteRT on the golden inputs, which checks the arithmetic but not the device.
"""

from __future__ import annotations

import csv
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from profiles.errors import MissingError, RequestError
from targets.graph import Graph
from targets.parity import compare, failure
from targets.quantize import check_options, choice, option
from targets.target import CompiledGraph, GraphSource, get_target

EXTRA = "mcu"
OPTIONS = ("accelerator", "system_config", "memory_mode", "optimise")
ACCELERATORS = (
    "ethos-u55-128", "ethos-u55-32", "ethos-u55-64", "ethos-u55-256", "ethos-u65-256", "ethos-u65-512",
    "ethos-u85-128", "ethos-u85-256", "ethos-u85-512", "ethos-u85-1024", "ethos-u85-2048",
)  # fmt: skip
# Sections of the Arm/vela.ini that comes with vela, per generation; the first is the default.
SYSTEM_CONFIGS = {
    "u55": ("Ethos_U55_High_End_Embedded", "Ethos_U55_Deep_Embedded"),
    "u65": (
        "Ethos_U65_High_End", "Ethos_U65_Embedded", "Ethos_U65_Mid_End", "Ethos_U65_Client_Server",
    ),
    "u85": (
        "Ethos_U85_SYS_DRAM_Mid", "Ethos_U85_SYS_DRAM_Low", "Ethos_U85_SYS_DRAM_High", "Ethos_U85_SYS_Flash_Low",
        "Ethos_U85_SYS_Flash_High",
    ),
}  # fmt: skip
DEDICATED = tuple(f"Dedicated_Sram{size}" for size in ("", "_256KB", "_384KB", "_512KB"))
MEMORY_MODES = {
    "u55": ("Shared_Sram", "Sram_Only"),
    "u65": ("Dedicated_Sram", *DEDICATED[1:], "Shared_Sram", "Sram_Only"),
    "u85": ("Dedicated_Sram", *DEDICATED[1:], "Shared_Sram", "Sram_Only"),
}
# Arm's fixed virtual platforms, and the parameter that says how many multipliers the NPU has.
PLATFORMS = {
    "u55": ("FVP_Corstone_SSE-300_Ethos-U55", "ethosu.num_macs"),
    "u65": ("FVP_Corstone_SSE-300_Ethos-U65", "ethosu.num_macs"),
    "u85": ("FVP_Corstone_SSE-320", "mps4_board.subsystem.ethosu.num_macs"),
}
NPU_OPERATOR = "CUSTOM ethos-u"  # vela joins everything that it takes over into operators of this name
KIB = 1024


class EthosU:
    """Options: accelerator (ethos-u55-32 to -256, ethos-u65-256 and -512, ethos-u85-128 to -2048: the number is MACs
    per cycle), system_config and memory_mode (sections of vela's Arm/vela.ini), optimise (Performance or Size)."""

    name = "ethos-u"
    precisions: tuple[str, ...] = ("int8",)

    def version(self) -> str:
        if importlib.util.find_spec("ethosu") is None:
            raise MissingError(f"ethos-u-vela is not installed: pip install 'edge-compressor[{EXTRA}]'")
        return f"vela {version('ethos-u-vela')}"

    def unsupported(self, source: GraphSource, precision: str) -> str | None:
        from targets.tflite import unsupported

        return unsupported(source) if precision in self.precisions else f"Ethos-U computes in int8, not in {precision}"

    def not_runnable(self) -> str | None:
        return "nothing on this machine runs an Ethos-U"

    def compile(self, source: GraphSource, out: Path, precision: str, options: Mapping[str, Any]) -> CompiledGraph:
        from targets.tflite import compile_int8

        arguments = _arguments(options)
        with tempfile.TemporaryDirectory() as folder:
            quantized = compile_int8(source, Path(folder), {})
            file = Path(folder) / quantized.files[0]
            checked, problem = _check(source, file)
            summary = run_vela(file, options, out / "model_vela.tflite")
        left = _left_on_cpu(out / "model_vela.tflite")
        notes = [f"{count} x {kind} is left on the CPU and not in the estimate" for kind, count in left.items()]
        if problem:
            problem = f"the int8 file that vela was given {problem}"
        elif not summary["npu_operators"]:
            problem = f"vela left every operator on the CPU: {', '.join(left)}"
        return CompiledGraph(
            ("model_vela.tflite",),
            "int8",
            quantization={**quantized.quantization, "parity_before_vela": checked},
            notes=(*quantized.notes, *notes),
            problem=problem,
            on_device=_command(arguments["accelerator-config"]),
            cost={"kind": "npu_cycles", "value": summary["cycles_total"], "source": "estimated"},
            memory=_memory(summary),
            build={"vela": {**arguments, **summary}, "operators_on_cpu": left},
        )

    def open(self, graph: Graph, files: tuple[Path, ...], precision: str, options: Mapping[str, Any]) -> NoReturn:
        raise MissingError(f"{self.not_runnable()}: {_command(_arguments(options)['accelerator-config'])}")


def _arguments(options: Mapping[str, Any]) -> dict[str, str]:
    """vela's command line for the device profile's options. Raises RequestError for what does not go together.

    vela itself takes another generation's system configuration without a word, and estimates nonsense."""
    check_options(options, OPTIONS, EthosU.name)
    accelerator = choice(options, "accelerator", ACCELERATORS)
    generation = accelerator.split("-")[1]
    chosen = {"accelerator-config": accelerator}
    for name, words in (("system_config", SYSTEM_CONFIGS), ("memory_mode", MEMORY_MODES)):
        value = option(options, name, words[generation][0], str)
        if value not in words[generation]:
            raise RequestError(
                f"runtime option {name}: {value!r} does not go with {accelerator}: there are"
                f" {', '.join(words[generation])}"
            )
        chosen[name.replace("_", "-")] = value
    if chosen["memory-mode"] in DEDICATED and "Flash" in chosen["system-config"]:
        raise RequestError(
            f"runtime option memory_mode: {chosen['memory-mode']} needs DRAM, {chosen['system-config']} has none:"
            " take Shared_Sram"
        )
    return {**chosen, "optimise": choice(options, "optimise", ("Performance", "Size"))}


def _check(source: GraphSource, file: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Parity of the int8 file in LiteRT on the golden inputs, and why it fails; (None, None) without golden inputs."""
    if not source.golden:
        return None, None
    if source.program is None:
        reference = get_target("onnx").open(source.graph, (source.onnx,), "fp32", {})(source.golden)
    else:
        from targets.session import open_program

        reference = open_program(source.graph, source.program)(source.golden)
    outputs = get_target("tflite").open(source.graph, (file,), "int8", {"threads": 1})(source.golden)
    parity = compare(reference, outputs)
    return {"by": "LiteRT", **asdict(parity)}, failure(parity, "int8")


def run_vela(file: Path, options: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Compile the int8 `.tflite` at `file` to `out`. Gives what vela's summary says: cycles, bytes, operators, MACs.

    `options` are the target's. Raises RequestError with vela's own reason, in one line."""
    with tempfile.TemporaryDirectory() as name:
        return _run(file, _arguments(options), Path(name), out)


def _run(file: Path, arguments: Mapping[str, str], folder: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "ethosu.vela", str(file), "--config", "Arm/vela.ini", "--output-dir", str(folder)]
    for name, value in arguments.items():
        command += [f"--{name}", value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RequestError(f"vela: {_reason(done.stderr, done.returncode)}")
    (summary,) = folder.glob("*_summary_*.csv")
    shutil.copyfile(folder / f"{file.stem}_vela.tflite", out)
    with open(summary, encoding="utf-8", newline="") as lines:
        *_, row = csv.DictReader(lines)
    placed = {
        unit: int(found.group(1)) if (found := re.search(rf"{unit} operators = (\d+)", done.stdout)) else None
        for unit in ("NPU", "CPU")
    }
    return {
        "cycles_total": round(float(row["cycles_total"])),
        "cycles_npu": round(float(row["cycles_npu"])),
        "clock_hz": round(float(row["core_clock"])),
        "macs": round(float(row["nn_macs"])),
        "sram_bytes": _bytes(row["sram_memory_used"]),
        "dram_bytes": _bytes(row["dram_memory_used"]),
        "flash_bytes": _bytes(row["on_chip_flash_memory_used"]) + _bytes(row["off_chip_flash_memory_used"]),
        "npu_operators": placed["NPU"],
        "cpu_operators": placed["CPU"],
    }


def _memory(summary: Mapping[str, Any]) -> dict[str, int]:
    """Arena: what is used of the SRAM. Constants lie in flash or, where the system has it, in DRAM, which is RAM."""
    sram, dram, flash = (summary[f"{kind}_bytes"] for kind in ("sram", "dram", "flash"))
    return {"arena": sram} | ({"flash": flash} if flash else {}) | ({"ram": sram + dram} if dram else {})


def _bytes(kibibytes: str) -> int:
    return round(float(kibibytes) * KIB)


def _reason(said: str, code: int) -> str:
    """The last thing that vela said which names an error."""
    lines = [line.strip() for line in said.splitlines() if "rror: " in line]
    if not lines:
        return f"ended with exit code {code}"
    return re.sub(r"^(ethosu\.vela\.errors\.\w+: )?['\"]?(vela: )?[Ee]rror: ", "", lines[-1]).rstrip("'\"")


def _left_on_cpu(file: Path) -> dict[str, int]:
    """Operators of the compiled file that the CPU must run, by kind and count."""
    from targets.tflite.schema import read_model

    counts = read_model(file).operator_counts()
    return {kind: count for kind, count in sorted(counts.items()) if kind != NPU_OPERATOR}


def _command(accelerator: str) -> str:
    """How the file is run: Arm's evaluation kit around it, on the board or on Arm's simulator of one."""
    _, generation, macs = accelerator.split("-")
    platform, parameter = PLATFORMS[generation]
    return (
        "build Arm's ML embedded evaluation kit with -DUSE_CASE_BUILD=inference_runner "
        "-Dinference_runner_MODEL_TFLITE_PATH=model_vela.tflite, then flash it, or run "
        f"{platform} -C {parameter}={macs} -a ethos-u-inference_runner.axf"
    )


target = EthosU()
