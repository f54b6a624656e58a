"""The images of docker/: names, tags, architectures, and the sources that they are made from."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiles.device import Device, list_devices, load_device
from profiles.errors import MissingError, RequestError
from profiles.storage import sha256_file

if TYPE_CHECKING:
    from targets.container.engine import Engine

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docker"
GPU = "gpu"  # the image that is given the machine's
PLATFORMS = {"mobile-arm64": "arm64"}  # all others: this machine's
SOURCES = ("compressor", "profiles", "targets", "docker", "pyproject.toml", "constraints.txt")
LABEL = "edge-compressor.sources"


def list_images() -> list[str]:
    """Folders of docker/ that have a Dockerfile. Raises RequestError outside a checkout."""
    names = sorted(path.parent.name for path in FOLDER.glob("*/Dockerfile"))
    if not names:
        raise RequestError(f"{FOLDER}: no Dockerfiles: images are built in a checkout of the project")
    return names


def image_of(name: str) -> str:
    """The image of a device class ("cpu") or of a device ("x86-laptop"). Raises RequestError if there is none."""
    names = list_images()
    if name in names:
        return name
    if name not in list_devices() and not name.endswith((".yaml", ".yml")):
        raise RequestError(f"{name}: neither an image ({', '.join(names)}) nor a device (see: compressor devices)")
    return image_of_device(load_device(name))


def image_of_device(device: Device) -> str:
    """Raises RequestError if the profile names none, or one that is not there."""
    if device.docker is None:
        raise RequestError(f"device {device.name}: its profile names no image: give it docker: cpu, or another")
    if device.docker not in list_images():
        raise RequestError(f"device {device.name}: docker: {device.docker}: there are {', '.join(list_images())}")
    return device.docker


def tag(image: str) -> str:
    return f"localhost/edge-compressor:{image}"


def platform(image: str) -> str:
    """The instruction set of an image, in Docker's spelling (amd64, arm64)."""
    here = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    return PLATFORMS.get(image, here)


def is_emulated(image: str) -> bool:
    """Whether its programs are of another instruction set than this machine's."""
    return platform(image) != platform("cpu")


def config_of(engine: Engine, image: str) -> dict[str, Any]:
    """What an image says of itself (Entrypoint, Cmd, Labels). Raises MissingError if it was not built."""
    config = engine.config(tag(image))
    if config is None:
        raise MissingError(f"there is no image {image} for {engine.name}: compressor docker build {image}")
    return config


def outdated(image: str, config: Mapping[str, Any]) -> str | None:
    """Why an image is not of these sources, in one line; None if it is."""
    if (config.get("Labels") or {}).get(LABEL) == sources_hash():
        return None
    return f"the image {image} was built from other sources than these: compressor docker build {image}"


@functools.cache
def sources_hash() -> str:
    """SHA-256 over what goes into images, as it was when this process first asked."""
    sums = {}
    for name in SOURCES:
        root = ROOT / name
        for path in [root] if root.is_file() else sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                sums[str(path.relative_to(ROOT))] = sha256_file(path)
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()
