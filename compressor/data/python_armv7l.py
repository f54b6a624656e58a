"""Debian's Python and NumPy for armhf with tflite-runtime, to run compiled files under QEMU's user mode.

LiteRT has no build for 32-bit Arm; tflite-runtime, from which it came, has one, with the same interpreter."""

from compressor.data.arm_python import build_with
from compressor.data.packages import Package
from compressor.data.source import Source
from targets.remote.roots import REVISION, source_name

source = Source(
    name=source_name("armv7l"),
    summary="Python 3.11 for 32-bit Arm with tflite-runtime, run by the runner qemu_user",
    packages=(
        Package(
            client="pip",
            name="tflite-runtime",
            version="2.14.0",
            sha256="c4e66a74165b18089c86788400af19fa551768ac782d231a9beae2f6434f7949",
            licence="Apache-2.0",
            url="https://www.tensorflow.org/lite",
            platform="manylinux_2_34_armv7l",
        ),
    ),
    build=build_with("armhf", ("python3", "python3-numpy", "libstdc++6", "libgomp1"), kept="numpy"),
    revision=REVISION,
)
