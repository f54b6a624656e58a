"""Device profiles: what ships, what a user's own may say, when this machine is the device, what a budget says."""

from __future__ import annotations

import pytest

from profiles import device as device_module
from profiles.device import Device, budget_values, list_devices, load_device
from profiles.errors import RequestError
from profiles.host import cpu_model_from, host_info
from profiles.results import Cost, Latency, Memory, Record, TaskMetric

OWN = """
name: my-board
class: wearable
summary: A board of mine, Cortex-M4
matches: {machine: armv7m}
runtimes:
  c: {precisions: [int8], options: {stack_bytes: 2048}}
memory: {flash_bytes: 524288, ram_bytes: 98304}
budget: {instructions: 2000000, arena_bytes: 16384, metric_drop: 0}
runner: {kind: ssh, host: board.local, port: 22}
emulator: {kind: qemu_system, machine: mps2-an386, cpu: cortex-m4}
docker: wearable
"""


def _write(tmp_path, text):
    path = tmp_path / "my-board.yaml"
    path.write_text(text)
    return path


def test_host_and_the_two_x86_devices_ship_with_their_runtimes_at_three_precisions():
    names = list_devices()
    assert names[0] == "host"
    assert {"host", "x86-laptop", "x86-server"} <= set(names)
    for name in ("host", "x86-laptop", "x86-server"):
        device = load_device(name)
        assert device.name == name
        runtimes = {"onnx", "openvino", "tflite"} if name == "host" else {"onnx", "openvino"}
        assert set(device.runtimes) == runtimes
        assert all(set(value.precisions) == {"int8", "fp16", "fp32"} for value in device.runtimes.values())


@pytest.mark.parametrize("core", ["m4", "m7", "m33", "m55"])
def test_a_microcontroller_runs_int8_c_on_an_emulated_core_within_its_flash_and_ram(core):
    device = load_device(f"cortex-{core}")
    assert device.class_ == "wearable" and device.runner is None and not device.matches_this_machine()
    assert {name: runtime.precisions for name, runtime in device.runtimes.items()} == {"c": ["int8"]}
    assert device.emulator is not None
    assert (device.emulator.kind, device.emulator.options) == ("qemu_system", {"core": core})
    limits = device.limits()
    assert {"flash_bytes", "ram_bytes", "arena_bytes", "instructions", "metric_drop"} <= set(limits)
    assert limits["arena_bytes"] < limits["ram_bytes"] < limits["flash_bytes"]
    assert f"Cortex-{core.upper()}" in device.summary and "MHz" in device.summary


@pytest.mark.parametrize(("generation", "macs"), [("u55", 256), ("u85", 256)])
def test_an_ethos_u_names_the_accelerator_that_its_summary_promises(generation, macs):
    device = load_device(f"ethos-{generation}")
    runtime = device.runtimes["ethos-u"]
    assert runtime.precisions == ["int8"] and next(iter(device.runtimes)) == "ethos-u"
    assert runtime.options["accelerator"] == f"ethos-{generation}-{macs}"
    assert f"{macs} MACs per cycle" in device.summary and device.budget.npu_cycles


def test_the_arm_computers_run_tflite_and_match_their_processors_only(monkeypatch):
    for name, processor in {
        "raspberry-pi-5": "Cortex-A76",
        "pixel-8": "Cortex-A510 + Cortex-A715 + Cortex-X3",
        "fossil-gen-6": "Cortex-A53",
    }.items():
        device = load_device(name)
        assert next(iter(device.runtimes)) == "tflite" and "int8" in device.runtimes["tflite"].precisions
        monkeypatch.setattr(device_module, "machine", lambda name=name: "armv7l" if "fossil" in name else "aarch64")
        monkeypatch.setattr(device_module, "cpu_model", lambda processor=processor: processor)
        assert device.matches_this_machine()
        monkeypatch.setattr(device_module, "cpu_model", lambda: "Cortex-A72")
        assert not device.matches_this_machine()


def test_devices_stand_in_the_order_of_their_numbers():
    cortex = [name for name in list_devices() if name.startswith("cortex-m")]
    assert cortex == ["cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55"]


