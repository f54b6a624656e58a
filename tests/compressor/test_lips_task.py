"""The lips task from clips to a bundle: it streams, and its parts are what they claim to be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import targets
from compressor.checkpoint import Checkpoints
from compressor.data.lips_clips import write_clips
from compressor.recipe import load_recipe
from compressor.tasks.lips.batches import previous, similar_clips, varied_frames
from compressor.tasks.lips.encoders import BiGRU, CausalEncoder
from compressor.tasks.lips.glue import LAST_TO_TEXT_MS, TIMES_REAL_TIME, Stream, clips_of
from compressor.tasks.lips.networks import Decoder, Encoded, gru_cell, with_own_characters
from compressor.tasks.lips.task import Task
from compressor.tasks.lips.teacher import align
from compressor.tasks.lips.vocabulary import BLANK, EDGE, FIRST
from compressor.train import distill
from profiles.errors import RequestError
from targets.bundle import Bundle
from tests.compressor.lips_toy import clips, write_toy
from tests.tools import need_module

SMALL = [
    "train.validate_every=null", "stages.teacher.batch=8", "stages.distill.batch=8", "teacher.encoder.dim=32",
    "teacher.encoder.hidden=24", "teacher.decoder.hidden=32", "student.encoder.dim=16", "student.decoder.hidden=16",
    "student.decoder.embedding=8", "student.channels=[4,8,8]", "student.encoder.dilations=[1,2]", "deploy.beam=2",
    "deploy.max_frames=32", "deploy.max_characters=14", "deploy.calibration=16", "deploy.golden=8",
    "stages.distill.optimizer.warmup_steps=2", "stages.teacher.optimizer.warmup_steps=2",
]  # fmt: skip
STEPS = ["stages.teacher.steps=3", "stages.distill.steps=4"]


def recipe(clips: Path, *more: str) -> Any:
    return load_recipe("lips", [f"data.source={clips}", *SMALL, *STEPS, *more])


@pytest.fixture(scope="module")
def run(shared: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A finished run of a few steps, beside its clips."""

    def make(path: Path) -> None:
        distill(recipe(write_toy(path / "clips")), path / "run")

    return shared("lips-run", make)


def trained(run: Path) -> Any:
    task: Any = Task(recipe(run / "clips"))
    task.setup(None)
    state = Checkpoints(run / "run" / "checkpoints" / "distill").load("final")["shared"]["modules"]["student"]
    task.student.load_state_dict(state)
    task.student.eval()
    return task


def test_the_streamed_memory_is_that_of_the_whole_clip(run: Path) -> None:
    task, glue = trained(run), targets.load(run / "run" / "bundle").glue
    for clip in clips_of(Bundle.open(run / "run" / "bundle").split("test"))[:3]:
        stream = Stream(glue)  # type: ignore[arg-type]
        for picture in clip:
            stream.push(picture[None])
        frames = torch.from_numpy(clip.astype(np.float32) / 255)[None]
        with torch.no_grad():
            whole = task.student.encode(frames, torch.ones(1, len(clip), dtype=torch.bool)).memory
        assert np.abs(stream.memory() - whole.numpy()).max() < 1e-4
        assert stream.texts() == [glue(clip)]


def test_clips_side_by_side_read_as_they_do_alone(run: Path) -> None:
    glue: Any = targets.load(run / "run" / "bundle").glue
    arrays = Bundle.open(run / "run" / "bundle").split("test")
    assert glue.texts(arrays) == [glue(clip) for clip in clips_of(arrays)]


def test_the_bundle_says_what_was_read_and_heard(run: Path) -> None:
    manifest = json.loads((run / "run" / "bundle" / "bundle.json").read_text())
    assert set(manifest["graphs"]) == {"encoder", "decoder"} and manifest["uses"]["query"]["encoder"] >= 15
    glue: Any = targets.load(run / "run" / "bundle").glue
    arrays = Bundle.open(run / "run" / "bundle").split("test")
    found = glue.evaluate(arrays)
    assert found.name == "CER" and not found.higher_is_better and len(found.scores) == 6
    assert "sentence accuracy" in found.extras and "letter accuracy" in found.extras
    example = glue.examples(arrays, 2)[0]
    assert [answer.label.split(":")[0] for answer in example.answers[:2]] == ["read", "heard"]
    assert example.remark and example.answers[2].image is not None
    assert example.sound is not None and len(example.sound) == len(example.query) * 640
    with pytest.raises(RequestError, match="at most 32"):
        glue(np.zeros((33, 32, 48), np.uint8))


