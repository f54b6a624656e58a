"""State files: killed at any moment they are old or new, a full disk leaves nothing half-made, nothing is unpickled."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from profiles.errors import RequestError
from profiles.storage import (
    atomic_directory,
    atomic_file,
    load_npz,
    read_json,
    save_npz,
    sha256_file,
    sha256_tree,
    write_json,
)

# Every generation writes its number many times: a mixture of two generations, or a short file, shows.
WRITE_FILES = """
import sys
from profiles.storage import atomic_file
print("ready", flush=True)
for generation in range(10**9):
    with atomic_file(sys.argv[1]) as temporary, open(temporary, "w") as file:
        for _ in range(200):
            file.write(f"{generation}\\n" * 50)
"""
WRITE_DIRECTORIES = """
import sys
from profiles.storage import atomic_directory
print("ready", flush=True)
for generation in range(10**9):
    with atomic_directory(sys.argv[1]) as temporary:
        (temporary / "deep").mkdir()
        for index in range(4):
            (temporary / "deep" / f"{index}.txt").write_text(f"{generation}\\n" * 1000)
            (temporary / f"{index}-of-{generation % 3}.txt").write_text(f"{generation}\\n" * 1000)
"""


def _kills(generations: set[str], rng: random.Random) -> Iterator[float]:
    """Seconds to wait before each kill: twelve of them, and more and longer ones on a machine so busy that no second
    generation was seen."""
    for number in range(200):
        if number >= 12 and len(generations) > 1:
            break
        yield rng.uniform(0, 0.06 * (1 + number / 12))


def _kill_while_writing(program: str, path: Path, seconds: float) -> None:
    child = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    time.sleep(seconds)
    child.kill()
    child.wait()
    child.stdout.close()


def test_a_file_that_is_killed_while_it_is_written_is_one_whole_generation(tmp_path):
    rng, path = random.Random(0), tmp_path / "state.txt"
    path.write_text("old\n" * 10_000)
    generations: set[str] = set()
    for seconds in _kills(generations, rng):
        _kill_while_writing(WRITE_FILES, path, seconds)
        lines = path.read_text().splitlines()
        assert len(lines) == 10_000
        assert len(set(lines)) == 1
        generations.add(lines[0])
    assert len(generations) > 1  # some kills came after a write, and the numbers differ


def test_a_directory_that_is_killed_while_it_is_replaced_is_one_whole_generation(tmp_path):
    rng, path = random.Random(1), tmp_path / "bundle"
    generations: set[str] = set()
    for seconds in _kills(generations, rng):
        _kill_while_writing(WRITE_DIRECTORIES, path, seconds)
        if not path.exists():  # killed before the first generation was complete
            continue
        lines = [line for file in path.rglob("*.txt") for line in file.read_text().splitlines()]
        assert len(lines) == 8 * 1000
        assert len(set(lines)) == 1
        generations.add(lines[0])
    assert len(generations) > 1


def test_a_directory_replaces_the_old_one_as_a_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "bundle"
    for name in ("first", "second"):
        with atomic_directory(path) as temporary:
            (temporary / name).write_text(name)
    assert [entry.name for entry in path.iterdir()] == ["second"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_a_writer_that_fails_leaves_the_old_state_and_nothing_beside_it(tmp_path):
    write_json(tmp_path / "a.json", {"old": 1})
    with atomic_directory(tmp_path / "d") as temporary:
        (temporary / "old").touch()
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "a.json") as file:
        file.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), atomic_directory(tmp_path / "d") as directory:
        (directory / "new").touch()
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"new": float("nan")})
    assert read_json(tmp_path / "a.json") == {"old": 1}
    assert [entry.name for entry in (tmp_path / "d").iterdir()] == ["old"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.json", "d"]


def test_without_an_exchange_call_a_directory_is_still_replaced(tmp_path, monkeypatch):
    from profiles import storage

    class NoExchange:
        """A C library whose renameat2 the file system does not serve."""

        @staticmethod
        def renameat2(*arguments):
            return -1

    monkeypatch.setattr(storage.ctypes, "CDLL", lambda *a, **k: NoExchange)
    monkeypatch.setattr(storage.ctypes, "get_errno", lambda: errno.EINVAL)
    for name in ("first", "second"):
        with atomic_directory(tmp_path / "d") as temporary:
            (temporary / name).touch()
    assert [entry.name for entry in (tmp_path / "d").iterdir()] == ["second"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]


WRITE_TOO_MUCH = """
import sys, errno
from pathlib import Path
import numpy as np
from profiles.storage import atomic_directory, save_npz, write_json
if len(sys.argv) > 2:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
root, codes = Path(sys.argv[1]), []
def directory():
    with atomic_directory(root / "bundle") as temporary:
        (temporary / "small").write_text("new")
        (temporary / "large").write_bytes(bytes(4 << 20))
