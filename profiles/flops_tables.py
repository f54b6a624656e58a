"""Operators that are free by convention (profiles/flops.py), by name, and what the counters must know of inputs.

torch: names of ATen without namespace, overload and the underscore of in-place forms. Operators that torch itself tags
as pointwise, views and factories need not stand here.
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


TORCH_FREE = _names("""
    batch_norm _native_batch_norm_legit_no_training native_batch_norm cudnn_batch_norm layer_norm native_layer_norm
    group_norm native_group_norm instance_norm rms_norm _fused_rms_norm local_response_norm norm linalg_vector_norm
    linalg_norm frobenius_norm renorm cosine_similarity pairwise_distance normalize
    avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool1d lp_pool2d max_unpool2d fractional_max_pool2d
    softmax _softmax log_softmax _log_softmax softmin logsumexp logcumsumexp
    sum mean std var var_mean std_mean prod amax amin max min argmax argmin aminmax all any nansum count_nonzero median
    cumsum cumprod cummax cummin diff trapezoid mode nanmean
    relu relu6 hardswish hardsigmoid hardtanh silu mish gelu elu selu celu leaky_relu prelu rrelu glu logsigmoid
    softplus
    softsign softshrink hardshrink tanhshrink threshold log_sigmoid_forward
    rsub square float_power clamp clip floor_divide true_divide divide multiply subtract addcmul addcdiv lerp where
    logical_and logical_or logical_not logical_xor isclose isin outer ger kron cross
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_linear1d upsample_trilinear3d
    upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler grid_sampler_2d grid_sampler_3d
    affine_grid_generator
    embedding embedding_bag _embedding_bag one_hot gather scatter scatter_add index index_select index_put
    index_add index_copy
    masked_select take take_along_dim searchsorted bucketize nonzero unique _unique2 masked_scatter scatter_reduce
    index_fill
    masked_fill slice_scatter select_scatter diagonal_scatter
    cat concat concatenate stack hstack vstack dstack column_stack pad constant_pad_nd reflection_pad1d
    reflection_pad2d
    replication_pad1d replication_pad2d replication_pad3d reflection_pad3d _pad_circular _pad_enum
    repeat repeat_interleave tile roll flip fliplr flipud rot90 tril triu tril_indices triu_indices clone copy
    im2col col2im
    pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle block_diag cartesian_prod meshgrid
    combinations
    unfold_copy _to_copy lift_fresh_copy fill zero constant type_as embedding_renorm trace diag diag_embed view_copy
    topk sort argsort msort kthvalue
    zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty
    bernoulli rand_like randn_like randint_like multinomial normal uniform native_dropout
    item _local_scalar_dense is_nonzero size sym_size sym_numel sym_constrain_range sym_constrain_range_for_size numel
    _assert_async _assert_scalar _assert_tensor_metadata lift_fresh resolve_conj resolve_neg
    contiguous reshape flatten to unflatten type dropout dropout1d alpha_dropout feature_dropout feature_alpha_dropout
    broadcast_tensors atleast_1d atleast_2d atleast_3d chunk split tensor_split
    fake_quantize_per_tensor_affine fake_quantize_per_channel_affine quantize_per_tensor dequantize
    quantize_per_channel
""")

# Operators whose output is their input when a network is not trained: they take no memory.
TORCH_IDENTITY = _names("dropout dropout1d alpha_dropout feature_dropout feature_alpha_dropout lift_fresh")

ONNX_FREE = _names("""
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike
    Ceil Celu
    Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Hardmax Identity
    IsInf IsNaN
    LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink
    Sigmoid
    Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor
    BatchNormalization GroupNormalization InstanceNormalization LayerNormalization LpNormalization LRN
    MeanVarianceNormalization RMSNormalization SimplifiedLayerNormalization
    AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool MaxRoiPool MaxUnpool RoiAlign
    ArgMax ArgMin CumProd CumSum LogSoftmax ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Softmax
    AffineGrid GridSample Resize Upsample
    Bernoulli BlackmanWindow CenterCropPad Col2Im Compress Concat Constant ConstantOfShape DepthToSpace Dropout Expand
    EyeLike Flatten Gather GatherElements GatherND HammingWindow HannWindow ImageDecoder Multinomial
    NonMaxSuppression NonZero
    OneHot Optional OptionalGetElement OptionalHasElement Pad RandomNormal RandomNormalLike RandomUniform
    RandomUniformLike Range Reshape ReverseSequence RotaryEmbedding Scatter ScatterElements ScatterND SequenceAt
    SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SplitToSequence ConcatFromSequence
    Shape Size
    Slice SpaceToDepth Split Squeeze TensorScatter Tile TopK Transpose Trilu Unique Unsqueeze
    DequantizeLinear DynamicQuantizeLinear QuantizeLinear
    StringConcat StringNormalizer StringSplit RegexFullMatch TfIdfVectorizer LabelEncoder
""")

# ONNX operators whose output shares the memory of their first input.
ONNX_VIEWS = _names("Dropout Flatten Identity Reshape Squeeze Unsqueeze")

# Operators of com.microsoft that the shape inference of `onnx` does not know and whose output has the shape of their
# first input. All are elementwise or normalisation.
MICROSOFT_SAME_SHAPE = _names("""
    BiasGelu DequantizeLinear FastGelu Gelu QLinearLeakyRelu QLinearSigmoid QLinearSoftmax QuantizeLinear QuickGelu
    SkipLayerNormalization SkipSimplifiedLayerNormalization
""")

# Inputs, by position, that hold settings of an operator and no trained weights: scales, zero points, initial states.
ONNX_SETTINGS: dict[str, frozenset[int]] = {
    "QuantizeLinear": frozenset({1, 2}),
    "DequantizeLinear": frozenset({1, 2}),
    "QLinearConv": frozenset({1, 2, 4, 5, 6, 7}),
    "QLinearMatMul": frozenset({1, 2, 4, 5, 6, 7}),
    "ConvInteger": frozenset({2, 3}),
    "MatMulInteger": frozenset({2, 3}),
    "GRU": frozenset({5}),
    "LSTM": frozenset({5, 6}),
    "RNN": frozenset({5}),
    "Resize": frozenset({1, 2, 3}),
    "Upsample": frozenset({1}),
    "Clip": frozenset({1, 2}),
    "Pad": frozenset({1, 2, 3}),
    "OneHot": frozenset({1, 2}),
    "NonMaxSuppression": frozenset({2, 3, 4}),
}
