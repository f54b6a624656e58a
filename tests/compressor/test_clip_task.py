"""The CLIP task from pairs to the bundle: losses, stages, two processes, towers, glue, runtimes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import targets
from compressor.losses.alignment import cross_modal_kl, multilingual_info_nce
from compressor.losses.feature import feature_smooth_l1
from compressor.recipe import load_recipe
from compressor.records import Subject
from compressor.report.collect import DetailsWriter
from compressor.report.details import Details
from compressor.tasks.clip import pictures
from compressor.tasks.clip.glue import Glue, class_embeddings
from compressor.tasks.clip.metrics import ranks, unit_rows
from compressor.tasks.clip.stages import by_length
from compressor.tasks.clip.students import TextTower, build_image_tower
from compressor.train import distill
from profiles.errors import RequestError
from profiles.flops import count_module
from profiles.storage import save_npz
from targets.bundle import Bundle
from tests.compressor.clip_toy import toy_overrides
from tests.tools import need_module


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of a tiny Chinese-CLIP with random weights, trained for a few steps on drawn shapes."""
    need_module("transformers", "tokenizers")
    root = tmp_path_factory.mktemp("clip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_COMPRESSOR_CACHE", str(root / "cache"))
        return distill(load_recipe("clip", toy_overrides(root)), root / "run")


def test_an_image_tower_of_the_teacher_s_first_stages_gives_what_they_give() -> None:
    from compressor.models.encoder import build_encoder

    teacher = build_encoder("timm:tf_efficientnet_lite0", 8).eval()
    network: Any = teacher.network
    narrow = build_image_tower("teacher-stages:3", 8, 48, None, teacher).eval()
    picture = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        expected = network.blocks[:3](network.bn1(network.conv_stem((picture - teacher.mean) / teacher.std)))
        assert torch.allclose(narrow.features(picture), expected.mean((2, 3)), atol=1e-5)
    wide = build_image_tower("teacher-stages:3:200", 8, 48, None, teacher)
    assert wide.head.in_features == 200 and expected.shape[2:] == (6, 6)
    macs = [count_module(tower, picture[:1]).macs for tower in (narrow, wide)]
    assert macs[1] - macs[0] == 6 * 6 * 40 * 200 + (200 - 40) * 8
    with pytest.raises(RequestError, match="expected a number of stages"):
        build_image_tower("teacher-stages:three", 8, 48, None, teacher)


def test_the_losses_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    image, en, zh, t_image, t_en, t_zh = (torch.from_numpy(unit_rows(rng.standard_normal((5, 4)))) for _ in range(6))

    def log_softmax(x: np.ndarray) -> np.ndarray:
        return x - np.log(np.exp(x).sum(1, keepdims=True))

    def clip_loss(a: torch.Tensor, b: torch.Tensor) -> float:
        logits = a.numpy() @ b.numpy().T / 0.1
        return -(np.diag(log_softmax(logits)).mean() + np.diag(log_softmax(logits.T)).mean()) / 2

    expected = (clip_loss(image, en) + clip_loss(image, zh)) / 2
    assert multilingual_info_nce(image, [en, zh], 0.1).item() == pytest.approx(expected, rel=1e-5)

    def kl(student: torch.Tensor, teacher: torch.Tensor, keys: torch.Tensor) -> float:
        p, q = (log_softmax(x.numpy() @ keys.numpy().T / 0.1) for x in (teacher, student))
        return float((np.exp(p) * (p - q)).sum(1).mean())

    sides = [(image, t_image, t_en), (en, t_en, t_image), (image, t_image, t_zh), (zh, t_zh, t_image)]
    found = cross_modal_kl(image, [en, zh], t_image, [t_en, t_zh], 0.1).item()
    assert found == pytest.approx(np.mean([kl(*own) for own in sides]), rel=1e-4)
    difference = torch.tensor([[0.5, -2.0]])
    assert feature_smooth_l1(difference, torch.zeros(1, 2)).item() == pytest.approx((0.125 + 1.5) / 2)


