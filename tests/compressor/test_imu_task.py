"""The imu task on a small set of its own: a dot swings on video as fast as the sensor's signal."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import targets
from compressor.cache import TeacherCache
from compressor.data import imu_layouts
from compressor.data.imu_windows import Pairs, Windows
from compressor.losses.queue import queue_cross_entropy
from compressor.models.encoder import unit
from compressor.models.imu_encoder import SHAPES, ImuEncoder
from compressor.recipe import load_recipe
from compressor.tasks.imu.augment import rotations, vary
from compressor.tasks.imu.classify import settle_statistics
from compressor.tasks.imu.config import AugmentConfig, SimclrStageConfig, TeacherConfig
from compressor.tasks.imu.distill import DistillStage, simclr_loss
from compressor.tasks.imu.probe import fit_probe, hand_features, simple_statistics
from compressor.tasks.imu.task import principal
from compressor.tasks.imu.teacher import build_teacher
from compressor.train import distill
from profiles.errors import RequestError
from profiles.flops import count_module
from profiles.storage import read_json, write_json
from tests.tools import need_module

CPU = torch.device("cpu")
QUIET = AugmentConfig(tilt=0, amplitude=0, noise=0, bias=0)
WINDOWS, FRAMES, PX = 192, 4, 16


@pytest.fixture
def swings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides of a recipe that learns from swings at three rates, and is soon done."""
    rng = np.random.default_rng(0)
    labels = np.arange(WINDOWS) % 3
    times = np.arange(128) / 50
    phase = rng.uniform(0, 2 * np.pi, WINDOWS)
    angle = 2 * np.pi * (labels * 2 + 1)[:, None] * times + phase[:, None]
    signals = rng.normal(0, 0.2, (WINDOWS, 6, 128))
    signals[:, 0] += 9.8
    signals[:, 1] += 4 * np.sin(angle)
    signals[:, 5] += 2 * np.cos(angle)
    video = np.zeros((WINDOWS, FRAMES, PX, PX), np.uint8)
    places = (7.5 + 6 * np.sin(angle[:, :: 128 // FRAMES])).round().astype(int)
    video[np.arange(WINDOWS)[:, None], np.arange(FRAMES), 8, places] = 255
    people = np.array([f"take {index % 12}" for index in range(WINDOWS)])
    windows = Windows(signals.astype(np.float32), 50.0, people, labels, ("slow", "middle", "fast"))
    part = np.repeat(["train", "val", "test"], WINDOWS // 3)
    folder = tmp_path / "swings"
    folder.mkdir()
    credit = {"name": "swings", "version": "1", "licence": "CC0", "url": "", "note": ""}
    write_json(folder / "manifest.json", {"schema": 1, "hash": "0" * 64, "packages": [credit]})
    pairs = Pairs(windows, video, np.array([f"clip {label}" for label in labels]), np.full(WINDOWS, "waist"))
    monkeypatch.setattr(imu_layouts, "load_pairs", lambda *settings: (folder, pairs))
    monkeypatch.setattr(imu_layouts, "load_parts", lambda path: part)
    monkeypatch.setenv("EDGE_COMPRESSOR_CACHE", str(tmp_path / "cache"))
    return [
        f"data.pairs={folder}", "data.spectral_match=false", "train.threads=1", "student.network=tiny-imu-16",
        "stages.teacher.steps=8", "stages.teacher.batch=16", "stages.distill.steps=12", "stages.distill.batch=16",
        "stages.distill.queue_length=40", "stages.classify.steps=40", "stages.classify.batch=32",
    ]  # fmt: skip


def task_of(overrides: list[str], tmp_path: Path) -> tuple[Any, Any]:
    recipe = load_recipe("imu", overrides)
    cache = TeacherCache(tmp_path / "teachers")
    context: Any = SimpleNamespace(rank=0, world_size=1, gather=lambda rows: rows, device=CPU, cache=cache)
    task = recipe.task_class()(recipe)
    task.setup(context)
    return task, context


def test_a_recipe_becomes_a_bundle_that_knows_the_classes_of_unseen_takes(swings: list[str], tmp_path: Path) -> None:
    recipe = load_recipe("imu", [*swings, "stages.simclr.steps=4", "stages.simclr.batch=16"])
    bundle = distill(recipe, tmp_path / "run")
    evaluation = targets.load(bundle).evaluate("test")
    assert evaluation.name == "accuracy" and len(evaluation.scores) == WINDOWS // 3
    assert evaluation.value > 0.9
    lineage = read_json(bundle / "bundle.json")["lineage"]
    assert lineage["split"]["windows"] == dict.fromkeys(("train", "validation", "test"), WINDOWS // 3)
    assert [credit["name"] for credit in lineage["credits"]] == ["swings"]


@pytest.mark.parametrize("loss", ["queue", "info_nce", "l2"])
def test_the_student_learns_from_each_loss(swings: list[str], tmp_path: Path, loss: str) -> None:
    task, context = task_of([*swings, f"stages.distill.loss={loss}", "stages.distill.simclr=0.5"], tmp_path)
    stage = DistillStage(task)
    optimizer = torch.optim.Adam([p for module in stage.modules().values() for p in module.parameters()], lr=3e-3)
    stage.start(context)
    values = []
    for step in range(16):
        losses = stage.loss(stage.modules(), stage.batch(step, np.random.default_rng(step)))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        values.append(float(losses[loss]) - (np.log(len(stage.queue)) if loss == "queue" else 0))
    assert np.mean(values[-4:]) < np.mean(values[:4])


def test_a_row_meets_its_own_teacher_in_the_queue_and_the_queue_is_part_of_the_state(
    swings: list[str], tmp_path: Path
) -> None:
    task, context = task_of(swings, tmp_path)
    stage, again = DistillStage(task), DistillStage(task)
    stage.start(context)
    batch = stage.batch(0, np.random.default_rng(0))
    found = stage.loss(stage.modules(), batch)["loss"]
    student = unit(stage.projector(task.student(batch["signals"])))
    expected = queue_cross_entropy(student, batch["teacher"], batch["teacher"], 0.05, 0.1)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    again.load_state_dict(stage.state_dict())
    assert torch.equal(again.queue.in_order(), batch["teacher"])


def test_label_draws_hold_the_share_of_every_class_and_do_not_depend_on_the_seed(
    swings: list[str], tmp_path: Path
) -> None:
    one, _ = task_of(swings, tmp_path)
    other, _ = task_of([*swings, "seed=5"], tmp_path)
    rows = one.labelled_rows(0.25, 1)
    assert np.bincount(one.train_labels[rows]).tolist() == [round(0.25 * n) for n in np.bincount(one.train_labels)]
    assert np.array_equal(rows, other.labelled_rows(0.25, 1))
    assert not np.array_equal(rows, one.labelled_rows(0.25, 0))
    assert np.bincount(one.train_labels[one.labelled_rows(1e-6, 0)]).tolist() == [1, 1, 1], "no class goes without"


@pytest.mark.parametrize(
    ("name", "macs", "parameters"), [("tiny-imu", 418_000, 26_008), ("tiny-imu-16", 55_000, 4_104)]
)
def test_the_students_cost_what_they_were_designed_to(name: str, macs: int, parameters: int) -> None:
    costs = count_module(ImuEncoder(name).eval(), torch.zeros(1, 6, 128))
    assert costs.parameters == parameters
    assert costs.macs == pytest.approx(macs, rel=0.05)
    assert ImuEncoder(name)(torch.zeros(2, 6, 1, 128)).shape == (2, ImuEncoder(name).num_features)
    assert set(SHAPES) == {"tiny-imu", "tiny-imu-16"}


def test_turning_keeps_lengths_and_a_yaw_keeps_the_vertical() -> None:
    rng = np.random.default_rng(0)
    turns = rotations(rng, 50, np.pi, 0.3)
    assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(turns), 1)
    assert np.allclose(rotations(rng, 50, np.pi, 0.0)[:, :, 0], [1, 0, 0])
    signals = rng.standard_normal((8, 6, 20)).astype(np.float32)
    turned = vary(signals, rng, QUIET.model_copy(update={"yaw": 3.0, "tilt": 0.5}))
    for part in (slice(0, 3), slice(3, 6)):
        lengths = [np.linalg.norm(x[:, part], axis=1) for x in (signals, turned)]
        assert np.allclose(*lengths, atol=1e-5)
    louder = vary(signals, rng, QUIET.model_copy(update={"amplitude": 0.5, "channel_gain": 0.5}))
    assert np.allclose(louder.mean(-1), signals.mean(-1), atol=1e-5), "gravity does not change with the movement"
    assert np.allclose(vary(signals, rng, QUIET), signals)


def test_the_probe_is_where_the_objective_s_gradient_vanishes() -> None:
    rng = np.random.default_rng(1)
    features, labels = rng.standard_normal((60, 5)) * [1, 10, 0.1, 1, 0] + 3, rng.integers(0, 3, 60)
    probe = fit_probe(features, labels, 3, penalty=0.03)
    scores = probe(features)
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    error = p - np.eye(3)[labels]
    x = (features - probe.mean) / probe.std
    assert np.allclose(error.T @ x / 60 + 0.03 * probe.weight, 0, atol=1e-5)
    assert np.allclose(error.mean(0), 0, atol=1e-5)
    weight, bias = probe.folded()
    assert np.allclose(features @ weight.T + bias, scores, atol=1e-6)


def test_hand_made_features_say_how_strong_and_how_fast() -> None:
    times = np.arange(100) / 50
    signals = np.tile(2 * np.sin(2 * np.pi * 2 * times) + 1, (1, 6, 1)).astype(np.float32)
    statistics, features = simple_statistics(signals), hand_features(signals, 50)
    assert statistics.shape == (1, 12) and features.shape == (1, 54)
    assert np.allclose(statistics[0, [0, 6]], [1, np.sqrt(2)], atol=1e-5)
    bands = features[0, 30:].reshape(4, 6)[:, 0]
    assert bands.argmax() == 1 and bands[1] == pytest.approx(np.log(100), abs=1e-3)  # (amplitude n / 2)^2 / n


def test_simclr_is_nt_xent_written_out() -> None:
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = nn.functional.normalize(rows, dim=1)
    total = 0.0
    for i in range(6):
        others = [float(torch.exp(z[i] @ z[j] / 0.2)) for j in range(6) if j != i]
        total -= np.log(float(torch.exp(z[i] @ z[(i + 3) % 6] / 0.2)) / sum(others)) / 6
    assert float(simclr_loss(rows, SimclrStageConfig(temperature=0.2), lambda x: x)) == pytest.approx(total, rel=1e-9)


def test_settled_statistics_are_those_of_the_windows() -> None:
    encoder = ImuEncoder("tiny-imu-16")
    signals = np.random.default_rng(0).normal(3, 2, (64, 6, 128)).astype(np.float32)
    settle_statistics(encoder, signals, CPU)
    out = encoder.stem(torch.from_numpy(signals).unsqueeze(2))
    torch.testing.assert_close(encoder.bn.running_mean, out.mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    assert encoder.bn.momentum == 0.1


def test_principal_directions_keep_products_where_the_rows_lie_in_them() -> None:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((9, 3)))[0]
    rows = rng.standard_normal((20, 3)) @ basis.T
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    reduced = principal(rows, np.arange(20), 3)
    assert np.allclose(reduced @ reduced.T, rows @ rows.T, atol=1e-5)
    with pytest.raises(RequestError, match=r"stages\.distill\.dim 10"):
        principal(rows, np.arange(20), 10)


@pytest.mark.parametrize("family", ["VideoMAE", "Timesformer"])
def test_a_video_transformer_from_a_folder_teaches_frozen(tmp_path: Path, family: str) -> None:
    need_module("transformers")
    import transformers

    sizes = {"image_size": 16, "patch_size": 8, "num_frames": 4, "hidden_size": 12, "num_hidden_layers": 1}
    config = getattr(transformers, f"{family}Config")(**sizes, num_attention_heads=2, intermediate_size=16)
    getattr(transformers, f"{family}Model")(config).save_pretrained(tmp_path)
    teacher = build_teacher(TeacherConfig(network=f"transformers:{tmp_path}"), 20)
    teacher.train()
    assert not any(parameter.requires_grad for parameter in teacher.parameters()) and not teacher.training
    grey = torch.rand(2, 7, 20, 20)
    rgb = grey[..., None].expand(-1, -1, -1, -1, 3)
    one, other = teacher(grey), teacher(rgb)
    assert one.shape == (2, 12)
    torch.testing.assert_close(one, other)
    with pytest.raises(RequestError, match=r"teacher\.network transformers:.*nowhere"):
        build_teacher(TeacherConfig(network=f"transformers:{tmp_path / 'nowhere'}"), 20)
