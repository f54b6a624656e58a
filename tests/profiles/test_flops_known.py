"""MACs and parameters of networks whose counts are known by hand, for the module and for its ONNX file."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiles.flops import Costs, count_module, count_onnx, count_program

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
from torch import nn  # noqa: E402


def _randomize(module: nn.Module) -> nn.Module:
    """Trained-looking values: the exporter drops biases that are zero and scales that are one."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.1 + 0.5)
    return module.eval()


def _export(module: nn.Module, args: tuple, path: Path, **options) -> Path:
    torch.onnx.export(module, args, path, dynamo=True, verbose=False, **options)
    return path


def _both(module: nn.Module, args: tuple, tmp_path: Path, **options) -> tuple[Costs, Costs]:
    module = _randomize(module)
    return count_module(module, args, batch_axis=None), count_onnx(
        _export(module, args, tmp_path / "model.onnx", **options)
    )


def _assert_macs(costs: tuple[Costs, ...], macs: int) -> None:
    for counted in costs:
        assert counted.macs == macs
        assert counted.flops == 2 * macs
        assert counted.uncounted == {}
        assert sum(layer.macs for layer in counted.layers) == macs


def _vgg16_convolutions() -> tuple[nn.Module, int]:
    """Configuration D of Simonyan and Zisserman 2015, table 1, and its MACs at 256 x 256 by hand."""
    layers: list[nn.Module] = []
    channels, side, macs = 3, 256, 0
    for entry in [64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0]:
        if entry == 0:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        else:
            layers += [nn.Conv2d(channels, entry, 3, padding=1), nn.ReLU()]
            macs += side * side * channels * entry * 9
            channels = entry
    return nn.Sequential(*layers), macs


def test_vgg16_convolutions_at_256_px_are_the_published_20_05_gmac(tmp_path):
    module, by_hand = _vgg16_convolutions()
    assert by_hand == pytest.approx(20.05e9, rel=1e-3)
    costs = _both(module, (torch.zeros(1, 3, 256, 256),), tmp_path, optimize=False)  # folding 59 MB takes its time
    _assert_macs(costs, by_hand)
    for counted in costs:
        assert counted.parameters == 14_714_688  # 14.71 M


def _mobilenet_v2_macs_and_parameters() -> tuple[int, int]:
    """Sandler et al. 2018, table 2, width 1.0 at 224 x 224: convolutions, classifier; 2 C parameters per batch norm."""
    macs = 112 * 112 * 3 * 32 * 9
    parameters = 3 * 32 * 9 + 2 * 32
    channels, side = 32, 112
    for t, c, n, s in [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]:
        for index in range(n):
            stride = s if index == 0 else 1
            wide, out_side = t * channels, side // stride
            if t > 1:
                macs += side * side * channels * wide
                parameters += channels * wide + 2 * wide
            macs += out_side * out_side * wide * 9 + out_side * out_side * wide * c
            parameters += wide * 9 + 2 * wide + wide * c + 2 * c
            channels, side = c, out_side
    macs += side * side * 320 * 1280 + 1280 * 1000
    parameters += 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    return macs, parameters


def test_mobilenet_v2_is_the_published_300_million_macs_and_3_5_million_parameters(tmp_path):
    timm = pytest.importorskip("timm")
    macs, parameters = _mobilenet_v2_macs_and_parameters()
    assert macs == pytest.approx(300.8e6, rel=1e-3)
    module, file = _both(timm.create_model("mobilenetv2_100"), (torch.zeros(1, 3, 224, 224),), tmp_path)
    _assert_macs((module, file), macs)
    assert module.parameters == parameters == 3_504_872
    # Folded into its convolution, a batch norm leaves one bias per channel of the two that it had.
    normalised = sum(
        layer.num_features
        for layer in timm.create_model("mobilenetv2_100").modules()
        if hasattr(layer, "num_features") and hasattr(layer, "running_mean")
    )
    assert file.parameters == parameters - normalised