GLOO = """
import sys, torch, torch.distributed as dist
from compressor.distributed import gather
from compressor.losses.alignment import multilingual_info_nce
rank, world = int(sys.argv[1]), int(sys.argv[2])
if world > 1:
    dist.init_process_group("gloo", init_method=sys.argv[3], rank=rank, world_size=world)
torch.manual_seed(0)
towers = torch.nn.Linear(6, 4), torch.nn.Linear(5, 4)
data = torch.randn(8, 6), torch.randn(8, 5), torch.randn(8, 5)
own = slice(rank * 8 // world, (rank + 1) * 8 // world)
unit = torch.nn.functional.normalize
image, en, zh = (gather(unit(towers[k > 0](x[own]), dim=-1)) for k, x in enumerate(data))
loss = multilingual_info_nce(image, [en, zh], 0.07)
loss.backward()
gradients = torch.cat([p.grad.flatten() for tower in towers for p in tower.parameters()])
if world > 1:
    dist.all_reduce(gradients)
    gradients /= world
if rank == 0:
    print(repr([loss.item(), *gradients.tolist()]))
"""


@pytest.mark.slow
def test_two_gloo_processes_have_the_contrastive_loss_and_gradient_of_one(tmp_path: Path) -> None:
    def start(rank: int, world: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", GLOO, str(rank), str(world), f"file://{tmp_path / 'meeting'}"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    one, first, second = start(0, 1), start(0, 2), start(1, 2)
    said = [process.communicate(timeout=120)[0] for process in (one, first, second)]
    assert [process.returncode for process in (one, first, second)] == [0, 0, 0]
    np.testing.assert_allclose(json.loads(said[1]), json.loads(said[0]), rtol=1e-4, atol=1e-6)


def test_the_text_tower_does_not_see_padding() -> None:
    torch.manual_seed(0)
    tower = TextTower(50, 8, 16, 8, 10, 1, 2, 12).eval()
    ids = torch.randint(0, 50, (2, 8), dtype=torch.int32)
    mask = torch.tensor([[1.0] * 8, [1.0] * 3 + [0.0] * 5])
    other = ids.clone()
    other[1, 3:] = 7
    with torch.no_grad():
        torch.testing.assert_close(tower(ids, mask), tower(other, mask), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(tower(ids, mask)[1], tower(ids, torch.ones(2, 8))[1], atol=1e-3)


def test_texts_in_groups_of_like_length_give_what_they_give_padded() -> None:
    torch.manual_seed(0)
    tower = TextTower(60, 24, 16, 8, 20, 1, 2, 12).eval()
    lengths = torch.tensor([3, 24, 1, 7, 7, 2, 15, 4, 9, 1])
    mask = (torch.arange(24)[None] < lengths[:, None]).float()
    ids = torch.where(mask > 0, torch.randint(0, 60, (10, 24)), 60).int()
    with torch.no_grad():
        (grouped,) = by_length(tower, ids, mask)
        assert torch.allclose(grouped, tower(ids, mask), atol=1e-3)  # padding keeps e^-12 of the attention


def test_resizing_is_what_torch_calls_antialiased_bilinear() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (1, 37, 50, 3), dtype=np.uint8)
    tensor = torch.from_numpy(picture).permute(0, 3, 1, 2).float()
    for px in (16, 64):
        expected = torch.nn.functional.interpolate(tensor, (px, px), mode="bilinear", antialias=True)
        ours = pictures.resize(picture, px).transpose(0, 3, 1, 2)
        assert np.abs(ours - expected.numpy()).max() <= 0.51


def test_ranks_count_ties_and_what_is_not_a_number_against_the_student() -> None:
    gallery = np.eye(3, dtype=np.float32)
    assert ranks(gallery, gallery).tolist() == [1, 1, 1]
    assert ranks(np.ones((3, 3), np.float32), gallery).tolist() == [3, 3, 3]
    assert ranks(np.full((3, 3), np.nan, np.float32), gallery).tolist() == [4, 4, 4]


def test_the_bundle_says_how_many_pictures_without_captions_it_learned_from(bundle: Path) -> None:
    split = json.loads((bundle / "bundle.json").read_text())["lineage"]["split"]
    assert split["pictures"] == 9


def test_the_bundle_runs_on_onnx_as_in_torch_and_says_what_it_measured(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    arrays = opened.split("test")
    assert set(opened.graphs) == {"image", "text"}
    assert opened.uses["classify"] == {"image": 1}
    float_student, onnx_student = targets.load(bundle), targets.load(bundle, runtime="onnx")
    a, b = (student.evaluate("test") for student in (float_student, onnx_student))
    np.testing.assert_array_equal(a.scores, b.scores)
    image = float_student.glue.embed_pictures(arrays["pictures"])  # type: ignore[attr-defined]
    hits = []
    for code in ("en", "zh"):
        text = float_student.glue.embed_texts(arrays[f"caption_{code}"].tolist())  # type: ignore[attr-defined]
        order = np.argsort(-(text @ image.T), axis=1)
        hits.append([i in row[:10] for i, row in enumerate(order)])
    np.testing.assert_allclose(a.scores, np.mean(hits, axis=0))
    said = {(m["name"], m["of"]): m["value"] for m in opened.metrics if m["split"] == "test"}
    assert said["R@10", "student"] == pytest.approx(a.value)
    assert ("en to image R@1", "teacher") in said and ("en to zh R@10", "student") in said


def test_retrieval_runs_the_text_tower_only_and_classifying_the_image_tower_only(bundle: Path) -> None:
    student = targets.load(bundle)
    picture = Bundle.open(bundle).split("test")["pictures"][0]
    english, chinese = student.glue("a red square", "en"), student.glue("红色", "zh")  # type: ignore[call-arg]
    assert student.calls == {"text": 2}
    assert len(english.labels) == 10 and any("a" <= letter <= "z" for letter in english.labels[0])
    assert any("\u4e00" <= letter <= "\u9fff" for letter in chinese.labels[0])
    student.calls.clear()
    assert student(picture).labels
    assert student.calls == {"image": 1}
    with pytest.raises(RequestError, match="knows en, zh"):
        student.glue("ein Text", "de")  # type: ignore[call-arg]


def test_the_zero_shot_head_is_the_mean_of_its_prompts_and_runs_no_text_tower(bundle: Path, tmp_path: Path) -> None:
    student, opened = targets.load(bundle), Bundle.open(bundle)
    glue: Any = student.glue
    prompts, names = ("{}", "a picture of {}"), ["a red square", "a blue disc"]
    rows = class_embeddings(glue, names, prompts)
    each = [glue.embed_texts([prompt.replace("{}", name) for prompt in prompts]).mean(0) for name in names]
    np.testing.assert_allclose(rows, unit_rows(np.stack(each)), atol=1e-5)
    save_npz(tmp_path / "classes.npz", {"embeddings": np.stack([rows, rows]), "name_en": names, "name_zh": names})
    with_classes = Glue({"image": student.glue.graphs["image"]}, opened.settings, tmp_path)  # type: ignore[attr-defined]
    picture = opened.split("test")["pictures"][3]
    found = with_classes(picture)
    similarities = rows @ glue.embed_pictures(picture[None])[0]
    assert found.indices[0] == similarities.argmax() and found.labels[0] == names[int(similarities.argmax())]


def test_examples_show_both_languages(bundle: Path) -> None:
    student = targets.load(bundle)
    examples = student.glue.examples(Bundle.open(bundle).split("test"), 6)
    assert any(example.title.startswith("languages disagree") for example in examples)
    labels = [answer.label for answer in examples[0].answers]
    assert any(label.startswith("en: ") for label in labels) and any(label.startswith("zh: ") for label in labels)


def test_the_page_takes_a_teacher_that_says_more_than_it_shows(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.teacher is not None and opened.teacher["image_macs"] > 0
    details = DetailsWriter([])
    details.add_subject(Subject(opened, {}, {}))
    assert Details.model_validate(details.details).teachers[opened.student].macs == opened.teacher["macs"]


def test_recipes_that_cannot_work_are_refused(tmp_path: Path) -> None:
    for overrides, reason in (
        (["teacher.kind=siglip"], "teacher.path goes with a real teacher"),
        (["stages.teacher.steps=0"], "the assembled teacher needs one"),
        (["student.text.heads=3"], "no multiple of heads"),
        (["student.image.network=pruned-teacher"], "macs_ratio goes with"),
    ):
        with pytest.raises(RequestError, match=reason):
            load_recipe("clip", overrides)