@pytest.mark.parametrize(
    ("runtime", "module"), [("onnx", "onnxruntime"), ("openvino", "openvino"), ("tflite", "ai_edge_litert")]
)
def test_every_runtime_reads_what_torch_reads(run: Path, runtime: str, module: str) -> None:
    need_module(module)
    bundle = run / "run" / "bundle"
    arrays = Bundle.open(bundle).split("test")
    on_torch: Any = targets.load(bundle).glue
    compiled: Any = targets.load(bundle, runtime).glue
    assert compiled.texts(arrays) == on_torch.texts(arrays)
    timings = compiled.timings(clips_of(arrays)[0])
    assert timings[TIMES_REAL_TIME] > 0 and timings[LAST_TO_TEXT_MS] > 0


def test_a_causal_encoder_does_not_see_what_comes_later() -> None:
    torch.manual_seed(0)
    encoder = CausalEncoder(6, (1, 2, 4), 0.0).eval()
    x, mask = torch.randn(2, 12, 6), torch.ones(2, 12, dtype=torch.bool)
    changed = x.clone()
    changed[:, 7:] += 1
    before, after = encoder(x, mask), encoder(changed, mask)
    assert torch.equal(before[:, :7], after[:, :7]) and not torch.allclose(before[:, 7:], after[:, 7:])


def test_padding_changes_nothing_in_a_bigru_which_is_torchs_own() -> None:
    torch.manual_seed(0)
    ours = BiGRU(5, 4, 2, 0.0).eval()
    theirs = torch.nn.GRU(5, 4, 2, batch_first=True, bidirectional=True)
    for layer, (ahead, back) in enumerate(zip(ours.forwards, ours.backwards, strict=True)):
        for own, suffix in ((ahead, ""), (back, "_reverse")):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(theirs, f"{name}_l{layer}{suffix}").data = getattr(own, f"{name}_l0").data
    x = torch.randn(2, 7, 5)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3]).bool()
    found = ours(x, mask)
    assert torch.allclose(found[:1], theirs(x[:1])[0], atol=1e-6)
    expected, last = theirs(x[1:, :4])
    assert torch.allclose(found[1:, :4], expected, atol=1e-6)
    assert torch.allclose(ours.last(found, mask)[1], last[2:, 0].flatten(), atol=1e-6)


def test_the_decoders_steps_are_its_whole_run() -> None:
    torch.manual_seed(0)
    decoder = Decoder(7, 4, 5, 6, 0.0).eval()
    encoded = Encoded(torch.randn(2, 9, 6), torch.tensor([[1] * 9, [1] * 5 + [0] * 4]).bool(), torch.zeros(2, 6))
    before = torch.tensor([[EDGE, 2, 5], [EDGE, 3, 3]])
    whole = decoder(encoded, before)
    states = [torch.zeros(2, 5), torch.zeros(2, 5)]
    for place in range(3):
        one_hot = torch.eye(7)[before[:, place]]
        logits, *states, attention = decoder.step(one_hot, encoded.memory, encoded.mask.float(), *states)
        assert torch.allclose(logits, whole.logits[:, place], atol=1e-5)
        assert torch.allclose(attention, whole.attention[:, place], atol=1e-6)
    assert float(whole.attention[1, :, 5:].detach().max()) < 1e-5


def test_a_gru_cell_is_torchs_own() -> None:
    torch.manual_seed(0)
    gru, x = torch.nn.GRU(3, 4, batch_first=True), torch.randn(2, 1, 3)
    state = torch.randn(1, 2, 4)
    assert torch.allclose(gru_cell(gru, x[:, 0], state[0]), gru(x, state)[1][0], atol=1e-6)


def test_contexts_go_to_the_characters_that_the_teacher_wrote() -> None:
    contexts = np.arange(4, dtype=np.float32)[:, None] + 1
    aligned, kept = align([2, 9, 3, 4], contexts, [2, 3, 5, 4])  # 9 is not in the truth, 5 was not written
    assert kept.tolist() == [True, True, False, True] and aligned[:, 0].tolist() == [1, 3, 0, 4]


