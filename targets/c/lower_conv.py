"""Layers with weights: CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED.

Weights stay int8 in flash, row by row, as every core's kernel wants them. The input's zero point goes into the bias:
sum((x - z) w) + b = sum(x w) + (b - z sum(w)); windows that reach over the border read the zero point there.

Each layer has a plain C kernel and, for cores with SIMD, a fast one. The fast one leaves out cases of the
requantisation (see `kernels/requantize.h`); it is chosen only if `Rescaling.fast` proves that they cannot occur.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from targets.c.fixed_point import activation_range, quantize_multiplier, scale_of, zero_point_of
from targets.c.lower_matmul import computed_fully_connected
from targets.c.lowering import Emitter, UnsupportedOperator, lowering
from targets.tflite.schema import Operator, Tensor

SAME = 0  # schema's Padding
READ_BEHIND = 15  # bytes: kernels read weights by words and by vectors
FAST_OUTPUTS = 4  # the fast kernels compute at least so many rows of a matrix at once
WIDE_SCRATCH_BYTES = 2560  # at most this for several columns of int16; longer columns are computed alone, from int8
ACCUMULATOR_LIMIT = 1 << 31
QUAD_SCRATCH_BYTES = 640  # four columns gain little over two, unless they are short
DEPTHWISE_SHIFTS = 22  # (2 * 128 + 1) << 21 and a product below 2^30 make less than 2^31
DEPTHWISE_TAPS = 255  # so many weights add up in 16 bits
FAST_LIMIT = 1 << 30  # what requantisation adds to an accumulator stays far below the other half


@dataclass(frozen=True)
class Rescaling:
    """What a kernel needs per output channel: rows of (bias, multiplier, shift), int32."""

    rows: np.ndarray
    bound: int  # no accumulator, and no part of its sum, is larger than this

    @property
    def fast(self) -> bool:
        """Whether the short forms hold: every shift to the right by 1..31, and no sum near the end of int32."""
        multipliers, shifts = self.rows[:, 1], self.rows[:, 2]
        return bool(
            self.bound < FAST_LIMIT
            and np.all(multipliers >= 1 << 30)
            and np.all(shifts <= -1)
            and np.all(shifts >= -31)
        )

    @property
    def fast_depthwise(self) -> bool:
        """The same for depthwise kernels, which add half of the last place and the zero point before they shift."""
        return self.fast and bool(np.all(self.rows[:, 2] >= -DEPTHWISE_SHIFTS))


@dataclass(frozen=True)
class Layer:
    """The tensors of a layer, checked. `weights` (outputs, ...) for matrices, (1, height, width, outputs) depthwise."""

    operator: Operator
    source: Tensor
    output: Tensor
    weights: np.ndarray
    scales: np.ndarray
    bias: np.ndarray | None

    @property
    def zero_point(self) -> int:
        return zero_point_of(self.source)


@lowering("FULLY_CONNECTED")
def fully_connected(operator: Operator, emitter: Emitter) -> None:
    if len(operator.inputs) > 1 and operator.inputs[1] is not None and not operator.inputs[1].is_constant:
        computed_fully_connected(operator, emitter)
        return
    layer = _layer(operator, axis=0)
    depth = layer.weights.shape[-1]
    if layer.weights.ndim != 2 or layer.source.size % depth:
        raise UnsupportedOperator(f"{operator.place}: weights {layer.weights.shape} do not fit {layer.source.shape}")
    if operator.options.get("weightsFormat"):
        raise UnsupportedOperator(f"{operator.place}: weights are shuffled; the default format is needed")
    _product(emitter, layer, layer.weights, layer.source.size // depth)


@lowering("CONV_2D")
def conv_2d(operator: Operator, emitter: Emitter) -> None:
    layer = _layer(operator, axis=0)
    outputs, height, width, depth = layer.weights.shape
    groups = layer.source.shape[3] // depth
    if layer.source.shape[3] % depth or outputs % groups:
        raise UnsupportedOperator(f"{operator.place}: filters {layer.weights.shape} do not fit {layer.source.shape}")
    filters = layer.weights.reshape(outputs, -1)
    window = _window(layer, height, width, depth)
    if groups == 1 and (height, width) == (1, 1) and window.is_dense:
        _product(emitter, layer, filters, layer.source.size // depth)
    else:
        _convolution(emitter, layer, filters, window, groups)


@lowering("DEPTHWISE_CONV_2D")
def depthwise_conv_2d(operator: Operator, emitter: Emitter) -> None:
    layer = _layer(operator, axis=3)
    _, height, width, outputs = layer.weights.shape
    depth = layer.source.shape[3]
    if outputs % depth:
        raise UnsupportedOperator(f"{operator.place}: filters {layer.weights.shape} do not fit {layer.source.shape}")
    window = _window(layer, height, width, depth)
    if depth == 1:  # one input channel: every output channel sees all of the input
        filters = np.ascontiguousarray(np.moveaxis(layer.weights, 3, 0)).reshape(outputs, -1)
        _convolution(emitter, layer, filters, window, 1)
        return
    filters = layer.weights.reshape(height * width, outputs)
    rescaling = _rescaling(layer, filters.T, folded=False)
    emitter.kernel("depthwise_conv_2d")
    weights, channels = emitter.constant("filters", filters), emitter.constant("channels", rescaling.rows)
    scalars = _clamping(layer)
    copies = outputs // depth
    places = f"{emitter.ref(layer.source)}, {emitter.ref(layer.output)}"
    call = f"depthwise_conv_2d_plain(&window, &filters, {places});"
    taps = height * width
    products_fit = taps <= DEPTHWISE_TAPS and filters.min(initial=0) >= -127  # two products in 16 bits
    if rescaling.fast_depthwise and products_fit and copies == 1 and outputs >= FAST_OUTPUTS:
        call = f"depthwise_conv_2d(&window, &filters, {places}, {emitter.scratch(max(96 + 8 * taps, 16 * taps))});"
    emitter.call(
        f"static const struct window window = {window.initializer};\n"
        f"static const struct filters filters = {{{weights}, {channels}, {outputs}, {copies}, {scalars}}};\n{call}"
    )


@dataclass(frozen=True)
class Window:
    """`struct window` of kernels/conv_2d_window.h."""

    source: tuple[int, ...]
    output: tuple[int, ...]
    depth: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]
    zero_point: int

    @property
    def is_dense(self) -> bool:
        """Whether a 1x1 kernel reads every pixel once, in order."""
        return self.stride == (1, 1) and self.source[:3] == self.output[:3]

    @property
    def initializer(self) -> str:
        batches, height, width, pixel = self.source
        _, output_height, output_width, output_pixel = self.output
        values = [height, width, pixel, self.depth, output_height, output_width, output_pixel, batches]
        values += [*self.kernel, *self.stride, *self.dilation, *self.padding, self.zero_point]
        return f"{{{', '.join(map(str, values))}}}"


def _product(emitter: Emitter, layer: Layer, filters: np.ndarray, rows: int) -> None:
    """The same matrix for every row of the input."""
    rescaling = _rescaling(layer, filters)
    emitter.kernel("fully_connected")
    source, output = emitter.ref(layer.source), emitter.ref(layer.output)
    call = f"fully_connected_plain(&matrix, {source}, {rows}, {output});"
    if rescaling.fast and len(filters) >= FAST_OUTPUTS:
        size = 8 * _words(filters.shape[1])  # four columns of int16
        scratch = emitter.scratch(size) if rows >= 4 and size <= WIDE_SCRATCH_BYTES else "0"
        call = f"fully_connected(&matrix, {source}, {rows}, {output}, {scratch});"
    emitter.call(f"{_matrix(emitter, layer, filters, rescaling)}\n{call}")


def _convolution(emitter: Emitter, layer: Layer, filters: np.ndarray, window: Window, groups: int) -> None:
    """A window's values as a column, times the filters of each group."""
    rescaling = _rescaling(layer, filters)
    emitter.kernel("conv_2d")
    source, output = emitter.ref(layer.source), emitter.ref(layer.output)
    size, length = len(filters) // groups, filters.shape[1]
    kernel, columns, scratch_bytes = "conv_2d_plain", "", length
    if rescaling.fast and size >= FAST_OUTPUTS:
        count, scratch_bytes = _columns(length, window.depth)
        kernel, columns = "conv_2d", f", {count}"
    scratch = emitter.scratch(scratch_bytes)
    emitter.call(f"static const struct window window = {window.initializer};")
    for group in range(groups):
        part = slice(group * size, (group + 1) * size)
        matrix = _matrix(emitter, layer, filters[part], Rescaling(rescaling.rows[part], rescaling.bound))
        places = f"{source} + {group * window.depth}, {output} + {group * size}"
        call = f"{kernel}(&window, &matrix, {places}, {scratch}{columns});"
        emitter.call(f"{{\n  {matrix}\n  {call}\n}}")


