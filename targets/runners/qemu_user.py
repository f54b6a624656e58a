"""arm64 and armhf programs under QEMU's user mode. It shows the arithmetic of a phone, a Raspberry Pi or a watch, and
the instructions that it takes there; never its time.

Options of the device profile's `emulator`: `machine` (aarch64 or armv7l), `cpu` (of CPUS).

Two traps are kept shut here. QEMU before 8.1 shows a program the /proc/cpuinfo of the machine that it runs on: every
program sees one that fits its processor instead, in the root that it looks files up in (`-L`). And `-cpu max`, QEMU's
default, computes wrong int8 results: a processor is always named, and that one is refused.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Self

from profiles.errors import MissingError, RequestError
from profiles.host import cpu_model_from
from profiles.results import RanOn
from targets.c.program import compiler
from targets.firmware.boards import program
from targets.firmware.counter import REFUSALS, plugin
from targets.firmware.emulator import qemu_version
from targets.graph import Arrays
from targets.remote.agent import message
from targets.remote.code import CODE
from targets.remote.place import DeviceError, ShellPlace
from targets.remote.roots import PACKAGES, PYTHON, find_root
from targets.remote.runner import RemoteRunner

if TYPE_CHECKING:
    from profiles.device import Device
    from targets.artifact import Artifact
    from targets.c.program import Program

QEMU = {"aarch64": "qemu-aarch64", "armv7l": "qemu-arm"}
CORES = 2  # that the emulated /proc/cpuinfo lists
COUNTED_ROWS = 8
COUNTED_RUNS = (4, 12)  # two lengths of a run: their difference are the inferences alone
COUNT_S = 600.0


@dataclass(frozen=True)
class Cpu:
    """A processor that QEMU has: its instruction set, its number (MIDR) and what Linux says of it in /proc/cpuinfo."""

    machine: str
    part: str
    features: str

    def cpuinfo(self) -> str:
        """A /proc/cpuinfo as a kernel on this processor writes it."""
        architecture = "8" if self.machine == "aarch64" else "7"
        return "".join(
            f"processor\t: {core}\nBogoMIPS\t: 50.00\nFeatures\t: {self.features}\nCPU implementer\t: 0x41\n"
            f"CPU architecture: {architecture}\nCPU variant\t: 0x0\nCPU part\t: {self.part}\nCPU revision\t: 4\n\n"
            for core in range(CORES)
        )


ARMV8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
CPUS = {
    "cortex-a53": Cpu("aarch64", "0xd03", f"{ARMV8} cpuid"),
    "cortex-a72": Cpu("aarch64", "0xd08", f"{ARMV8} cpuid"),
    "cortex-a76": Cpu(
        "aarch64", "0xd0b", f"{ARMV8} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs"
    ),
    "cortex-a7": Cpu(
        "armv7l", "0xc07", "half thumb fastmult vfp edsp neon vfpv3 tls vfpv4 idiva idivt vfpd32 lpae evtstrm"
    ),
}  # fmt: skip


class QemuPlace(ShellPlace):
    """A folder of this machine in which programs of another one run. `sysroot`: where they look their files up."""

    def __init__(self, name: str, cpu: Cpu, root: Path | None) -> None:
        super().__init__((), name, parent=tempfile.gettempdir())
        self.cpu, self.root = cpu, root

    @property
    def sysroot(self) -> Path:
        return Path(self.folder) / "sysroot"

    def __enter__(self) -> Self:
        super().__enter__()
        (self.sysroot / "proc").mkdir(parents=True)
        (self.sysroot / "proc/cpuinfo").write_text(self.cpu.cpuinfo(), encoding="ascii")
        for entry in self.root.iterdir() if self.root else ():
            (self.sysroot / entry.name).symlink_to(entry)
        return self

    def info(self) -> dict[str, Any]:
        cpu = cpu_model_from(self.cpu.cpuinfo())
        return {"machine": self.cpu.machine, "cpu": cpu, "cores": CORES, "memory_bytes": None, "system": self.name}


class QemuUserRunner(RemoteRunner):
    """Runs Python with a runtime, or a static program of our C, for another instruction set."""

    kind = "qemu_user"
    options = ("machine", "cpu")
    is_real = False

    def ran_on(self, device: Device, machine: dict[str, Any] | None = None) -> RanOn:
        name, cpu = self._cpu(device)
        return RanOn(kind="emulator", name=_name(name, cpu))

    def missing(self, artifact: Artifact, device: Device) -> str | None:
        _, cpu = self._cpu(device)
        try:
            program(QEMU[cpu.machine])
            compiler(cpu.machine) if artifact.runtime == "c" else find_root(cpu.machine)
        except MissingError as error:
            return str(error)
        return None

    def place(self, device: Device) -> QemuPlace:
        name, cpu = self._cpu(device)
        try:
            root = find_root(cpu.machine)
        except MissingError:  # a static program needs none; who needs Python is told by `python`
            root = None
        return QemuPlace(_name(name, cpu), cpu, root)

    def python(self, device: Device, place: ShellPlace) -> list[str]:
        return self._python(device, place)

    def emulator(self, device: Device, place: ShellPlace) -> list[str]:
        return self._emulator(device, place)

    def count_program(
        self, device: Device, place: ShellPlace, program: Program, name: str, rows: Sequence[bytes]
    ) -> tuple[float | None, str | None]:
        """The mean over some golden rows, of the instructions between entry and return of the model's function."""
        start, stop = (program.symbols[symbol] for symbol in (f"{program.name}_run", "model_returned"))
        chosen = rows[:COUNTED_ROWS]

        def counted() -> list[int]:
            command = self._emulator(device, place, plugin_options=f"start={start:#x},stop={stop:#x}")
            done = place.run([*command, name], doing="counting", timeout_s=COUNT_S, stdin=b"".join(chosen))
            if len(done.stdout) != len(chosen) * program.row_bytes("outputs"):
                raise DeviceError(f"{place.name} answered {len(done.stdout)} bytes while instructions were counted")
            return _counts(place)

        counts, note = _or_note(counted)
        if counts is None:
            return None, note
        if len(counts) != len(chosen):
            raise DeviceError(f"the plugin counted {len(counts)} calls of {len(chosen)}")
        varies = f"instructions vary with the input: {min(counts):,} to {max(counts):,} over {len(counts)} rows"
        return fmean(counts), varies if min(counts) != max(counts) else None

    def count_agent(
        self, device: Device, place: ShellPlace, request: dict[str, Any], row: Arrays
    ) -> tuple[float | None, str | None]:
        """The slope between two run lengths, both in one process: start and loading fall out, and the marks too.

        One thread, no address randomisation, no random hashes: the counts repeat.
        """
        single = {**request, "options": {**request["options"], "threads": 1}}
        with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
            path = Path(folder) / "request"
            path.write_bytes(message(single, row))
            place.push(path, "request")

        def counted() -> list[int]:
            command = [*self._python(device, place, plugin_options=""), "-m", "targets.remote.agent"]
            lengths = [str(times) for times in COUNTED_RUNS]
            place.run([*command, "count", "request", *lengths], doing="counting", timeout_s=COUNT_S)
            return _counts(place)

        counts, note = _or_note(counted)
        if counts is None:
            return None, note
        if len(counts) != len(COUNTED_RUNS) + 2:
            raise DeviceError(f"the plugin saw {len(counts) - 1} marks of {len(COUNTED_RUNS) + 1}")
        few, many = (counts[i + 1] - counts[i] for i in range(2))
        return (many - few) / (COUNTED_RUNS[1] - COUNTED_RUNS[0]), None

    def _cpu(self, device: Device) -> tuple[str, Cpu]:
        """The processor of the device's emulator, by name. Raises RequestError for one that is wrong."""
        options = self.settings_of(device)
        name, machine = options.get("cpu"), options.get("machine")
        where = f"device {device.name}"
        if name in ("max", "any"):
            raise RequestError(f"{where}: QEMU's cpu {name} computes wrong int8 results: name one of {', '.join(CPUS)}")
        if name not in CPUS:
            raise RequestError(
                f"{where}: its emulator of kind qemu_user names no processor that is known here ({name}): give "
                f"emulator: {{kind: qemu_user, cpu: one of {', '.join(CPUS)}}}"
            )
        if machine not in (None, CPUS[name].machine):
            raise RequestError(f"{where}: a {name} is {CPUS[name].machine} here, not {machine}")
        return name, CPUS[name]

    def _python(self, device: Device, place: ShellPlace, plugin_options: str | None = None) -> list[str]:
        root = find_root(self._cpu(device)[1].machine)
        variables = {"PYTHONPATH": f"{CODE}:{root / PACKAGES}", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        return [*self._emulator(device, place, variables, plugin_options), str(root / PYTHON), "-S"]

    def _emulator(
        self,
        device: Device,
        place: ShellPlace,
        variables: Mapping[str, str] | None = None,
        plugin_options: str | None = None,
    ) -> list[str]:
        """The command up to the program. `plugin_options`: count instructions, with these ("" for the whole run)."""
        assert isinstance(place, QemuPlace)
        name, cpu = self._cpu(device)
        qemu = str(program(QEMU[cpu.machine]))
        # QEMU takes options from variables, too: none of this machine's may reach it
        command = ["env", "-i", f"PATH={os.defpath}", "LC_ALL=C", "OMP_NUM_THREADS=1"]
        command += [f"{key}={value}" for key, value in (variables or {}).items()]
        if plugin_options is not None:
            command += ["setarch", platform.machine(), "-R"]
        command += [qemu, "-cpu", name, "-L", str(place.sysroot), "-seed", "1"]
        if plugin_options is not None:
            options = f",{plugin_options}" if plugin_options else ""
            command += ["-plugin", f"file={str(plugin()).replace(',', ',,')}{options}"]
        return command


def _or_note(count: Callable[[], list[int]]) -> tuple[list[int] | None, str | None]:
    """What was counted, or why QEMU could not."""
    try:
        return count(), None
    except MissingError as error:
        return None, f"instructions were not counted: {error}"
    except DeviceError as error:
        if any(refusal in str(error) for refusal in REFUSALS):
            return None, f"instructions were not counted: this QEMU cannot load the plugin that counts ({error})"
        raise


def _counts(place: ShellPlace) -> list[int]:
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        place.pull("counts", Path(folder) / "counts")
        return [int(line) for line in (Path(folder) / "counts").read_text(encoding="ascii").split()]


def _name(name: str, cpu: Cpu) -> str:
    """The emulator and its processor. Raises MissingError if QEMU is not installed."""
    return f"{QEMU[cpu.machine]} {qemu_version(QEMU[cpu.machine])} ({name})"


Runner = QemuUserRunner
