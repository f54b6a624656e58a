"""Images and containers, without building any: Dockerfiles, limits, traps; Docker by a fake that records and obeys."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from profiles.device import list_devices, load_device
from profiles.errors import MissingError, RequestError
from targets.artifact import Artifact
from targets.bundle import Bundle
from targets.container import buildah, conditions, docker, images, job
from targets.container.conditions import Limits, limits_of, unenforced, wrong_setup
from targets.container.engine import find_engine
from targets.runners import get_runner
from targets.runners.docker import DockerRunner, open_image
from tests.tools import need

SEEN = {"pid": 7, "uid": 1, "processors": 2, "memory_limit_bytes": 500, "network": [], "machine": "x86_64", "cpu": "x"}

# Answers as a daemon would; `docker exec` runs the command on this machine.
FAKE = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    print(json.dumps(sys.argv[1:]), file=log)
if sys.argv[1] == "version":
    print("28.0")
elif sys.argv[1] == "image":
    print(json.dumps({{"Labels": {{{label!r}: {hash!r}}}}}))
elif sys.argv[1] == "run":
    os.execlp("sh", "sh", "-c", "echo ready; exec cat")
elif sys.argv[1] == "exec":
    os.execvp(sys.argv[4], sys.argv[4:])
"""


@pytest.fixture
def fake_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A docker command on the PATH; the file it writes its arguments to."""
    log, folder = tmp_path / "docker.log", tmp_path / "bin"
    folder.mkdir()
    fields = {"python": sys.executable, "log": str(log), "label": images.LABEL, "hash": images.sources_hash()}
    (folder / "docker").write_text(FAKE.format(**fields))
    (folder / "docker").chmod(0o755)
    (folder / "python3").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(images.ROOT), *sys.path]))
    return log


@pytest.fixture
def smoke_artifact(tmp_path: Path) -> Artifact:
    import shutil

    return Artifact.open(shutil.copytree(images.FOLDER / "smoke/onnx-fp32", tmp_path / "artifact"))


def recorded(log: Path) -> list[list[str]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


# -- the Dockerfiles -------------------------------------------------------------------------------------------------


def test_hadolint_has_nothing_to_say_of_any_dockerfile() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        need("hadolint")
    files = [str(images.FOLDER / name / "Dockerfile") for name in images.list_images()]
    done = subprocess.run([str(hadolint), *files], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["cpu", "gpu", "mobile-arm64", "wearable"])
def test_a_dockerfile_has_a_base_that_can_be_replaced_and_runs_as_nobody_special(name: str) -> None:
    text = (images.FOLDER / name / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE_IMAGE=python:3\.11-slim-bookworm\nFROM \$\{BASE_IMAGE\}$", text, re.MULTILINE)
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["10001"]
    assert json.loads(re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[-1])[-1] == job.__name__
    for artifact in re.findall(r"^COPY (docker/smoke/\S+)", text, re.MULTILINE):
        assert (images.ROOT / artifact).is_dir()


@pytest.mark.parametrize("name", ["cpu", "gpu", "mobile-arm64", "wearable"])
def test_every_requirement_of_an_image_is_pinned(name: str) -> None:
    pinned = {normal(line) for line in constraints()}
    wanted = (images.FOLDER / name / "requirements.txt").read_text().splitlines()
    assert {normal(line) for line in wanted if not line.startswith("#")} <= pinned


@pytest.mark.slow
def test_the_gpu_image_s_wheels_resolve_to_pinned_versions_and_nothing_else(tmp_path: Path) -> None:
    report, folder = tmp_path / "report.json", images.FOLDER / "gpu"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    pip += ["--report", str(report), "-r", str(folder / "requirements.txt"), "-c", str(images.ROOT / "constraints.txt")]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {
        item["metadata"]["name"]: item["metadata"]["version"] for item in json.loads(report.read_text())["install"]
    }
    pins = {normal(line): line.split("==")[1] for line in constraints()}
    assert {normal(name): version for name, version in found.items() if pins.get(normal(name)) != version} == {}
    assert {"tensorrt-rtx", "cuda-python"} <= {normal(name) for name in found}


def constraints() -> list[str]:
    return [line for line in (images.ROOT / "constraints.txt").read_text().splitlines() if "==" in line]


def normal(line: str) -> str:
    return re.sub(r"[-_.]+", "-", line.split("==")[0].strip()).lower()


def test_the_smoke_test_s_artifacts_are_of_its_bundle() -> None:
    bundle = Bundle.open(images.FOLDER / "smoke/bundle")
    for path in (images.FOLDER / "smoke").glob("*/artifact.json"):
        assert Artifact.open(path.parent).manifest["bundle"]["sha256"] == bundle.sha256


# -- which image -----------------------------------------------------------------------------------------------------


def test_an_image_is_found_by_its_own_name_and_by_a_device_s() -> None:
    assert images.image_of("cpu") == images.image_of("x86-laptop") == "cpu"
    assert images.image_of("cortex-m4") == "wearable" and images.image_of("raspberry-pi-5") == "mobile-arm64"
    for name in list_devices():
        device = load_device(name)
        assert device.docker is None or images.image_of_device(device) == device.docker
    with pytest.raises(RequestError, match="neither an image"):
        images.image_of("toaster")
    with pytest.raises(RequestError, match="names no image"):
        images.image_of("h100-server")


# -- limits and traps ------------------------------------------------------------------------------------------------


def test_limits_are_the_device_s_memory_and_its_runtime_s_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "usable_cores", lambda: list(range(4)))
    limits = limits_of(load_device("raspberry-pi-5"), "tflite")
    assert (limits.processors, limits.memory_bytes) == (4, 8589934592)
    assert limits_of(load_device("cortex-m4"), "c").memory_bytes is None  # its 192 KB are the firmware's limit
    monkeypatch.setattr(conditions, "usable_cores", lambda: [0])
    few = limits_of(load_device("raspberry-pi-5"), "tflite")
    assert few.processors == 1 and any("gives 4 processors, this machine has 1" in note for note in few.notes)


def test_a_limit_that_is_not_found_inside_is_named() -> None:
    asked = Limits(processors=2, memory_bytes=1000)
    assert unenforced(asked, SEEN, "docker") == []
    (memory,) = unenforced(asked, {**SEEN, "memory_limit_bytes": None}, "buildah")
    assert "buildah does not enforce the memory limit" in memory
    (processors,) = unenforced(asked, {**SEEN, "processors": 64}, "docker")
    assert "64" in processors
    (network,) = unenforced(Limits(), {**SEEN, "network": ["eth0"]}, "docker")
    assert "eth0" in network


def test_a_job_with_the_process_number_1_is_refused_and_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, smoke_artifact: Artifact
) -> None:
    assert wrong_setup(SEEN) is None
    first = {**SEEN, "pid": 1}
    assert "--init" in (wrong_setup(first) or "")
    monkeypatch.setattr(job, "seen", lambda: first)
    report = job.smoke(images.FOLDER / "smoke")
    assert report["passed"] is False and report["students"] == [] and "--init" in report["problem"]
    job.measure({"artifact": str(smoke_artifact.path)}, tmp_path)
    assert "--init" in json.loads((tmp_path / "result.json").read_text())["error"]["message"]


def test_a_process_s_own_conditions_are_what_the_kernel_says() -> None:
    found = conditions.seen()
    assert found["pid"] == os.getpid() and found["processors"] == len(os.sched_getaffinity(0))
    assert "lo" not in found["network"]


# -- Docker, by a fake daemon ----------------------------------------------------------------------------------------


def test_an_artifact_is_measured_in_a_container_with_the_device_s_limits_and_without_a_network(
    fake_docker: Path, smoke_artifact: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "d.yaml").write_text(
        "name: d\nclass: cpu\nsummary: d\nruntimes:\n  onnx: {precisions: [fp32], options: {threads: 1}}\n"
        "memory: {ram_bytes: 2000000000}\ndocker: cpu\n"
    )
    found = get_runner("docker").measure(smoke_artifact, load_device(tmp_path / "d.yaml"))
    assert smoke_artifact.status == "verified" and found.ran_on.name.endswith("in the image cpu")
    evaluation = found.evaluation("validation")
    assert evaluation is not None and np.mean(evaluation.scores) > 0.9
    notes = smoke_artifact.manifest["graphs"]["net"]["notes"]
    assert any("docker does not enforce the memory limit of 2000 MB" in note for note in notes)  # the fake has none
    (run,) = (arguments for arguments in recorded(fake_docker) if arguments[0] == "run")
    for option in ("--init", "--rm", "--memory=2000000000", "--memory-swap=2000000000"):
        assert option in run
    assert run[run.index("--network") + 1] == "none"
    assert f"--cpuset-cpus={min(os.sched_getaffinity(0))}" in run
    removed = [arguments for arguments in recorded(fake_docker) if arguments[0] == "rm"]
    assert [arguments[-1] for arguments in removed] == [run[run.index("--name") + 1]]


def test_the_gpu_image_and_no_other_is_given_the_gpus(fake_docker: Path) -> None:
    for image in ("cpu", "gpu"):
        with open_image(docker.DockerEngine(), image, Limits()):
            pass
    cpu, gpu = (arguments for arguments in recorded(fake_docker) if arguments[0] == "run")
    assert "--gpus" not in cpu and gpu[gpu.index("--gpus") + 1] == "all"


def test_a_device_that_is_too_small_is_one_failed_row(
    fake_docker: Path, smoke_artifact: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "d.yaml").write_text(
        "name: d\nclass: cpu\nsummary: d\nruntimes: {onnx: {precisions: [fp32]}}\n"
        "memory: {ram_bytes: 20000000}\ndocker: cpu\n"
    )
    from targets.sandbox import SandboxError

    with pytest.raises(SandboxError, match="in the image cpu: stopped at the memory limit of 20 MB"):
        get_runner("docker").measure(smoke_artifact, load_device(tmp_path / "d.yaml"))
    assert smoke_artifact.status == "failed"


def test_an_image_of_other_sources_is_not_measured_in(
    fake_docker: Path, smoke_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "sources_hash", lambda: "other")
    with pytest.raises(MissingError, match="built from other sources than these: compressor docker build cpu"):
        DockerRunner().measure(smoke_artifact, load_device("host"))
    assert all(arguments[0] != "run" for arguments in recorded(fake_docker))


def test_a_build_lends_certificates_and_names_its_base(fake_docker: Path, tmp_path: Path) -> None:
    docker.DockerEngine().build(
        tmp_path / "Dockerfile", tmp_path, "localhost/x:y", platform="arm64", arguments={"BASE_IMAGE": "b"},
        labels={"l": "1"}, secrets={"ca": tmp_path / "ca"},
    )  # fmt: skip
    (build,) = recorded(fake_docker)
    assert build[0] == "build" and build[-1] == str(tmp_path)
    assert {"--build-arg=BASE_IMAGE=b", "--label=l=1", f"--secret=id=ca,src={tmp_path / 'ca'}"} <= set(build)
    assert build[build.index("--platform") + 1] == "linux/arm64"


# -- which engine ----------------------------------------------------------------------------------------------------


def test_a_daemon_that_answers_is_taken_and_else_buildah(fake_docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_engine("auto").name == find_engine("docker").name == "docker"
    monkeypatch.setattr(docker, "daemon_problem", lambda: "no Docker daemon answers: x")
    monkeypatch.setattr("targets.container.engine.shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(buildah.os, "geteuid", lambda: 0)
    assert find_engine("auto").name == find_engine("buildah").name == "buildah"
    with pytest.raises(MissingError, match="start it, or use --engine buildah"):
        find_engine("docker")
    monkeypatch.setattr("targets.container.engine.shutil.which", lambda name: None)
    with pytest.raises(MissingError, match="apt-get install buildah") as caught:
        find_engine("auto")
    assert caught.value.exit_code == 3
    with pytest.raises(RequestError, match="there are auto, docker, buildah"):
        find_engine("lxc")