def test_the_weights_of_the_terms_end_at_zero_and_the_targets_are_left_alone(run: Path) -> None:
    task = trained(run)
    stage = task.stages()[-1]
    assert stage.weights(0) == {"sequence": 0.3, "context": 1.0, "frame": 0.5, "attention": 2.0}
    late = stage.batch(3, np.random.default_rng(0))  # beyond 60 % of four steps
    assert "memory" not in late and late["weights"].tolist() == [0.0] * 4


def test_a_random_share_of_the_previous_characters_is_wrong_and_the_first_never() -> None:
    rng = np.random.default_rng(0)
    target = torch.full((200, 50), 5)
    before = previous(target, 10, 0.15, rng)
    assert bool((before[:, 0] == EDGE).all())
    assert float((before[:, 1:] != 5).float().mean()) == pytest.approx(0.15 * 7 / 8, abs=0.01)  # 1 of 8 draws a 5


def test_the_models_own_characters_are_those_it_writes_after_the_right_ones() -> None:
    torch.manual_seed(0)
    decoder = Decoder(9, 4, 5, 6, 0.0).eval()
    encoded = Encoded(torch.randn(2, 9, 6), torch.ones(2, 9).bool(), torch.zeros(2, 6))
    before = torch.tensor([[EDGE, 2, 5, 3], [EDGE, 3, 3, BLANK]])
    written = decoder(encoded, before).logits.argmax(-1)
    own = torch.tensor([[True, True, False, True], [True, True, True, True]])
    found = with_own_characters(decoder, encoded, before, own)
    for row, place in ((0, 1), (0, 3), (1, 1), (1, 2)):
        character = int(written[row, place - 1])
        assert int(found[row, place]) == (character if character >= FIRST else int(before[row, place]))
    assert found[:, 0].tolist() == [EDGE, EDGE] and int(found[0, 2]) == 5 and int(found[1, 3]) == BLANK
    assert torch.equal(with_own_characters(decoder, encoded, before, torch.zeros_like(own)), before)


def test_every_clip_is_as_likely_and_batches_are_of_similar_length() -> None:
    rng = np.random.default_rng(0)
    lengths = np.arange(40, 80)
    drawn = [similar_clips(lengths, 4, rng) for _ in range(4000)]
    counts = np.bincount(np.concatenate(drawn), minlength=40)
    assert counts.min() > 320 and counts.max() < 480  # 400 expected, standard deviation 19
    assert np.median([np.ptp(lengths[chosen]) for chosen in drawn]) < 15


def test_varied_pictures_keep_their_size_and_range() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 48), dtype=np.uint8)
    varied = varied_frames(frames, np.random.default_rng(1), 1.0)
    assert varied.shape == frames.shape and varied.min() >= 0 and varied.max() <= 1
    assert np.array_equal(varied_frames(frames, np.random.default_rng(1), 0.0), frames.astype(np.float32) / 255)


def test_pinyin_is_for_mandarin(run: Path) -> None:
    with pytest.raises(RequestError, match="pinyin is for"):
        recipe(run / "clips", "data.text=pinyin")


def test_clips_in_another_language_or_without_pinyin_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is in language en"):
        Task(recipe(run / "clips", "data.language=cmn")).setup(None)  # type: ignore[arg-type]
    write_clips(tmp_path, "cmn", {}, clips({"train": 2, "validation": 1, "test": 1}))
    with pytest.raises(RequestError, match="how its characters are read"):
        Task(recipe(tmp_path, "data.language=cmn", "data.text=pinyin")).setup(None)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_bigru_reader_has_a_bundle_that_reads_whole_clips(run: Path, tmp_path: Path) -> None:
    changed = ["student.encoder={kind: bigru, dim: 16, hidden: 8, layers: 2}"]
    bundle = distill(recipe(run / "clips", *changed), tmp_path / "run")
    arrays = Bundle.open(bundle).split("test")
    on_torch: Any = targets.load(bundle).glue
    on_onnx: Any = targets.load(bundle, "onnx").glue
    assert on_torch.state is None and on_torch.texts(arrays) == on_onnx.texts(arrays)
