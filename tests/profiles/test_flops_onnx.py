"""ONNX files as other tools write them: dynamic axes, external data, quantised operators, control flow, the unknown."""

from __future__ import annotations

import numpy as np
import pytest

from profiles.errors import RequestError
from profiles.flops import count_onnx
from profiles.flops_onnx import _Walk

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def _write(path, nodes, inputs, outputs, weights=None, *, opset=21, domains=(), value_info=(), **save):
    """inputs, outputs: name -> (element type, shape); weights: name -> array."""

    def infos(values):
        return [helper.make_tensor_value_info(name, *spec) for name, spec in values.items()]

    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", infos(inputs), infos(outputs), initializers, value_info=list(value_info))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), path, **save)
    return path


def _node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def _floats(*shape):
    return np.ones(shape, np.float32)


def test_rnn_of_one_node_by_hand(tmp_path):
    path = _write(
        tmp_path / "rnn.onnx",
        [_node("RNN", ["x", "w", "r", "b"], ["y"], hidden_size=4, direction="bidirectional")],
        {"x": (FLOAT, [5, 1, 3])},
        {"y": (FLOAT, None)},
        {"w": _floats(2, 4, 3), "r": _floats(2, 4, 4), "b": _floats(2, 8)},
    )
    counted = count_onnx(path)
    assert counted.macs == 5 * 2 * 4 * (3 + 4)
    assert counted.parameters == 2 * (4 * 7 + 8)


def test_dynamic_axes_take_the_given_sizes_and_an_unnamed_one_is_asked_for(tmp_path):
    path = _write(
        tmp_path / "dynamic.onnx",
        [_node("MatMul", ["x", "w"], ["y"])],
        {"x": (FLOAT, ["batch", "time", 8])},
        {"y": (FLOAT, ["batch", "time", 4])},
        {"w": _floats(8, 4)},
    )
    assert count_onnx(path, {"time": 10}).macs == 10 * 8 * 4
    assert count_onnx(path, {"x": (2, 10, 8)}).macs == 2 * 10 * 8 * 4
    for shapes, message in [
        ({}, r"axis 1 \('time'\) of input 'x' is dynamic"),
        ({"frames": 3}, "no input or axis 'frames'.*inputs x; axes batch, time"),
        ({"x": (1, 10, 7)}, "does not fit"),
        ({"x": (1, 8)}, "does not fit"),
    ]:
        with pytest.raises(RequestError, match=message) as caught:
            count_onnx(path, shapes)
        assert "\n" not in str(caught.value)


def test_shapes_that_the_graph_computes_itself_are_known(tmp_path):
    """x (n, 3, 4, 6) -> reshape to (shape(x)[0], -1), as exporters of dynamic batches write flatten."""
    nodes = [
        _node("Shape", ["x"], ["shape"]),
        _node("Gather", ["shape", "zero"], ["n"], axis=0),
        _node("Unsqueeze", ["n", "axis"], ["n1"]),
        _node("Concat", ["n1", "rest"], ["target"], axis=0),
        _node("Reshape", ["x", "target"], ["flat"]),
        _node("Gemm", ["flat", "w"], ["y"], transB=1),
    ]
    weights = {
        "zero": np.int64(0), "axis": np.asarray([0]), "rest": np.asarray([-1]), "w": _floats(5, 72),
    }  # fmt: skip
    path = _write(tmp_path / "m.onnx", nodes, {"x": (FLOAT, ["n", 3, 4, 6])}, {"y": (FLOAT, None)}, weights)
    counted = count_onnx(path)
    assert (counted.macs, counted.parameters, counted.uncounted) == (72 * 5, 72 * 5, {})
    assert [layer.op for layer in counted.layers] == ["Gemm"]