def test_bidirectional_two_layer_gru_by_hand(tmp_path):
    # Per step and direction 3 H (I + H); the second layer reads both directions.
    steps, i, h = 7, 5, 8
    by_hand = steps * 2 * (3 * h * (i + h) + 3 * h * (2 * h + h))
    costs = _both(nn.GRU(i, h, 2, bidirectional=True, batch_first=True), (torch.zeros(1, steps, i),), tmp_path)
    _assert_macs(costs, by_hand)
    weights = 2 * (3 * h * (i + h) + 3 * h * 3 * h)
    for counted in costs:
        assert counted.parameters == weights + 2 * 2 * (2 * 3 * h)


def test_lstm_with_two_layers_by_hand(tmp_path):
    steps, i, h = 6, 4, 5
    by_hand = steps * (4 * h * (i + h) + 4 * h * (h + h))
    _assert_macs(_both(nn.LSTM(i, h, 2), (torch.zeros(steps, 1, i),), tmp_path), by_hand)


def test_lstm_with_projection_by_hand():
    steps, i, h, p = 6, 4, 8, 3
    counted = count_module(nn.LSTM(i, h, proj_size=p, batch_first=True), torch.zeros(1, steps, i))
    _assert_macs((counted,), steps * (4 * h * (i + p) + p * h))


def test_plain_rnn_by_hand():
    _assert_macs((count_module(nn.RNN(3, 4), torch.zeros(5, 1, 3), batch_axis=1),), 5 * 4 * (3 + 4))


def test_gru_cell_by_hand():
    _assert_macs((count_module(nn.GRUCell(3, 4), (torch.zeros(1, 3), torch.zeros(1, 4))),), 3 * 4 * (3 + 4))


def test_conv3d_by_hand(tmp_path):
    # 16 frames of 20 x 24, kernel (3, 5, 5), stride (1, 2, 2), padding (1, 2, 2): 16 frames of 10 x 12.
    module = nn.Conv3d(2, 6, (3, 5, 5), stride=(1, 2, 2), padding=(1, 2, 2))
    costs = _both(module, (torch.zeros(1, 2, 16, 20, 24),), tmp_path)
    _assert_macs(costs, 16 * 10 * 12 * 6 * 2 * 75)
    for counted in costs:
        assert counted.parameters == 6 * 2 * 75 + 6


def test_grouped_and_dilated_convolution_by_hand(tmp_path):
    module = nn.Sequential(nn.Conv2d(8, 12, 3, groups=4, dilation=2), nn.Conv2d(12, 3, 1))
    # 11 x 11 with kernel 3 dilated by 2 (it spans 5) leaves 7 x 7.
    _assert_macs(_both(module, (torch.zeros(1, 8, 11, 11),), tmp_path), 49 * 12 * 2 * 9 + 49 * 3 * 12)


def test_conv1d_by_hand(tmp_path):
    _assert_macs(_both(nn.Conv1d(6, 10, 5, stride=2), (torch.zeros(1, 6, 33),), tmp_path), 15 * 10 * 6 * 5)


def test_transposed_convolution_uses_every_weight_once_per_input_position(tmp_path):
    module = nn.ConvTranspose2d(4, 6, 3, stride=2)
    _assert_macs(_both(module, (torch.zeros(1, 4, 5, 7),), tmp_path), 5 * 7 * 4 * 6 * 9)


class _Attention(nn.Module):
    def forward(self, query, key, value):
        return nn.functional.scaled_dot_product_attention(query, key, value)


def test_scaled_dot_product_attention_by_hand(tmp_path):
    # 3 heads, 10 queries, 14 keys, size 8: 3 (10 x 14 x 8 for the scores, as much for the mixture).
    q, k, v = torch.zeros(1, 3, 10, 8), torch.zeros(1, 3, 14, 8), torch.zeros(1, 3, 14, 8)
    _assert_macs(_both(_Attention(), (q, k, v), tmp_path), 2 * 3 * 10 * 14 * 8)


