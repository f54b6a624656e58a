"""A base image made on this machine by mmdebstrap, for machines that cannot pull one."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from profiles.errors import MissingError
from profiles.storage import atomic_file, cache_root
from targets.container.engine import Engine, build_command

SUITE = "bookworm"  # its Python is that of the images' official base: 3.11
PACKAGES = ("ca-certificates", "python3", "python3-venv")
OPTIONS = (
    "--variant=minbase",
    f"--include={','.join(PACKAGES)}",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
)
BINFMT = Path("/proc/sys/fs/binfmt_misc")
QEMU = {"arm64": "qemu-aarch64"}


def local_base(engine: Engine, platform: str) -> str:
    """The tag of a local base image for an instruction set (amd64, arm64), made if it is not there.

    Debian with Python, as the official base has them; its archive stays in the cache. Raises MissingError without
    mmdebstrap, or if that fails.
    """
    digest = hashlib.sha256(json.dumps([SUITE, OPTIONS]).encode()).hexdigest()[:12]
    image = f"localhost/edge-compressor-base:{platform}-{digest}"
    if engine.config(image) is not None:
        return image
    archive = cache_root() / "docker" / f"base-{platform}-{digest}.tar"
    if not archive.exists():
        if shutil.which("mmdebstrap") is None:
            raise MissingError("--local-base needs mmdebstrap: apt-get install mmdebstrap")
        archive.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(archive) as temporary:
            command = ["mmdebstrap", *OPTIONS, "--format=tar", f"--architectures={platform}", SUITE, str(temporary)]
            build_command(command, "mmdebstrap")
    engine.import_root(archive, image, platform)
    return image


def emulation_problem(platform: str) -> str | None:
    """Why this machine cannot run programs of another instruction set in containers; None if it can."""
    name = QEMU.get(platform)
    if name is None or (BINFMT / name).exists():
        return None
    return (
        f"this machine does not run {platform} programs: apt-get install qemu-user-static binfmt-support, then "
        f"mount -t binfmt_misc binfmt_misc {BINFMT}; update-binfmts --enable {name}"
    )
