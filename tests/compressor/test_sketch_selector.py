"""Canvas selectors find the best policy where it is known, and choose the same on the device as in training."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from compressor.data.sketch import Sketch
from compressor.models.encoder import build_encoder
from compressor.recipe import load_recipe
from compressor.tasks.sketch.query_cost import choosing_macs, looks_of
from compressor.tasks.sketch.selector import stage as selector_stage_module
from compressor.tasks.sketch.selector.cascade import cascade_choices, search_thresholds, selector_stage
from compressor.tasks.sketch.selector.config import SelectorConfig
from compressor.tasks.sketch.selector.features import (
    NEAREST,
    SURENESS,
    combined,
    normalised,
    sequence_steps,
    stroke_statistics,
    sureness,
)
from compressor.tasks.sketch.selector.front import sweep
from compressor.tasks.sketch.selector.glue import SELECTORS, Cascade, Gate
from compressor.tasks.sketch.selector.policies import GruPolicy, build_policy
from compressor.tasks.sketch.selector.rewards import Outcomes, Unseen, _of_bundle, outcomes, triplet_of
from compressor.tasks.sketch.selector.stage import SelectorStage, fold_of
from compressor.tasks.sketch.simplify import five_tuples
from compressor.tasks.sketch.task import Task
from compressor.train import distill
from profiles.errors import RequestError
from profiles.flops import count_module
from targets.parity import compare
from tests.compressor.test_sketch_task import cache, folder, recipe  # noqa: F401
from tests.tools import need_module

CANVASES = (16, 32)
MANY = 3  # strokes that need the large canvas


def scribble(strokes: int, rng: np.random.Generator) -> Sketch:
    starts = rng.uniform(0.1, 0.8, (strokes, 1, 2))
    return Sketch.from_strokes(list(starts + np.array([[0.0, 0.0], [0.1, 0.05]])), 0.03)


@pytest.fixture(scope="module")
def task() -> Any:
    """As much of a task as a selector's stage asks for."""
    torch.manual_seed(0)
    student = build_encoder("tiny-sketch", 8, in_channels=1, width=0.5)

    def make(**settings: Any) -> SimpleNamespace:
        selector = SelectorConfig(canvases=CANVASES, folds=2, **settings)
        deploy, teacher = SimpleNamespace(canvases=CANVASES), SimpleNamespace(embedding_dim=8)
        config = SimpleNamespace(selector=selector, seed=0, deploy=deploy, teacher=teacher)
        return SimpleNamespace(config=config, student=student, pairs=range(20))

    return make


