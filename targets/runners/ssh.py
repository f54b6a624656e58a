"""A Linux device over ssh: a Raspberry Pi, another board, a server.

Options of the device profile's `runner`: `host` (or `--runner ssh:HOST`), `user`, `port`, `identity` (a key file),
`config` (an ssh configuration file), `python` (the program there that has numpy and the runtime; default python3),
`folder` (where copies go for the time of a run; default /tmp). Nobody is asked for a password: use keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiles.errors import RequestError
from targets.firmware.boards import program
from targets.remote.code import CODE
from targets.remote.place import ShellPlace
from targets.remote.runner import RemoteRunner

if TYPE_CHECKING:
    from profiles.device import Device

CONNECT_S = 10
# No questions; a host that is not there, or is lost, is noticed in seconds and not when TCP gives up.
ALWAYS = (
    "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S}", "-o", "ServerAliveInterval=5",
    "-o", "ServerAliveCountMax=3", "-o", "LogLevel=ERROR",
)  # fmt: skip


class SshRunner(RemoteRunner):
    """Pushes to a host that ssh reaches, and runs there."""

    kind = "ssh"
    options = ("host", "user", "port", "identity", "config", "python", "folder")

    def place(self, device: Device) -> ShellPlace:
        options = self.settings_of(device)
        host = self.address or options.get("host")
        if not host:
            raise RequestError(
                f"device {device.name}: which host? give --runner ssh:HOST, or runner: {{kind: ssh, host: HOST}} in "
                "its profile"
            )
        if host.startswith("-"):
            raise RequestError(f"device {device.name}: {host!r} is no host")
        return ShellPlace(command(host, options), f"ssh host {host}", parent=options.get("folder", "/tmp"))

    def python(self, device: Device, place: ShellPlace) -> list[str]:
        return ["env", f"PYTHONPATH={CODE}", self.settings_of(device).get("python", "python3")]


def command(host: str, options: dict[str, Any]) -> list[str]:
    """What comes before a command's text on this machine."""
    flags = {"user": "-l", "port": "-p", "identity": "-i", "config": "-F"}
    given = [text for name, flag in flags.items() if name in options for text in (flag, str(options[name]))]
    return [str(program("ssh")), *ALWAYS, *given, host]


Runner = SshRunner
