"""Artifacts on other machines: over ssh to a server of our own, over an adb that is a recording, under QEMU."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compressor.data import fetch
from profiles.device import Device, load_device
from profiles.errors import MissingError, RequestError
from profiles.host import cpu_model, machine
from targets.artifact import Artifact, compile_bundle
from targets.bundle import Bundle
from targets.c.program import build
from targets.graph import Graph, TensorSpec
from targets.remote.channel import Channel
from targets.remote.code import CODE, write_code
from targets.remote.place import DeviceError
from targets.remote.roots import find_root
from targets.remote.sessions import Agent, ProgramSession
from targets.remote.traps import HWCAP, HWCAP2, processor_mismatch
from targets.runners import get_runner, qemu_user
from targets.sandbox import SandboxError
from tests.targets.hand_written import (
    PLUS_ONE,
    PRODUCT,
    product_artifact,
    rows,
    weights_in_c,
    write_artifact,
    write_model,
)
from tests.targets.loopback import HOST, Server, is_gone, ssh_server
from tests.tools import need, need_module

EMULATED = [("aarch64", "cortex-a53", "qemu-aarch64"), ("armv7l", "cortex-a7", "qemu-arm")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    need("ssh", "ssh-keygen", "/usr/sbin/sshd", "gcc")
    with ssh_server(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(scope="module")
def compiled(shape_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float network for ONNX Runtime."""
    need_module("onnxruntime")
    return compile_bundle(shape_bundle, device(), "onnx", "fp32", tmp_path_factory.mktemp("onnx") / "a").path


@pytest.fixture
def network(compiled: Path, tmp_path: Path) -> Artifact:
    """A copy of its own, since a measurement writes into it."""
    return Artifact.open(shutil.copytree(compiled, tmp_path / "a"))


def device(**keys: Any) -> Device:
    return Device.model_validate(
        {
            "name": "board",
            "class": "mobile",
            "summary": "a board",
            "matches": {"machine": machine(), "cpu": cpu_model()},
            "runtimes": {
                "c": {"precisions": ["int8"], "options": {"optimization": "O3"}},
                "onnx": {"precisions": ["fp32"], "options": {"threads": 1}},
                "tflite": {"precisions": ["fp32", "int8"], "options": {"threads": 1}},
            },
            **keys,
        }
    )


def over_ssh(server: Server, folder: Path, **options: Any) -> Device:
    return device(
        runner={
            "kind": "ssh", "host": HOST, "config": str(server.config), "python": sys.executable, "folder": str(folder),
            **options,
        }
    )  # fmt: skip


def emulated(machine: str, cpu: str) -> Device:
    return device(emulator={"kind": "qemu_user", "machine": machine, "cpu": cpu})


# -- over ssh --------------------------------------------------------------------------------------------------------


def test_a_static_program_over_ssh_answers_as_numpy_does(server: Server, tmp_path: Path) -> None:
    place = tmp_path / "device"
    place.mkdir()
    found = get_runner("ssh").measure(product_artifact(tmp_path / "a"), over_ssh(server, place), latency_seconds=0.1)
    assert found.parity("net").max_abs == 0 and Artifact.open(tmp_path / "a").status == "verified"
    assert found.report["graphs"]["net"]["this_machine"]["exact"]
    evaluation = found.evaluation("validation")
    assert evaluation is not None and len(evaluation.scores) == 30 and evaluation.value == 0
    assert (found.ran_on.kind, found.ran_on.name) == ("device", "board")
    latency, memory = found.latency("net"), found.memory("net")
    assert latency is not None and latency.n >= 50 and 0 < latency.p50 < 1
    assert memory.arena == 40 and memory.stack is not None and memory.stack < 4096 and memory.peak
    assert not list(place.iterdir())


def test_the_agent_over_ssh_needs_numpy_and_the_runtime_alone(
    server: Server, network: Artifact, tmp_path: Path
) -> None:
    alone = tmp_path / "site"
    alone.mkdir()
    for name in ("numpy", "numpy.libs", "onnxruntime", "flatbuffers", "google", "packaging"):
        spec = importlib.util.find_spec("numpy")
        assert spec is not None and spec.origin is not None
        folder = Path(spec.origin).parents[1] / name
        if folder.exists():
            (alone / name).symlink_to(folder)
    # a Python that has these packages and no others
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{alone}" exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    profile = over_ssh(server, tmp_path, python=str(python))
    found = get_runner("ssh").measure(network, profile, splits=("validation",), latency_seconds=0.2)
    assert Artifact.open(network.path).status == "verified"
    assert found.report["graphs"]["net"]["this_machine"]["exact"]
    evaluation = found.evaluation("validation")
    assert evaluation is not None and evaluation.value > 0.9
    assert found.latency("net") is not None and (found.peak_bytes or 0) > 10_000_000


