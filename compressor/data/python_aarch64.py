"""Debian's Python for arm64 with NumPy, LiteRT and ONNX Runtime, to run compiled files under QEMU's user mode."""

from compressor.data.arm_python import build_with
from compressor.data.packages import Package
from compressor.data.source import Source
from targets.remote.roots import REVISION, source_name

source = Source(
    name=source_name("aarch64"),
    summary="Python 3.11 for arm64 with LiteRT and ONNX Runtime, run by the runner qemu_user",
    packages=(
        Package(
            client="pip",
            name="numpy",
            version="2.4.6",
            sha256="0ab0a9c4ffb1a6d95ef519fe4247dba8eb6b18ad93999f76b7f657039acabd47",
            licence="BSD-3-Clause",
            url="https://numpy.org",
            platform="manylinux_2_28_aarch64",
        ),
        Package(
            client="pip",
            name="ai-edge-litert",
            version="2.3.0",
            sha256="853fc608f96da87bd5f3458465dfb9abbf18d5ae6b94eceacead407146f175ae",
            licence="Apache-2.0",
            url="https://github.com/google-ai-edge/LiteRT",
            platform="manylinux_2_27_aarch64",
        ),
        Package(
            client="pip",
            name="onnxruntime",
            version="1.32.0",
            sha256="2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c",
            licence="MIT",
            url="https://onnxruntime.ai",
            platform="manylinux_2_28_aarch64",
        ),
    ),
    build=build_with("arm64", ("python3", "libstdc++6", "libgomp1")),
    revision=REVISION,
)