@pytest.fixture(autouse=True)
def counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The student's MACs; tracing it again for every stage would take most of these tests' time."""
    monkeypatch.setattr(selector_stage_module, "count_module", lambda module, example: _count(example.shape[-1]))


@functools.cache
def _count(px: int) -> Any:
    student = build_encoder("tiny-sketch", 8, in_channels=1, width=0.5)
    return count_module(student, torch.zeros(1, 1, px, px))


def made_up(sketches: list[Sketch], rank: np.ndarray, nearest: np.ndarray | None = None) -> Outcomes:
    count, canvases = rank.shape
    if nearest is None:
        nearest = np.zeros((count, canvases, NEAREST), np.float32)
    return Outcomes(
        labels=np.array([str(index) for index in range(count)]),
        views=sketches,
        plain=np.ones(count, bool),
        own=np.ones(count, bool),
        rank=rank,
        alone=rank,
        triplet=np.zeros(rank.shape),
        probability=1 / rank,
        nearest=nearest,
        gallery_size=20,
    )


def train(stage: SelectorStage, found: Outcomes) -> dict[str, float]:
    stage.fit_outside_a_run(found)
    return stage.validate(SimpleNamespace(device="cpu"))  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "gradient"), [("statistics", "exact"), ("statistics", "reinforce"), ("gru", "exact")])
def test_a_policy_learns_that_many_strokes_need_the_large_canvas(task: Any, kind: str, gradient: str) -> None:
    """On drawings that the judged policies have not seen: right as often as always-large, and cheaper."""
    rng = np.random.default_rng(0)
    strokes = rng.integers(1, 2 * MANY, 120)
    sketches = [scribble(int(count), rng) for count in strokes]
    rank = np.where(strokes[:, None] < MANY, [[1, 1]], [[9, 1]])
    options = {"kind": kind, "gradient": gradient, "lambda_F": 0.5, "points": 10, "optimizer": {"lr": 0.05}}
    stage = SelectorStage(task(**options, hidden=8, steps=60, batch=64))
    found = train(stage, made_up(sketches, rank))
    few = (strokes < MANY).mean()
    assert found["acc@1"] > 0.92 and found["always_16px_acc@1_views"] == pytest.approx(few)
    assert found["share_16px"] == pytest.approx(few, abs=0.05)
    assert found["mmacs"] < 0.8 * found["always_32px_mmacs_views"]
    assert found["gain_over_fixed_low"] > 0.1, "above every mixture of the two"


def test_a_gate_and_a_cascade_learn_to_stop_where_the_first_look_was_sure(task: Any) -> None:
    rng = np.random.default_rng(0)
    sure = rng.random(240) < 0.5
    nearest = np.tile(np.linspace(0.6, 0.5, NEAREST, dtype=np.float32), (240, 2, 1))
    nearest[sure, :, 0] += rng.uniform(0.1, 0.3, (int(sure.sum()), 1)).astype(np.float32)
    rank = np.where(sure[:, None], [[1, 1]], [[5, 1]])
    found = made_up([scribble(3, rng) for _ in range(240)], rank, nearest)
    gate = train(SelectorStage(task(kind="gate", lambda_F=0.2, steps=80, optimizer={"lr": 0.05})), found)
    assert gate["acc@1"] == 1 and gate["share_16px"] == pytest.approx(sure.mean(), abs=0.02)
    cascade: Any = selector_stage(task(kind="cascade", lambda_F=0.2))  # type: ignore[arg-type]
    cascade.fit_outside_a_run(found)
    assert cascade.validate(None)["acc@1"] > 0.98 and 0.1 / 9 <= cascade.thresholds[0] < 0.15


def test_lambda_F_is_the_knob_from_accurate_to_cheap(task: Any) -> None:
    rng = np.random.default_rng(0)
    sketches = [scribble(3, rng) for _ in range(60)]
    rank = np.tile([[2, 1]], (60, 1))
    shares = [
        train(
            SelectorStage(task(kind="statistics", lambda_F=value, steps=40, optimizer={"lr": 0.05})),
            made_up(sketches, rank),
        )["share_16px"]
        for value in (0.0, 0.9)
    ]
    assert shares == [0.0, 1.0]


def test_a_front_has_every_fixed_canvas_and_the_selector_at_every_lambda(task: Any) -> None:
    rng = np.random.default_rng(0)
    rank = np.tile([[2, 1]], (60, 1))
    settings: Any = {"kind": "statistics", "steps": 40, "optimizer": {"lr": 0.05}}
    made = task(**settings)
    found = sweep(made, made.config.selector, made_up([scribble(3, rng) for _ in range(60)], rank), (0.0, 0.9))
    assert [point.name for point in found.points] == ["16 px", "32 px", "lambda_F 0", "lambda_F 0.9"]
    small, large, accurate, cheap = found.points
    assert accurate.value > 0.9 and accurate.shares[1] > 0.9 and cheap.shares[0] > 0.9
    assert cheap.value < 0.1 and small.value == 0 and small.macs < cheap.macs < accurate.macs, "choosing is not free"
    assert large.value == 1 and accurate.over_fixed is not None and accurate.over_fixed.gain <= 0
    chart = found.chart()
    assert [point.label for point in chart.points] == [point.name for point in found.points]


def test_what_a_choice_costs_is_every_look_and_the_policy_itself(task: Any) -> None:
    sketches = [scribble(3, np.random.default_rng(0))]
    samples = SelectorStage(task(kind="gate", hidden=4)).make_samples(made_up(sketches, np.array([[1, 1]])))
    policy = 17 * 4 + 4 * 2 + choosing_macs("gate", sketches[0], 0.01)
    assert samples.macs[0, 0] == samples.fixed_macs[0, 0] + policy
    assert samples.macs[0, 1] == samples.fixed_macs[0].sum() + policy
    network = _count(32).macs
    assert 0 < samples.fixed_macs[0, 1] - network - 20 * 8 < 0.05 * network, "the rest is drawing"
    assert looks_of("cascade", 3).tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert looks_of("gate", 3).tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]


def test_the_policies_macs_are_the_counter_s() -> None:
    policy = GruPolicy(3, 16)
    counted = count_module(policy.step, (torch.zeros(1, 5), torch.zeros(1, 16))).macs
    assert policy.step.macs == counted == 3 * 21 * 16 + 16 * 3


def test_rewards_are_ranks_triplets_and_similarities_of_the_looks_combined() -> None:
    """Two photos at right angles; on the small canvas the encoder says 50 degrees, on the large one 10."""
    gallery = np.eye(2, dtype=np.float32)

    def embed(sketches: Any, px: int) -> np.ndarray:
        angle = np.deg2rad(50 if px == 16 else 10)
        return np.tile(np.array([np.cos(angle), np.sin(angle)], np.float32), (len(sketches), 1))

    unseen = Unseen(["a"], [scribble(2, np.random.default_rng(0))], gallery, np.array([0]), embed)
    plain = outcomes(unseen, CANVASES, SelectorConfig(kind="statistics", views=2), 0, own=True)
    assert plain.rank.tolist() == [[2, 1]] * 2 and plain.plain.tolist() == [True, False]
    chord = 2 * np.sin(np.deg2rad([25, 20, 5, 40]))  # of the right and the wrong photo, on both canvases
    assert plain.triplet[0] == pytest.approx([0.2 + chord[0] - chord[1], 0], abs=1e-6)
    assert plain.nearest[0, 0] == pytest.approx([np.sin(np.deg2rad(50)), np.cos(np.deg2rad(50))])
    fused = outcomes(unseen, CANVASES, SelectorConfig(kind="gate", views=1), 0, own=True)
    assert fused.rank.tolist() == fused.alone.tolist() == [[2, 1]] and fused.nearest[0, 1, 0] == pytest.approx(
        np.cos(np.deg2rad(30))
    )
    assert triplet_of(np.array([1.0]), np.array([0.0]), 0.2) == pytest.approx(0)


def test_embeddings_of_several_looks_are_summed_as_each_kind_says() -> None:
    looks = normalised(np.random.default_rng(0).normal(size=(4, 3, 8)))
    assert np.array_equal(combined(looks, "last"), looks)
    assert combined(looks, "first")[:, 0] == pytest.approx(looks[:, 0])
    assert combined(looks, "first")[:, 2] == pytest.approx(normalised(looks[:, 0] + looks[:, 2]))
    assert combined(looks, "all")[:, 2] == pytest.approx(normalised(looks.sum(1)))


def test_numbers_of_strokes_and_of_sureness_by_hand() -> None:
    square = [[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]]
    sketch = Sketch.from_strokes([square, [[0.0, 0.0], [0.3, 0.4]]], widths=[0.0, 0.1], filled=[1, 0])
    found = stroke_statistics(sketch, 0.01)
    expected = [np.log(3), np.log(7), np.log1p(2.5), 0.05 + 0.25, 0.75, 0.75, 0.5, 0.5, 0.5, 0.1, np.log(0.51)]
    assert found[:11] == pytest.approx(expected, abs=1e-6)
    assert not stroke_statistics(Sketch.from_strokes([], 0.1), 0.01).any()
    numbers = dict(zip(SURENESS, sureness(np.array([[0.9, 0.9, 0.5, 0.5, 0.5]] * 2))[0], strict=True))
    assert numbers["margin"] == 0 and numbers["margin to the fifth"] == pytest.approx(0.4)
    assert numbers["entropy"] == pytest.approx(np.log(2), abs=0.01)


def test_a_recurrent_selector_stops_where_the_drawing_ends() -> None:
    """Rows of padding behind the end change nothing."""
    sketch = scribble(3, np.random.default_rng(0))
    tuples = np.stack([five_tuples(sketch, 6), five_tuples(sketch, 6)])
    assert sequence_steps(tuples).tolist() == [6, 6] and sequence_steps(five_tuples(sketch, 9)[None]).tolist() == [6]
    policy = GruPolicy(2, 4)
    torch.nn.init.normal_(policy.step.head.weight)
    short = policy(torch.from_numpy(five_tuples(sketch, 6))[None], torch.tensor([6]))
    assert torch.equal(short, policy(torch.from_numpy(five_tuples(sketch, 9))[None], torch.tensor([6])))


def test_thresholds_are_the_best_of_all_by_search() -> None:
    rng = np.random.default_rng(0)
    levels = rng.random((300, 2))
    rewards = np.stack([levels[:, 0] > 0.7, 0.9 * (levels[:, 1] > 0.4), np.full(300, 0.5)], axis=1).astype(float)
    thresholds = search_thresholds(levels, rewards)
    assert thresholds == pytest.approx([0.7, 0.4], abs=0.06)
    assert cascade_choices(np.array([[0.8, 0.0], [0.0, 0.5], [0.0, 0.0]]), thresholds).tolist() == [0, 1, 2]
    assert {fold_of(str(index), 3) for index in range(50)} == {0, 1, 2}


class Angles:
    """Looks at a gallery of two photos at right angles: a sketch's angle is its first x, exact on the large canvas."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def encode(self, sketches: Any, canvas_px: int) -> np.ndarray:
        self.calls.append((canvas_px, len(sketches)))
        angles = np.array([sketch.points[0, 0] if canvas_px == 32 else 0.78 for sketch in sketches])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def nearest(self, embeddings: np.ndarray, count: int) -> np.ndarray:
        return -np.sort(-embeddings, axis=1)[:, :count]


