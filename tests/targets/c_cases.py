"""Hypothesis strategies: one random operator as a `.tflite` file, as a converter could have written it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.targets.tflite_builder import Node, Spec, build, build_graph, constant

NONE, RELU, RELU_N1_TO_1, RELU6 = 0, 1, 2, 3
Draw = Any

# float32 with every bit of the mantissa in play: hypothesis's floats prefer round numbers
scales = st.builds(lambda m, e: m * 2.0**e, st.integers(1 << 23, (1 << 24) - 1), st.integers(-35, -25))
zero_points = st.integers(-128, 127)
activations = st.sampled_from((NONE, RELU, RELU_N1_TO_1, RELU6))


def shapes(low: int = 1, high: int = 4, largest: int = 7) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(1, largest), min_size=low, max_size=high).map(tuple)


def quantized(draw: Draw, shape: Sequence[int], like: Spec | None = None) -> Spec:
    """An int8 tensor with a random quantisation, or with that of another."""
    if like is not None:
        return Spec(tuple(shape), scale=like.scale, zero_point=like.zero_point)
    return Spec(tuple(shape), scale=draw(scales), zero_point=draw(zero_points))


def rescaled(draw: Draw, shape: Sequence[int], natural: float) -> Spec:
    """An output whose range is between a quarter and four times the natural one: it neither vanishes nor only clips."""
    ratio = 2.0 ** draw(st.floats(-2, 2))
    return Spec(tuple(shape), scale=float(np.float32(natural * ratio)), zero_point=draw(zero_points))


def values(draw: Draw, shape: Sequence[int], dtype: str = "int8") -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max + 1, tuple(shape)).astype(dtype)


@st.composite
def binary(draw: Draw) -> bytes:
    kind = draw(st.sampled_from(("ADD", "SUB", "MUL", "SQUARED_DIFFERENCE", "MAXIMUM", "MINIMUM")))
    shape = draw(shapes())
    parts = []
    for _ in range(2):
        kept = draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
        narrow = tuple(size if keep else 1 for size, keep in zip(shape, kept, strict=True))
        choice = draw(st.integers(0, 3))
        parts.append((shape, shape, narrow, narrow[draw(st.integers(0, len(shape) - 1)) :])[choice])
    output_shape = np.broadcast_shapes(*parts)
    a = quantized(draw, parts[0])
    b = quantized(draw, parts[1], like=a if kind in ("MAXIMUM", "MINIMUM") else None)
    if kind in ("MAXIMUM", "MINIMUM"):
        return build(kind, [a, b], [quantized(draw, output_shape, like=a)])
    if draw(st.booleans()):
        b.data = values(draw, b.shape)
    scale_a, scale_b = float(a.scale), float(b.scale)  # type: ignore[arg-type]
    natural = {"MUL": 64 * scale_a * scale_b, "SQUARED_DIFFERENCE": 128 * max(scale_a, scale_b) ** 2}
    output = rescaled(draw, output_shape, natural.get(kind, max(scale_a, scale_b)))
    if kind == "SQUARED_DIFFERENCE":
        return build(kind, [a, b], [output])
    return build(kind, [a, b], [output], fusedActivationFunction=draw(activations))


@st.composite
def copying(draw: Draw) -> bytes:
    kind = draw(
        st.sampled_from(
            (
                "CONCATENATION",
                "SPLIT",
                "SPLIT_V",
                "PACK",
                "UNPACK",
                "SLICE",
                "STRIDED_SLICE",
                "TRANSPOSE",
                "PAD",
                "PADV2",
            )
        )
    )
    shape = draw(shapes())
    axis = draw(st.integers(0, len(shape) - 1))
    x = quantized(draw, shape)
    signed = axis - len(shape) * draw(st.integers(0, 1))

    def with_size(size: int) -> Spec:
        return quantized(draw, (*shape[:axis], size, *shape[axis + 1 :]), like=x)

    if kind in ("CONCATENATION", "SPLIT", "SPLIT_V"):
        sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
        if kind == "SPLIT":
            sizes = [sizes[0]] * len(sizes)
        parts, whole = [with_size(size) for size in sizes], with_size(sum(sizes))
        if kind == "CONCATENATION":
            return build(kind, parts, [whole], axis=signed)
        if kind == "SPLIT":
            return build(kind, [constant(signed), whole], parts, numSplits=len(parts))
        return build(kind, [whole, constant(sizes), constant(signed)], parts, numSplits=len(parts))
    if kind in ("PACK", "UNPACK"):
        count = draw(st.integers(1, 4))
        place = draw(st.integers(0, len(shape)))
        whole = quantized(draw, (*shape[:place], count, *shape[place:]), like=x)
        parts = [quantized(draw, shape, like=x) for _ in range(count)]
        if kind == "PACK":
            return build(kind, parts, [whole], axis=place, valuesCount=count)
        return build(kind, [whole], parts, axis=place, num=count)
    if kind == "TRANSPOSE":
        order = draw(st.permutations(range(len(shape))))
        output = quantized(draw, [shape[i] for i in order], like=x)
        return build(kind, [x, constant(order)], [output])
    if kind in ("PAD", "PADV2"):
        pads = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=len(shape), max_size=len(shape)))
        output = quantized(draw, [size + sum(pad) for size, pad in zip(shape, pads, strict=True)], like=x)
        if kind == "PAD":
            return build(kind, [x, constant(pads)], [output])
        fill = Spec((1,), scale=x.scale, zero_point=x.zero_point, data=values(draw, (1,)))
        return build(kind, [x, constant(pads), fill], [output])
    if kind == "SLICE":
        starts = [draw(st.integers(0, size - 1)) for size in shape]
        taken = [draw(st.integers(1, size - start)) for size, start in zip(shape, starts, strict=True)]
        return build(kind, [x, constant(starts), constant(taken)], [quantized(draw, taken, like=x)])
    return _strided_slice(draw, x)


def _strided_slice(draw: Draw, x: Spec) -> bytes:
    begins, ends, steps, sizes = [], [], [], []
    masks = {"beginMask": 0, "endMask": 0, "shrinkAxisMask": 0}
    for axis, size in enumerate(x.shape):
        step = draw(st.sampled_from((1, 1, 2, 3, -1, -2)))
        begin, end = draw(st.integers(-size, size - 1)), draw(st.integers(-size - 1, size + 1))
        for name in ("beginMask", "endMask"):
            masks[name] |= draw(st.booleans()) << axis
        if draw(st.integers(0, 4)) == 0:
            masks["shrinkAxisMask"] |= 1 << axis
            masks["beginMask"] &= ~(1 << axis)
            begins, ends, steps = [*begins, begin], [*ends, begin + 1], [*steps, 1]
            continue
        first = None if masks["beginMask"] >> axis & 1 else begin
        last = None if masks["endMask"] >> axis & 1 else end
        count = len(range(size)[first:last:step])
        if count == 0:  # take the axis whole
            masks["beginMask"] |= 1 << axis
            masks["endMask"] |= 1 << axis
            count = len(range(size)[::step])
        begins, ends, steps, sizes = [*begins, begin], [*ends, end], [*steps, step], [*sizes, count]
    inputs = [x, constant(begins), constant(ends), constant(steps)]
    return build("STRIDED_SLICE", inputs, [quantized(draw, sizes, like=x)], **masks)


@st.composite
def lookup(draw: Draw) -> bytes:
    """All 256 bytes come in. TFLite-Micro refuses to run RSQRT below the zero point: so that is -128."""
    kind = draw(
        st.sampled_from(("LOGISTIC", "TANH", "HARD_SWISH", "RELU", "RELU6", "LEAKY_RELU", "ABS", "RSQRT", "QUANTIZE"))
    )
    x = quantized(draw, (256,))
    scale = float(x.scale)  # type: ignore[arg-type]
    fixed = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}
    if kind in fixed:
        return build(kind, [x], [Spec((256,), scale=fixed[kind][0], zero_point=fixed[kind][1])])
    if kind == "RELU6":
        return build(kind, [x], [quantized(draw, (256,), like=x)])
    if kind == "RSQRT":
        x.zero_point = -128
        return build(kind, [x], [rescaled(draw, (256,), 1 / (100 * np.sqrt(scale)))])
    output = rescaled(draw, (256,), scale)
    if kind == "LEAKY_RELU":
        return build(kind, [x], [output], alpha=draw(scales) * draw(st.sampled_from((1, 4, -1))))
    return build(kind, [x], [output])


@st.composite
def pooling(draw: Draw) -> bytes:
    kind = draw(st.sampled_from(("AVERAGE_POOL_2D", "MAX_POOL_2D")))
    batch, height, width, channels = draw(st.integers(1, 2)), *(draw(st.integers(1, 9)) for _ in range(3))
    same = draw(st.booleans())
    filters = [draw(st.integers(1, size if not same else 5)) for size in (height, width)]
    strides = [draw(st.integers(1, 3)) for _ in range(2)]
    outs = [
        -(-size // step) if same else (size - window) // step + 1
        for size, window, step in zip((height, width), filters, strides, strict=True)
    ]
    x = quantized(draw, (batch, height, width, channels))
    return build(
        kind, [x], [quantized(draw, (batch, *outs, channels), like=x)], padding=0 if same else 1,
        filterHeight=filters[0], filterWidth=filters[1], strideH=strides[0], strideW=strides[1],
        fusedActivationFunction=draw(activations),
    )  # fmt: skip


@st.composite
def reducing(draw: Draw) -> bytes:
    kind = draw(st.sampled_from(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")))
    shape = draw(shapes(largest=9))
    axes = draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, max_size=len(shape), unique=True))
    keep = draw(st.booleans())
    kept = [1 if i in axes else size for i, size in enumerate(shape) if keep or i not in axes]
    x = quantized(draw, shape)
    count = int(np.prod([shape[i] for i in axes]))
    natural = float(x.scale) * (count if kind == "SUM" else 1)  # type: ignore[arg-type]
    same = kind in ("REDUCE_MAX", "REDUCE_MIN")
    output = quantized(draw, kept, like=x) if same else rescaled(draw, kept, natural)
    signed = [axis - len(shape) * draw(st.integers(0, 1)) for axis in axes]
    return build(kind, [x, constant(signed)], [output], keepDims=keep)


@st.composite
def softmax(draw: Draw) -> bytes:
    shape = (*draw(shapes(0, 2, 4)), draw(st.integers(1, 40)))
    x = quantized(draw, shape)
    output = Spec(shape, scale=1 / 256, zero_point=-128)
    return build("SOFTMAX", [x], [output], beta=draw(st.sampled_from((1.0, 1.0, 0.25, 2.0))))


@st.composite
def matrix_product(draw: Draw) -> bytes:
    batch = draw(shapes(0, 2, 3))
    rows, depth, columns = (draw(st.integers(1, 8)) for _ in range(3))
    if draw(st.integers(0, 3)) == 0:  # weights that are computed
        a, b = quantized(draw, (*batch, rows, depth)), quantized(draw, (columns, depth))
        natural = float(a.scale) * float(b.scale) * 32 * depth  # type: ignore[arg-type]
        output = rescaled(draw, (*batch, rows, columns), natural)
        options = {"fusedActivationFunction": draw(activations), "keepNumDims": True}
        return build("FULLY_CONNECTED", [a, b, None], [output], **options)
    narrow = draw(st.integers(0, 2))
    batches = [tuple(1 for _ in batch) if narrow == i else batch for i in (1, 2)]
    adjoint = {"adjX": draw(st.booleans()), "adjY": draw(st.booleans())}
    a = quantized(draw, (*batches[0], *((depth, rows) if adjoint["adjX"] else (rows, depth))))
    b = quantized(draw, (*batches[1], *((columns, depth) if adjoint["adjY"] else (depth, columns))))
    natural = float(a.scale) * float(b.scale) * 32 * depth  # type: ignore[arg-type]
    return build("BATCH_MATMUL", [a, b], [rescaled(draw, (*batch, rows, columns), natural)], **adjoint)


@st.composite
def gathering(draw: Draw) -> bytes:
    kind = draw(st.sampled_from(("GATHER", "EMBEDDING_LOOKUP", "RESIZE_NEAREST_NEIGHBOR")))
    if kind == "RESIZE_NEAREST_NEIGHBOR":
        batch, height, width, channels = (draw(st.integers(1, 5)) for _ in range(4))
        size = [draw(st.integers(1, 11)) for _ in range(2)]
        x = quantized(draw, (batch, height, width, channels))
        options = {"alignCorners": draw(st.booleans()), "halfPixelCenters": draw(st.booleans())}
        return build(kind, [x, constant(size)], [quantized(draw, (batch, *size, channels), like=x)], **options)
    table = quantized(draw, draw(shapes(2, 3)))
    table.data = values(draw, table.shape)
    count = draw(st.integers(1, 6))
    axis = draw(st.integers(0, len(table.shape) - 1)) if kind == "GATHER" else 0
    ids = Spec((count,), "int32")
    # the name says how many rows there are: see `small_indices`
    ids.name = f"below {table.shape[axis]}"
    output = quantized(draw, (*table.shape[:axis], count, *table.shape[axis + 1 :]), like=table)
    if kind == "GATHER":
        return build(kind, [table, ids], [output], axis=axis)
    return build(kind, [ids, table], [output])


@st.composite
def widths(draw: Draw) -> bytes:
    """QUANTIZE between integers of different width. In TFLite int16 is symmetric."""
    source, target = draw(
        st.sampled_from(
            (
                ("int8", "int16"),
                ("int8", "int32"),
                ("int16", "int8"),
                ("int16", "int16"),
                ("int16", "int32"),
                ("int32", "int8"),
                ("int32", "int16"),
            )
        )
    )
    shape = draw(shapes())
    ranges = {"int8": 1.0, "int16": 1 / 256, "int32": 1 / 128}
    x = Spec(shape, source, draw(scales) * ranges[source], draw(zero_points) if source == "int8" else 0)
    scale = 2.0 ** draw(st.floats(-2, 2)) * float(x.scale) * ranges[target] / ranges[source]  # type: ignore[arg-type]
    y = Spec(shape, target, float(np.float32(scale)), draw(zero_points) if target == "int8" else 0)
    return build("QUANTIZE", [x], [y])


@st.composite
def reshaping(draw: Draw) -> bytes:
    kind = draw(st.sampled_from(("RESHAPE", "SQUEEZE", "EXPAND_DIMS")))
    shape = draw(shapes())
    x = quantized(draw, shape)
    if kind == "RESHAPE":
        flat = (int(np.prod(shape)),)
        return build(kind, [x, constant(flat)], [quantized(draw, flat, like=x)], newShape=list(flat))
    axis = draw(st.integers(0, len(shape)))
    wide = (*shape[:axis], 1, *shape[axis:])
    if kind == "SQUEEZE":
        return build(kind, [quantized(draw, wide, like=x)], [x], squeezeDims=[axis])
    return build(kind, [x, constant([axis])], [quantized(draw, wide, like=x)])


@st.composite
def network(draw: Draw) -> bytes:
    """Up to 14 operators on images (1, height, width, channels): each reads what any earlier one gave, or the inputs,
    so that lifetimes cross, outputs may lie over inputs, and views are read late."""
    shape = (1, draw(st.integers(2, 6)), draw(st.integers(2, 6)), draw(st.integers(1, 6)))
    tensors = [quantized(draw, shape) for _ in range(draw(st.integers(1, 2)))]
    nodes: list[Node] = []
    for _ in range(draw(st.integers(2, 14))):
        node = _step(draw, tensors)
        nodes.append(node)
        tensors.extend(node.outputs)
    read = {id(spec) for node in nodes for spec in node.inputs}
    outputs = [spec for node in nodes for spec in node.outputs if id(spec) not in read]
    others = [spec for spec in tensors if id(spec) in read]
    if draw(st.booleans()) and others:
        outputs.append(draw(st.sampled_from(others)))
    return build_graph(nodes, outputs)


def _step(draw: Draw, tensors: Sequence[Spec]) -> Node:
    x = draw(st.sampled_from(tensors))
    partners = [spec for spec in tensors if spec.shape == x.shape]
    batch, height, width, channels = x.shape
    kind = draw(
        st.sampled_from(
            (
                "ADD", "ADD", "SUB", "MUL", "CONCATENATION", "RELU", "TANH", "LOGISTIC", "LEAKY_RELU", "RESHAPE",
                "TRANSPOSE", "PAD", "MAX_POOL_2D", "SPLIT", "QUANTIZE", "CONV_2D", "CONV_2D", "DEPTHWISE_CONV_2D",
            )
        )
    )  # fmt: skip
    scale = float(x.scale)  # type: ignore[arg-type]
    if kind in ("ADD", "SUB", "MUL"):
        other = draw(st.sampled_from(partners))
        natural = max(scale, float(other.scale)) * (64 * min(scale, float(other.scale)) if kind == "MUL" else 1)  # type: ignore[arg-type]
        return Node(
            kind, [x, other], [rescaled(draw, x.shape, natural)], {"fusedActivationFunction": draw(activations)}
        )
    if kind == "CONCATENATION":
        alike = [spec for spec in partners if (spec.scale, spec.zero_point) == (x.scale, x.zero_point)]
        parts = [x, *draw(st.lists(st.sampled_from(alike), min_size=1, max_size=2))]
        wide = quantized(draw, (batch, height, width, channels * len(parts)), like=x)
        return Node(kind, parts, [wide], {"axis": 3})
    if kind in ("RELU", "LEAKY_RELU", "QUANTIZE"):
        same = kind == "QUANTIZE" and draw(st.booleans())
        output = quantized(draw, x.shape, like=x) if same else rescaled(draw, x.shape, scale)
        return Node(kind, [x], [output], {"alpha": 0.125} if kind == "LEAKY_RELU" else {})
    if kind in ("TANH", "LOGISTIC"):
        fixed = (1 / 128, 0) if kind == "TANH" else (1 / 256, -128)
        return Node(kind, [x], [Spec(x.shape, scale=fixed[0], zero_point=fixed[1])], {})
    if kind == "RESHAPE":
        output = quantized(draw, (batch, width, height, channels), like=x)
        return Node(kind, [x, constant(output.shape)], [output], {"newShape": list(output.shape)})
    if kind == "TRANSPOSE":
        order = (0, *draw(st.permutations((1, 2, 3))))
        return Node(kind, [x, constant(order)], [quantized(draw, [x.shape[i] for i in order], like=x)], {})
    if kind == "PAD":
        output = quantized(draw, (batch, height + 1, width + 2, channels), like=x)
        return Node(kind, [x, constant([[0, 0], [0, 1], [1, 1], [0, 0]])], [output], {})
    if kind == "MAX_POOL_2D":
        output = quantized(draw, (batch, -(-height // 2), -(-width // 2), channels), like=x)
        options = {"filterHeight": 2, "filterWidth": 2, "strideH": 2, "strideW": 2, "padding": 0}
        return Node(kind, [x], [output], options)
    if kind == "SPLIT":
        halves = [quantized(draw, (batch, height, width, 1), like=x) for _ in range(channels)]
        return Node(kind, [constant(3), x], halves, {"numSplits": channels})
    return _convolution(draw, kind, x)


def _convolution(draw: Draw, kind: str, x: Spec) -> Node:
    """3x3 with equal padding; weights and bias are random, per channel."""
    inner = x.shape[3]
    outer = inner if kind == "DEPTHWISE_CONV_2D" else draw(st.integers(1, 8))
    shape, axis = ((1, 3, 3, outer), 3) if kind == "DEPTHWISE_CONV_2D" else ((outer, 3, 3, inner), 0)
    scale = float(x.scale)  # type: ignore[arg-type]
    weight_scales = [float(np.float32(draw(scales))) for _ in range(outer)]
    weights = np.clip(values(draw, shape), -127, 127)
    w = Spec(shape, scale=weight_scales, zero_point=[0] * outer, axis=axis, data=weights)
    product = [float(np.float32(scale) * np.float32(value)) for value in weight_scales]
    bias = Spec((outer,), "int32", product, [0] * outer, data=values(draw, (outer,), "int16"))
    depth = 9 * (1 if kind == "DEPTHWISE_CONV_2D" else inner)
    output = rescaled(draw, (*x.shape[:3], outer), 64 * max(product) * depth**0.5)
    options = {"strideW": 1, "strideH": 1, "padding": 0, "dilationWFactor": 1, "dilationHFactor": 1}
    if kind == "DEPTHWISE_CONV_2D":
        options["depthMultiplier"] = 1
    return Node(kind, [x, w, bias], [output], {**options, "fusedActivationFunction": draw(activations)})
