"""`compressor docker`: build the image of a device class, run its smoke test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from profiles.errors import MissingError, RequestError
from targets.container import images
from targets.container.base import emulation_problem, local_base
from targets.container.conditions import Limits, unenforced
from targets.container.engine import find_engine, last_line
from targets.runners.docker import open_image
from targets.tensorrt.cuda import device_count

CA_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
RUN_S = 900.0


def build(name: str, engine: str = "auto", use_local_base: bool = False) -> dict[str, Any]:
    """Build the image of a device class or a device. The engine's own output goes to standard error.

    Certificates that pip is told to use on this machine (PIP_CERT, ...) are lent to the build, never kept in an image.
    Raises MissingError without an engine, or with the engine's own last line if the build fails.
    """
    image, chosen = images.image_of(name), find_engine(engine)
    platform = images.platform(image)
    if images.is_emulated(image) and (problem := emulation_problem(platform)):
        raise MissingError(f"image {image}: {problem}")
    arguments = {"BASE_IMAGE": local_base(chosen, platform)} if use_local_base else {}
    certificates = next((os.environ[key] for key in CA_VARIABLES if Path(os.environ.get(key, "/")).is_file()), None)
    chosen.build(
        images.FOLDER / image / "Dockerfile",
        images.ROOT,
        images.tag(image),
        platform=platform,
        arguments=arguments,
        labels={images.LABEL: images.sources_hash()},
        secrets={"ca": Path(certificates)} if certificates else {},
    )
    return {"image": images.tag(image), "engine": chosen.name, "base": arguments.get("BASE_IMAGE", "official")}


def run(name: str, engine: str = "auto") -> dict[str, Any]:
    """Run an image's smoke test, without a network, and give its JSON with `image`, `engine` and `notes`.

    Raises MissingError if there is no engine, no image, or no GPU for the image that needs one.
    """
    image = images.image_of(name)
    if image == images.GPU and not device_count():
        raise MissingError("image gpu: not run: no NVIDIA GPU on this machine")
    chosen = find_engine(engine)
    config = images.config_of(chosen, image)
    with open_image(chosen, image, Limits()) as container:
        command = container.command([*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())])
        report = _report(command, image)
    notes = [*filter(None, [images.outdated(image, config)]), *unenforced(Limits(), report["conditions"], chosen.name)]
    return {"image": images.tag(image), "engine": chosen.name, "notes": notes, **report}


def _report(command: list[str], image: str) -> dict[str, Any]:
    """What the smoke test prints. Raises RequestError with its last line if that is no report."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S)
    except subprocess.TimeoutExpired:
        raise MissingError(f"image {image}: its smoke test did not end within {RUN_S:g} s") from None
    try:
        return json.loads(done.stdout)
    except ValueError:
        print(done.stderr, file=sys.stderr)
        said = last_line(done.stderr or done.stdout)
        raise RequestError(f"image {image}: its smoke test ended with exit code {done.returncode}: {said}") from None
