"""The harness in the image of the device's class: the student's files, its glue and its metric, with the device's
memory and processors, as another user and without a network. Compilers stay outside: they need more than a device has.

The profile's `docker` names the image (docker/); `compressor docker build` makes it. Limits that the engine does not
enforce are notes of the artifact; a set-up in which numbers would be wrong is an error.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiles.errors import MissingError, RequestError
from profiles.results import RanOn
from profiles.storage import load_npz, read_json, write_json
from targets import sandbox
from targets.artifact import Artifact
from targets.container import images
from targets.container.base import emulation_problem
from targets.container.conditions import Limits, limits_of, unenforced
from targets.container.engine import Container, Engine, find_engine
from targets.remote.place import DeviceError, ShellPlace
from targets.runners.local import LocalRunner

if TYPE_CHECKING:
    from profiles.device import Device

EMULATED_CPU = {"arm64": "cortex-a76"}  # never QEMU's default, whose int8 results are wrong
JOB = ("python3", "-m", "targets.container.job")
MARGIN_S = 60.0  # what the engine may take beside the harness


class DockerRunner(LocalRunner):
    """Runs artifacts in a container. `engine`: auto, docker or buildah."""

    def __init__(self, timeout_s: float = 900.0, memory_bytes: int | None = None, engine: str = "auto") -> None:
        super().__init__(timeout_s, memory_bytes)
        self._engine = engine

    def ran_on(self, device: Device, machine: dict[str, Any] | None = None) -> RanOn:
        """Where it ran inside, and in which image."""
        image = images.image_of_device(device)
        inside = RanOn.model_validate(machine["ran_on"]) if machine else super().ran_on(device)
        assert inside is not None
        if inside.kind == "device":
            return inside
        kind = "emulator" if images.is_emulated(image) else inside.kind
        return RanOn(kind=kind, name=f"{inside.name} in the image {image}")

    def _run(
        self, artifact: Artifact, device: Device, label: str, settings: dict[str, Any]
    ) -> tuple[sandbox.Result, dict[str, int]]:
        engine, image = find_engine(self._engine), images.image_of_device(device)
        if problem := images.outdated(image, images.config_of(engine, image)):
            raise MissingError(problem)
        limits = limits_of(device, artifact.runtime)
        if images.is_emulated(image):
            settings = {**settings, "latency": False}
        memory_bytes = min(filter(None, (limits.memory_bytes, self.memory_bytes)), default=None)
        request = {
            "artifact": "artifact",
            "device": device.model_dump(mode="json", by_alias=True),
            "settings": settings,
            "timeout_s": self.timeout_s,
            "memory_bytes": memory_bytes,
        }
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
            result, arrays = _measure_inside(engine, image, limits, artifact, request, label, Path(folder))
        report = result["report"]
        report["machine"] = {**result["conditions"], "ran_on": result["ran_on"]}
        notes = unenforced(limits, result["conditions"], engine.name)
        if result["runtime_version"] != artifact.manifest["runtime_version"]:
            made = artifact.manifest["runtime_version"]
            notes.append(f"made with {artifact.runtime} {made}, run with {result['runtime_version']}")
        for graph in report["graphs"].values():
            graph["notes"] = [*(graph.get("notes") or ()), *notes]
        peaks = {} if images.is_emulated(image) else result["peaks"]
        return sandbox.Result(report, arrays, time.monotonic() - start), peaks


def _measure_inside(
    engine: Engine, image: str, limits: Limits, artifact: Artifact, request: dict[str, Any], label: str, folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(result.json, arrays) of the job. Raises what the job says, SandboxError where the container fails."""
    timeout_s, where = request["timeout_s"] + MARGIN_S, f"the image {image} ({engine.name})"
    try:
        with (
            open_image(engine, image, limits) as container,
            ShellPlace(container.command(["sh", "-c"]), where, timeout_s=timeout_s) as place,
        ):
            write_json(folder / "request.json", request)
            place.push(artifact.path, "artifact")
            place.push(folder / "request.json", "request.json")
            place.run([*JOB, "measure", "request.json", "out"], doing=label, timeout_s=timeout_s)
            place.pull("out", folder / "out")
    except DeviceError as error:
        raise sandbox.SandboxError(str(error)) from None
    result = read_json(folder / "out" / "result.json")
    if "error" in result:
        said = result["error"]
        kinds = {"RequestError": RequestError, "MissingError": MissingError}
        raise kinds.get(said["type"], sandbox.SandboxError)(f"in the image {image}: {said['message']}")
    return result, load_npz(folder / "out" / "arrays.npz")


@contextmanager
def open_image(engine: Engine, image: str, limits: Limits) -> Iterator[Container]:
    """A container of one of our images. Raises MissingError if this machine cannot run it."""
    environment: dict[str, str] = {}
    limits = replace(limits, gpus=image == images.GPU)
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        cpuinfo = None
        if images.is_emulated(image):
            platform = images.platform(image)
            if problem := emulation_problem(platform):
                raise MissingError(f"image {image}: {problem}")
            from targets.runners.qemu_user import CPUS

            environment["QEMU_CPU"] = EMULATED_CPU[platform]
            cpuinfo = Path(folder) / "cpuinfo"
            cpuinfo.write_text(CPUS[EMULATED_CPU[platform]].cpuinfo(), encoding="ascii")
            os.chmod(folder, 0o755)
        with engine.open(images.tag(image), limits, environment, cpuinfo) as container:
            yield container


Runner = DockerRunner
