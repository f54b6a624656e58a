"""An accelerator that is asked for and not there: nothing is measured on the processor in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from compressor.bench import BenchRequest, bench, verdict

DEVICE = """
name: card
class: gpu
summary: a card that is not there
runtimes:
  onnx: {precisions: [fp32], options: {threads: 1, provider: CUDAExecutionProvider}}
"""


def test_a_gpu_package_that_falls_back_to_the_cpu_is_one_failed_row_that_names_it(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
    )
    path, out = tmp_path / "m.onnx", tmp_path / "out"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    (tmp_path / "card.yaml").write_text(DEVICE)
    np.savez(tmp_path / "d.npz", x=np.ones((4, 4), np.float32))
    request = BenchRequest(
        subjects=[str(path)], devices=[str(tmp_path / "card.yaml")], out=out, command="", data=str(tmp_path / "d.npz")
    )
    results = bench(request)
    (whole,) = (record for record in results.records if record.graph == "*")
    assert whole.status == "failed" and verdict(results, request) == 1
    assert whole.reason is not None and "\n" not in whole.reason
    assert "CPUExecutionProvider, not on CUDAExecutionProvider as asked" in whole.reason
    for record in results.records:
        assert record.status == "failed" and record.latency_ms is None and record.parity is None
