"""A folder on another machine: what goes there arrives whole, and nothing is left, whatever happens on the way."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from profiles.host import cpu_model, machine, usable_cores
from profiles.storage import sha256_tree
from targets.remote.place import DeviceError, ShellPlace
from targets.runners import ssh
from tests.targets.loopback import HOST, PATIENCE_S, Server, is_gone, ssh_server, workers
from tests.tools import need


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    need("ssh", "ssh-keygen", "/usr/sbin/sshd")
    with ssh_server(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(params=["this machine", "ssh"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> ShellPlace:
    parent = tmp_path / "device"
    parent.mkdir()
    prefix = ssh.command(HOST, {"config": request.getfixturevalue("server").config}) if request.param == "ssh" else []
    return ShellPlace(prefix, request.param, timeout_s=PATIENCE_S, parent=str(parent))


def some_files(folder: Path) -> Path:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "b in.bin").write_bytes(bytes(range(256)) * 4096)
    (folder / "a.txt").write_text("ä\n")
    return folder


def test_files_come_back_as_they_went_and_nothing_stays(place: ShellPlace, tmp_path: Path) -> None:
    source = some_files(tmp_path / "source")
    with place:
        place.push(source, "copy")
        place.push(source / "a.txt", "single.txt")
        done = place.run(["sh", "-c", "cat single.txt && ls copy/deep/er && cat"], doing="looking", stdin=b"given")
        assert done.stdout == "ä\nb in.bin\ngiven".encode()
        place.pull("copy", tmp_path / "back")
        folder = place.folder
    assert sha256_tree(tmp_path / "back") == sha256_tree(source)
    assert is_gone(folder) and not list((tmp_path / "device").iterdir())


def test_a_device_says_what_it_is(place: ShellPlace) -> None:
    with place:
        info = place.info()
    assert (info["machine"], info["cpu"]) == (machine(), cpu_model())
    assert info["cores"] >= len(usable_cores()) and info["memory_bytes"] == psutil.virtual_memory().total


def test_a_program_that_goes_on_answers_each_request(place: ShellPlace) -> None:
    with place, place.start(["cat"], doing="echoing") as echo:
        for text in (b"one\n", b"two\n"):
            echo.send(text)
            assert echo.receive_line() + b"\n" == text
        echo.send(bytes(1 << 15))
        assert echo.receive(1 << 15) == bytes(1 << 15)
        assert echo.finish() == ""


def test_what_hangs_ends_within_its_time_and_is_not_left_running(place: ShellPlace) -> None:
    start = time.monotonic()
    with place:
        folder = place.folder
        with pytest.raises(DeviceError, match=r"no answer within 1 s while sleeping on"):
            place.run(["sleep", "600"], doing="sleeping", timeout_s=1)
        channel = place.start(["sleep", "600"], doing="dozing", timeout_s=0.5)
        while not workers(folder):
            time.sleep(0.05)
        with pytest.raises(DeviceError, match=r"no answer within 0.5 s while dozing"):
            channel.receive(1)
    assert is_gone(folder) and time.monotonic() - start < PATIENCE_S


def test_what_fails_there_says_its_own_last_line(place: ShellPlace) -> None:
    with place:
        with pytest.raises(DeviceError, match=r"exit code 3: no model here, while opening on"):
            place.run(["sh", "-c", "echo no model here >&2; exit 3"], doing="opening")
        with pytest.raises(DeviceError, match=r"ended by signal 11 \(SIGSEGV\)"):
            place.start(["sh", "-c", "kill -SEGV $$"], doing="crashing").receive(1)


def test_a_lost_connection_is_one_error_and_the_device_cleans_up_by_itself(server: Server, tmp_path: Path) -> None:
    place = ShellPlace(ssh.command(HOST, {"config": server.config}), "ssh", timeout_s=PATIENCE_S, parent=str(tmp_path))
    with pytest.raises(DeviceError) as caught, place:
        folder = place.folder
        channel = place.start(["sleep", "600"], doing="running")
        while not workers(folder):
            time.sleep(0.05)
        for session in psutil.Process(server.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it went with its parent
                if session.name() == "sshd":
                    session.kill()
        channel.receive(1)
    assert "while running on ssh" in str(caught.value) and "\n" not in str(caught.value)
    assert is_gone(folder)


def test_our_own_sudden_end_leaves_nothing_there(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom targets.remote.place import ShellPlace\n"
        f"with ShellPlace([], 'here', parent={str(tmp_path)!r}) as place:\n"
        "    place.start(['sleep', '600'], doing='sleeping')\n"
        "    print(place.folder, flush=True)\n    time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    folder = process.stdout.readline().strip()
    assert os.path.isdir(folder)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert is_gone(folder)


def test_a_full_disk_is_named_and_nothing_half_copied_stays(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the end of the disk: tar meets both in the middle of a file."""
    small = ["sh", "-c", "trap '' XFSZ; ulimit -f 64; eval \"$0\""]
    with ShellPlace(small, "a small device", parent=str(tmp_path)) as place:
        with pytest.raises(DeviceError, match=r"(?i)wrote only|too large|cannot write"):
            place.push(some_files(tmp_path / "source"), "copy")
        assert not (Path(place.folder) / "copy").exists()


def test_a_changed_byte_on_the_way_is_noticed(tmp_path: Path) -> None:
    noisy = ["sh", "-c", 'case "$0" in *\'tar -x\'*) eval "sed s/honest/forged/ | { $0; }" ;; *) eval "$0" ;; esac']
    (tmp_path / "a.txt").write_text("an honest line\n")
    with ShellPlace(noisy, "a noisy device", parent=str(tmp_path)) as place:
        with pytest.raises(DeviceError, match=r"a\.txt: FAILED, while copying a\.txt to a noisy device"):
            place.push(tmp_path / "a.txt", "a.txt")
        assert not (Path(place.folder) / "a.txt").exists()


@pytest.mark.parametrize(
    "answer", ["echo Welcome to the gate", "head -c 9999 /dev/zero", "printf '/tmp/else-where\\n'"]
)
def test_garbage_instead_of_a_folder_is_refused(answer: str, tmp_path: Path) -> None:
    place = ShellPlace(["sh", "-c", f"{answer}; cat > /dev/null"], "a gate", timeout_s=5, parent=str(tmp_path))
    with pytest.raises(DeviceError, match=r"answered garbage \(.*while opening a gate"):
        place.__enter__()


def test_a_host_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    need("ssh")
    place = ShellPlace(ssh.command("127.0.0.1", {"port": 1, "config": "/dev/null"}), "ssh host x", timeout_s=PATIENCE_S)
    with pytest.raises(DeviceError, match=r"Connection refused.*while opening ssh host x"):
        place.__enter__()