def _words(length: int) -> int:
    """Bytes of a column of int8, rounded up to words."""
    return (length + 3) // 4 * 4


def _columns(length: int, depth: int) -> tuple[int, int]:
    """How many columns of `length` values a convolution works on at once, and the bytes of scratch for them."""
    spare = 0 if depth % 4 == 0 else _words(length)
    for columns, most in ((4, QUAD_SCRATCH_BYTES), (2, WIDE_SCRATCH_BYTES)):
        size = 2 * columns * _words(length) + spare
        if size <= most:
            return columns, size
    return 1, length


def _matrix(emitter: Emitter, layer: Layer, filters: np.ndarray, rescaling: Rescaling) -> str:
    """`struct matrix` of kernels/dot.h."""
    padded = np.concatenate([filters.ravel(), np.zeros(READ_BEHIND, np.int8)])
    weights, channels = emitter.constant("weights", padded), emitter.constant("channels", rescaling.rows)
    outputs, depth = filters.shape
    return f"static const struct matrix matrix = {{{weights}, {channels}, {depth}, {outputs}, {_clamping(layer)}}};"


def _clamping(layer: Layer) -> str:
    low, high = activation_range(
        layer.output, int(layer.operator.options.get("fusedActivationFunction", 0)), layer.operator
    )
    return f"{zero_point_of(layer.output)}, {low}, {high}"