for write in (
    lambda: write_json(root / "state.json", ["x" * 100] * 40_000),
    lambda: save_npz(root / "arrays.npz", {"a": np.zeros(1 << 19)}),
    directory,
):
    try:
        write()
        codes.append("written")
    except OSError as error:
        codes.append(errno.errorcode[error.errno])
print(*codes)
"""


def _write_too_much(root: Path, *arguments: str) -> list[str]:
    write_json(root / "state.json", "old")
    save_npz(root / "arrays.npz", {"a": np.arange(3)})
    with atomic_directory(root / "bundle") as temporary:
        (temporary / "small").write_text("old")
    run = subprocess.run(
        [sys.executable, "-c", WRITE_TOO_MUCH, str(root), *arguments], capture_output=True, text=True, check=True
    )
    return run.stdout.split()


def _assert_old_state(root: Path) -> None:
    assert read_json(root / "state.json") == "old"
    assert load_npz(root / "arrays.npz")["a"].tolist() == [0, 1, 2]
    assert (root / "bundle" / "small").read_text() == "old"
    assert sorted(entry.name for entry in root.iterdir()) == ["arrays.npz", "bundle", "state.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_write_that_is_cut_off_leaves_the_old_state_and_nothing_half_made(tmp_path):
    """A limit on the size of files stands in for a disk that fills in the middle of a write."""
    assert _write_too_much(tmp_path, str(1 << 20)) == ["EFBIG"] * 3
    _assert_old_state(tmp_path)


def test_a_full_disk_leaves_the_old_state_and_nothing_half_made(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if mounted.returncode:
        # Mounting is a right of the administrator, not a tool to install: the test above stands in.
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        assert _write_too_much(disk) == ["ENOSPC"] * 3
        _assert_old_state(disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_arrays_come_back_and_objects_are_neither_written_nor_read(tmp_path):
    arrays = {"graph/x": np.arange(6, dtype=np.int8).reshape(2, 3), "empty": np.zeros((0, 4))}
    save_npz(tmp_path / "a.npz", arrays)
    back = load_npz(tmp_path / "a.npz")
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert np.array_equal(back[name], array)
    with pytest.raises(TypeError, match="'bad' holds Python objects"):
        save_npz(tmp_path / "b.npz", {"bad": np.asarray([{}])})
    assert not (tmp_path / "b.npz").exists()


class _Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_a_pickle_in_an_npz_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "evil.npz", a=np.asarray([_Bomb()], dtype=object))
    with pytest.raises(RequestError, match=r"evil\.npz: not a readable \.npz"):
        load_npz(tmp_path / "evil.npz")
    (tmp_path / "evil.npz").write_bytes(__import__("pickle").dumps(_Bomb()))
    with pytest.raises(RequestError, match=r"evil\.npz: not a readable \.npz"):
        load_npz(tmp_path / "evil.npz")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("keep", [0, 10, 100, -30])
def test_a_truncated_npz_is_one_line(tmp_path, keep):
    path = tmp_path / "cut.npz"
    save_npz(path, {"a": np.arange(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RequestError, match=r"cut\.npz") as caught:
        load_npz(path)
    assert "\n" not in str(caught.value)


def test_a_changed_byte_of_an_npz_is_noticed(tmp_path):
    path = tmp_path / "changed.npz"
    save_npz(path, {"a": np.arange(100)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"changed\.npz"):
        load_npz(path)


def test_missing_and_broken_files_are_one_line(tmp_path):
    for read, name in [(read_json, "a.json"), (load_npz, "a.npz")]:
        with pytest.raises(RequestError, match="no such file"):
            read(tmp_path / name)
    (tmp_path / "a.json").write_text('{"a": ')
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")
    (tmp_path / "c").write_text("a file")
    for name, message in [("a.json", "not valid JSON"), ("b.json", "not valid JSON"), ("c/d.json", "no such file")]:
        with pytest.raises(RequestError, match=message) as caught:
            read_json(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_hashes_are_sha256(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b").write_bytes(b"abc")
    (tmp_path / "deep" / "a").write_bytes(b"")
    # FIPS 180-2, appendix B.1, and the empty string.
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "b") == abc
    assert sha256_tree(tmp_path) == {"b": abc, "deep/a": hashlib.sha256(b"").hexdigest()}


def test_json_is_written_as_text_that_others_can_read(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"schema": 1, "name": "Größe 大小"})
    assert json.loads((tmp_path / "deep" / "a.json").read_text("utf-8")) == {"schema": 1, "name": "Größe 大小"}
