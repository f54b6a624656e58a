"""Exact rewrites before conversion: what stays float, crashes or bloats in TFLite is converted in another form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from profiles.errors import RequestError
from targets.graph import Graph, TensorSpec
from targets.parity import compare, failure
from targets.target import get_target
from targets.tflite import compile_int8
from targets.tflite.convert import convert_module
from targets.tflite.quantize import static_int8
from targets.tflite.scan import MAX_STEPS
from targets.tflite.schema import read_model
from tests.targets.conftest import write_single
from tests.tools import need_module

need_module("litert_torch", "ai_edge_quantizer", "ai_edge_litert")
TARGET = get_target("tflite")


class Call(nn.Module):
    """A function of modules and inputs, as a module."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


class Converted:
    """A module's float file, checked to repeat the module on 8 rows, and its int8 file."""

    def __init__(self, module: nn.Module, *shapes: Sequence[int], forms: Sequence[str] = (), offset: float = 0) -> None:
        torch.manual_seed(0)
        module.eval()
        inputs = [torch.randn(8, *shape) + offset for shape in shapes]
        self.feeds = {f"x{i}": value.numpy() for i, value in enumerate(inputs)}
        with torch.no_grad():
            rows = [module(*(value[i : i + 1] for value in inputs)) for i in range(8)]
            program = torch.export.export(module, tuple(value[:1] for value in inputs))
        rows = [row if isinstance(row, tuple) else (row,) for row in rows]
        self.reference = {f"y{i}": np.concatenate([row[i].numpy() for row in rows]) for i in range(len(rows[0]))}
        self.graph = Graph(
            "net",
            tuple(TensorSpec(f"x{i}", "float32", ("batch", *shape)) for i, shape in enumerate(shapes)),
            tuple(TensorSpec(name, "float32", ("batch", *value.shape[1:])) for name, value in self.reference.items()),
        )
        call_shapes = {f"x{i}": (1, *shape) for i, shape in enumerate(shapes)}
        self.raw = convert_module(program.module(), self.graph, call_shapes, forms)
        assert failure(self.parity(self.raw), "fp32") is None, self.parity(self.raw)

    def parity(self, raw: bytes) -> Any:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            path.write_bytes(raw)
            return compare(self.reference, TARGET.open(self.graph, (path,), "fp32", {"threads": 1})(self.feeds))

    @property
    def operators(self) -> Counter[str]:
        return read_model(self.raw).operator_counts()

    def check_integer(self) -> None:
        """The int8 file has no float operator and passes parity."""
        raw = static_int8(self.raw, self.feeds)
        assert not read_model(raw).float_operators()
        parity = self.parity(raw)
        assert failure(parity, "int8") is None, parity


