"""Set-ups that would be measured wrongly, told apart from right ones before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from targets.remote.channel import DeviceError

# Bits of the two words of hardware capabilities, and their names in /proc/cpuinfo (Linux, Documentation/arch/arm64/
# elf_hwcaps.rst and arch/arm64/include/uapi/asm/hwcap.h): those by which runtimes choose their kernels.
HWCAP = {1: "asimd", 9: "fphp", 10: "asimdhp", 20: "asimddp", 22: "sve"}
HWCAP2 = {1: "sve2", 13: "i8mm", 14: "bf16"}


def processor_mismatch(hello: Mapping[str, Any]) -> str | None:
    """Why what a program sees of its processor cannot be one; None if it can. `hello`: see targets.remote.agent.

    On a real arm64 machine the capabilities that the kernel gives a program are those that /proc/cpuinfo lists. They
    are not where QEMU shows the program the /proc/cpuinfo of the machine that it runs on (versions before 8.1; LiteRT
    and ONNX Runtime then crash, or choose kernels for another processor), nor where QEMU runs with `-cpu max`, which is
    also what a container gets by default: it has SVE and i8mm, and int8 results that are wrong.
    """
    if hello["machine"] != "aarch64":
        return None
    features = _features(hello["cpuinfo"])
    if features is None:
        return (
            f"the program is aarch64 but its /proc/cpuinfo is of another machine ({hello['cpu']}): runtimes crash or "
            "choose wrong kernels; bind an Arm one over it, as the runner qemu_user does"
        )
    words = zip((HWCAP, HWCAP2), hello["hwcap"], strict=True)
    given = {name for names, word in words for bit, name in names.items() if word >> bit & 1}
    known = {*HWCAP.values(), *HWCAP2.values()}
    if more := sorted(given - features):
        return (
            f"the processor has {', '.join(more)}, which its /proc/cpuinfo ({hello['cpu']}) has not: is this QEMU with "
            "-cpu max, whose int8 results are wrong? Set QEMU_CPU=cortex-a76, or use the runner qemu_user"
        )
    if less := sorted(features & known - given):
        return f"/proc/cpuinfo ({hello['cpu']}) lists {', '.join(less)}, which the processor has not"
    return None


def check_processor(hello: Mapping[str, Any], name: str) -> None:
    """Raises DeviceError if `processor_mismatch` has something to say."""
    if problem := processor_mismatch(hello):
        raise DeviceError(f"{name}: {problem}")


def _features(cpuinfo: str) -> set[str] | None:
    """The list of the first processor of an Arm /proc/cpuinfo; None for another kind of file."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Features":
            return set(value.split())
    return None
