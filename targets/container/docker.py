"""Containers of a Docker daemon."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from profiles.host import usable_cores
from targets.container.conditions import Limits
from targets.container.engine import ask, build_command, last_line, must
from targets.remote.channel import Channel

START_S = 120.0


def daemon_problem() -> str | None:
    """Why no daemon can be asked; None if one answers."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    done = ask(["docker", "version", "--format", "{{.Server.Version}}"])
    return f"no Docker daemon answers: {last_line(done.stderr)}" if done.returncode else None


class DockerEngine:
    name = "docker"

    def config(self, image: str) -> dict[str, Any] | None:
        done = ask(["docker", "image", "inspect", "--format", "{{json .Config}}", image])
        return None if done.returncode else json.loads(done.stdout)

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
        command = ["docker", "build", "--network", "host", "--platform", f"linux/{platform}", "--tag", image]
        command += [f"--build-arg={key}={value}" for key, value in arguments.items()]
        command += [f"--label={key}={value}" for key, value in labels.items()]
        command += [f"--secret=id={key},src={value}" for key, value in secrets.items()]
        environment = {**os.environ, "DOCKER_BUILDKIT": "1", "BUILDKIT_PROGRESS": "plain"}
        build_command([*command, "--file", str(dockerfile), str(context)], f"docker build of {image}", environment)

    def import_root(self, archive: Path, image: str, platform: str) -> None:
        must(["docker", "import", "--platform", f"linux/{platform}", str(archive), image], f"docker import of {image}")

    def open(
        self, image: str, limits: Limits, environment: Mapping[str, str], cpuinfo: Path | None = None
    ) -> DockerContainer:
        return DockerContainer(image, limits, environment, cpuinfo)


class DockerContainer:
    """Lives as long as the standard input of its first program is open: that closes also when our process dies."""

    def __init__(self, image: str, limits: Limits, environment: Mapping[str, str], cpuinfo: Path | None = None) -> None:
        self.name = f"edge-compressor-{uuid.uuid4().hex[:12]}"
        command = ["docker", "run", "--interactive", "--rm", "--init", "--network", "none", "--name", self.name]
        if limits.memory_bytes:
            command += [f"--memory={limits.memory_bytes}", f"--memory-swap={limits.memory_bytes}"]
        if limits.processors:
            command.append(f"--cpuset-cpus={','.join(map(str, usable_cores()[: limits.processors]))}")
        if limits.gpus:
            command += ["--gpus", "all"]
        if cpuinfo:
            command.append(f"--volume={cpuinfo}:/proc/cpuinfo:ro")
        command += [f"--env={key}={value}" for key, value in environment.items()]
        self._command = [*command, "--entrypoint", "sh", image, "-c", "echo ready; exec cat"]
        self._first: Channel | None = None

    def __enter__(self) -> Self:
        self._first = Channel(self._command, doing=f"starting {self.name}", timeout_s=START_S, new_session=True)
        try:
            self._first.receive_line(4096)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._first is not None
        ask(["docker", "rm", "--force", self.name])
        self._first.kill()

    def command(self, arguments: Sequence[str]) -> list[str]:
        return ["docker", "exec", "--interactive", self.name, *arguments]