def _layer(operator: Operator, axis: int) -> Layer:
    """Check the tensors. Raises UnsupportedOperator for what TFLite-Micro has, but not these kernels."""
    source, weights, bias = (*operator.inputs, None)[:3]
    output = operator.outputs[0]
    if source is None or weights is None or source.dtype != "int8" or output.dtype != "int8":
        raise UnsupportedOperator(f"{operator.place}: input and output must be int8")
    if weights.data is None or weights.dtype != "int8":
        raise UnsupportedOperator(f"{operator.place}: weights must be int8 constants")
    if bias is not None and (bias.data is None or bias.dtype != "int32"):
        raise UnsupportedOperator(f"{operator.place}: the bias must be an int32 constant")
    if np.any(weights.zero_point):
        raise UnsupportedOperator(f"{operator.place}: weights must be quantised symmetrically (zero point 0)")
    outputs = weights.shape[axis]
    if weights.scale.size not in (1, outputs):
        raise UnsupportedOperator(f"{operator.place}: {weights.scale.size} scales for {outputs} output channels")
    scales = np.broadcast_to(weights.scale.astype(np.float64), outputs)
    values = None if bias is None or bias.data is None else bias.data.ravel()
    return Layer(operator, source, output, weights.data, scales, values)


def _rescaling(layer: Layer, filters: np.ndarray, folded: bool = True) -> Rescaling:
    """Bias, multiplier and shift of each row of `filters` (outputs, length); `folded`: with the zero point in the bias.

    The multiplier is input scale * weight scale / output scale, in double (`PopulateConvolutionQuantizationParams`).
    Raises UnsupportedOperator if an accumulator could overflow: the reference's result is then undefined, too.
    """
    scale_in, scale_out = (float(scale_of(tensor, layer.operator)) for tensor in (layer.source, layer.output))
    pairs = [quantize_multiplier(scale_in * float(scale) / scale_out) for scale in layer.scales]
    wide = filters.astype(np.int64)
    bias = np.zeros(len(filters), np.int64) if layer.bias is None else layer.bias.astype(np.int64)
    folded_bias = bias - layer.zero_point * wide.sum(1)
    # x and x - z are at most 255 away from 0: no part of the sum, in either form, is larger
    bounds = np.maximum(np.abs(bias), np.abs(folded_bias)) + 255 * np.abs(wide).sum(1)
    bound = int(bounds.max(initial=0))
    if bound >= ACCUMULATOR_LIMIT:
        raise UnsupportedOperator(
            f"{layer.operator.place}: an accumulator can reach {bound}, beyond int32; its bias or weights are damaged"
        )
    pairs = [_equivalent(*pair, int(limit)) for pair, limit in zip(pairs, bounds, strict=True)]
    rows = np.column_stack([folded_bias if folded else bias, np.asarray(pairs, np.int64)])
    return Rescaling(rows.astype(np.int32), bound)


def _equivalent(multiplier: int, shift: int, bound: int) -> tuple[int, int]:
    """The same multiplier, or for one that makes 0 of every sum up to `bound` one that the fast kernels can take.

    Half of a sum below 2^21 is at most 2^20, less than half of 2^22; half of one below 2^30 less than half of 2^31.
    """
    if (multiplier == 0 or shift < -DEPTHWISE_SHIFTS) and bound < 1 << 21:
        return 1 << 30, -DEPTHWISE_SHIFTS
    if multiplier == 0 and bound < FAST_LIMIT:
        return 1 << 30, -31
    return multiplier, shift


def _window(layer: Layer, height: int, width: int, depth: int) -> Window:
    options = layer.operator.options
    stride = (int(options["strideH"]), int(options["strideW"]))
    dilation = (int(options.get("dilationHFactor", 1)), int(options.get("dilationWFactor", 1)))
    source, output = layer.source.shape, layer.output.shape
    if len(source) != 4 or len(output) != 4:
        raise UnsupportedOperator(f"{layer.operator.place}: input and output must have 4 dimensions")
    padding = [0, 0]
    if int(options["padding"]) == SAME:
        for axis, kernel in enumerate((height, width)):
            reach = (output[axis + 1] - 1) * stride[axis] + (kernel - 1) * dilation[axis] + 1
            padding[axis] = max(reach - source[axis + 1], 0) // 2
    sizes = (height, width)
    return Window(source, output, depth, sizes, stride, dilation, (padding[0], padding[1]), layer.zero_point)
