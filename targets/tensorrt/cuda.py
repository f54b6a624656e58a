"""The little of CUDA that a session needs: is there a GPU; memory, copies, a stream, events.

Through cuda-python, or pycuda where that is missing.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any, Protocol

import numpy as np

from profiles.errors import MissingError

EXTRA = "tensorrt"


def device_count() -> int:
    """How many GPUs the driver sees; 0 without a driver. Asked of the driver itself: TensorRT's own runtime object must
    not be made on a machine without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


class Cuda(Protocol):
    """One stream on one GPU. Addresses are integers."""

    stream: int

    def allocate(self, size: int) -> int:
        """Device memory that lives as long as this object."""
        ...

    def upload(self, address: int, array: np.ndarray) -> None: ...

    def download(self, array: np.ndarray, address: int) -> None:
        """Copy back into `array` and wait for it."""
        ...

    def elapsed_ms(self, work: Any) -> float:
        """Run work(), which puts kernels on the stream; milliseconds between two events around it."""
        ...


def open_cuda() -> Cuda:
    """The first GPU. Raises MissingError if there is no driver, or neither cuda-python nor pycuda."""
    if not device_count():
        raise MissingError("no NVIDIA GPU on this machine: run this on the device that the engine was built for")
    try:
        return CudaPython(importlib.import_module("cuda.bindings.runtime"))
    except ModuleNotFoundError:
        pass
    try:
        importlib.import_module("pycuda.autoprimaryctx")
    except ModuleNotFoundError:
        raise MissingError(f"cuda-python is not installed: pip install 'edge-compressor[{EXTRA}]'") from None
    return PyCuda(importlib.import_module("pycuda.driver"))


class CudaPython:
    """cuda-python's runtime bindings: every call gives (error, values...)."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._kind = runtime.cudaMemcpyKind
        self._owned: list[int] = []
        self._stream = self._call("cudaStreamCreate")
        self.stream = int(self._stream)

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *values = getattr(self._runtime, name)(*arguments)
        if int(error):
            raise RuntimeError(f"{name} failed: {error.name}")
        return values[0] if values else None

    def allocate(self, size: int) -> int:
        address = int(self._call("cudaMalloc", max(size, 1)))
        self._owned.append(address)
        return address

    def upload(self, address: int, array: np.ndarray) -> None:
        to_device = self._kind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, to_device, self._stream)

    def download(self, array: np.ndarray, address: int) -> None:
        to_host = self._kind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, to_host, self._stream)
        self._call("cudaStreamSynchronize", self._stream)

    def elapsed_ms(self, work: Any) -> float:
        start, end = self._call("cudaEventCreate"), self._call("cudaEventCreate")
        try:
            self._call("cudaEventRecord", start, self._stream)
            work()
            self._call("cudaEventRecord", end, self._stream)
            self._call("cudaEventSynchronize", end)
            return float(self._call("cudaEventElapsedTime", start, end))
        finally:
            self._call("cudaEventDestroy", start)
            self._call("cudaEventDestroy", end)

    def __del__(self) -> None:
        for address in self._owned:
            self._runtime.cudaFree(address)


class PyCuda:
    """The same through pycuda."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._stream = driver.Stream()
        self.stream = int(self._stream.handle)
        self._owned: list[Any] = []

    def allocate(self, size: int) -> int:
        self._owned.append(self._driver.mem_alloc(max(size, 1)))
        return int(self._owned[-1])

    def upload(self, address: int, array: np.ndarray) -> None:
        self._driver.memcpy_htod_async(address, array, self._stream)

    def download(self, array: np.ndarray, address: int) -> None:
        self._driver.memcpy_dtoh_async(array, address, self._stream)
        self._stream.synchronize()

    def elapsed_ms(self, work: Any) -> float:
        start, end = self._driver.Event(), self._driver.Event()
        start.record(self._stream)
        work()
        end.record(self._stream)
        end.synchronize()
        return float(start.time_till(end))