def with_statistics(module: nn.Module) -> nn.Module:
    """Batch norms as training leaves them: those of a new network are no operation."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm3d)):
            part.running_mean.normal_()  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return module


def plain_operators(module: nn.Module, *shapes: Sequence[int]) -> Counter[str]:
    """What the converter makes of a module when nothing is rewritten."""
    import litert_torch

    from targets.quiet import silent

    with silent():
        content = litert_torch.convert(module.eval(), tuple(torch.zeros(1, *shape) for shape in shapes))
    return read_model(bytes(content.model_content())).operator_counts()


@pytest.mark.parametrize("norm", [lambda y: F.normalize(y, dim=-1), lambda y: y / y.norm(dim=-1, keepdim=True)])
def test_trap_3_normalisation_becomes_a_product_with_rsqrt(norm: Callable[[Tensor], Tensor]) -> None:
    found = Converted(Call(lambda self, x: norm(self.layer(x)), layer=nn.Linear(8, 8)), (8,))
    assert not {"DIV", "SQRT", "POW", "ABS", "MAXIMUM"} & set(found.operators)
    assert found.operators["RSQRT"] == 1
    found.check_integer()


def separable_1d() -> nn.Module:
    return with_statistics(nn.Sequential(
        nn.Conv1d(3, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(8, 8, 3, groups=8), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3),
    ))  # fmt: skip


def test_trap_4_conv1d_becomes_conv2d_with_its_batch_norm_fused() -> None:
    """Three convolutions, a pooling, a mean, a dense layer; one turn of the input's layout, and its reshape. Without
    the rewrite each batch norm is a product and a sum of its own, between transpositions."""
    found = Converted(separable_1d(), (3, 64))
    assert sum(found.operators[kind] for kind in ("CONV_2D", "DEPTHWISE_CONV_2D")) == 3
    assert not {"MUL", "ADD", "SUB"} & set(found.operators)
    assert found.operators.total() <= 8
    assert plain_operators(separable_1d(), (3, 64)).total() > 2 * found.operators.total()
    found.check_integer()


@pytest.mark.slow
def test_channels_last_series_need_no_transposition() -> None:
    module = Call(
        lambda self, x: self.body(x.transpose(1, 2)).transpose(1, 2),
        body=nn.Sequential(nn.Conv1d(3, 8, 5, padding="same"), nn.ReLU(), nn.Conv1d(8, 4, 3)),
    )
    found = Converted(module, (32, 3))
    assert found.operators == {"RESHAPE": 2, "CONV_2D": 2}


def test_trap_5_gelu_is_noted_for_microcontrollers(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)).eval()
    samples = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    bundle = write_single(tmp_path / "b", module, {"x": samples}, ("y",))
    (tmp_path / "out").mkdir()
    compiled = compile_int8(bundle.source("net"), tmp_path / "out")
    assert any("GELU is not in TFLite-Micro" in note for note in compiled.notes)


@pytest.mark.parametrize("groups", [1, 2])
def test_trap_6_conv3d_becomes_conv2d_of_stacked_frames(groups: int) -> None:
    """The kernel and stride that crashed the converter; then a pooling of pictures, and the film as a batch."""
    channels = 2 * groups
    module = Call(
        lambda self, x: self.pool(F.relu(self.norm(self.film(x)))).transpose(1, 2).flatten(0, 1).mean((2, 3)),
        film=nn.Conv3d(channels, 4, (3, 5, 5), (1, 2, 2), (1, 2, 2), groups=groups),
        norm=with_statistics(nn.BatchNorm3d(4)),
        pool=nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    )
    found = Converted(Call(lambda self, x: self.inner(x).unsqueeze(0), inner=module), (channels, 6, 20, 20))
    assert found.operators["CONV_2D"] == (1 if groups == 1 else 3)
    assert not [kind for kind in found.operators if "3D" in kind]
    found.check_integer()


@pytest.mark.slow
def test_conv3d_with_stride_and_dilation_in_time_is_exact() -> None:
    Converted(nn.Sequential(nn.Conv3d(2, 3, (3, 3, 3), (2, 1, 1), (2, 1, 1), dilation=(2, 1, 1))), (2, 9, 6, 6))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("1 - x", lambda self, x: 1.0 - self.layer(x)),
        ("constant - x", lambda self, x: torch.arange(4.0).view(1, 4, 1, 1) - self.layer(x)),
        ("1 / x", lambda self, x: 1.0 / (self.layer(x).relu() + 1.0)),
        ("x - 2 y", lambda self, x: torch.sub(self.layer(x), torch.ones(1, 4, 1, 1), alpha=2)),
    ],
)
def test_a_constant_in_front_of_a_picture_keeps_its_side(name: str, function: Callable[..., Any]) -> None:
    """litert-torch 0.10 gives x - c for c - x, and x / c for c / x, where the layout was turned."""
    Converted(Call(function, layer=nn.Conv2d(3, 4, 3)), (3, 9, 9)).check_integer()


@pytest.mark.slow
def test_transposed_convolution_with_output_padding_converts() -> None:
    Converted(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 3, 3, 2, 1, 1)), (2, 9, 9)).check_integer()


class OneStep(nn.Module):
    """A GRU cell as it is in the papers (Cho et al., arXiv 1406.1078), and the state that the host feeds back."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 6)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        return self.cell(x, state)