def test_external_data_is_not_needed_to_count(tmp_path):
    path = _write(
        tmp_path / "big.onnx",
        [_node("MatMul", ["x", "w"], ["y"])],
        {"x": (FLOAT, [1, 300])},
        {"y": (FLOAT, [1, 200])},
        {"w": _floats(300, 200)},
        save_as_external_data=True,
        location="big.data",
        size_threshold=0,
    )
    (tmp_path / "big.data").unlink()
    assert count_onnx(path).macs == 60_000
    assert count_onnx(path).parameters == 60_000


def test_a_missing_external_shape_is_one_line_that_names_the_file(tmp_path):
    path = _write(
        tmp_path / "big.onnx",
        [_node("Reshape", ["x", "target"], ["y"])],
        {"x": (FLOAT, [1, 300])},
        {"y": (FLOAT, None)},
        {"target": np.asarray([3, 100])},
        save_as_external_data=True,
        location="shapes.data",
        size_threshold=0,
    )
    (tmp_path / "shapes.data").unlink()
    with pytest.raises(RequestError, match=r"shapes\.data"):
        count_onnx(path)


def test_quantised_layers_count_as_their_float_ones_and_scales_are_no_parameters(tmp_path):
    """QDQ, as quantisers write it: int8 weights and int32 biases behind DequantizeLinear."""
    nodes = [
        _node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        _node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        _node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], axis=0),
        _node("DequantizeLinear", ["bq", "ws"], ["bd"], axis=0),
        _node("Conv", ["xd", "wd", "bd"], ["y"], kernel_shape=[3, 3]),
    ]
    weights = {
        "s": np.float32(0.1), "z": np.uint8(0), "wq": np.ones((4, 2, 3, 3), np.int8),
        "ws": _floats(4), "wz": np.zeros(4, np.int8), "bq": np.ones(4, np.int32),
    }  # fmt: skip
    path = _write(tmp_path / "qdq.onnx", nodes, {"x": (FLOAT, [1, 2, 7, 7])}, {"y": (FLOAT, None)}, weights)
    counted = count_onnx(path)
    assert (counted.macs, counted.parameters, counted.uncounted) == (25 * 4 * 2 * 9, 4 * 2 * 9 + 4, {})


def test_integer_operators_by_hand(tmp_path):
    nodes = [
        _node("QLinearConv", ["x", "s", "z", "w", "s", "z", "s", "z", "b"], ["h"]),
        _node("Reshape", ["h", "flat"], ["f"]),
        _node("QLinearMatMul", ["f", "s", "z", "m", "s", "z", "s", "z"], ["g"]),
        _node("MatMulInteger", ["g", "n"], ["y"]),
    ]
    weights = {
        "s": np.float32(0.1), "z": np.uint8(0), "w": np.ones((4, 2, 3, 3), np.uint8), "b": np.ones(4, np.int32),
        "flat": np.asarray([1, 100]), "m": np.ones((100, 6), np.uint8), "n": np.ones((6, 3), np.uint8),
    }  # fmt: skip
    path = _write(tmp_path / "q.onnx", nodes, {"x": (TensorProto.UINT8, [1, 2, 7, 7])}, {"y": (6, None)}, weights)
    counted = count_onnx(path)
    assert counted.macs == 25 * 4 * 2 * 9 + 100 * 6 + 6 * 3
    assert counted.parameters == 4 * 2 * 9 + 4 + 600 + 18
    assert counted.uncounted == {}


def _branch(name, output, nodes, weights=None):
    initializers = [numpy_helper.from_array(array, key) for key, array in (weights or {}).items()]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, FLOAT, None)], initializers)


def _if_graph(tmp_path, condition_inputs, weights):
    then = _branch("t", "a", [_node("MatMul", ["x", "w1"], ["a"])], {"w1": _floats(8, 3)})
    other = _branch(
        "e", "b", [_node("MatMul", ["x", "w2"], ["b0"]), _node("Relu", ["b0"], ["b"])], {"w2": _floats(8, 5)}
    )
    nodes = [_node("If", ["c"], ["h"], then_branch=then, else_branch=other), _node("Softmax", ["h"], ["y"])]
    inputs = {"x": (FLOAT, [1, 8]), **condition_inputs}
    return _write(tmp_path / "if.onnx", nodes, inputs, {"y": (FLOAT, None)}, weights)