def test_attention_of_opset_23_as_one_operator_by_hand(tmp_path):
    q, k, v = torch.zeros(1, 3, 10, 8), torch.zeros(1, 3, 14, 8), torch.zeros(1, 3, 14, 8)
    counted = count_onnx(_export(_Attention(), (q, k, v), tmp_path / "attention.onnx", opset_version=23))
    assert "Attention" in {layer.op for layer in counted.layers}
    _assert_macs((counted,), 2 * 3 * 10 * 14 * 8)


def test_transformer_encoder_layer_by_hand(tmp_path):
    # Width d, f in the middle, n tokens: 4 projections n d d, attention 2 n n d, feed-forward 2 n d f.
    d, f, n = 8, 20, 6
    module = nn.TransformerEncoderLayer(d, 2, f, batch_first=True)
    costs = _both(module, (torch.zeros(1, n, d),), tmp_path)
    _assert_macs(costs, 4 * n * d * d + 2 * n * n * d + 2 * n * d * f)
    for counted in costs:
        assert counted.parameters == 4 * (d * d + d) + 2 * d * f + f + d + 4 * d


class _Products(nn.Module):
    def forward(self, a, b):
        return torch.einsum("bij,bkj->bik", a, b), a @ b.transpose(1, 2), torch.cdist(a, b)


def test_einsum_matmul_and_cdist_by_hand():
    counted = count_module(_Products(), (torch.zeros(1, 5, 4), torch.zeros(1, 6, 4)))
    _assert_macs((counted,), 3 * 5 * 6 * 4)


def test_activations_normalisation_and_pooling_are_free_and_not_uncounted(tmp_path):
    module = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Hardswish(), nn.Hardsigmoid(), nn.SiLU(), nn.GELU(), nn.Mish(),
        nn.AvgPool2d(2), nn.GroupNorm(2, 4), nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.LayerNorm(4), nn.Softmax(1),
    )  # fmt: skip
    _assert_macs(_both(module, (torch.zeros(1, 3, 8, 8),), tmp_path), 64 * 3 * 4)


def test_module_count_agrees_with_fvcore_and_with_torchs_flop_counter():
    """On networks where they are right. (On a CPU, torch counts attention and LSTMs as 0.)"""
    timm = pytest.importorskip("timm")
    fvcore = pytest.importorskip("fvcore.nn")
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.zeros(1, 3, 64, 64)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        nn.GRU(4, 5)(torch.zeros(6, 1, 4))
    assert flops.get_total_flops() == 2 * count_module(nn.GRU(4, 5), torch.zeros(6, 1, 4), batch_axis=1).macs
    for name in ("mobilenetv3_small_050", "resnet18"):
        module = timm.create_model(name).eval()
        ours = count_module(module, x).macs
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            module(x)
        assert flops.get_total_flops() == 2 * ours
        theirs = fvcore.FlopCountAnalysis(module, x).unsupported_ops_warnings(False)
        by_operator = theirs.by_operator()
        assert by_operator["conv"] + by_operator["linear"] == ours


def test_exported_program_counts_the_same_as_its_module_and_a_dynamic_batch_counts_as_one(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    program = torch.export.export(module, (torch.zeros(3, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, tmp_path / "model.pt2")
    counted = count_program(tmp_path / "model.pt2")
    assert counted.macs == count_module(module, torch.zeros(1, 3, 8, 8)).macs == 36 * 4 * 27 + 144 * 5
    assert list(counted.input_shapes.values()) == [(1, 3, 8, 8)]


def test_a_batch_of_examples_is_counted_as_one_item():
    module = nn.Linear(4, 5)
    assert count_module(module, torch.zeros(32, 4)).macs == 20
    assert count_module(module, {"input": torch.zeros(32, 4)}).macs == 20
    assert count_module(nn.GRU(3, 4), torch.zeros(6, 8, 3), batch_axis=1).macs == 6 * 3 * 4 * 7
    assert count_module(module, torch.zeros(32, 4), batch_axis=None).macs == 32 * 20