def test_a_cascade_and_a_gate_look_again_only_where_they_must() -> None:
    sketches = [Sketch.from_strokes([[[x, 0.0], [x, 0.5]]], 0.1) for x in (0.1, 0.2, 0.3)]
    looks = Angles()
    settings = {"kind": "cascade", "canvases": [16, 32], "thresholds": [0.1], "measure": "margin", "combine": "last"}
    found = Cascade(settings, {})(sketches, looks)
    assert looks.calls == [(16, 3), (32, 3)] and found.canvas_px.tolist() == [32] * 3
    assert np.arctan2(*found.embeddings.T[::-1]) == pytest.approx([0.1, 0.2, 0.3])

    def only_the_second(feeds: Any) -> dict[str, np.ndarray]:
        return {"logits": np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)}

    looks = Angles()
    gate = {"kind": "gate", "canvases": [16, 32], "tolerance": 0.01, "mean": [0] * 17, "std": [1] * 17}
    found = Gate({**gate, "combine": "first"}, {"selector": only_the_second})(sketches, looks)
    assert looks.calls == [(16, 3), (32, 1)] and found.canvas_px.tolist() == [16, 32, 16]
    assert np.arctan2(*found.embeddings.T[::-1]) == pytest.approx([0.78, 0.49, 0.78])
    with pytest.raises(RequestError, match="'gate' needs a graph 'selector'"):
        SELECTORS["gate"]({**gate, "combine": "first"}, {})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["selector.kind=gate", "deploy.canvases=[32]"], "needs at least two canvases"),
        (["selector.kind=gate", "selector.canvases=[16,32]"], "16 px, which deploy.canvases does not have"),
        (["selector.kind=gru", "selector.hidden=0", "deploy.canvases=[24,32]"], "at least one unit"),
    ],
)
def test_a_selector_that_cannot_work_is_refused_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        load_recipe("sketch", overrides)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gate", "statistics", "gru", "cascade"])
def test_a_recipe_with_a_selector_gives_a_bundle_that_chooses_the_same_on_onnx(
    folder: Path,  # noqa: F811
    tmp_path: Path,
    kind: str,
) -> None:
    import targets
    from targets.bundle import Bundle

    options = ["deploy.canvases=[16,32]", "stages.distill.canvases=[16,32]", "selector.views=2", "selector.steps=5"]
    options += [f"selector.kind={kind}", "selector.folds=2", "selector.points=12", "stages.distill.steps=25"]
    path = distill(recipe(folder, "deploy.index=int8", *options), tmp_path / "run")
    bundle = Bundle.open(path)
    arrays = bundle.split("validation")
    reference, on_onnx = targets.load(path), targets.load(path, "onnx")
    choices = reference.glue.choices(arrays)  # type: ignore[attr-defined]
    assert np.array_equal(choices, on_onnx.glue.choices(arrays))  # type: ignore[attr-defined]
    queries = list(on_onnx.glue.queries(arrays))
    assert [on_onnx(query).canvas_px in (16, 32) for query in queries] == [True] * len(queries)

    on_onnx.calls.clear()
    value = on_onnx.evaluate("validation").value
    calls = {name: count / len(queries) for name, count in on_onnx.calls.items()}
    used = {name: count for name, count in bundle.uses["query"].items() if count}
    assert calls == pytest.approx(used), "what the float student called"
    looked = {px: calls.get(f"encoder_{px}", 0.0) for px in (16, 32)}
    assert sum(looked.values()) == pytest.approx(1.0) or kind in ("gate", "cascade")
    if kind in ("gate", "cascade"):
        assert looked == {16: 1.0, 32: pytest.approx((choices == 32).mean())}
    manifest = json.loads((path / "bundle.json").read_text())
    (claimed,) = (m["value"] for m in manifest["metrics"] if m["split"] == "validation" and m["of"] == "student")
    assert value == pytest.approx(claimed)
    _check_as_another_student(path, recipe(folder, *options), arrays)
    stage = json.loads((tmp_path / "run" / "run.json").read_text())["stages"]["selector"]
    assert stage["metrics"]["mmacs"] > 0 and 0 <= stage["metrics"]["share_16px"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("device", "runtime"), [("host", "tflite"), ("cortex-m4", "c"), ("host", "openvino")])
