"""Python for another instruction set, unpacked in the cache: `compressor data fetch python-aarch64` makes it.

python-aarch64   Debian's Python with NumPy, LiteRT and ONNX Runtime
python-armv7l    Debian's Python with NumPy and tflite-runtime (LiteRT has no build for 32-bit Arm)
"""

from __future__ import annotations

from pathlib import Path

from profiles.errors import MissingError
from profiles.storage import cache_root, read_json

REVISION = 2  # of how a root is laid out; the source writes it down
PACKAGES = "opt/packages"
PYTHON = "usr/bin/python3.11"
MANIFEST = "manifest.json"


def source_name(machine: str) -> str:
    return f"python-{machine}"


def find_root(machine: str) -> Path:
    """The newest fetched root for an instruction set. Raises MissingError saying which command fetches it."""
    name = source_name(machine)
    found = [
        path.parent
        for path in (cache_root() / "data").glob(f"{name}-*/{MANIFEST}")
        if read_json(path).get("revision") == REVISION
    ]
    if not found:
        raise MissingError(f"there is no Python for {machine} in the cache: compressor data fetch {name}")
    return max(found, key=lambda path: path.stat().st_mtime)