def test_trap_7_a_recurrence_of_more_than_8_steps_is_refused_and_its_cell_converts(tmp_path: Path) -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(4, 6, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.gru(x)[0][:, -1]

    samples = np.random.default_rng(0).standard_normal((2, MAX_STEPS + 1, 4)).astype(np.float32)
    bundle = write_single(tmp_path / "long", Sequence().eval(), {"x": samples}, ("y",))
    reason = TARGET.unsupported(bundle.source("net"), "int8")
    assert reason is not None and "GRU over 9 time steps" in reason and "cell of one step" in reason
    short = write_single(tmp_path / "short", Sequence().eval(), {"x": samples[:, :MAX_STEPS]}, ("y",))
    assert TARGET.unsupported(short.source("net"), "int8") is None
    Converted(OneStep(), (4,), (6,)).check_integer()


def test_trap_8_a_mean_over_the_picture_adds_no_transposition() -> None:
    module = Call(lambda self, x: self.layer(x).mean((2, 3)), layer=nn.Conv2d(1, 8, 3))
    assert plain_operators(module, (1, 9, 9))["TRANSPOSE"] == 1
    found = Converted(module, (1, 9, 9))
    assert found.operators["TRANSPOSE"] == 0
    found.check_integer()


def test_trap_9_a_table_of_embeddings_is_int8_and_ids_are_int32(words_bundle: Any, tmp_path: Path) -> None:
    compiled = compile_int8(words_bundle.source("net"), tmp_path)
    model = read_model(tmp_path / "model.tflite")
    (gather,) = [operator for operator in model.operators if operator.kind == "GATHER"]
    table = gather.inputs[0]
    assert table is not None and table.dtype == "int8" and table.shape == (50, 16)
    assert model.inputs[0].dtype == "int32"
    assert compiled.quantization["quantized_operators"]["GATHER"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "activation"),
    [
        ("LEAKY_RELU", nn.LeakyReLU(0.1)),
        ("ABS", Call(lambda self, x: x.abs())),
        ("MINIMUM", nn.Hardtanh(-0.3, 0.4)),
        ("REDUCE_MAX", Call(lambda self, x: x.amax((2, 3)))),
    ],
)
def test_operators_that_the_quantiser_leaves_in_float_have_another_form(kind: str, activation: nn.Module) -> None:
    layers = (nn.Conv2d(2, 4, 3), activation)
    assert kind in {operator for operator in plain_operators(nn.Sequential(*layers), (2, 6, 6))}
    found = Converted(nn.Sequential(*layers), (2, 6, 6), forms=(kind,))
    assert kind not in found.operators
    found.check_integer()


def test_layer_norm_of_rows_far_from_zero_keeps_its_signal_in_int8() -> None:
    """A mean of 8 with a spread of 1: x * rsqrt - mean * rsqrt would subtract two numbers of 8 with steps of 1/30."""
    Converted(nn.LayerNorm(16), (16,), offset=8.0).check_integer()


def test_what_cannot_be_quantised_is_named_and_full_integer_is_refused(tmp_path: Path) -> None:
    module = Call(lambda self, x: self.out(torch.exp(self.layer(x))), layer=nn.Linear(4, 8), out=nn.Linear(8, 2)).eval()
    samples = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    bundle = write_single(tmp_path / "b", module, {"x": samples}, ("y",))
    (tmp_path / "out").mkdir()
    compiled = TARGET.compile(bundle.source("net"), tmp_path / "out", "int8", {})
    assert compiled.float_operators == {"EXP": 1} and compiled.problem is None
    with pytest.raises(RequestError, match=r"graph net: full int8 needs integer .* 1 stayed float: EXP \(operator 2"):
        compile_int8(bundle.source("net"), tmp_path / "out")


def test_a_division_whose_divisor_may_round_to_zero_stays_float() -> None:
    """LiteRT's int8 kernel stops at a divisor of zero; a divisor far from zero is quantised."""
    torch.manual_seed(1)
    for floor, float_operators in ((0.001, {"DIV"}), (1.0, set())):
        module = Call(lambda self, x, floor=floor: x / (self.layer(x).relu() + floor), layer=nn.Linear(6, 6))
        found = Converted(module, (6,))
        stayed = read_model(static_int8(found.raw, found.feeds)).float_operators()
        assert set(stayed) - {"DEQUANTIZE", "QUANTIZE"} == float_operators