def test_an_if_whose_condition_is_known_is_its_branch(tmp_path):
    counted = count_onnx(_if_graph(tmp_path, {}, {"c": np.asarray(False)}))
    assert (counted.macs, counted.parameters, counted.uncounted) == (40, 40, {})
    assert counted.layers[-1].output_shape == (1, 5)


def test_a_branch_that_depends_on_the_input_is_listed_with_what_is_inside(tmp_path):
    counted = count_onnx(_if_graph(tmp_path, {"c": (TensorProto.BOOL, [])}, {}))
    assert counted.macs == 0
    assert counted.uncounted == {"If: MatMul": 2}


def test_a_loop_is_listed_with_what_is_inside(tmp_path):
    body = helper.make_graph(
        [_node("Identity", ["go"], ["go_on"]), _node("MatMul", ["state", "w"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("step", INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, [1, 4]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, [1, 4]),
        ],
    )
    path = _write(
        tmp_path / "loop.onnx",
        [_node("Loop", ["steps", "", "x"], ["y"], body=body)],
        {"x": (FLOAT, [1, 4]), "steps": (INT64, [])},
        {"y": (FLOAT, [1, 4])},
        {"w": _floats(4, 4)},
    )
    assert count_onnx(path).uncounted == {"Loop: MatMul": 1}


def test_an_operator_that_nobody_knows_is_uncounted_by_name_and_what_follows_has_an_unknown_shape(tmp_path):
    nodes = [
        _node("Whiten", ["x"], ["h"], domain="my.ops"),
        _node("Det", ["m"], ["d"]),
        _node("MatMul", ["h", "w"], ["y"]),
    ]
    path = _write(
        tmp_path / "custom.onnx", nodes, {"x": (FLOAT, [1, 8]), "m": (FLOAT, [1, 3, 3])},
        {"y": (FLOAT, None), "d": (FLOAT, None)}, {"w": _floats(8, 4)}, domains=("my.ops",),
    )  # fmt: skip
    counted = count_onnx(path)
    assert counted.macs == 0
    assert counted.uncounted == {"my.ops::Whiten": 1, "Det": 1, "MatMul (unknown shape)": 1}


def test_local_functions_are_counted_by_their_bodies(tmp_path):
    function = helper.make_function(
        "local", "Twice", ["a", "m"], ["c"],
        [_node("MatMul", ["a", "m"], ["b"]), _node("MatMul", ["b", "m"], ["c"])], [helper.make_opsetid("", 21)],
    )  # fmt: skip
    graph = helper.make_graph(
        [_node("Twice", ["x", "w"], ["y"], domain="local")],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", FLOAT, [1, 4])],
        [numpy_helper.from_array(_floats(4, 4), "w")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[function]), tmp_path / "f.onnx")
    counted = count_onnx(tmp_path / "f.onnx")
    assert (counted.macs, counted.parameters, counted.uncounted) == (32, 16, {})


def test_a_shared_weight_is_one_parameter_and_counts_at_every_use(tmp_path):
    nodes = [_node("MatMul", ["x", "w"], ["h"]), _node("MatMul", ["h", "w"], ["y"])]
    path = _write(tmp_path / "s.onnx", nodes, {"x": (FLOAT, [1, 4])}, {"y": (FLOAT, [1, 4])}, {"w": _floats(4, 4)})
    assert (count_onnx(path).macs, count_onnx(path).parameters) == (32, 16)


def test_peak_activation_bytes_by_hand(tmp_path):
    """x (4 floats) -> a (16) -> b (8), and the result adds x again: while a becomes b, x is still there."""
    nodes = [
        _node("MatMul", ["x", "w1"], ["a"]),
        _node("Reshape", ["a", "same"], ["view"]),  # takes no memory
        _node("MatMul", ["view", "w2"], ["b"]),
        _node("MatMul", ["b", "w3"], ["c"]),
        _node("Add", ["c", "x"], ["y"]),
    ]
    weights = {"w1": _floats(4, 16), "w2": _floats(16, 8), "w3": _floats(8, 4), "same": np.asarray([1, 16])}
    path = _write(tmp_path / "p.onnx", nodes, {"x": (FLOAT, [1, 4])}, {"y": (FLOAT, [1, 4])}, weights)
    counted = count_onnx(path)
    assert counted.peak_activation_bytes == 4 * (4 + 16 + 8)
    assert counted.activation_bytes == 4 * (16 + 8 + 4 + 4)


@pytest.mark.parametrize("content", [b"", b"not a protobuf at all", b"\x08\x0a\x12\x07pytorch"])
def test_a_file_that_is_not_onnx_is_one_line(tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"broken\.onnx: not a readable ONNX file") as caught:
        count_onnx(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_one_line(tmp_path):
    weights = {"w": _floats(40, 40)}
    path = _write(
        tmp_path / "m.onnx",
        [_node("MatMul", ["x", "w"], ["y"])],
        {"x": (FLOAT, [1, 40])},
        {"y": (FLOAT, None)},
        weights,
    )
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(RequestError, match="not a readable ONNX file"):
        count_onnx(path)
    with pytest.raises(RequestError, match=r"nowhere\.onnx: no such file"):
        count_onnx(tmp_path / "nowhere.onnx")


def test_an_axis_written_as_minus_one_is_dynamic(tmp_path):
    nodes = [_node("Conv", ["x", "w"], ["y"])]
    path = _write(
        tmp_path / "m.onnx", nodes, {"x": (FLOAT, [-1, 3, -1, -1])}, {"y": (FLOAT, None)}, {"w": _floats(4, 3, 1, 1)}
    )
    assert count_onnx(path, {"x": (1, 3, 5, 6)}).macs == 30 * 12
    with pytest.raises(RequestError, match="axis 2 of input 'x' is dynamic"):
        count_onnx(path)


def test_every_inferred_shape_and_value_is_what_onnx_runtime_computes(tmp_path):
    """A network whose shapes depend on its inputs, exported with dynamic axes, run with every tensor as output."""
    torch, runtime = pytest.importorskip("torch"), pytest.importorskip("onnxruntime")

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.block = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x):
            y = self.conv(x)
            y = torch.nn.functional.interpolate(y, size=(y.shape[2] * 2, y.shape[3] // 2))
            tokens = self.block(y.flatten(2).transpose(1, 2))
            grid = tokens.transpose(1, 2).reshape(y.shape[0], 4, 2, -1)
            return torch.cat([grid[:, :, :1], grid[:, :, 1:].roll(1, -1)], 2).mean(-1), tokens[:, ::2]

    dynamic = torch.export.Dim.DYNAMIC
    path = tmp_path / "network.onnx"
    torch.onnx.export(
        Network().eval(), (torch.zeros(2, 3, 8, 12),), path, dynamo=True, verbose=False,
        input_names=["x"], dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
    )  # fmt: skip
    model = onnx.load(path)
    walk = _Walk(onnx, onnx.load(path), path, {"x": (1, 3, 12, 16)})
    names = [name for node in model.graph.node for name in node.output if name]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(model.SerializeToString(), options)
    outputs = session.run(names, {"x": np.ones((1, 3, 12, 16), np.float32)})
    known = 0
    for name, output in zip(names, outputs, strict=True):
        assert walk.shapes.shape(name) == output.shape, name
        value = walk.shapes.value(name)
        if value is not None:
            known += 1
            assert np.array_equal(value, output), name
    assert known > 5  # shapes that the graph computes itself
    assert walk.costs().uncounted == {}
