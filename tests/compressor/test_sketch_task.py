"""The sketch task on a folder of drawn polygons: what the student is told, what it costs, what is written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from compressor.data.pairs import load_pairs
from compressor.recipe import load_recipe, parse_recipe
from compressor.tasks.sketch.distill import Side, sketch_losses, without_teacher
from compressor.tasks.sketch.task import Task, unseen
from compressor.tasks.sketch.teacher import accuracy_at_1
from compressor.tasks.sketch.views import draw, vary, vary_photos
from compressor.train import distill
from profiles.errors import RequestError
from profiles.flops import count_module

ITEMS = 30
CPU = torch.device("cpu")


def polygon(index: int) -> list[tuple[float, float]]:
    """A polygon of 3 to 8 corners, turned and sized by its number."""
    corners, turn, radius = 3 + index % 6, index / 7, 30 + 15 * (index // 6)
    angles = [turn + 2 * math.pi * k / corners for k in range(corners + 1)]
    return [(112 + radius * math.cos(a), 112 + radius * math.sin(a)) for a in angles]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("polygons")
    (root / "drawings").mkdir()
    for index in range(ITEMS):
        sketch = {"strokes": [polygon(index)], "size": [224, 224]}
        (root / f"polygon{index:02}.json").write_text(json.dumps(sketch))
        picture = Image.new("RGB", (224, 224), "white")
        ImageDraw.Draw(picture).polygon(polygon(index), fill=(8 * index, 200 - 6 * index, 90))
        picture.save(root / f"polygon{index:02}.png")
    for index in range(6):
        sketch = {"strokes": [polygon(ITEMS + index)], "size": [224, 224]}
        (root / "drawings" / f"free{index}.json").write_text(json.dumps(sketch))
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_COMPRESSOR_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def recipe(folder: Path, *overrides: str) -> Any:
    small = [
        f"data.source={folder}",
        "data.gallery_vendor=null",
        "data.more_drawings=[]",
        "teacher.network=timm:test_efficientnet",
        "teacher.weights=null",
        "teacher.embedding_dim=16",
        "teacher.canvas_px=48",
        "student.width=0.5",
        "stages.teacher.steps=2",
        "stages.teacher.batch=8",
        "stages.targets.views=2",
        "stages.distill.steps=2",
        "stages.distill.batch=12",
        "selector.kind=fixed",
        "deploy.canvases=[32]",
        "deploy.golden=4",
        "deploy.calibration=6",
        "train.accelerator=cpu",
        "train.threads=1",
    ]
    return load_recipe("sketch", [*small, *overrides])


def ready(config: Any, tmp_path: Path) -> Task:
    """A task that is set up, its targets loaded, outside of a run."""
    from compressor.cache import TeacherCache

    task = Task(config)
    context = SimpleNamespace(
        cache=TeacherCache(tmp_path / "teachers"), device=CPU, rank=0, world_size=1, gather=lambda x: x
    )
    task.setup(context)  # type: ignore[arg-type]
    for stage in task.stages()[1:]:
        stage.start(context)  # type: ignore[arg-type]
    task.load_targets(context)  # type: ignore[arg-type]
    task.context = context  # type: ignore[attr-defined]
    return task


def distill_stage(task: Task) -> Any:
    stage = task.stages()[-1]
    stage.start(task.context)  # type: ignore[attr-defined]
    return stage


def test_the_cached_teacher_features_follow_the_augmentation(folder: Path, tmp_path: Path) -> None:
    """What the batch calls the teacher's embedding is the teacher's embedding of the very picture in the batch."""
    same_canvas = ["stages.distill.canvases=[48]", "deploy.canvases=[48]", "deploy.canvas_px=48"]
    task = ready(recipe(folder, "stages.distill.jitter=0", *same_canvas), tmp_path)
    batch = distill_stage(task).batch(0, np.random.default_rng(3))
    with torch.no_grad():
        now = torch.nn.functional.normalize(task.teacher.eval()(batch["canvas_48"]), dim=1)
    assert torch.allclose(now, batch["teacher"], atol=1e-4)
    assert len(torch.unique(batch["teacher"], dim=0)) > 6


def test_a_batch_is_a_pure_function_of_the_generator_with_the_share_of_drawings_asked_for(
    folder: Path, tmp_path: Path
) -> None:
    stage = distill_stage(ready(recipe(folder, "stages.distill.drawings_share=0.25"), tmp_path))
    first, again = (stage.batch(5, np.random.default_rng(1)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["canvas_32"].shape == (12, 1, 32, 32) and len(first["own"]) == 9


def test_without_the_teacher_s_signal_nothing_of_its_sketch_embeddings_is_used(folder: Path, tmp_path: Path) -> None:
    task = ready(recipe(folder, "stages.distill.signal=none"), tmp_path)
    stage = distill_stage(task)
    batch = stage.batch(0, np.random.default_rng(0))
    assert len(batch["own"]) == 12  # all of the batch has a photo: drawings without one could teach nothing
    task.student.eval()
    losses = stage.loss({"student": task.student}, batch)
    batch["teacher"] = torch.nn.functional.normalize(torch.randn_like(batch["teacher"]), dim=1)
    assert torch.equal(losses["loss"], stage.loss({"student": task.student}, batch)["loss"])
    assert set(losses) == {"loss", "triplet", "prototype_ce"}


def test_with_and_without_the_teacher_start_from_the_same_weights(folder: Path, tmp_path: Path) -> None:
    with_it, without = (ready(recipe(folder, f"stages.distill.signal={s}"), tmp_path) for s in ("teacher", "none"))
    first, second = with_it.student.state_dict(), without.student.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    config = load_recipe("sketch").stages.distill.loss.model_copy(
        update={"relational": 2.0, "lambda_": 0.25, "cosine": 3.0, "prototype_ce": 4.0, "prototype_kl": 5.0}
    )
    unit = [torch.nn.functional.normalize(torch.randn(6, 4), dim=1) for _ in range(3)]
    own = torch.arange(6)
    side = Side(unit[0], unit[1], unit[1])
    terms = sketch_losses(side, Side(unit[2], unit[1], unit[1]), own, unit[1], config, student_gallery=False)
    expected = (
        0.5 * terms["triplet"]
        + 1.5 * terms["rkd"]
        + 3 * terms["cosine"]
        + 4 * terms["prototype_ce"]
        + 5 * terms["prototype_kl"]
    )
    assert torch.allclose(terms["loss"], expected)
    alone = sketch_losses(side, side, own, unit[1], without_teacher(config), student_gallery=False)
    assert torch.allclose(alone["loss"], 0.5 * alone["triplet"] + 4 * alone["prototype_ce"])


def test_the_loss_is_averaged_over_the_canvases(folder: Path, tmp_path: Path) -> None:
    task = ready(recipe(folder, "stages.distill.canvases=[24,32]", "stages.distill.canvases_per_step=null"), tmp_path)
    stage = distill_stage(task)
    task.student.eval()
    batch = stage.batch(0, np.random.default_rng(0))
    both = stage.loss({"student": task.student}, batch)["loss"]
    single = [stage._loss_on({"student": task.student}, batch, px)["loss"] for px in (24, 32)]
    assert torch.allclose(both, sum(single) / 2)


def test_no_part_has_a_variant_of_another_s() -> None:
    """Ten concepts of three variants, dealt one by one."""

    class Pairs:
        name = "ten threes"

        def __len__(self) -> int:
            return 30

        def concept(self, index: int) -> str:
            return str(index % 10)

    order = np.random.default_rng(0).permutation(30)
    from compressor.data.pairs import Split

    split = unseen(Pairs(), Split(train=order[:24], validation=order[24:27], test=order[27:]))  # type: ignore[arg-type]
    parts = [set(part % 10) for part in (split.train, split.validation, split.test)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert len(split.test) == 3


def test_accuracy_counts_a_tie_as_wrong() -> None:
    eye = np.eye(4, dtype=np.float32)
    assert accuracy_at_1(eye, eye) == 1.0
    assert accuracy_at_1(np.ones((4, 4), np.float32), eye) == 0.0
    assert accuracy_at_1(eye[[0, 1, 3, 2]], eye) == 0.5


def test_a_mirrored_photo_is_mirrored_with_its_sketch(folder: Path) -> None:
    pairs = load_pairs(folder)
    sketch, photos = pairs.sketch(0), pairs.photos([0, 0])[:, 0]
    rng = np.random.default_rng(0)
    plain, mirrored = vary_photos(photos, 64, rng, 0.0, np.array([False, True]))
    assert torch.allclose(plain, mirrored.flip(2), atol=1e-5)
    drawn = draw([vary(sketch, rng, 0.0, mirrored=False), vary(sketch, rng, 0.0, mirrored=True)], 64)
    assert torch.allclose(drawn[0], drawn[1].flip(2), atol=1e-4)


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param([], id="asymmetric"),
        pytest.param(["gallery=student", "student.in_channels=3", "stages.distill.loss.info_nce=1"], id="symmetric"),
        pytest.param(
            [
                "student.network=pruned-teacher",
                "student.width=1",
                "student.in_channels=3",
                "student.macs_ratio=0.5",
                "stages.quantise.steps=2",
            ],
            id="pruned-teacher-quantise-aware",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_ends_in_a_bundle_that_scores_what_the_student_scored(
    folder: Path, tmp_path: Path, overrides: list[str]
) -> None:
    import targets

    config = recipe(folder, "stages.distill.steps=25", *overrides)  # so many that no two photos tie
    bundle = distill(config, tmp_path / "run")
    manifest = json.loads((bundle / "bundle.json").read_text())
    student = targets.load(bundle)
    for part in ("validation", "test"):
        (claimed,) = (m["value"] for m in manifest["metrics"] if m["split"] == part and m["of"] == "student")
        assert student.evaluate(part).value == pytest.approx(claimed)
    assert manifest["teacher"]["macs"] > 0 and manifest["lineage"]["data"]["by"] == "item"
    stages = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert ("quantise" in stages) == ("stages.quantise.steps=2" in overrides), "only where the recipe asks for it"
    if "student.macs_ratio=0.5" in overrides:
        costs = [count_module(module, torch.zeros(1, 1, 32, 32)).macs for module in _networks(config, tmp_path / "run")]
        assert costs[1] <= 0.5 * costs[0]


def test_a_run_that_died_while_its_bundle_was_written_is_resumed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(folder, "stages.distill.steps=2")

    def die(*_: object) -> None:
        raise OSError("the power went")

    with monkeypatch.context() as dying:
        dying.setattr("compressor.tasks.sketch.export.export", die)
        with pytest.raises(OSError, match="power"):
            distill(config, tmp_path / "run")
    bundle = distill(config, tmp_path / "run", resume=True)
    assert json.loads((bundle / "bundle.json").read_text())["metrics"]


def _networks(config: Any, run_dir: Path) -> list[torch.nn.Module]:
    task = Task(config)
    task.setup(SimpleNamespace())  # type: ignore[arg-type]
    return [task.teacher, task.student]


@pytest.mark.slow
def test_two_processes_train_it_and_the_run_says_whose_statistics_were_kept(folder: Path, tmp_path: Path) -> None:
    config = recipe(folder, "train.devices=2", "train.strategy=ddp", "stages.distill.canvases=[24,32]")
    distill(config, tmp_path / "run")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    text = json.dumps(run)
    assert "student.network.bn" in text and "teacher.network.bn2" in text
    assert "teacher.network.bn1" not in text  # frozen: ImageNet's, the same everywhere


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.macs_ratio=0.5", "macs_ratio goes with network: pruned-teacher"),
        ("gallery=student", "needs student.in_channels=3"),
        ("deploy.canvases=[32,40]", "40 px, which stages.distill.canvases does not train"),
        ("deploy.canvas_px=48", "none of deploy.canvases"),
        ("stages.distill.canvases=[24,30,32]", "multiple of 8"),
        ("stages.distill.loss.lamda=1", "unknown key"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_in_one_line(override: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        load_recipe("sketch", [override])
    assert "\n" not in str(caught.value)


def test_an_unknown_vendor_is_refused_with_the_known_ones(folder: Path, tmp_path: Path) -> None:
    data = recipe(folder).model_dump()
    data["data"]["gallery_vendor"] = "nota"
    with pytest.raises(RequestError, match=r"nota.*has"):
        Task(parse_recipe(data, "recipe")).setup(SimpleNamespace())  # type: ignore[arg-type]
