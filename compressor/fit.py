"""Fit: the loop of one stage. Restores the newest checkpoint, trains what is left, saves, validates, logs."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.checkpoint import Checkpoints, load_buffers, load_modules, module_buffers
from compressor.context import Context, entropy, seed_globally
from compressor.distributed import share_buffers
from compressor.interrupts import Interrupts, Stopped
from compressor.stage import OptimizerSpec, Stage
from profiles.errors import GateError

AGREE_EVERY_ON_GPU = 10  # steps; asking all processes costs a synchronisation
SAVE = 1  # what processes agree on after a step: go on (0), save, or save and stop (a signal's number + STOP)
STOP = 100


class Fit:
    """Training of one stage in one process.

    After `run`, `metrics` are those of the last validation, `seconds` the time spent in steps, `per_process_statistics`
    the batch norms whose running statistics each process kept for itself, as MODULE.SUBMODULE.
    """

    def __init__(self, stage: Stage, context: Context, interrupts: Interrupts) -> None:
        train = context.recipe.train
        root = context.run_dir / "checkpoints" / stage.name
        self.stage, self.context, self.interrupts, self.settings = stage, context, interrupts, train
        self.checkpoints = Checkpoints(root, train.keep_checkpoints, context.rank, context.world_size)
        self.step = 0
        self.seconds = 0.0
        self.metrics: dict[str, float] = {}
        self.per_process_statistics: list[str] = []
        self.modules: dict[str, nn.Module] = {}  # the stage's own
        self.wrapped: dict[str, Any] = {}  # by Fabric
        self.specs: list[OptimizerSpec] = []
        self.optimizers: list[Any] = []  # wrapped

    def run(self) -> None:
        """Do what is left of the stage. A stage that is done is only restored."""
        state = self._newest()
        if state is not None and state["name"] == "final":
            self._restore_final(state)
            return
        try:
            self._set_up(state)
            with self.context.run_log.section(self.stage.name, self.step, self.stage.steps):
                self._loop()
                self._finish()
        finally:
            self._let_go()

    def run_own(self, run: Callable[[], None]) -> None:
        """A stage with a `run` of its own: not run again once it is done; its modules and state are saved then."""
        if not self._is_done():
            steps = self.checkpoints.steps()
            with self.context.run_log.section(self.stage.name, steps[-1] if steps else 0, 0):
                run()
                if not self._is_done():  # else it has called `fit` with itself
                    self.modules = self.stage.modules()
                    self._validate()
                    self._finish()
                    return
        state = self._newest()
        assert state is not None
        self._restore_final(state)

    def _is_done(self) -> bool:
        return self.context.fabric.broadcast(self.checkpoints.has_final())

    def facts(self) -> dict[str, Any]:
        """What run.json keeps of a finished stage."""
        return {
            "steps": self.stage.steps,
            "seconds": round(self.seconds, 3),
            "metrics": {name: value if math.isfinite(value) else None for name, value in self.metrics.items()},
            "per_process_statistics": self.per_process_statistics,
        }

    # --- before the first step ---

    def _newest(self) -> dict[str, Any] | None:
        name = self.checkpoints.newest(self.context.say) if self.context.rank == 0 else None
        name = self.context.fabric.broadcast(name)
        return None if name is None else self._read(name)

    def _restore_final(self, state: Mapping[str, Any]) -> None:
        self.stage.load_state_dict(state["own"]["stage"])
        self.modules = self.stage.modules()
        load_modules(self.modules, state["shared"]["modules"], self.checkpoints.root)
        load_buffers(self.modules, state["own"]["buffers"])
        self._take_facts(state["shared"])
        if self.context.rank == 0:
            self.checkpoints.clear_steps()

    def _set_up(self, state: Mapping[str, Any] | None) -> None:
        fabric, stage = self.context.fabric, self.stage
        if state is not None:
            stage.load_state_dict(state["own"]["stage"])
        self.modules = stage.modules()
        if state is not None:
            load_modules(self.modules, state["shared"]["modules"], self.checkpoints.root)
        for name, module in self.modules.items():
            trained = any(parameter.requires_grad for parameter in module.parameters())
            self.wrapped[name] = fabric.setup_module(module) if trained else fabric.to_device(module)
        self.specs = stage.optimizers()
        self.optimizers = [fabric.setup_optimizers(spec.optimizer) for spec in self.specs]
        if state is not None:
            load_buffers(self.modules, state["own"]["buffers"])
            self._restore_optimizers(state["shared"])
            self._take_facts(state["shared"])
        for module in self.modules.values():
            module.train()
        stage.start(self.context)

    def _restore_optimizers(self, shared: Mapping[str, Any]) -> None:
        for spec, state in zip(self.specs, shared["optimizers"], strict=True):
            spec.optimizer.load_state_dict(state["optimizer"])
            if spec.scheduler is not None:
                spec.scheduler.load_state_dict(state["scheduler"])
        self.context.fabric.strategy.precision.load_state_dict(shared["precision"])

    def _take_facts(self, shared: Mapping[str, Any]) -> None:
        self.step, self.seconds, self.metrics = shared["step"], shared["seconds"], shared["metrics"]
        self.per_process_statistics = shared["per_process_statistics"]

    def _let_go(self) -> None:
        """Drop the wrappers: DDP's hooks sit on the parameters until it is collected, and a later stage wraps again."""
        self.wrapped, self.optimizers, self.specs = {}, [], []
        if self.context.world_size > 1:
            gc.collect()

    # --- the steps ---

    def _loop(self) -> None:
        stage = self.stage
        validated = self.step if self.metrics else -1
        saved_at = time.monotonic()
        with contextlib.closing(self._batches()) as batches:
            while self.step < stage.steps:
                with self.interrupts.deferred():
                    began = time.perf_counter()
                    self._train_step(next(batches))
                    self.seconds += time.perf_counter() - began
                    if _due(self.step, self.settings.validate_every):
                        self._validate()
                        validated = self.step
                    if self.step < stage.steps:
                        saved_at = self._save_if_due(saved_at)
        self._note_statistics()
        if self.context.world_size > 1:
            share_buffers(self.modules)
        if validated != stage.steps:
            self._validate()

    def _batches(self) -> Generator[Any]:
        """Batches from the current step on, made ahead in a thread."""

        def make(step: int) -> Any:
            rng = np.random.default_rng(entropy(self.context.recipe.seed, "batch", self.stage.name, step, rank))
            return self.stage.batch(step, rng)

        rank = self.context.rank
        return prefetch(make, range(self.step, self.stage.steps), self.settings.num_prefetch)

    def _train_step(self, batch: Any) -> None:
        fabric, stage, step = self.context.fabric, self.stage, self.step
        seed_globally(self.context.recipe.seed, "step", stage.name, step, self.context.rank)
        losses = stage.loss(self.wrapped, fabric.to_device(batch))
        logging = _due(step + 1, self.settings.log_every) or step + 1 == stage.steps
        if logging or losses["loss"].device.type == "cpu":
            self._refuse_if_not_finite(losses, step)
        numbers: dict[str, float] = {}
        if self.optimizers:
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            fabric.backward(losses["loss"])
            for index, (spec, optimizer) in enumerate(zip(self.specs, self.optimizers, strict=True)):
                norm = self._clip(spec, optimizer)
                optimizer.step()
                if logging:
                    numbers |= _optimizer_numbers(spec, norm, "" if index == 0 else f"_{index}")
                if spec.scheduler is not None:
                    spec.scheduler.step()
        stage.after_step(step)
        self.step = step + 1
        if logging:
            self._log(losses, numbers)
        else:
            self.context.run_log.progress(self.step, None)

    def _refuse_if_not_finite(self, losses: Mapping[str, Tensor], step: int) -> None:
        if not torch.isfinite(losses["loss"]).all():
            values = ", ".join(f"{name} {float(value.detach()):.3g}" for name, value in losses.items())
            raise GateError(
                f"stage {self.stage.name}: the loss is not finite at step {step} ({values}); lower the learning rate, "
                "or set train.clip_norm"
            )

    def _clip(self, spec: OptimizerSpec, optimizer: Any) -> Tensor | None:
        limit = spec.clip_norm if spec.clip_norm is not None else self.settings.clip_norm
        if limit is None:
            return None
        # The module only matters to sharded strategies. In 16-mixed a step that overflows is skipped, not an error.
        module = next(iter(self.wrapped.values()))
        return self.context.fabric.clip_gradients(module, optimizer, max_norm=limit, error_if_nonfinite=False)

    def _log(self, losses: Mapping[str, Tensor], numbers: dict[str, float]) -> None:
        values = torch.stack([losses[name].detach().float().mean() for name in losses])
        reduced: Any = self.context.fabric.all_reduce(values, reduce_op="mean")
        means = dict(zip(losses, reduced.tolist(), strict=True))
        self.context.log(means | numbers | {"seconds": self.seconds}, self.step)
        self.context.run_log.progress(self.step, means["loss"])

    # --- between steps ---

    def _validate(self) -> None:
        modes = {module: module.training for root in self.modules.values() for module in root.modules()}
        for module in self.modules.values():
            module.eval()
        seed_globally(self.context.recipe.seed, "validate", self.stage.name, self.step, self.context.rank)
        with torch.no_grad():
            metrics = self.stage.validate(self.context)
        for module, training in modes.items():
            module.training = training
        self.metrics = {name: float(value) for name, value in metrics.items()}
        if metrics:
            self.context.log(self.metrics, self.step)
            text = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
            self.context.say(f"{self.stage.name}: step {self.step}: {text}")

    def _note_statistics(self) -> None:
        """Which batch norms train on the statistics of one process's part of the batch."""
        if self.context.world_size > 1:
            self.per_process_statistics = batch_norms_in_training(self.modules)

    def _save_if_due(self, saved_at: float) -> float:
        """Save if it is time, and stop if some process got a signal. Returns when the last checkpoint was made."""
        now = time.monotonic()
        wish = SAVE if _due(self.step, self.settings.checkpoint_every) else 0
        seconds = self.settings.checkpoint_seconds
        if self.context.rank == 0 and seconds is not None and now - saved_at >= seconds:
            wish = SAVE
        if self.interrupts.received:
            wish = STOP + self.interrupts.received
        verdict = self._agree(wish)
        if not verdict:
            return saved_at
        self._save()
        if verdict >= STOP:
            raise Stopped(verdict - STOP, f"after step {self.step} of {self.stage.steps} of stage {self.stage.name}")
        return time.monotonic()

    def _agree(self, wish: int) -> int:
        """The largest wish of all processes, so that all do the same."""
        fabric = self.context.fabric
        if self.context.world_size == 1:
            return wish
        if fabric.device.type != "cpu" and not _due(self.step, AGREE_EVERY_ON_GPU):
            return wish if wish == SAVE and _due(self.step, self.settings.checkpoint_every) else 0
        tensor = torch.tensor(wish, device=fabric.device)
        torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
        return int(tensor)

    def _save(self, name: str | None = None) -> None:
        own = {"stage": self.stage.state_dict(), "buffers": module_buffers(self.modules) if self.context.rank else {}}
        shared = {
            "stage": self.stage.name,
            "step": self.step,
            "seconds": self.seconds,
            "metrics": self.metrics,
            "per_process_statistics": self.per_process_statistics,
            "recipe_hash": self.context.recipe.hash,
            "modules": {key: module.state_dict() for key, module in self.modules.items()},
            "precision": self.context.fabric.strategy.precision.state_dict(),
            "optimizers": [
                {
                    "optimizer": spec.optimizer.state_dict(),
                    "scheduler": spec.scheduler.state_dict() if spec.scheduler is not None else None,
                }
                for spec in ([] if name == "final" else self.specs)
            ],
        }
        self._write(name or f"step-{self.step}", own, shared)
        self.context.run_log.flush()

    def _write(self, name: str, own: Mapping[str, Any], shared: Mapping[str, Any]) -> None:
        """Every process writes its own part; the first writes last, together with what all share."""
        fabric = self.context.fabric
        if self.context.rank:
            self.checkpoints.save(name, {"own": own})
        fabric.barrier()
        if self.context.rank == 0:
            self.checkpoints.save(name, {"own": own, "shared": shared})
            self.checkpoints.rotate()
        fabric.barrier()

    def _read(self, name: str) -> dict[str, Any]:
        first = Checkpoints(self.checkpoints.root).load(name)
        own = first["own"] if self.context.rank == 0 else self.checkpoints.load(name)["own"]
        return {"name": name, "own": own, "shared": first["shared"]}

    def _finish(self) -> None:
        with self.interrupts.deferred():
            self._save("final")
            if self.context.rank == 0:
                self.checkpoints.clear_steps()


