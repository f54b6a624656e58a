"""Two gloo processes: they train one student, are killed and resumed, and say what was not shared."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compressor.checkpoint import Checkpoints
from compressor.runlog import read_metrics
from tests.compressor.engine import PATIENCE_S, ROOT, TOY, Toy, fork, wait_for

TWO = ("train.devices=2", "train.strategy=ddp", "stages.teacher.steps=20", "stages.distill.steps=20")


def workers(toy: Toy) -> set[int]:
    """Process ids of the worker processes of this test's runs: they have its cache."""
    mine, found = f"EDGE_COMPRESSOR_CACHE={toy.root / 'cache'}".encode(), set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command, environment = ((entry / file).read_bytes().split(b"\0") for file in ("cmdline", "environ"))
            except OSError:  # it has just ended
                continue
            if command[1:3] == [b"-m", b"compressor.distributed"] and mine in environment:
                found.add(int(entry.name))
    return found


@pytest.mark.slow
def test_two_processes_killed_and_resumed_in_both_stages_end_in_the_same_bits(toy: Toy) -> None:
    assert toy.finish("whole", *TWO) == 0, toy.said
    options = (*TWO, "train.checkpoint_every=3", "pause_ms=15")
    for stage in ("teacher", "distill"):
        process = toy.start("killed", *options)
        checkpoints = Checkpoints(toy.root / "killed" / "checkpoints" / stage)
        wait_for(checkpoints.steps)
        started = workers(toy)
        victim = process.pid if stage == "teacher" else random.choice(sorted(started))  # then a worker, not the first
        os.kill(victim or 0, signal.SIGKILL)
        process.join(PATIENCE_S)
        assert process.exitcode not in (0, None)
        wait_for(lambda: not workers(toy), 20)
    assert "training process 1 was killed by signal 9 (SIGKILL)" in toy.said
    assert toy.finish("killed", *options) == 0, toy.said
    assert toy.said.count("going on from step") == 2
    assert toy.weights("killed") == toy.weights("whole")

    record = json.loads((toy.root / "killed" / "run.json").read_text())
    assert record["processes"] == 2
    assert record["stages"]["teacher"]["per_process_statistics"] == ["teacher.1"]
    assert record["stages"]["distill"]["per_process_statistics"] == ["student.1"]
    lineage = json.loads((toy.root / "killed" / "bundle" / "bundle.json").read_text())["lineage"]["training"]
    assert lineage["stages"]["distill"]["per_process_statistics"] == ["student.1"], "the result says so"
    assert "batch norm statistics are per process, process 0's are kept: student.1" in toy.said
    assert len(list((toy.root / "cache" / "teachers").glob("*/key.json"))) == 1, "both went on with one teacher"
    steps = [line["step"] for line in read_metrics(toy.root / "killed") if "loss" in line]
    assert steps == [20, 20], "one process writes the log"

    assert toy.finish("killed", *options, "train.devices=1") == 2, "another number of processes is another run"
    assert "differs in train.devices" in toy.said


@pytest.mark.slow
def test_a_signal_stops_both_processes_with_the_state_saved(toy: Toy) -> None:
    """Through the command line: only the first process gets the signal, the worker stops at the same step."""
    command = [sys.executable, "-m", "compressor", "distill", str(toy.recipe), "--out", str(toy.root / "run"), *TWO]
    process = subprocess.Popen(
        [*command, "pause_ms=20", "train.log_every=1"], cwd=ROOT, env=os.environ | toy.environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(lambda: len(read_metrics(toy.root / "run")) > 2)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 143 and output == ""
    # between two steps; on a busy machine the signal may come in before the stage has taken its next one
    assert errors.splitlines()[-1].startswith(
        ("error: stopped by SIGTERM after step", "error: stopped by SIGTERM in")
    ), errors
    assert not workers(toy)
    folder = toy.root / "run" / "checkpoints" / "teacher"
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 2 and names[1] == f"{names[0]}.rank-1"


def test_an_error_that_all_processes_have_is_said_once(toy: Toy) -> None:
    assert toy.finish("run", *TWO, "fail_at=2") == 1
    assert toy.said.count("error: ") == 1 and "stage distill: the loss is not finite at step 2" in toy.said
    assert "Traceback" not in toy.said


@pytest.mark.parametrize("whole_loss", [True, False])
def test_the_gradient_through_gather_is_that_of_one_process_with_the_joined_batch(
    tmp_path: Path, whole_loss: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether every process computes the whole loss, or only the part of its own rows."""
    monkeypatch.syspath_prepend(str(TOY))
    from toy_tasks.child import contrastive_losses, contrastive_problem, gathered_gradient

    weight, batch = contrastive_problem()
    contrastive_losses(torch.tanh(batch @ weight)).mean().backward()
    output = tmp_path / "gradient"
    children = [fork(gathered_gradient, rank, 2, str(tmp_path / "store"), whole_loss, str(output)) for rank in (0, 1)]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    torch.testing.assert_close(torch.load(output, weights_only=True), weight.grad, rtol=1e-12, atol=1e-12)