def test_a_machine_that_is_not_the_device_is_not_timed_as_one(server: Server, tmp_path: Path) -> None:
    other = over_ssh(server, tmp_path).model_copy(update={"matches": None})
    found = get_runner("ssh").measure(product_artifact(tmp_path / "a"), other, splits=())
    assert found.ran_on.kind == "host" and found.latency("net") is None


def test_a_processor_whose_name_only_begins_like_the_device_s_is_another() -> None:
    older = load_device("raspberry-pi-2")
    assert older.is_machine("armv7l", "Cortex-A7") and older.is_machine("armv8l", "cortex-a7 + Cortex-A15")
    assert not older.is_machine("armv7l", "Cortex-A72") and not older.is_machine("aarch64", "Cortex-A7")


@pytest.mark.parametrize(
    ("python", "reason"),
    [
        ("nowhere/python3", r"exit code 127: .*No such file"),
        ("echo", r"answered garbage \(b'-m targets"),
    ],
)
def test_a_device_without_a_python_that_works_is_one_row(
    python: str, reason: str, server: Server, network: Artifact, tmp_path: Path
) -> None:
    profile = over_ssh(server, tmp_path, python=python)
    with pytest.raises(SandboxError, match=reason) as caught:
        get_runner("ssh", timeout_s=60).measure(network, profile, splits=())
    assert "\n" not in caught.value.reason
    entry = Artifact.open(network.path).manifest["graphs"]["net"]
    assert entry["status"] == "failed" and entry["reason"] == caught.value.reason
    assert entry["ran_on"] is None, "nobody knows which machine that was"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_model_that_hangs_ends_with_the_time_limit_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    place = tmp_path / "device"
    place.mkdir()
    hanging = "volatile int forever = 1; while (forever) { } (void)out, (void)in;"
    artifact = write_artifact(tmp_path / "a", hanging, rows(2), rows(2))
    with pytest.raises(SandboxError, match=r"stopped at the time limit of 8 s while running hand with c in int8"):
        get_runner("ssh", timeout_s=8).measure(artifact, over_ssh(server, place), splits=())
    assert all(is_gone(str(path)) for path in place.iterdir())


# -- over adb --------------------------------------------------------------------------------------------------------

FAKE_ADB = """#!/bin/sh
printf '%s\\n' "$*" | head -n 1 >> "$(dirname "$0")/log"
for last; do :; done
exec sh -c "$last"
"""


@pytest.fixture
def fake_adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program "adb" that writes down what it is asked and runs it here. Gives its log."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "adb").write_text(FAKE_ADB)
    (folder / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "log"


def test_adb_gets_a_static_program_and_the_commands_of_a_raw_shell(fake_adb: Path, tmp_path: Path) -> None:
    need("gcc")
    place = tmp_path / "data"
    place.mkdir()
    profile = device(runner={"kind": "adb", "serial": "not this one", "folder": str(place)})
    found = get_runner("adb:R5CT60").measure(product_artifact(tmp_path / "a"), profile, latency_seconds=0.1)
    assert found.parity("net").max_abs == 0 and found.latency("net") is not None
    lines = fake_adb.read_text().splitlines()
    asked = [line for line in lines if line.startswith("-s R5CT60 shell -T -e none ")]
    assert asked == lines and len(lines) >= 5
    assert not list(place.iterdir())


def test_android_has_no_python_and_says_what_runs_there(fake_adb: Path, network: Artifact, tmp_path: Path) -> None:
    profile = device(runner={"kind": "adb", "folder": str(tmp_path)})
    with pytest.raises(RequestError, match=r"no Python to run onnx with: .*--runtime c --precision int8"):
        get_runner("adb").measure(network, profile, splits=())


def test_wrong_options_and_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="which host"):
        get_runner("ssh").place(device())  # type: ignore[attr-defined]
    with pytest.raises(RequestError, match="is no host"):
        get_runner("ssh:-oProxyCommand=x").place(device())  # type: ignore[attr-defined]
    with pytest.raises(RequestError, match="unknown option 'hots' of ssh"):
        get_runner("ssh").place(device(runner={"kind": "ssh", "hots": "pi"}))  # type: ignore[attr-defined]
    with pytest.raises(RequestError, match="is no address"):
        get_runner("local:there")
    monkeypatch.setenv("PATH", str(tmp_path))
    for runner, package in (("ssh:pi", "openssh-client"), ("adb", "adb")):
        with pytest.raises(MissingError, match=f"apt install {package}"):
            get_runner(runner).place(device())  # type: ignore[attr-defined]


