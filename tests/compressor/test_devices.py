"""The shipped device profiles name what exists: runtimes with their precisions, runners, emulators."""

from __future__ import annotations

import pytest

from compressor.bench import _runner_name
from profiles.device import Device, list_devices, load_device
from targets.runners import list_runners
from targets.target import get_target, list_targets


@pytest.mark.parametrize("name", list_devices())
def test_a_shipped_profile_names_what_exists(name):
    device = load_device(name)
    for runtime, profile in device.runtimes.items():
        assert runtime in list_targets()
        assert set(profile.precisions) <= set(get_target(runtime).precisions)
    assert all(entry.kind in list_runners() for entry in (device.runner, device.emulator) if entry)
    assert 100 >= len(device.summary) > 10


def test_where_a_device_runs_is_what_was_asked_for_then_itself_then_its_emulator_then_here():
    def device(**more):
        base = {"name": "d", "class": "cpu", "summary": "", "runtimes": {"onnx": {"precisions": ["fp32"]}}}
        return Device.model_validate({**base, **more})

    emulator = {"emulator": {"kind": "qemu_system", "core": "m4"}}
    assert _runner_name(device(), None) == "local"
    assert _runner_name(device(**emulator), None) == "qemu_system"
    assert _runner_name(device(emulator={"kind": "not_written_yet"}), None) == "local"
    assert _runner_name(device(**emulator, runner={"kind": "ssh"}), None) == "ssh"
    assert _runner_name(device(**emulator), "local") == "local"