def batch_norms_in_training(modules: Mapping[str, nn.Module]) -> list[str]:
    """MODULE.SUBMODULE of the batch norms that are in training mode and not synchronised between processes."""
    found = []
    for root, module in modules.items():
        for name, layer in module.named_modules():
            is_batch_norm = isinstance(layer, nn.modules.batchnorm._BatchNorm | nn.modules.instancenorm._InstanceNorm)
            if (
                is_batch_norm
                and layer.training
                and layer.track_running_stats
                and not isinstance(layer, nn.SyncBatchNorm)
            ):
                found.append(f"{root}.{name}" if name else root)
    return found


# --- small parts ---


def prefetch(make: Callable[[int], Any], steps: range, depth: int) -> Generator[Any]:
    """`make(step)` for every step, in order, up to `depth` ahead in one thread. Its errors are raised here."""
    if depth == 0:
        yield from map(make, steps)
        return
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
    try:
        ahead: deque[Future[Any]] = deque(pool.submit(make, step) for step in steps[:depth])
        for step in steps:
            batch = ahead.popleft().result()
            if step + depth < steps.stop:
                ahead.append(pool.submit(make, step + depth))
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _optimizer_numbers(spec: OptimizerSpec, norm: Tensor | None, suffix: str) -> dict[str, float]:
    """The rate that the step was made with, and the norm of its gradients before clipping, if it was computed."""
    numbers = {f"lr{suffix}": float(spec.optimizer.param_groups[0]["lr"])}
    if norm is not None and math.isfinite(float(norm)):
        numbers[f"gradient_norm{suffix}"] = float(norm)
    return numbers