# -- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        "not json at all",
        '{"value": 1}',
        '{"value": 1, "arrays": [["y", "<f4", [-1]]]}',
        '{"value": 1, "arrays": [["y", "|O", [1]]]}',
        '{"value": 1, "arrays": [["y", "<f8", [99999, 99999, 99999]]]}',
        "[1, 2]",
    ],
)
def test_an_answer_that_is_none_is_one_error(answer: str) -> None:
    with (
        Channel(["sh", "-c", f"read line; echo '{answer}'; sleep 60"], doing="asking", timeout_s=5) as channel,
        pytest.raises(DeviceError, match=r"answered garbage .* while asking"),
    ):
        Agent(channel).call("hello")


def test_an_answer_that_stops_in_the_middle_is_one_error() -> None:
    half = 'printf \'{"value": 1, "arrays": [["y", "<f4", [8]]]}\\nabc\''
    with (
        Channel(["sh", "-c", f"read line; {half}"], doing="asking", timeout_s=5) as channel,
        pytest.raises(DeviceError, match="ended with exit code 0, while asking"),
    ):
        Agent(channel).call("run")


# -- under QEMU ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("machine", "cpu", "qemu"), EMULATED)
def test_the_static_program_is_exact_on_the_emulated_processor(
    machine: str, cpu: str, qemu: str, tmp_path: Path
) -> None:
    need(qemu, {"aarch64": "aarch64-linux-gnu-gcc", "armv7l": "arm-linux-gnueabihf-gcc"}[machine], "gcc")
    artifact = product_artifact(tmp_path / "a")
    found = get_runner("qemu_user").measure(artifact, emulated(machine, cpu))
    again = get_runner("qemu_user").measure(artifact, emulated(machine, cpu), splits=())
    assert found.parity("net").max_abs == 0 and found.report["graphs"]["net"]["this_machine"]["exact"]
    assert found.ran_on.kind == "emulator" and found.ran_on.name.startswith(f"{qemu} ")
    assert found.ran_on.name.endswith(f"({cpu})")
    evaluation = found.evaluation("validation")
    assert evaluation is not None and len(evaluation.scores) == 30 and evaluation.value == 0
    cost, memory = found.cost("net"), found.memory("net")
    assert cost is not None and cost.source == "counted" and 8 * 32 / 16 < cost.value < 8 * 32 * 10
    assert again.cost("net") == cost, "instructions repeat"
    assert found.latency("net") is None and found.peak_bytes is None and memory.peak is None
    assert memory.flash is not None and 256 < memory.flash < 3000 and memory.arena == 40


def test_counts_per_call_agree_with_the_slope_between_two_run_lengths(tmp_path: Path) -> None:
    need("qemu-aarch64", "aarch64-linux-gnu-gcc", "gcc")
    profile, runner = emulated("aarch64", "cortex-a53"), get_runner("qemu_user")
    program = build(
        write_model(tmp_path / "m", PRODUCT, outputs=8, before=weights_in_c()), "aarch64", "O2", tmp_path / "program"
    )
    totals = []
    assert isinstance(runner, qemu_user.QemuUserRunner)
    with runner.place(profile) as place:
        place.push(program.path, "program")
        row = [bytes(32)]
        per_call, note = runner.count_program(profile, place, program, "./program", row)
        for times in (10, 110):
            command = runner._emulator(profile, place, plugin_options="")
            place.run([*command, "./program", "time", str(times)], doing="counting", stdin=row[0])
            totals += qemu_user._counts(place)
    slope = (totals[1] - totals[0]) / 100
    assert per_call is not None and note is None
    assert per_call < slope < per_call + 600, "beside the model's: the clock, twice, and one number written"


@pytest.mark.parametrize("cpu", ["max", "any", "cortex-x3", None])
def test_a_processor_that_would_compute_wrongly_is_refused(cpu: str | None, tmp_path: Path) -> None:
    wrong = device(emulator={"kind": "qemu_user", **({"cpu": cpu} if cpu else {})})
    reason = "computes wrong int8 results" if cpu in ("max", "any") else "names no processor that is known"
    with pytest.raises(RequestError, match=reason):
        get_runner("qemu_user").measure(product_artifact(tmp_path / "a"), wrong)


def test_variables_of_this_machine_do_not_reach_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("qemu-aarch64", "aarch64-linux-gnu-gcc", "gcc")
    for name, value in (("QEMU_CPU", "max"), ("QEMU_STRACE", "1"), ("QEMU_LD_PREFIX", "/nowhere")):
        monkeypatch.setenv(name, value)
    artifact = write_artifact(tmp_path / "a", PLUS_ONE, rows(2), rows(2))
    runner = get_runner("qemu_user")
    assert isinstance(runner, qemu_user.QemuUserRunner)
    profile = emulated("aarch64", "cortex-a53")
    with runner.place(profile) as place:
        done = place.run([*runner.emulator(profile, place)[:4], "env"], doing="looking")
    assert b"QEMU" not in done.stdout and artifact.runtime == "c"


