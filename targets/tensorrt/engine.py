"""ONNX file -> TensorRT engine. The same code for `tensorrt_rtx` and `tensorrt`: both have this interface.

Networks are strongly typed: the precision is that of the ONNX file, and nothing is chosen behind its back.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from profiles.errors import RequestError
from profiles.storage import atomic_file
from targets.graph import Graph

# TensorRT keeps the first logger of a process: there is one per module.
_loggers: dict[str, Any] = {}


def logger_of(trt: ModuleType) -> Any:
    """The process's logger of a TensorRT module; `lines` has (severity, message) of everything it said."""
    if trt.__name__ not in _loggers:

        class Logger(trt.ILogger):  # type: ignore[name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.lines: list[tuple[Any, str]] = []

            def log(self, severity: Any, message: str) -> None:
                self.lines.append((severity, message))

        _loggers[trt.__name__] = Logger()
    return _loggers[trt.__name__]


def build_engine(
    trt: ModuleType,
    onnx: Path,
    out: Path,
    graph: Graph,
    *,
    compute_capabilities: Sequence[str],
    batch: tuple[int, int, int],
    workspace_bytes: int,
) -> dict[str, Any]:
    """Build and write an engine.

    Args:
        compute_capabilities: e.g. ("SM86", "SM89"); empty: that of the GPU in this machine.
        batch: (min, opt, max) rows of a dynamic batch. workspace_bytes: pinned, so that builds repeat.
    Returns what the builder says: version, compute_capabilities, batch, tensor_types (count by type), qdq (number of
    Q and DQ layers), memory_bytes {activation, weights, scratch}.
    Raises RuntimeError with the parser's or the builder's own reason, and the node's name where it is known.
    """
    logger = logger_of(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise RuntimeError("; ".join(_parser_error(error) for error in errors[:3]))
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default: 10 bits of mantissa in what is called fp32
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    _set_capabilities(trt, config, compute_capabilities)
    dynamic = any(isinstance(spec.shape[0], str) for spec in graph.inputs)
    if dynamic:
        config.add_optimization_profile(_profile(builder, network, batch))
    before = len(logger.lines)
    plan = builder.build_serialized_network(network, config)
    said = logger.lines[before:]
    if plan is None:
        errors = [message for severity, message in said if severity <= trt.ILogger.ERROR]
        raise RuntimeError(errors[-1].strip() if errors else "the builder gave no engine and no reason")
    with atomic_file(out) as temporary:
        temporary.write_bytes(bytes(plan))
    return {
        "version": trt.__version__,
        "compute_capabilities": list(compute_capabilities),
        "batch": list(batch) if dynamic else None,
        "tf32": False,
        "workspace_bytes": workspace_bytes,
        "memory_bytes": _memory("\n".join(message for _, message in said)),
        **_layers(trt, network),
    }


def _parser_error(error: Any) -> str:
    where = f"{error.node_operator()} {error.node_name()}".strip()
    return f"{where}: {error.desc().strip()}" if where else error.desc().strip()


def _set_capabilities(trt: ModuleType, config: Any, names: Sequence[str]) -> None:
    if not names:
        return
    known = [name for name in vars(trt.ComputeCapability) if name.startswith("SM")]
    for name in names:
        if name not in known:
            raise RequestError(
                f"runtime option compute_capabilities: {trt.__name__} builds for {', '.join(sorted(known))}, not {name}"
            )
    config.num_compute_capabilities = len(names)
    for i, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), i)


def _profile(builder: Any, network: Any, batch: tuple[int, int, int]) -> Any:
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if any(axis == -1 for axis in tuple(tensor.shape)[1:]):
            raise RuntimeError(f"input {tensor.name} has a dynamic axis besides the batch")
        profile.set_shape(tensor.name, *[(rows, *tuple(tensor.shape)[1:]) for rows in batch])
    return profile


def _layers(trt: ModuleType, network: Any) -> dict[str, Any]:
    """Types of the tensors that layers give, and the number of Q and DQ layers."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    types = Counter(layer.get_output(0).dtype.name.lower() for layer in layers if layer.num_outputs)
    qdq = sum(layer.type in (trt.LayerType.QUANTIZE, trt.LayerType.DEQUANTIZE) for layer in layers)
    return {"tensor_types": dict(types), "qdq": qdq}


def _memory(text: str) -> dict[str, int | None]:
    """What the builder logs about memory: the largest of each over the compute capabilities."""
    titles = {
        "activation": "Total Activation Memory",
        "weights": "Total Weights Memory",
        "scratch": "Max Scratch Memory",
    }
    found = {key: re.findall(rf"{title}: (\d+) bytes", text) for key, title in titles.items()}
    return {key: max(map(int, values)) if values else None for key, values in found.items()}