def test_runtimes_keep_the_order_of_the_file_which_is_the_order_of_preference():
    assert list(load_device("x86-laptop").runtimes) == ["openvino", "onnx"]
    assert list(load_device("x86-server").runtimes) == ["onnx", "openvino"]


def test_a_microcontroller_of_the_users_own_loads_by_path(tmp_path):
    device = load_device(_write(tmp_path, OWN))
    assert device.class_ == "wearable"
    assert device.runner is not None and device.runner.kind == "ssh"
    assert device.runner.options == {"host": "board.local", "port": 22}
    assert device.emulator is not None and device.emulator.options["machine"] == "mps2-an386"
    assert device.limits() == {
        "instructions": 2e6, "arena_bytes": 16384, "metric_drop": 0, "flash_bytes": 524288, "ram_bytes": 98304,
    }  # fmt: skip
    assert not device.matches_this_machine()


@pytest.mark.parametrize("device_class", ["gpu", "cpu", "mobile", "wearable"])
def test_the_schema_carries_every_class(tmp_path, device_class):
    assert load_device(_write(tmp_path, OWN.replace("wearable\nsum", f"{device_class}\nsum"))).class_ == device_class


def test_an_unknown_name_gives_the_nearest_ones():
    with pytest.raises(RequestError, match="no device 'x86-labtop': did you mean x86-laptop"):
        load_device("x86-labtop")
    with pytest.raises(RequestError, match=r"no device 'qqqqq': there are host, .*x86-laptop"):
        load_device("qqqqq")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("docker: wearable", "dokcer: wearable"), "dokcer: unknown key"),
        (("class: wearable", "class: watch"), "class: Input should be"),
        (("summary: A board", "sumary: A board"), "summary: is missing"),
        (("[int8]", "[int4]"), "runtimes.c.precisions.0: Input should be"),
        (("[int8]", "[int8, int8]"), "runtimes.c.precisions: .*twice"),
        (("[int8]", "[]"), "runtimes.c.precisions"),
        (("arena_bytes: 16384", "arena_bytes: -1"), "budget.arena_bytes"),
        (("arena_bytes: 16384", "arena_bytes: '16 KB'"), "budget.arena_bytes"),
        (("arena_bytes: 16384", "arena: 16384"), "budget.arena: unknown key"),
        (("ram_bytes: 98304", "ram_bytes: 96.5"), "memory.ram_bytes"),
        (("kind: ssh, ", ""), "runner.kind: is missing"),
        (("memory: {", "memory: {{"), "line [0-9]+: not valid YAML"),
        (("docker: wearable", "docker: a\ndocker: b"), "line 13: .*'docker' stands there twice"),
        (("name: my-board", "name: My Board"), "name: "),
        ((OWN, "just text"), "not a device profile: keys and values"),
        ((OWN, ""), "not a device profile: keys and values"),
    ],
)
def test_a_wrong_profile_is_one_line_with_file_and_key(tmp_path, change, message):
    path = _write(tmp_path, OWN.replace(*change))
    with pytest.raises(RequestError, match=message) as caught:
        load_device(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_profile_that_is_not_there_or_not_text_is_one_line(tmp_path):
    with pytest.raises(RequestError, match="no such file"):
        load_device(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01\x80")
    with pytest.raises(RequestError, match=r"binary\.yaml"):
        load_device(tmp_path / "binary.yaml")
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(RequestError, match="cannot be read"):
        load_device(tmp_path / "folder.yaml")


def test_yaml_cannot_make_python_objects(tmp_path):
    with pytest.raises(RequestError):
        load_device(_write(tmp_path, OWN.replace("docker: wearable", "docker: !!python/object/apply:os.getcwd []")))


def test_the_host_always_matches_and_others_only_when_machine_and_processor_do(monkeypatch):
    laptop = load_device("x86-laptop")
    monkeypatch.setattr(device_module, "machine", lambda: "x86_64")
    monkeypatch.setattr(device_module, "cpu_model", lambda: "13th Gen Intel(R) Core(TM) i5-1335U")
    assert laptop.matches_this_machine()
    monkeypatch.setattr(device_module, "cpu_model", lambda: "AMD EPYC 9354P 32-Core Processor")
    assert not laptop.matches_this_machine()
    assert load_device("x86-server").matches_this_machine()
    monkeypatch.setattr(device_module, "machine", lambda: "aarch64")
    assert not load_device("x86-server").matches_this_machine()
    assert load_device("host").matches_this_machine()


def test_a_profile_that_does_not_say_when_it_matches_never_does(tmp_path):
    for matches in ("", "matches: {}\n"):
        text = OWN.replace("matches: {machine: armv7m}\n", matches)
        assert not load_device(_write(tmp_path, text)).matches_this_machine()


def test_amd64_and_arm64_are_other_spellings(monkeypatch, tmp_path):
    monkeypatch.setattr(device_module, "machine", lambda: "aarch64")
    assert load_device(_write(tmp_path, OWN.replace("armv7m", "arm64"))).matches_this_machine()


def test_processor_names_of_x86_and_arm():
    assert cpu_model_from("processor\t: 0\nmodel name\t: AMD EPYC\n\nmodel name\t: AMD EPYC\n") == "AMD EPYC"
    pi5 = "processor\t: 0\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd0b\n"
    assert cpu_model_from(pi5) == "Cortex-A76"
    assert cpu_model_from("CPU part : 0xd05\nCPU part : 0xd41\n") == "Cortex-A55 + Cortex-A78"
    assert cpu_model_from("CPU part : 0xd46\nCPU part : 0xd4e\n") == "Cortex-A510 + Cortex-X3"
    assert cpu_model_from("CPU part : 0xfff\n") == "Arm part 0xfff"
    assert cpu_model_from("nothing") is None


def test_host_info_names_the_machine():
    info = host_info()
    assert info["cpu"] and info["machine"]
    assert info["cores"] >= 1 and info["memory_bytes"] > 1e8


def _record(**values) -> Record:
    return Record(
        student="s", graph="*", device="d", runtime="onnx", precision_requested="int8", status="verified", **values
    )


def test_a_budget_that_was_not_measured_is_unknown_never_passed():
    device = Device.model_validate(
        {
            "name": "d", "class": "cpu", "summary": "", "runtimes": {"onnx": {"precisions": ["fp32"]}},
            "budget": {"latency_ms": 10, "artifact_bytes": 100, "metric_drop": 0.01, "instructions": 5,
                       "peak_bytes": 7},
        }
    )  # fmt: skip
    states = device.evaluate_budget(budget_values(_record()))
    assert {name: (state.value, state.state) for name, state in states.items()} == dict.fromkeys(
        ("latency_ms", "artifact_bytes", "metric_drop", "instructions", "peak_bytes"), (None, "unknown")
    )


def test_a_budget_is_passed_at_its_limit_and_missed_beyond():
    device = Device.model_validate(
        {
            "name": "d", "class": "cpu", "summary": "", "runtimes": {"onnx": {"precisions": ["fp32"]}},
            "budget": {"latency_ms": 10, "artifact_bytes": 100, "metric_drop": 0.02, "instructions": 5},
            "memory": {"ram_bytes": 1000},
        }
    )  # fmt: skip
    latency = Latency(p50=10.0, p90=30, p99=40, mean=15, ci95=(14, 16), n=50, threads=1, warmup=5)
    metric = TaskMetric(
        name="acc", value=0.70, ci95=(0.6, 0.8), n=10, split="test", float_value=0.75, teacher_value=None,
        higher_is_better=True,
    )  # fmt: skip
    record = _record(
        latency_ms=latency, artifact_bytes=101, task_metric=metric, memory_bytes=Memory(peak=900),
        cost=Cost(kind="instructions", value=3, source="estimated"),
    )  # fmt: skip
    states = {name: state.state for name, state in device.evaluate_budget(budget_values(record)).items()}
    # An estimate is no measurement.
    assert states == {
        "latency_ms": "passed", "artifact_bytes": "missed", "metric_drop": "missed", "instructions": "unknown",
        "ram_bytes": "passed",
    }  # fmt: skip


def test_the_metric_drop_of_an_error_is_its_rise():
    metric = TaskMetric(
        name="cer", value=0.35, ci95=(0.3, 0.4), n=10, split="test", float_value=0.30, teacher_value=None,
        higher_is_better=False,
    )  # fmt: skip
    assert budget_values(_record(task_metric=metric))["metric_drop"] == pytest.approx(0.05)
