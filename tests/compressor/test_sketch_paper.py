"""The paper's recipe: what its networks cost, and a run on its data's layout to a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from compressor.models.encoder import build_encoder
from compressor.recipe import load_recipe
from compressor.train import distill
from profiles.flops import count_module
from tests.compressor.qmul_copy import draw_copy

SMALL = [
    "teacher.network=timm:test_efficientnet",
    "teacher.weights=null",
    "teacher.canvas_px=64",
    "stages.teacher.steps=1",
    "stages.teacher.batch=4",
    "stages.targets.views=1",
    "stages.distill.steps=2",
    "stages.distill.batch=4",
    "stages.distill.canvases=[32,64]",
    "deploy.canvases=[32]",
    "deploy.canvas_px=32",
    "deploy.golden=3",
    "deploy.calibration=3",
    "data.validation_share=0.25",
    "train.accelerator=cpu",
    "train.threads=1",
]


def test_the_networks_cost_what_hand_counts_say() -> None:
    """VGG-16's convolutions: 15.346630656 GMAC at 224 px, (256/224)^2 of that at 256 px. MobileNetV2: 300.774272 MMAC
    at 224 px with ImageNet's classifier of 1280 x 1000. The paper's 14.71 M and 2.22 M parameters."""
    config = load_recipe("sketch-paper")
    dim = config.teacher.embedding_dim
    with torch.device("meta"):
        teacher = build_encoder(config.teacher.network, dim).network.get_submodule("features")
        student = build_encoder(config.student.network, dim, in_channels=config.student.in_channels)
        assert config.teacher.canvas_px == 256
        assert count_module(teacher, torch.zeros(1, 3, 256, 256)).macs == 15_346_630_656 * 64 // 49 == 20_044_578_816
        at_224 = count_module(student, torch.zeros(1, 3, 224, 224)).macs - 1280 * dim
        at_128 = count_module(student, torch.zeros(1, 3, 128, 128)).macs - 1280 * dim
    assert sum(parameter.numel() for parameter in teacher.parameters()) == 14_714_688
    assert sum(parameter.numel() for parameter in student.network.parameters()) == 2_223_872
    assert at_224 == 300_774_272 - 1280 * 1000 and at_128 == at_224 * 16 // 49


def test_the_student_and_the_loss_are_the_paper_s() -> None:
    config = load_recipe("sketch-paper")
    loss = config.stages.distill.loss
    assert config.gallery == "student" and config.stages.distill.canvases == (32, 64, 96, 128, 192, 256)
    assert loss.relational and 0 < loss.lambda_ < 1
    assert not (loss.info_nce or loss.cosine or loss.prototype_ce or loss.prototype_kl)


@pytest.mark.slow
def test_a_short_run_on_the_published_layout_ends_in_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import targets

    monkeypatch.setenv("EDGE_COMPRESSOR_CACHE", str(tmp_path / "cache"))
    copy = draw_copy(tmp_path / "ShoeV2", train=12, test=5)
    bundle = distill(load_recipe("sketch-paper", [f"data.source={copy}", *SMALL]), tmp_path / "run")
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert set(manifest["graphs"]) == {"encoder_32", "photo_encoder"}
    split = manifest["lineage"]["split"]
    assert (split["train"], split["validation"], split["test"]) == (9, 3, 5)
    (claimed,) = (m for m in manifest["metrics"] if m["split"] == "test" and m["of"] == "student")
    assert targets.load(bundle).evaluate("test").value == pytest.approx(claimed["value"])
