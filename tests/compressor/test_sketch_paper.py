"""The paper's recipe: what its networks cost, its data in the published layout, and a run to a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compressor.losses.contrastive import triplet, triplet_in_batch
from compressor.models.encoder import build_encoder
from compressor.models.weights import load_weights
from compressor.recipe import load_recipe
from compressor.tasks.sketch.task import Task
from compressor.train import distill
from profiles.errors import MissingError, RequestError
from profiles.flops import count_module
from tests.compressor.qmul_copy import draw_copy

SMALL = [
    "teacher.weights=null",
    "teacher.canvas_px=32",
    "student.weights=null",
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
LIGHT = ["teacher.network=timm:test_efficientnet", "student.network=timm:test_efficientnet"]
FAST = ["stages.targets.views=2", "stages.distill.canvases=[32]"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_COMPRESSOR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def light_task(tmp_path: Path) -> Task:
    """The recipe's task on drawn data, with networks that cost nothing."""
    copy = draw_copy(tmp_path / "ShoeV2", train=12, test=5)
    task = Task(load_recipe("sketch-paper", [f"data.source={copy}", *SMALL, *LIGHT, *FAST]))
    task.setup(SimpleNamespace())  # type: ignore[arg-type]
    return task


def test_the_networks_cost_what_hand_counts_say() -> None:
    """VGG-16's convolutions: 15.346630656 GMAC at 224 px, (256/224)^2 of that at 256 px. MobileNetV2: 300.774272 MMAC
    at 224 px with ImageNet's classifier of 1280 x 1000. The paper's 14.71 M and 2.22 M parameters."""
    config = load_recipe("sketch-paper")
    dim = config.teacher.embedding_dim
    with torch.device("meta"):
        teacher = build_encoder(config.teacher.network, dim)
        student = build_encoder(config.student.network, dim, in_channels=config.student.in_channels)
        px = config.teacher.canvas_px
        assert count_module(teacher, torch.zeros(1, 3, px, px)).macs - 512 * dim == 20_044_578_816
        at_224 = count_module(student, torch.zeros(1, 3, 224, 224)).macs - 1280 * dim
        at_128 = count_module(student, torch.zeros(1, 3, 128, 128)).macs - 1280 * dim
    assert 15_346_630_656 * 64 // 49 == 20_044_578_816
    assert sum(parameter.numel() for parameter in teacher.network.parameters()) == 14_714_688
    assert sum(parameter.numel() for parameter in student.network.parameters()) == 2_223_872
    assert at_224 == 300_774_272 - 1280 * 1000 and at_128 == at_224 * 16 // 49


def test_the_student_and_the_loss_are_the_paper_s() -> None:
    config = load_recipe("sketch-paper")
    loss = config.stages.distill.loss
    assert config.gallery == "student" and config.stages.distill.canvases == (32, 64, 96, 128, 192, 256)
    assert loss.relational and 0 < loss.lambda_ < 1 and config.stages.teacher.loss == "triplet"
    assert not (loss.info_nce or loss.cosine or loss.prototype_ce or loss.prototype_kl)


def test_sketches_of_one_photo_never_compete_and_each_has_its_turn(light_task: Task) -> None:
    """Every photo is at most once in a batch, whoever drew it; over the steps all views of all its sketches come."""
    task = light_task
    sketches, owner = task.pairs.queries(task.split.train)
    assert len(task.split.train) == 9 < len(sketches)
    task.targets = {"views": np.arange(2 * len(sketches), dtype=np.float32)[:, None]}
    task.load_targets(SimpleNamespace())  # type: ignore[arg-type]
    stage: Any = task.stages()[2]
    stage.rank, stage.world_size = 0, 1
    seen = set()
    for step in range(60):
        batch = stage.batch(step, np.random.default_rng(step))
        own, view = batch["own"].numpy(), batch["teacher"][:, 0].long().numpy()
        assert len(set(own.tolist())) == len(own) == 4
        assert (owner[view // 2] == own).all()
        seen |= set(view.tolist())
    assert seen == set(range(2 * len(sketches)))


def test_the_teacher_s_score_is_over_all_sketches_against_every_photo_once(light_task: Task) -> None:
    task, device = light_task, torch.device("cpu")
    sketches, truth = task.pairs.queries(task.split.test)
    gallery = task.teacher_gallery(task.split.test, device)
    assert len(sketches) == 9 and len(gallery) == 5
    from compressor.tasks.sketch.teacher import embed_sketches

    similarity = embed_sketches(task.teacher, sketches, 32, device) @ gallery.T
    right = [row.argmax() == place for row, place in zip(similarity, truth, strict=True)]
    assert task.teacher_accuracy(task.split.test, device) == pytest.approx(np.mean(right))


def test_the_teacher_s_triplet_loss_is_the_mean_over_every_negative_of_the_batch() -> None:
    query, key = torch.nn.functional.normalize(torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1)), dim=2)
    single = [
        triplet(query[i : i + 1], key[i : i + 1], key[j : j + 1], margin=0.4)
        for i in range(5)
        for j in range(5)
        if i != j
    ]
    assert float(triplet_in_batch(query, key, margin=0.4)) == pytest.approx(float(torch.stack(single).mean()), abs=1e-6)


def test_the_network_s_own_weights_come_from_a_local_file(tmp_path: Path) -> None:
    """A file in timm's names, classifier and all."""
    import timm

    source = timm.create_model("test_efficientnet")
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    encoder = build_encoder("timm:test_efficientnet", 16)
    load_weights(encoder, "timm:test_efficientnet", str(tmp_path / "model.safetensors"))
    mine = encoder.network.state_dict()
    assert all(torch.equal(source.state_dict()[name], tensor) for name, tensor in mine.items())
    other = build_encoder("timm:test_resnet", 16)
    with pytest.raises(RequestError, match="they belong to another network than timm:test_resnet"):
        load_weights(other, "timm:test_resnet", str(tmp_path / "model.safetensors"))


def test_weights_that_cannot_be_had_are_missing_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route\nto the hub")

    encoder = build_encoder("tiny-sketch", 8)
    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(MissingError, match=r"weights timm: vgg16's could not be had \(no route to the hub\)"):
        load_weights(encoder, "timm:vgg16", "timm")
    with pytest.raises(RequestError, match="timm publishes no weights for tiny-sketch"):
        load_weights(encoder, "tiny-sketch", "timm")


@pytest.mark.slow
def test_a_short_run_ends_in_a_bundle_whose_queries_are_all_sketches_of_the_test_part(tmp_path: Path) -> None:
    import targets

    copy = draw_copy(tmp_path / "ShoeV2", train=12, test=5)
    bundle = distill(load_recipe("sketch-paper", [f"data.source={copy}", *SMALL]), tmp_path / "run")
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert set(manifest["graphs"]) == {"encoder_32", "photo_encoder"}
    assert manifest["lineage"]["split"] == {"train": 9, "validation": 3, "test": 5, "drawings": 0}
    evaluation = targets.load(bundle).evaluate("test")
    (claimed,) = (m for m in manifest["metrics"] if m["split"] == "test" and m["of"] == "student")
    assert claimed["n"] == len(evaluation.scores) == 9 and evaluation.value == pytest.approx(claimed["value"])
    assert manifest["teacher"]["name"] == "vgg16 at 32 px"
