"""TensorRT-RTX: engines for GeForce and RTX GPUs, built on any x86 machine; run on the GPU only."""

from __future__ import annotations

from targets.tensorrt import TensorRtTarget

target = TensorRtTarget("tensorrt-rtx", "tensorrt_rtx", ("SM86", "SM89", "SM120"), builds_without_gpu=True)
