"""This machine: the harness in the sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiles.host import cpu_model
from profiles.results import RanOn
from targets import sandbox
from targets.artifact import Artifact
from targets.measurement import Measurement

if TYPE_CHECKING:
    from profiles.device import Device


class LocalRunner:
    """Runs artifacts in a fresh process here, within a time and a memory limit."""

    def __init__(self, timeout_s: float = 900.0, memory_bytes: int | None = None) -> None:
        self.timeout_s, self.memory_bytes = timeout_s, memory_bytes

    def missing(self, artifact: Artifact, device: Device) -> str | None:
        """What this machine lacks to run the artifact this way, and how to get it; None if it lacks nothing."""
        return None

    def measure(self, artifact: Artifact, device: Device, **settings: Any) -> Measurement:
        """Run the harness and write status and parity into the artifact.

        `settings` are those of `targets.harness.measure`; latency is measured only if this machine is the device,
        unless `latency` says otherwise. Raises SandboxError with the reason, after the artifact was marked as failed.
        """
        settings.setdefault("latency", device.matches_this_machine())
        label = f"running {artifact.student_name} with {artifact.runtime} in {artifact.precision_requested}"
        ran_on = self.ran_on(device)
        try:
            result, peaks = self._run(artifact, device, label, settings)
        except sandbox.SandboxError as error:
            failed = {"status": "failed", "reason": error.reason, "ran_on": ran_on and ran_on.model_dump()}
            artifact.record({name: failed for name in artifact.graphs if artifact.files(name)})
            raise
        ran_on = self.ran_on(device, result.value.get("machine"))
        assert ran_on is not None
        measurement = Measurement(result.value, result.arrays, peaks, ran_on, artifact.manifest["inputs"])
        artifact.record({name: _state(artifact, measurement, name) for name in measurement.report["graphs"]})
        return measurement

    def ran_on(self, device: Device, machine: dict[str, Any] | None = None) -> RanOn | None:
        """This machine as the device, if it is one; else as the host that stands in for its arithmetic.

        `machine`: what another one said of itself, where the harness ran on it; None where it did not, or not to its
        end. Gives None if it cannot be known without.
        """
        if device.name != "host" and device.matches_this_machine():
            return RanOn(kind="device", name=device.name)
        return RanOn(kind="host", name=cpu_model())

    def _run(
        self, artifact: Artifact, device: Device, label: str, settings: dict[str, Any]
    ) -> tuple[sandbox.Result, dict[str, int]]:
        """The harness's result, and peak memory per graph. Raises SandboxError."""
        result = self._call("targets.harness:measure", {"artifact": str(artifact.path), **settings}, label)
        return result, self._peaks(artifact, result.value["peak_bytes"], settings.get("options"), label)

    def _peaks(self, artifact: Artifact, whole_bytes: int, options: Any, label: str) -> dict[str, int]:
        """Peak memory per graph: that of the whole where there is but one."""
        compiled = [name for name in artifact.graphs if artifact.files(name)]
        if len(compiled) == 1:
            return dict.fromkeys(compiled, whole_bytes)
        arguments = {"artifact": str(artifact.path), "options": options}
        function = "targets.harness:peak_memory"
        return {name: self._call(function, {**arguments, "graph": name}, label).value for name in compiled}

    def _call(self, function: str, arguments: dict[str, Any], label: str) -> sandbox.Result:
        return sandbox.call(
            function,
            arguments,
            doing=label,
            timeout_s=self.timeout_s,
            memory_bytes=self.memory_bytes,
        )


def _state(artifact: Artifact, measurement: Measurement, graph: str) -> dict[str, Any]:
    """The artifact's entry after a measurement: a graph that was rejected when it was compiled stays so."""
    entry, found = artifact.manifest["graphs"][graph], measurement.report["graphs"][graph]
    reason = entry["reason"] if entry["status"] == "rejected" else measurement.failure(graph)
    return {
        "status": "rejected" if reason else "verified",
        "reason": reason,
        "notes": list(dict.fromkeys([*entry["notes"], *found.get("notes", ())])),
        "parity": {**found["parity"], "inputs": measurement.inputs},
        "ran_on": measurement.ran_on.model_dump(),
    }


Runner = LocalRunner
