"""What a run does beside training: its bundle, its log, its refusals, its stages."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import targets
from compressor.context import Context
from compressor.fit import batch_norms_in_training, prefetch
from compressor.recipe import load_recipe
from compressor.runlog import cut_metrics, read_metrics
from compressor.stage import OptimizerSpec, Stage, adamw
from compressor.train import distill
from profiles.errors import GateError, RequestError
from tests.compressor.engine import Toy

FEW = ["stages.teacher.steps=8", "stages.distill.steps=8", "train.log_every=4"]


def run(toy: Toy, name: str, *overrides: str) -> Path:
    return distill(load_recipe(toy.recipe, [*FEW, *overrides]), toy.root / name)


def test_a_run_ends_with_a_bundle_that_answers_as_the_trained_student(toy: Toy) -> None:
    bundle = run(toy, "run", "export_graph=true", "stages.teacher.steps=60", "stages.distill.steps=60")
    student = targets.load(bundle)
    record = json.loads((bundle.parent / "run.json").read_text())
    assert record["complete"] and record["stages"]["distill"]["metrics"]["accuracy"] > 0.6
    value = (student.evaluate("validation").value * 50 + student.evaluate("test").value * 150) / 200
    assert math.isclose(value, record["stages"]["distill"]["metrics"]["accuracy"], abs_tol=0.011)
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert manifest["recipe_hash"] == record["recipe_hash"] and manifest["recipe"]["seed"] == 3
    assert manifest["lineage"]["training"]["versions"]["torch"] == torch.__version__.split("+")[0]


def test_the_log_has_losses_rates_and_metrics_and_the_pipe_gets_plain_lines(
    toy: Toy,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run(toy, "run")
    lines = [line for line in read_metrics(toy.root / "run") if line["stage"] == "teacher"]
    assert [line["step"] for line in lines] == [4, 7, 8, 8]
    half = 0.01 * (1 + math.cos(math.pi * 3 / 8)) / 2  # the cosine schedule at the fourth step
    assert math.isclose(lines[0]["lr"], half, rel_tol=1e-9)
    assert set(lines[0]) == {"stage", "step", "loss", "lr", "gradient_norm", "seconds"}
    assert set(lines[1]) == {"stage", "step", "accuracy"}, "train.validate_every=7"
    output = capfd.readouterr()
    assert output.out == "" and "teacher: 8 steps\n" in output.err and "\x1b" not in output.err
    assert "teacher: step 8: accuracy" in output.err


def test_settings_of_torch_and_signal_handlers_are_as_before_after_a_run(toy: Toy) -> None:
    import signal

    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), signal.getsignal(signal.SIGTERM))
    run(toy, "run")
    after = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), signal.getsignal(signal.SIGTERM))
    assert after == before


def test_a_loss_that_is_not_finite_ends_the_run_with_one_line(toy: Toy) -> None:
    with pytest.raises(GateError, match="stage distill: the loss is not finite at step 5") as caught:
        run(toy, "run", "fail_at=5")
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1


def test_bf16_learns_and_keeps_its_weights_in_float32(toy: Toy) -> None:
    from safetensors.torch import load

    steps = ("stages.teacher.steps=60",)
    run(toy, "bf16", "train.precision=bf16-mixed", *steps)
    run(toy, "fp32", *steps)
    weights = load(toy.weights("bf16"))
    assert weights["teacher.0.weight"].dtype == torch.float32
    assert not torch.equal(weights["teacher.0.weight"], load(toy.weights("fp32"))["teacher.0.weight"])
    record = json.loads((toy.root / "bf16" / "run.json").read_text())
    assert record["stages"]["teacher"]["metrics"]["accuracy"] > 0.9


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that this machine has")
def test_a_device_that_is_not_here_is_one_line(toy: Toy) -> None:
    with pytest.raises(RequestError, match="these settings do not work on this machine") as caught:
        run(toy, "run", "train.accelerator=cuda")
    assert "train.accelerator=cuda" in str(caught.value) and "\n" not in str(caught.value)


def test_gradients_are_clipped_to_the_smaller_of_their_norm_and_the_limit(toy: Toy) -> None:
    """With plain SGD of rate 1 the first step's length is the clipped norm."""
    from lightning_fabric import Fabric

    from compressor.fit import Fit
    from compressor.interrupts import Interrupts
    from compressor.runlog import RunLog

    class Clipped(Stage):
        name, steps = "clipped", 1

        def __init__(self) -> None:
            self.net = nn.Linear(3, 2, bias=False)
            self.before = self.net.weight.detach().clone()

        def modules(self) -> dict[str, nn.Module]:
            return {"net": self.net}

        def optimizers(self) -> list[OptimizerSpec]:
            return [OptimizerSpec(torch.optim.SGD(self.net.parameters(), lr=1.0), clip_norm=0.25)]

        def batch(self, step: int, rng: np.random.Generator) -> Any:
            return {"x": torch.ones(4, 3)}

        def loss(self, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, torch.Tensor]:
            return {"loss": 100 * modules["net"](batch["x"]).sum()}

    fabric = Fabric(accelerator="cpu", devices=1)
    recipe = load_recipe(toy.recipe)
    stage, cache = Clipped(), None
    context = Context(fabric, 0, 1, toy.root, cache, recipe, RunLog(toy.root))  # type: ignore[arg-type]
    with Interrupts() as interrupts:
        Fit(stage, context, interrupts).run()
    assert math.isclose(float((stage.net.weight - stage.before).detach().norm()), 0.25, rel_tol=1e-4)
    assert math.isclose(read_metrics(toy.root)[0]["gradient_norm"], 400 * math.sqrt(6), rel_tol=1e-5)


