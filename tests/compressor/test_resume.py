"""A run that is killed at any moment and resumed ends as one that was not, bit by bit."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import pytest

from compressor.recipe import load_recipe
from compressor.rundir import RunDirectory
from compressor.runlog import read_metrics
from compressor.train import distill
from profiles.errors import RequestError
from profiles.storage import read_json
from tests.compressor.engine import Toy, wait_for

STEPS = ("stages.teacher.steps=25", "stages.distill.steps=25", "train.log_every=5")


def metrics(toy: Toy, run: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the times."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(toy.root / run)]


@pytest.mark.parametrize("kind", ["writes", "moments"])
def test_a_run_killed_again_and_again_ends_in_the_same_bits(toy: Toy, kind: str) -> None:
    """With SIGKILL: just before a random file operation, or at a random moment (of its processor time)."""
    options = (*STEPS, "train.checkpoint_every=1")
    assert toy.finish("whole", *options) == 0, toy.said
    seconds = float(toy.said.split("processor seconds: ")[1])
    generator = random.Random(0)
    kills, code = 0, None
    while code != 0 and kills < 60:
        if kind == "writes":
            code = toy.finish("killed", *options, die_at_write=generator.randint(5, 120))
        else:
            code = toy.finish("killed", *options, die_after_seconds=seconds * generator.uniform(0.1, 0.4))
        assert code in (0, -signal.SIGKILL), toy.said
        kills += code != 0
    assert code == 0 and kills >= 3, f"{kills} kills, last exit code {code}"
    assert toy.weights("killed") == toy.weights("whole")
    assert metrics(toy, "killed") == metrics(toy, "whole")
    left = [path.name for path in (toy.root / "killed").rglob(".*tmp-*")]
    assert not left, "temporary files of killed processes are removed when the run goes on"


def test_the_uninterrupted_run_depends_on_the_seed_and_on_nothing_else(toy: Toy) -> None:
    assert toy.finish("a", *STEPS) == 0
    assert toy.finish("b", *STEPS, "train.num_prefetch=0", "train.checkpoint_every=2", "train.log_every=1") == 0
    assert toy.finish("c", *STEPS, "seed=4") == 0
    assert toy.weights("a") == toy.weights("b")
    assert toy.weights("a") != toy.weights("c")


def test_tensorboard_shows_every_step_once_after_a_kill(toy: Toy) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = (*STEPS, "train.log_every=1", "train.checkpoint_every=4", "pause_ms=20")
    process = toy.start("run", *options)
    metrics_file = toy.root / "run" / "metrics.jsonl"
    wait_for(lambda: metrics_file.exists() and len(metrics_file.read_text().splitlines()) > 10)
    process.kill()
    process.join()
    assert toy.finish("run", *options) == 0
    events = EventAccumulator(str(toy.root / "run" / "tensorboard" / "teacher"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 26))


@pytest.mark.parametrize("name, code", [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_saves_the_state_and_gives_its_exit_code(toy: Toy, name: str, code: int) -> None:
    options = (*STEPS, "train.checkpoint_seconds=null", "pause_ms=20")
    process = toy.start("run", *options)
    wait_for(lambda: (toy.root / "run" / "metrics.jsonl").exists())
    os.kill(process.pid or 0, getattr(signal, name))
    process.join(30)
    assert process.exitcode == code
    assert f"stopped by {name} after step" in toy.said and "state saved" in toy.said
    assert list((toy.root / "run" / "checkpoints" / "teacher").glob("step-*"))
    assert toy.finish("run", *options) == 0
    assert "going on from step" in toy.said
    assert toy.finish("whole", *STEPS) == 0
    assert toy.weights("run") == toy.weights("whole")


def test_checkpoints_come_by_the_clock_and_only_the_newest_are_kept(toy: Toy) -> None:
    options = (*STEPS, "train.checkpoint_seconds=0.05", "train.keep_checkpoints=3", "pause_ms=20")
    process = toy.start("run", *options)
    folder = toy.root / "run" / "checkpoints" / "teacher"
    most = 0
    while process.is_alive() and not (folder / "final").exists():
        most = max(most, len(list(folder.glob("step-*"))))
        time.sleep(0.005)
    process.join()
    assert most in (3, 4), "three are kept; a fourth only until the oldest is gone"
    assert not list(folder.glob("step-*")), "a finished stage keeps its final state only"


def test_a_damaged_checkpoint_is_refused_and_the_older_one_is_taken(toy: Toy) -> None:
    options = (*STEPS, "train.checkpoint_every=2", "pause_ms=20")
    process = toy.start("run", *options)
    folder = toy.root / "run" / "checkpoints" / "teacher"
    wait_for(lambda: len(list(folder.glob("step-*"))) == 2)
    process.kill()
    process.join()
    newest = max(folder.glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
    tensors = newest / "tensors.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    assert toy.finish("run", *options) == 0
    assert "checkpoint refused" in toy.said and f"{newest.name}/tensors.safetensors: changed" in toy.said
    assert toy.finish("whole", *STEPS) == 0
    assert toy.weights("run") == toy.weights("whole")


def test_a_finished_run_is_not_run_again_and_says_so(toy: Toy, capfd: pytest.CaptureFixture[str]) -> None:
    run_dir = toy.root / "run"
    assert toy.finish("run", *STEPS) == 0
    before = (run_dir / "run.json").stat().st_mtime_ns
    assert distill(load_recipe(toy.recipe, [*STEPS, "summary=other words"]), run_dir) == run_dir / "bundle"
    assert "done here already" in capfd.readouterr().err
    assert (run_dir / "run.json").stat().st_mtime_ns == before
    with pytest.raises(RequestError, match=r"differs in seed, stages\.teacher\.lr"):
        distill(load_recipe(toy.recipe, [*STEPS, "seed=9", "stages.teacher.lr=0.5"]), run_dir, resume=True)


def test_a_run_that_ended_before_it_began_makes_way_for_a_corrected_recipe(toy: Toy) -> None:
    recipe, run_dir = load_recipe(toy.recipe, [*STEPS, "seed=9"]), toy.root / "run"
    RunDirectory.open(run_dir, recipe, False, print).close()  # as far as a wrong name in the recipe comes
    corrected = load_recipe(toy.recipe, STEPS)
    RunDirectory.open(run_dir, corrected, False, print).close()
    assert read_json(run_dir / "run.json")["recipe_hash"] == corrected.hash != recipe.hash
    (run_dir / "checkpoints").mkdir()
    with pytest.raises(RequestError, match="holds a run of another recipe"):
        RunDirectory.open(run_dir, recipe, False, print)


def test_an_unfinished_run_is_not_overwritten_without_resume(toy: Toy) -> None:
    process = toy.start("run", *STEPS, "pause_ms=20")
    wait_for(lambda: (toy.root / "run" / "metrics.jsonl").exists())
    recipe = load_recipe(toy.recipe, STEPS)
    with pytest.raises(RequestError, match="another process is training here"):
        distill(recipe, toy.root / "run", resume=True)
    process.kill()
    process.join()
    with pytest.raises(RequestError, match="unfinished run; go on with --resume"):
        distill(recipe, toy.root / "run")
    (toy.root / "mine").mkdir()
    (toy.root / "mine" / "thesis.tex").write_text("")
    with pytest.raises(RequestError, match="not a run of ours"):
        distill(recipe, toy.root / "mine", resume=True)
    assert [path.name for path in (toy.root / "mine").iterdir() if not path.name.startswith(".")] == ["thesis.tex"]
