"""An Android phone or a Wear OS watch over adb. It has no Python: what runs there is a static program of our C.

Options of the device profile's `runner`: `serial` (or `--runner adb:SERIAL`; needed where several are attached),
`folder` (where copies go for the time of a run; default /data/local/tmp, the one that may hold programs).
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from profiles.errors import MissingError
from targets.remote.place import ShellPlace
from targets.remote.runner import RemoteRunner

if TYPE_CHECKING:
    from profiles.device import Device

FOLDER = "/data/local/tmp"


class AdbRunner(RemoteRunner):
    """Pushes to a device that adb reaches, and runs there."""

    kind = "adb"
    options = ("serial", "folder")

    def place(self, device: Device) -> ShellPlace:
        options = self.settings_of(device)
        serial = self.address or options.get("serial")
        name = f"Android device {serial}" if serial else "the attached Android device"
        return ShellPlace(command(serial), name, parent=options.get("folder", FOLDER))

    def python(self, device: Device, place: ShellPlace) -> None:
        return None


def command(serial: str | None) -> list[str]:
    """What comes before a command's text on this machine: no terminal and no escape character, so bytes stay as
    they are (the shell protocol of Android 7 and later)."""
    found = shutil.which("adb")
    if found is None:
        raise MissingError("adb is not installed: apt install adb")
    return [found, *(("-s", serial) if serial else ()), "shell", "-T", "-e", "none"]


Runner = AdbRunner