def test_batches_come_in_order_ahead_of_time_and_errors_are_not_lost() -> None:
    made: list[int] = []

    def make(step: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        made.append(step)
        if step == 8:
            raise ValueError("step 8 has no batch")
        return step * 10

    batches = prefetch(make, range(3, 12), 2)
    assert next(batches) == 30
    time.sleep(0.1)
    assert made == [3, 4, 5], "two ahead and no more"
    assert [next(batches) for _ in range(4)] == [40, 50, 60, 70]
    with pytest.raises(ValueError, match="step 8"):
        next(batches)
    assert list(prefetch(str, range(3), 0)) == ["0", "1", "2"]


def test_lines_beyond_the_checkpoint_and_half_lines_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [{"stage": "a", "step": 9}, {"stage": "b", "step": 2}, {"stage": "b", "step": 3}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "b", "st')
    cut_metrics(path, "b", 2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines[:2]
    cut_metrics(path, "b", 0)
    assert read_metrics(tmp_path) == lines[:1]


def test_only_batch_norms_that_learn_statistics_of_their_own_are_named() -> None:
    net = nn.Sequential(
        nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Sequential(nn.BatchNorm1d(3)), nn.SyncBatchNorm(2), nn.LayerNorm(3),
        nn.BatchNorm2d(4, track_running_stats=False), nn.BatchNorm2d(4).eval(), nn.InstanceNorm2d(3),
    )  # fmt: skip
    assert batch_norms_in_training({"net": net}) == ["net.0", "net.2.0"]


def test_the_learning_rate_warms_up_linearly_and_ends_at_zero() -> None:
    spec = adamw([torch.nn.Parameter(torch.zeros(1))], lr=0.1, weight_decay=0.0, warmup_steps=4, steps=20)
    assert spec.scheduler is not None
    rates = []
    for _ in range(21):
        rates.append(spec.optimizer.param_groups[0]["lr"])
        spec.optimizer.step()
        spec.scheduler.step()
    cosine = [0.1 * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(21)]
    assert rates[:5] == pytest.approx([value * (step + 1) / 5 for step, value in enumerate(cosine[:5])])
    assert rates[5:] == pytest.approx(cosine[5:])
