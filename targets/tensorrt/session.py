"""An open engine on a GPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from targets.graph import Graph
from targets.session import GraphSession
from targets.tensorrt.cuda import open_cuda
from targets.tensorrt.engine import logger_of


class TensorRtSession(GraphSession):
    """Runs an engine on the first GPU. Raises MissingError without one, RuntimeError if the engine does not fit it."""

    def __init__(self, trt: ModuleType, name: str, graph: Graph, path: Path) -> None:
        self._cuda = open_cuda()  # first: without a driver TensorRT's runtime object crashes the process
        self._trt = trt
        runtime = trt.Runtime(logger_of(trt))
        self._engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            said = [message for severity, message in logger_of(trt).lines if severity <= trt.ILogger.ERROR]
            raise RuntimeError(said[-1].strip() if said else f"{name} cannot read this engine here")
        self._context = self._engine.create_execution_context()
        self._buffers: dict[str, tuple[int, int]] = {}  # tensor -> (bytes, address)
        details = {"runtime": name, "provider": "GPU", "threads": 1, "version": trt.__version__}
        super().__init__(graph, details)

    def inspect(self) -> dict[str, Any]:
        """The layers of the engine as TensorRT's inspector describes them."""
        inspector = self._engine.create_engine_inspector()
        return json.loads(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def latency_ms(self, feeds: Mapping[str, np.ndarray]) -> float:
        """One inference by CUDA events, copies left out."""
        self._bind({name: np.ascontiguousarray(value) for name, value in feeds.items()})
        return self._cuda.elapsed_ms(self._enqueue)

    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self._bind(feeds)
        self._enqueue()
        for name, array in outputs.items():
            self._cuda.download(array, self._buffers[name][1])
        return outputs

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise RuntimeError("TensorRT could not run the engine")

    def _bind(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Upload the inputs and set every address; gives the arrays that outputs go to."""
        for name, value in feeds.items():
            self._context.set_input_shape(name, value.shape)
            self._cuda.upload(self._place(name, value.nbytes), value)
        outputs = {}
        for spec in self.graph.outputs:
            shape = tuple(self._context.get_tensor_shape(spec.name))
            outputs[spec.name] = np.empty(shape, spec.dtype)
            self._place(spec.name, outputs[spec.name].nbytes)
        return outputs

    def _place(self, name: str, size: int) -> int:
        """The device memory of a tensor, grown where it must be."""
        held, address = self._buffers.get(name, (0, 0))
        if held < size or not address:
            held, address = size, self._cuda.allocate(size)
            self._buffers[name] = held, address
        self._context.set_tensor_address(name, address)
        return address