def hello(**changes: Any) -> dict[str, Any]:
    """What an agent says on a Cortex-A76 where everything is right."""
    features = qemu_user.CPUS["cortex-a76"].features.split()
    words = [sum(1 << bit for bit, name in names.items() if name in features) for names in (HWCAP, HWCAP2)]
    cpuinfo = qemu_user.CPUS["cortex-a76"].cpuinfo()
    return {"machine": "aarch64", "cpu": "Cortex-A76", "cpuinfo": cpuinfo, "hwcap": words, **changes}


def test_the_traps_of_emulation_are_told_from_a_machine_that_is_right() -> None:
    right = hello()
    assert processor_mismatch(right) is None
    assert processor_mismatch({"machine": "x86_64"}) is None
    x86 = processor_mismatch(hello(cpuinfo="flags\t: fpu vme\nmodel name\t: AMD EPYC\n", cpu="AMD EPYC"))
    assert x86 is not None and "/proc/cpuinfo is of another machine (AMD EPYC)" in x86
    widest = [right["hwcap"][0] | 1 << 22, right["hwcap"][1] | 1 << 1 | 1 << 13]
    maximal = processor_mismatch(hello(hwcap=widest))
    assert maximal is not None and "has i8mm, sve, sve2" in maximal and "-cpu max" in maximal
    less = processor_mismatch(hello(hwcap=[2, 0]))
    assert less is not None and "lists asimddp" in less


@pytest.mark.parametrize("trap", ["cpuinfo", "max"])
def test_a_trap_that_is_open_is_named_by_the_emulated_python(trap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need("qemu-aarch64")
    _need_root("aarch64")
    runner, profile = get_runner("qemu_user"), emulated("aarch64", "cortex-a53")
    assert isinstance(runner, qemu_user.QemuUserRunner)
    with runner.place(profile) as place:
        place.push(write_code(Path(place.folder) / "source"), CODE)
        python = runner.python(profile, place)
        if trap == "cpuinfo":
            (place.sysroot / "proc/cpuinfo").unlink()
        else:
            python[python.index("cortex-a53")] = "max"
        with place.start([*python, "-m", "targets.remote.agent"], doing="asking", timeout_s=60) as channel:
            said, _ = Agent(channel).call("hello")
    problem = processor_mismatch(said)
    assert problem is not None
    assert ("another machine" if trap == "cpuinfo" else "-cpu max") in problem


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "cpu", "runtime", "precision"),
    [
        ("aarch64", "cortex-a53", "tflite", "fp32"),
        ("aarch64", "cortex-a76", "tflite", "int8"),
        ("aarch64", "cortex-a53", "onnx", "fp32"),
        ("armv7l", "cortex-a7", "tflite", "int8"),
    ],
)
def test_a_runtime_on_the_emulated_processor_gives_what_it_gives_here(
    machine: str, cpu: str, runtime: str, precision: str, shape_bundle: Bundle, tmp_path: Path
) -> None:
    need({"aarch64": "qemu-aarch64", "armv7l": "qemu-arm"}[machine])
    _need_root(machine)
    profile = emulated(machine, cpu)
    artifact = compile_bundle(shape_bundle, profile, runtime, precision, tmp_path / "a")
    found = get_runner("qemu_user").measure(artifact, profile, splits=("validation",))
    assert Artifact.open(artifact.path).status == "verified"
    compared = found.report["graphs"]["net"]["this_machine"]
    if machine == "aarch64":
        assert compared["max_abs"] <= (1e-4 if runtime == "onnx" else 1e-5) or compared["steps"] <= 1
    else:
        assert "tflite-runtime 2.14.0 there" in compared["note"], "another implementation is reported, not judged"
    cost, evaluation = found.cost("net"), found.evaluation("validation")
    assert cost is not None and cost.value > 10_000 and evaluation is not None and evaluation.value > 0.8
    assert found.latency("net") is None and found.memory("net").arena


def _need_root(machine: str) -> None:
    """Skip without the processor's Python; under CI it is fetched."""
    if os.environ.get("CI"):
        fetch(f"python-{machine}")
    try:
        find_root(machine)
    except MissingError as error:
        pytest.skip(str(error))


def test_a_program_that_dies_at_the_end_says_nothing_of_its_stack() -> None:
    graph = Graph("net", (TensorSpec("x", "float32", ("batch", 1)),), (TensorSpec("y", "float32", ("batch", 1)),))
    with (
        Channel(["cat"], doing="running", timeout_s=5) as channel,
        pytest.raises(DeviceError, match="answered garbage"),
    ):
        ProgramSession(graph, channel, {"outputs": []}, {}).close()