def test_the_policies_networks_compile_to_int8_everywhere(tmp_path: Path, device: str, runtime: str) -> None:
    need_module("ai_edge_litert", "openvino")
    from profiles.device import load_device
    from targets.artifact import compile_bundle
    from targets.bundle import Bundle
    from targets.export import BundleWriter

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    step, gate = build_policy("gru", 3, 16).step, build_policy("gate", 3, 0)
    for head in (step.head, gate.head):
        torch.nn.init.normal_(head.weight)
    point, state = rng.normal(0, 0.3, (64, 5)), np.tanh(rng.normal(size=(64, 16)))
    feeds = {"selector_step": {"point": point, "state": state}, "selector": {"features": rng.normal(size=(64, 17))}}
    outputs = {"selector_step": ("next_state", "logits"), "selector": ("logits",)}
    with BundleWriter(tmp_path / "b", student="s", task="sketch", glue="model", has_metric=False) as writer:
        for name, module in {"selector_step": step, "selector": gate}.items():
            inputs = {key: value.astype(np.float32) for key, value in feeds[name].items()}
            writer.add_graph(name, module, inputs, outputs=outputs[name])
            writer.golden(name, inputs)
            writer.calibration(name, inputs)
        writer.uses({"query": {"selector_step": 20, "selector": 1}})
        writer.settings({"graph": "selector_step"})  # the generic glue's
    artifact = compile_bundle(Bundle.open(tmp_path / "b"), load_device(device), runtime, "int8", tmp_path / "a")
    assert artifact.status == "built", artifact.reason
    if runtime != "c":
        golden, expected = Bundle.open(tmp_path / "b").golden("selector_step")
        found = artifact.student().sessions["selector_step"](golden)
        assert compare(expected, found).sqnr_db > 20


def _check_as_another_student(path: Path, config: Any, arrays: dict[str, np.ndarray]) -> None:
    """Its rewards are those of its validation part outside our test part, in a gallery as large as the test part's."""
    task = Task(config.model_copy(update={"data": config.data.model_copy(update={"fold": 1})}))
    task.setup(SimpleNamespace(rng=lambda *_: np.random.default_rng(0)))  # type: ignore[arg-type]
    closed = {task.pairs.concept(int(index)) for index in task.split.test}
    unseen = _of_bundle(task, str(path), (16, 32), 6)
    assert unseen.labels and not closed & set(unseen.labels)
    assert set(unseen.labels) == {str(label) for label in arrays["labels"]} - closed
    rows = [arrays["labels"].tolist().index(label) for label in unseen.labels]
    assert np.einsum("nd,nd->n", unseen.gallery[unseen.truth], normalised(arrays["gallery"][rows])) == pytest.approx(
        1, abs=1e-3
    )
    assert len(unseen.gallery) == 6 and unseen.embed(unseen.sketches, 16).shape[1] == 16
    with pytest.raises(RequestError, match="has no encoder_24"):
        _of_bundle(task, str(path), (16, 24), 6)
