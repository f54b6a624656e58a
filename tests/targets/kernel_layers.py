"""Random layers with weights, and what TFLite's reference kernels make of them, transcribed into numpy.

Sources of the transcription: tensorflow/lite/kernels/internal/reference/integer_ops/{conv,depthwise_conv,
fully_connected}.h and padding.h.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from targets.c.fixed_point import multiply_by_quantized_multiplier, quantize_multiplier
from targets.c.generate import Generated, generate, translation_unit
from targets.tflite.schema import read_model
from tests.targets.tflite_builder import Spec, build

SAME, VALID = 0, 1
ACTIVATIONS = {0: (None, None), 1: (0.0, None), 2: (-1.0, 1.0), 3: (0.0, 6.0)}


@dataclass(eq=False)
class Case:
    """A layer: its file, an input, and the output that the reference gives."""

    name: str
    raw: bytes
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Form:
    """What is drawn at random. Sizes of the kernel, stride, dilation and input are (height, width)."""

    kind: str
    source: tuple[int, ...]
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: int = VALID
    groups: int = 1
    activation: int = 0
    per_channel: bool = True
    bias: bool = True
    gain: float = 60.0  # standard deviation of the outputs in steps; far more than that saturates
    scale: float | None = None  # real multiplier; None: what `gain` needs
    keep_dims: bool = False


def make(form: Form, rng: np.random.Generator, name: str) -> Case:
    """Weights, bias and quantisation for a form, and the reference's output on a random input."""
    source, outputs = form.source, form.outputs
    x = rng.integers(-128, 128, source).astype(np.int8)
    zero_in, zero_out = (int(value) for value in rng.integers(-128, 128, 2))
    shape = {
        "FULLY_CONNECTED": (outputs, source[-1]),
        "CONV_2D": (outputs, *form.kernel, source[-1] // form.groups),
        "DEPTHWISE_CONV_2D": (1, *form.kernel, outputs),
    }[form.kind]
    axis = 3 if form.kind == "DEPTHWISE_CONV_2D" else 0
    weights = rng.integers(-127, 128, shape).astype(np.int8)
    if rng.random() < 0.1:
        weights[...] = rng.choice([-127, 127], shape)
    inner = weights.size // outputs
    spread = 127 / np.sqrt(3) * 127 / np.sqrt(3) * np.sqrt(inner) * np.hypot(1, zero_in / 74)
    bias = rng.normal(0, spread, outputs).astype(np.int32) if form.bias else None
    relative = rng.uniform(0.3, 1.0, outputs) if form.per_channel else np.ones(1)
    real = form.gain / spread if form.scale is None else form.scale
    scale_in = np.float32(rng.uniform(0.01, 0.1))
    scale_out = np.float32(rng.uniform(0.01, 0.1))
    scale_w = (real * relative * scale_out / scale_in).astype(np.float32)
    sums = _sums(form, x.astype(np.int64) - zero_in, weights.astype(np.int64))
    if bias is not None:
        sums += bias
    y = _requantize(sums, scale_in, np.broadcast_to(scale_w, outputs), scale_out, zero_out, form.activation)
    if form.kind == "FULLY_CONNECTED" and not form.keep_dims:
        y = y.reshape(-1, outputs)
    bias_scale = (scale_w * scale_in).tolist()
    raw = build(
        form.kind,
        [
            Spec(source, scale=float(scale_in), zero_point=zero_in),
            Spec(shape, scale=scale_w.tolist(), zero_point=[0] * scale_w.size, axis=axis, data=weights),
            None if bias is None else Spec((outputs,), "int32", bias_scale, [0] * len(bias_scale), data=bias),
        ],
        [Spec(y.shape, scale=float(scale_out), zero_point=zero_out)],
        **_options(form),
    )
    return Case(name, raw, x, y)


def random_form(rng: np.random.Generator, limit: int = 3000) -> Form:
    """Any layer that TFLite-Micro runs, whose input, weights and output have at most `limit` values each."""
    while True:
        form = _draw(rng)
        inner = int(np.prod(form.kernel)) * form.source[-1] // form.groups
        pixels = int(np.prod(form.source[:-1]))
        if form.kind != "FULLY_CONNECTED" and min(_output_size(form)) < 1:
            continue
        if max(pixels * form.source[-1], inner * form.outputs, pixels * form.outputs) <= limit:
            return form


def _draw(rng: np.random.Generator) -> Form:
    def pick(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    kind = pick("CONV_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    depth = int(pick(rng.integers(1, 70), 4 * rng.integers(1, 17), 16 * rng.integers(1, 5)))
    common: dict[str, Any] = {
        "activation": pick(0, 0, 1, 2, 3),
        "per_channel": rng.random() < 0.8,
        "bias": rng.random() < 0.8,
        "gain": pick(60.0, 60.0, 300.0),
        "scale": pick(*[None] * 8, 0.7, 1.5, 40.0, 1e-7),
    }
    outputs = int(pick(rng.integers(1, 40), 4 * rng.integers(1, 10)))
    if kind == "FULLY_CONNECTED":
        keep = rng.random() < 0.3
        source = (1, 3, depth) if keep else (int(pick(1, 1, 1, 2, 5)), depth)
        return Form(kind, source, outputs, keep_dims=keep, **common)
    kernel = pick((1, 1), (3, 3), (1, int(rng.integers(1, 8))), tuple(int(v) for v in rng.integers(1, 6, 2)))
    source = (int(pick(1, 1, 1, 2)), *(int(v) for v in rng.integers(1, 14, 2)), depth)
    dilated = rng.random() < 0.2
    common["stride"] = (1, 1) if dilated or rng.random() < 0.5 else tuple(int(v) for v in rng.integers(1, 4, 2))
    common["dilation"] = tuple(int(v) for v in rng.integers(1, 4, 2)) if dilated else (1, 1)
    common["padding"] = pick(SAME, VALID)
    if kind == "DEPTHWISE_CONV_2D":
        return Form(kind, source, depth * int(pick(1, 1, 1, 2, 3)), kernel, **common)
    groups = int(pick(*[1] * 9, 2))
    if depth % groups:
        groups = 1
    return Form(kind, source, outputs + outputs % groups, kernel, groups=groups, **common)


def _output_size(form: Form) -> tuple[int, int]:
    sizes = []
    for axis in (0, 1):
        size, reach = form.source[axis + 1], (form.kernel[axis] - 1) * form.dilation[axis] + 1
        taken = size if form.padding == SAME else size - reach + 1
        sizes.append(-(-taken // form.stride[axis]))
    return sizes[0], sizes[1]


def _sums(form: Form, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Accumulators without bias, int64; x has its zero point taken off."""
    if form.kind == "FULLY_CONNECTED":
        return x @ weights.T
    batches, height, width, depth = form.source
    size = _output_size(form)
    padding = [0, 0]
    if form.padding == SAME:
        for axis in (0, 1):
            reach = (size[axis] - 1) * form.stride[axis] + (form.kernel[axis] - 1) * form.dilation[axis] + 1
            padding[axis] = max(reach - form.source[axis + 1], 0) // 2
    sums = np.zeros((batches, *size, form.outputs), np.int64)
    group_in, group_out = depth // form.groups, form.outputs // form.groups
    for position in np.ndindex(*size):
        for tap in np.ndindex(*form.kernel):
            at = [position[a] * form.stride[a] - padding[a] + tap[a] * form.dilation[a] for a in (0, 1)]
            if not (0 <= at[0] < height and 0 <= at[1] < width):
                continue
            values = x[:, at[0], at[1], :]
            if form.kind == "DEPTHWISE_CONV_2D":
                copies = form.outputs // depth
                sums[:, *position] += np.repeat(values, copies, axis=1) * weights[0, *tap]
                continue
            for g in range(form.groups):
                part = slice(g * group_out, (g + 1) * group_out)
                sums[:, *position, part] += values[:, g * group_in : (g + 1) * group_in] @ weights[part, *tap].T
    return sums


def _requantize(
    sums: np.ndarray, scale_in: Any, scale_w: np.ndarray, scale_out: Any, zero_out: int, activation: int
) -> np.ndarray:
    y = np.empty_like(sums)
    for c, scale in enumerate(scale_w):
        multiplier, shift = quantize_multiplier(float(scale_in) * float(scale) / float(scale_out))
        y[..., c] = multiply_by_quantized_multiplier(sums[..., c], multiplier, shift) + zero_out
    lowest, highest = ACTIVATIONS[activation]
    if lowest is not None:
        y = np.maximum(y, zero_out + _round(lowest / scale_out))
    if highest is not None:
        y = np.minimum(y, zero_out + _round(highest / scale_out))
    return np.clip(y, -128, 127).astype(np.int8)


def _round(value: Any) -> int:
    """C's `round`: halves away from zero."""
    return int(np.copysign(np.floor(abs(value) + np.float32(0.5)), value))


def _options(form: Form) -> dict[str, Any]:
    if form.kind == "FULLY_CONNECTED":
        return {"fusedActivationFunction": form.activation, "keepNumDims": form.keep_dims}
    options: dict[str, Any] = {
        "fusedActivationFunction": form.activation,
        "padding": form.padding,
        "strideH": form.stride[0],
        "strideW": form.stride[1],
        "dilationHFactor": form.dilation[0],
        "dilationWFactor": form.dilation[1],
    }
    if form.kind == "DEPTHWISE_CONV_2D":
        options["depthMultiplier"] = form.outputs // form.source[3]
    return options


@dataclass(frozen=True)
class Program:
    """Many layers as one model of the C API: the input is a layer's number and its input, the output its output."""

    input_bytes: int
    output_bytes: int
    kernels: tuple[str, ...]

    def request(self, index: int, case: Case) -> bytes:
        return (index.to_bytes(4, "little") + case.x.tobytes()).ljust(self.input_bytes, b"\0")


def write_program(cases: Sequence[Case], folder: Path, copies: bool = True) -> Program:
    """`folder`/model.c and model.json, as the target `c` writes them, of a model "layers" that can run any of them.

    Without `copies` layers run on whatever their memory holds: to count instructions of the layers alone.
    """
    models: list[Generated] = [generate(read_model(case.raw), case.name) for case in cases]
    sizes = 4 + max(case.x.size for case in cases), max(case.y.size for case in cases)
    lines = []
    for i, (model, case) in enumerate(zip(models, cases, strict=True)):
        before = f"memcpy({model.name}_input(0), layers_in + 4, {case.x.size}); " if copies else ""
        after = f" memcpy(layers_out, {model.name}_output(0), {case.y.size});" if copies else ""
        lines.append(f"  case {i}: {before}{model.name}_run();{after} break;")
    steps = "\n".join(lines)
    text = translation_unit(models) + (
        f"\nstatic int8_t layers_in[{sizes[0]}] MODEL_ALIGNED, layers_out[{sizes[1]}] MODEL_ALIGNED;\n"
        "void *layers_input(int index) { (void)index; return layers_in; }\n"
        "void *layers_output(int index) { (void)index; return layers_out; }\n"
        "void layers_run(void) {\n  int32_t number;\n  memcpy(&number, layers_in, 4);\n  switch (number) {\n"
        f"{steps}\n  default: break;\n  }}\n}}\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.h").write_text("void layers_run(void);\nvoid *layers_input(int);\nvoid *layers_output(int);\n")
    (folder / "model.c").write_text(text)
    manifest = {"name": "layers", "inputs": [{"bytes": sizes[0]}], "outputs": [{"bytes": sizes[1]}]}
    (folder / "model.json").write_text(json.dumps(manifest))
    kernels = sorted({kernel for model in models for kernel in model.kernels})
    return Program(*sizes, tuple(kernels))
