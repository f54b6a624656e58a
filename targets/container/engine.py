"""What a container engine does for us, and which one this machine has."""

from __future__ import annotations

import collections
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from profiles.errors import MissingError, RequestError
from targets.container.conditions import Limits

ENGINES = ("auto", "docker", "buildah")
QUERY_S = 60.0


class Container(Protocol):
    """A container of an image, without a network. A context manager: leaving it ends what runs in it and removes it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command on this machine that runs a program in the container, its standard streams joined to ours."""
        ...


class Engine(Protocol):
    """Builds images, and opens containers."""

    name: str

    def config(self, image: str) -> dict[str, Any] | None:
        """Entrypoint, Cmd and Labels of an image on this machine; None if it is not there."""
        ...

    def build(
        self,
        dockerfile: Path,
        context: Path,
        image: str,
        *,
        platform: str,
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
        secrets: Mapping[str, Path],
    ) -> None:
        """Build an image; what the engine says goes to standard error. Raises MissingError if it fails."""
        ...

    def import_root(self, archive: Path, image: str, platform: str) -> None:
        """Make an image of a tar archive of a root file system."""
        ...

    def open(
        self, image: str, limits: Limits, environment: Mapping[str, str], cpuinfo: Path | None = None
    ) -> Container:
        """`cpuinfo`: shown to programs as /proc/cpuinfo."""
        ...


def find_engine(choice: str = "auto") -> Engine:
    """A Docker daemon if one answers, else buildah; or the one that was asked for.

    Raises MissingError saying what to install or start, RequestError for another name.
    """
    from targets.container.buildah import BuildahEngine
    from targets.container.docker import DockerEngine, daemon_problem

    if choice not in ENGINES:
        raise RequestError(f"--engine {choice}: there are {', '.join(ENGINES)}")
    problem = daemon_problem() if choice != "buildah" else None
    if choice == "docker" and problem:
        raise MissingError(f"{problem}: start it, or use --engine buildah")
    if choice == "docker" or (choice == "auto" and problem is None):
        return DockerEngine()
    if shutil.which("buildah") is None:
        also = f" ({problem})" if problem else ""
        raise MissingError(f"no container engine here{also}: apt-get install buildah, or start a Docker daemon")
    return BuildahEngine()


def ask(command: Sequence[str], timeout_s: float = QUERY_S) -> subprocess.CompletedProcess[str]:
    """Run a short command of an engine's, and give what it said. Raises MissingError if it does not end in time."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise MissingError(f"{command[0]} {command[1]}: no answer within {timeout_s:g} s") from None


def must(command: Sequence[str], doing: str) -> str:
    """Standard output of a command. Raises MissingError with its last line if it fails."""
    done = ask(command)
    if done.returncode:
        raise MissingError(f"{doing}: {last_line(done.stderr)}")
    return done.stdout


def build_command(command: Sequence[str], doing: str, environment: Mapping[str, str] | None = None) -> None:
    """Run a build; its output goes to standard error, as it comes. Raises MissingError if it fails."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
        env=environment, errors="replace",
    )  # fmt: skip
    assert process.stdout is not None
    lines: collections.deque[str] = collections.deque(maxlen=50)
    try:
        for line in process.stdout:
            lines.append(line)
            print(line, end="", file=sys.stderr, flush=True)
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if code:
        raise MissingError(f"{doing}: {last_line(''.join(lines))}")


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else "no message"
