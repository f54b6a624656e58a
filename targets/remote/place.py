"""A folder of our own behind a POSIX shell: this machine's, one over ssh, one over adb.

    with ShellPlace(["ssh", "pi"], "ssh host pi", timeout_s=30) as place:
        place.push(Path("model"), "model")
        print(place.run(["ls", "model"], doing="listing").stdout)

One connection is kept open as long as the place is: the keeper. It makes the folder, and when its standard input ends
it kills every process that works in the folder and removes it. The input ends when the place is left, when our process
dies however suddenly, and when the network between is lost: nothing is left running or half-copied, whatever happens.
Of the device it needs sh, cat, mktemp, tar, sha256sum, timeout, readlink and /proc: coreutils, busybox and Android's
toybox have them.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from profiles.host import cpu_model_from, normal_machine
from profiles.storage import sha256_file, sha256_tree
from targets.remote.channel import Channel, DeviceError, ending

__all__ = ["Completed", "DeviceError", "ShellPlace"]

TIMEOUT_S = 60.0
LIFETIME_S = 6 * 3600.0  # of a folder, should the device never learn that the connection is lost
SUMS = ".sums"

KEEPER = """
umask 077
d=$(mktemp -d "$1/compressor-XXXXXXXX") || exit 1
trap '' HUP INT PIPE
echo "$d"
timeout "$2" cat > /dev/null
for i in 1 2 3; do
  found=
  for p in /proc/[0-9]*; do
    case $(readlink "$p/cwd" 2> /dev/null) in
      "$d"|"$d"/*) kill -9 "${p#/proc/}" 2> /dev/null; found=1 ;;
    esac
  done
  [ -n "$found" ] || break
done
rm -rf "$d"
"""
INFO = (
    "uname -s; uname -r; uname -m; grep -c '^processor' /proc/cpuinfo; grep MemTotal /proc/meminfo; cat /proc/cpuinfo"
)
UNPACK = """
said=$(tar -x -f - 2>&1) && said=$(sha256sum -c {sums} 2>&1) && exit 0
echo "$said" | grep -m 1 -e FAILED -e : >&2
rm -rf {name}
exit 1
"""


@dataclass(frozen=True)
class Completed:
    """What a program wrote before it ended well."""

    stdout: bytes
    stderr: str


class ShellPlace:
    """A folder of our own on a device. A context manager: leaving it ends what was started there and removes it.
    Every method raises DeviceError, in one line, when the device does not do it in time.

    Args:
        prefix: what comes before a shell command's text on this machine, e.g. ("ssh", "pi"); none: this machine's own.
        name: of the device, for messages. timeout_s: for each copy, and for programs that are not given another.
        parent: the directory over there in which the folder is made.
    """

    def __init__(self, prefix: Sequence[str], name: str, *, timeout_s: float = TIMEOUT_S, parent: str = "/tmp") -> None:
        self.name, self.timeout_s, self.folder = name, timeout_s, ""
        self._prefix, self._parent = tuple(prefix), parent
        self._keeper: Channel | None = None
        self._channels: list[Channel] = []

    def __enter__(self) -> Self:
        script = shlex.join(["sh", "-c", KEEPER, "keeper", self._parent, str(int(LIFETIME_S))])
        # in a session of its own: whoever kills our process group leaves it alive to clean up
        self._keeper = Channel(
            self._shell(script), doing=f"opening {self.name}", timeout_s=self.timeout_s, new_session=True
        )
        try:
            folder = self._keeper.receive_line(4096).decode("utf-8", errors="replace").strip()
            if not folder.startswith(f"{self._parent}/compressor-"):
                raise DeviceError(f"answered garbage ({folder[:40]!r}) while opening {self.name}")
        except BaseException:
            self._keeper.kill()
            raise
        self.folder = folder
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for channel in self._channels:
            channel.kill()
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        try:
            keeper.finish(self.timeout_s)
        except DeviceError:
            if kind is None:  # else the first error is the one to tell
                raise
        finally:
            keeper.kill()

    def info(self) -> dict[str, Any]:
        """Machine, processor, cores, memory and system, as the device itself says."""
        text = self.run(["sh", "-c", INFO], doing="asking what it is").stdout.decode("utf-8", errors="replace")
        lines = text.splitlines()
        if len(lines) < 5 or not lines[3].strip().isdigit() or not lines[4].startswith("MemTotal"):
            raise DeviceError(f"answered garbage ({text[:40]!r}) when {self.name} was asked what it is")
        cpuinfo = "\n".join(lines[5:])
        return {
            "machine": normal_machine(lines[2].strip()),
            "cpu": cpu_model_from(cpuinfo) or "unknown",
            "cores": int(lines[3]),
            "memory_bytes": int(lines[4].split()[1]) * 1024,
            "system": f"{lines[0].strip()} {lines[1].strip()}",
        }

    def push(self, source: Path, name: str) -> None:
        """Copy a file or a directory to `name` in the folder, whole or not at all: a tar stream with a list of sums,
        checked over there before anything uses it."""
        _inside(name)
        doing = f"copying {source.name} to {self.name}"
        sums = {name: sha256_file(source)} if source.is_file() else sha256_tree(source)
        listing = "".join(f"{value}  {_joined(name, path, source)}\n" for path, value in sums.items())
        with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
            listed = Path(folder) / SUMS
            listed.write_text(listing, encoding="utf-8")
            archive = Path(folder) / "archive.tar"
            with tarfile.open(archive, "w", dereference=True) as tar:
                tar.add(listed, SUMS)
                tar.add(source, name)
            script = UNPACK.format(sums=SUMS, name=_q(name))
            with archive.open("rb") as stream:
                self._complete(["sh", "-c", script], doing, self.timeout_s, stream)

    def run(
        self, command: Sequence[str], *, doing: str, timeout_s: float | None = None, stdin: bytes = b""
    ) -> Completed:
        """Run a program in the folder to its end. An exit code that is not 0 is a DeviceError with its last line."""
        with tempfile.TemporaryFile() as stream:
            stream.write(stdin)
            stream.seek(0)
            return self._complete(command, f"{doing} on {self.name}", timeout_s or self.timeout_s, stream)

    def start(self, command: Sequence[str], *, doing: str, timeout_s: float | None = None) -> Channel:
        """Start a program in the folder that reads requests and writes answers; `timeout_s` is for each answer."""
        where = f"{doing} on {self.name}"
        argv = self._shell(self._in_folder(command, LIFETIME_S))
        channel = Channel(argv, doing=where, timeout_s=timeout_s or self.timeout_s)
        self._channels.append(channel)
        return channel

    def pull(self, name: str, destination: Path) -> None:
        """Copy a file or a directory of the folder here, whole or not at all."""
        _inside(name)
        doing = f"copying {name} from {self.name}"
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".compressor-", dir=destination.parent) as folder:
            archive = Path(folder) / "archive.tar"
            with archive.open("wb") as out:
                self._complete(["tar", "-c", "-f", "-", name], doing, self.timeout_s, None, out)
            try:
                with tarfile.open(archive, "r:") as tar:
                    tar.extractall(Path(folder) / "out", filter="data")
                got = Path(folder) / "out" / name
                if not got.exists():
                    raise DeviceError(f"sent an archive without {name} while {doing}")
            except tarfile.TarError as error:
                raise DeviceError(f"answered garbage ({error}) while {doing}") from None
            if destination.is_dir():
                shutil.rmtree(destination)
            os.replace(got, destination)

    # -- the shell -----------------------------------------------------------------------------------------------

    def _shell(self, script: str) -> list[str]:
        return [*self._prefix, script] if self._prefix else ["sh", "-c", script]

    def _in_folder(self, command: Sequence[str], limit_s: float) -> str:
        """The text that runs a command in the folder, and ends it over there should nobody do so from here."""
        if not self.folder:
            raise DeviceError(f"{self.name} was not opened")
        limited = ["timeout", "-k", "1", str(max(1, int(limit_s + 1))), *command]
        return f"cd {_q(self.folder)} || exit 1; {shlex.join(limited)}; exit $?"

    def _complete(self, command: Sequence[str], doing: str, timeout_s: float, stdin: Any, out: Any = None) -> Completed:
        """Run to the end. `out`: a file for its output, which else is returned."""
        with tempfile.TemporaryFile() as kept, tempfile.TemporaryFile() as messages:
            process = subprocess.Popen(
                self._shell(self._in_folder(command, timeout_s)),
                stdin=stdin if stdin is not None else subprocess.DEVNULL,
                stdout=out or kept,
                stderr=messages,
            )
            try:
                code = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                raise DeviceError(f"no answer within {timeout_s:g} s while {doing}") from None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                process.wait()
            kept.seek(0)
            messages.seek(0)
            text = messages.read().decode("utf-8", errors="replace")
            if code:
                raise DeviceError(f"{ending(code, text)}, while {doing}")
            return Completed(kept.read(), text)


def _q(text: str) -> str:
    return shlex.quote(text)


def _inside(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not name:
        raise ValueError(f"{name!r} is not inside the folder")


def _joined(name: str, path: str, source: Path) -> str:
    return name if source.is_file() else f"{name}/{path}"
