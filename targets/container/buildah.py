"""Containers without a daemon: buildah in chroot isolation, in namespaces of our own.

Chroot isolation gives neither a network of its own nor processes of its own nor control groups. The first two come from
`unshare` around it (no interface but the loopback; whatever was started dies with the command), the number of
processors from `taskset`; nothing enforces memory, which `targets.container.conditions` finds and says.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from profiles.errors import MissingError
from profiles.host import usable_cores
from targets.container.conditions import Limits
from targets.container.engine import ask, build_command, must
from targets.remote.channel import Channel, DeviceError

ISOLATION = ("--isolation", "chroot")
PREFIX = "edge-compressor"
UNSHARE = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
WITH_CPUINFO = 'mount --bind "$0" /proc/cpuinfo && exec "$@"'
MARK = "EDGE_COMPRESSOR_CONTAINER"
START_S, END_S = 120.0, 10.0
_numbers = itertools.count()


class BuildahEngine:
    name = "buildah"

    def __init__(self) -> None:
        if missing := [name for name in ("unshare", "nsenter", "taskset") if shutil.which(name) is None]:
            raise MissingError(f"buildah needs {missing[0]} here: apt-get install util-linux")
        if os.geteuid() != 0:
            raise MissingError(
                "buildah in chroot isolation needs root here: run this as root, or start a Docker daemon"
            )

    def config(self, image: str) -> dict[str, Any] | None:
        done = ask(["buildah", "inspect", "--type", "image", image])
        return None if done.returncode else json.loads(done.stdout)["OCIv1"]["config"]

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
        command = ["buildah", "build", *ISOLATION, "--layers", "--network", "host", "--platform", f"linux/{platform}"]
        command += [f"--build-arg={key}={value}" for key, value in arguments.items()]
        command += [f"--label={key}={value}" for key, value in labels.items()]
        command += [f"--secret=id={key},src={value}" for key, value in secrets.items()]
        before = _image_id(image)
        build_command([*command, "--tag", image, "--file", str(dockerfile), str(context)], f"buildah build of {image}")
        if before and before != _image_id(image):
            ask(["buildah", "rmi", before])  # refused, and so kept, where it has another name

    def import_root(self, archive: Path, image: str, platform: str) -> None:
        doing = f"buildah import of {image}"
        container = must(["buildah", "from", "--arch", platform, "scratch"], doing).strip()
        try:
            must(["buildah", "add", container, str(archive), "/"], doing)
            must(["buildah", "config", "--arch", platform, "--os", "linux", container], doing)
            must(["buildah", "commit", container, image], doing)
        finally:
            ask(["buildah", "rm", container])

    def open(
        self, image: str, limits: Limits, environment: Mapping[str, str], cpuinfo: Path | None = None
    ) -> BuildahContainer:
        return BuildahContainer(image, limits, environment, cpuinfo)


class BuildahContainer:
    """A working container with one program in it, whose namespaces all others join: buildah itself fails where a second
    `buildah run` of a container ends. They end with the first, and that when its standard input closes."""

    def __init__(self, image: str, limits: Limits, environment: Mapping[str, str], cpuinfo: Path | None = None) -> None:
        self.name = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
        self._image = image
        self._cores = ("taskset", "--cpu-list", ",".join(map(str, usable_cores()[: limits.processors])))
        command = [*self._cores, *UNSHARE]
        if cpuinfo:
            command += ["sh", "-c", WITH_CPUINFO, str(cpuinfo)]
        command += ["buildah", "run", *ISOLATION, f"--env={MARK}={self.name}"]
        command += [f"--env={key}={value}" for key, value in environment.items()]
        self._command = [*command, self.name, "--", "sh", "-c", "echo ready; exec cat"]
        self._first: Channel | None = None
        self._join: list[str] = []

    def __enter__(self) -> Self:
        _sweep()
        must(["buildah", "from", "--pull-never", "--name", self.name, self._image], f"a container of {self._image}")
        self._first = Channel(self._command, doing=f"starting {self.name}", timeout_s=START_S, new_session=True)
        try:
            self._first.receive_line(4096)
            self._join = [*self._cores, *_join(self.name)]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._first is not None:
            with contextlib.suppress(DeviceError):  # it is killed then
                self._first.finish(END_S)
            self._first.kill()
        ask(["buildah", "rm", self.name])

    def command(self, arguments: Sequence[str]) -> list[str]:
        return [*self._join, *arguments]


def _image_id(image: str) -> str | None:
    done = ask(["buildah", "inspect", "--type", "image", "--format", "{{.FromImageID}}", image])
    return None if done.returncode else done.stdout.strip()


def _join(name: str) -> list[str]:
    """What comes before a command that joins a container's first program: its namespaces, root, user, environment."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == name:
                found.append(process)
    if not found:
        raise DeviceError(f"{name} ended as soon as it had started")
    first = max(found, key=lambda process: process.create_time())
    environment = [f"{key}={value}" for key, value in first.environ().items()]
    return [
        "nsenter", f"--target={first.pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd",
        f"--setuid={first.uids().real}", f"--setgid={first.gids().real}", "--", "env", "-i", *environment,
    ]  # fmt: skip


def _sweep() -> None:
    """Remove working containers whose makers died before they could."""
    for name in ask(["buildah", "containers", "--format", "{{.ContainerName}}"]).stdout.split():
        found = re.fullmatch(rf"{PREFIX}-(\d+)-\d+", name)
        if found and not Path(f"/proc/{found[1]}").exists():
            ask(["buildah", "rm", name])
