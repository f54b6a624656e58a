"""Encoders: MACs by hand, normalisation, shapes, and the pretrained weights' names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from compressor.models.encoder import build_encoder, freeze_first_stages, unit
from compressor.models.tiny_sketch import TinySketch
from compressor.models.weights import efficientnet_lite0_state, load_weights
from profiles.errors import RequestError
from profiles.flops import count_module


def test_tiny_sketch_costs_what_its_drawing_says() -> None:
    """Width 1, 32 px: stem 16 channels at 16 x 16, then 32 there, 2 x 64 at 8 x 8 and 3 x 128 at 4 x 4."""
    stem = 16 * 16 * 9 * 16
    block_16 = 256 * (9 * 16 + 16 * 32)
    blocks_8 = 64 * (9 * 32 + 32 * 64) + 64 * (9 * 64 + 64 * 64)
    blocks_4 = 16 * (9 * 64 + 64 * 128) + 2 * 16 * (9 * 128 + 128 * 128)
    head = 128 * 256
    costs = count_module(build_encoder("tiny-sketch", 256, in_channels=1), torch.zeros(1, 1, 32, 32))
    assert costs.macs == pytest.approx(stem + block_16 + blocks_8 + blocks_4 + head, rel=0.03)  # + adds and the mean
    blocks_2 = 4 * (9 * 128 + 128 * 256) + 4 * (9 * 256 + 256 * 256)
    deeper = count_module(build_encoder("tiny-sketch-16", 256, in_channels=1), torch.zeros(1, 1, 32, 32))
    more = blocks_2 + 128 * 256  # and a wider head
    assert deeper.macs - costs.macs == pytest.approx(more, rel=0.03)


def test_width_multiplies_channels_in_multiples_of_eight() -> None:
    channels = {layer.out_channels for layer in TinySketch(1, 1.3).modules() if isinstance(layer, torch.nn.Conv2d)}
    assert all(count % 8 == 0 for count in channels) and TinySketch(1, 1.3).num_features == 168


def test_one_network_takes_every_canvas_of_whole_strides() -> None:
    encoder = build_encoder("tiny-sketch", 24, in_channels=1).eval()
    for px in (24, 32, 48):
        assert encoder(torch.zeros(2, 1, px, px)).shape == (2, 24)


def test_a_drawing_is_black_on_white_paper_for_a_network_of_photos() -> None:
    encoder = build_encoder("timm:test_efficientnet", 8).eval()
    ink = torch.rand(2, 1, 64, 64)
    photo = (1 - ink).expand(-1, 3, -1, -1)
    assert torch.equal(encoder(ink), encoder(photo))


def test_white_paper_is_zero_for_tiny_sketch_with_one_or_three_channels() -> None:
    encoder = build_encoder("tiny-sketch", 8, in_channels=3).eval()
    seen = []
    encoder.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    encoder(torch.zeros(1, 1, 32, 32))
    encoder(torch.ones(1, 3, 32, 32))
    assert all(torch.equal(picture, torch.zeros(1, 3, 32, 32)) for picture in seen)


def test_a_one_channel_encoder_refuses_photos() -> None:
    with pytest.raises(ValueError, match="takes drawings"):
        build_encoder("tiny-sketch", 8, in_channels=1)(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("name", "message"),
    [("timm:resnet19", "did you mean timm:resnet18"), ("tinny", "use tiny-sketch, tiny-sketch-16 or timm:NAME")],
)
def test_an_unknown_network_is_a_request_error_of_one_line(name: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        build_encoder(name, 8)
    assert "\n" not in str(caught.value)


def test_unit_is_normalize_and_finite_at_zero() -> None:
    rows = torch.randn(5, 7)
    assert torch.allclose(unit(rows), normalize(rows, dim=1), atol=1e-6)
    assert torch.equal(unit(torch.zeros(1, 7)), torch.zeros(1, 7))


def test_frozen_stages_take_no_gradient() -> None:
    encoder = build_encoder("timm:test_efficientnet", 8)
    fixed = freeze_first_stages(encoder, 2)
    encoder(torch.rand(2, 3, 64, 64)).sum().backward()
    assert all(parameter.grad is None for part in fixed for parameter in part.parameters())
    assert all(parameter.grad is not None for parameter in encoder.network.blocks[2:].parameters())
    with pytest.raises(RequestError, match="no such stages"):
        freeze_first_stages(encoder, 99)


def lukemelas_names() -> list[str]:
    """Names of lukemelas' EfficientNet-Lite0, written down from its architecture: 16 blocks, the first unexpanded."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["_conv_stem.weight", *(f"_bn0.{part}" for part in norm)]
    for block in range(16):
        layers = [("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
        for conv, bn in layers if block == 0 else [("_expand_conv", "_bn0"), *layers]:
            names += [f"_blocks.{block}.{conv}.weight", *(f"_blocks.{block}.{bn}.{part}" for part in norm)]
    return [*names, "_conv_head.weight", *(f"_bn1.{part}" for part in norm), "_fc.weight", "_fc.bias"]


def test_the_weights_package_s_names_map_one_to_one_onto_timm_s_network() -> None:
    mapped = efficientnet_lite0_state({name: torch.zeros(1) for name in lukemelas_names()})
    network = build_encoder("timm:tf_efficientnet_lite0", 8).network
    assert list(mapped) == list(network.state_dict())
    assert len(lukemelas_names()) == 296


def test_a_foreign_weight_name_is_refused() -> None:
    with pytest.raises(RequestError, match="not a tensor of EfficientNet-Lite0"):
        efficientnet_lite0_state({"_blocks.0._se_reduce.weight": torch.zeros(1)})


def test_a_trained_teacher_is_read_back_from_its_file_and_another_network_s_is_refused(tmp_path: Path) -> None:
    first, second = (build_encoder("tiny-sketch", 8, in_channels=1) for _ in range(2))
    save_file(first.state_dict(), tmp_path / "teacher.safetensors")
    load_weights(second, "tiny-sketch", str(tmp_path / "teacher.safetensors"))
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in second.state_dict().items())
    with pytest.raises(RequestError, match="belong to another network"):
        load_weights(build_encoder("tiny-sketch", 9), "tiny-sketch", str(tmp_path / "teacher.safetensors"))
    with pytest.raises(RequestError, match="not readable"):
        load_weights(second, "tiny-sketch", str(tmp_path / "none.safetensors"))
