"""distill: a recipe's stages in order on Lightning Fabric, resumable after any step, then the bundle.

On the CPU a run is a function of its recipe: every step draws from generators that are seeded by (seed, stage, step,
process), so a run that was killed and resumed ends in the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compressor.extras import needs

with needs("train"):
    import torch
    from lightning_fabric import Fabric

    from compressor import distributed
    from compressor.allocator import keep_freed_memory
    from compressor.cache import TeacherCache
    from compressor.context import Context, seed_globally
    from compressor.fit import Fit
    from compressor.interrupts import Interrupts
    from compressor.recipe import RecipeConfig
    from compressor.rundir import RunDirectory
    from compressor.runlog import RunLog
    from compressor.stage import Stage, Task
    from profiles.storage import cache_root

__all__ = ["Context", "Trainer", "distill"]


def distill(recipe: RecipeConfig, run_dir: str | Path, resume: bool = False) -> Path:
    """Run a recipe's stages in `run_dir` and export the bundle; returns the bundle's directory.

    A complete run of the same recipe is not run again. An unfinished one is continued with `resume`. Files are
    described in `compressor.rundir`. With several processes, call it in one of them: it starts the others.

    Raises RequestError (another run is in `run_dir`, settings that this machine does not have), MissingError,
    GateError (the loss is not finite), Stopped (SIGTERM, SIGINT; the state is saved), WorkerError.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # else every process announces itself
    first = distributed.is_first_process()
    run = RunDirectory.open(run_dir, recipe, resume, _print_line) if first else None
    try:
        fabric = distributed.make_fabric(recipe.train)
        if run and run.is_complete and not distributed.starts_externally(fabric):
            _print_line(f"{run.path}: this recipe is done here already")
            return run.bundle
        with Interrupts() as interrupts:
            return _distill(recipe, Path(run_dir), run, fabric, interrupts)
    finally:
        if run:
            run.close()


def _distill(
    recipe: RecipeConfig, run_dir: Path, run: RunDirectory | None, fabric: Fabric, interrupts: Interrupts
) -> Path:
    with distributed.processes(fabric, recipe, run_dir):
        if fabric.broadcast(run.is_complete if run else None):
            return run_dir / "bundle"
        threads = _settle(fabric, recipe, run)
        with _torch_settings(fabric, threads):
            context = _context(fabric, recipe, run_dir)
            task = recipe.task_class()(recipe)
            seed_globally(recipe.seed, "setup")
            task.setup(context)
            stages = task.stages()
            Trainer(context, interrupts, run).run(stages)
    if run:
        with _torch_settings(fabric, threads):
            interrupts.where = "while the bundle was written"
            seed_globally(recipe.seed, "export")
            _export(task, stages, run)
    return run_dir / "bundle"


def _export(task: Task, stages: Sequence[Stage], run: RunDirectory) -> None:
    from targets.export import BundleWriter

    for stage in stages:
        for module in stage.modules().values():
            module.cpu().eval()
    recipe = run.recipe
    with BundleWriter(
        run.bundle,
        student=recipe.name,
        task=recipe.task,
        glue=recipe.task,
        recipe=recipe.model_dump(mode="json"),
        recipe_hash=recipe.hash,
    ) as writer:
        task.export(writer)
        writer.lineage({"training": run.lineage()})
    run.finish()


def _context(fabric: Fabric, recipe: RecipeConfig, run_dir: Path) -> Context:
    run_log = RunLog(run_dir, active=fabric.global_rank == 0)
    cache = TeacherCache(cache_root() / "teachers", run_log.say)
    return Context(fabric, fabric.global_rank, fabric.world_size, run_dir, cache, recipe, run_log)


def _settle(fabric: Fabric, recipe: RecipeConfig, run: RunDirectory | None) -> int:
    """Agree on what decides the last bits: the number of processes, and of threads in each. Returns the latter.

    A resumed run keeps the number of threads of its first start, also on a machine with more processors.
    """
    threads = 0
    if run:
        local = max(1, fabric.world_size // recipe.train.num_nodes)
        here = max(1, len(os.sched_getaffinity(0)) // local) if fabric.device.type == "cpu" else os.cpu_count() or 1
        threads = recipe.train.threads or run.record["threads"] or here
        run.settle("processes", fabric.world_size, "train.devices")
        run.settle("threads", threads, "train.threads")
    return fabric.broadcast(threads)


@contextlib.contextmanager
def _torch_settings(fabric: Fabric, threads: int) -> Iterator[None]:
    """Deterministic algorithms (on a GPU: where there are any) and the number of threads; as they were, afterwards."""
    deterministic: Any = torch.utils.deterministic
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        deterministic.fill_uninitialized_memory,
    )
    on_cpu = fabric.device.type == "cpu"
    if on_cpu:
        keep_freed_memory()
    else:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=not on_cpu)
    deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        deterministic.fill_uninitialized_memory = before[3]


def _print_line(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class Trainer:
    """Runs stages in one process; what a stage's `run` is given."""

    def __init__(self, context: Context, interrupts: Interrupts, run: RunDirectory | None) -> None:
        self.context = context
        self._interrupts = interrupts
        self._run = run  # the first process's

    def run(self, stages: Sequence[Stage]) -> None:
        """All stages in order; those that are done are restored instead."""
        _check_names(stages)
        for stage in stages:
            self._interrupts.where = f"in stage {stage.name}"
            if type(stage).run is Stage.run:
                stage.run(self)
            else:
                fit = Fit(stage, self.context, self._interrupts)
                fit.run_own(functools.partial(stage.run, self))
                self._note(fit)

    def fit(self, stage: Stage) -> None:
        """Train a stage with its loss and optimisers, from its newest checkpoint on."""
        fit = Fit(stage, self.context, self._interrupts)
        fit.run()
        self._note(fit)

    def _note(self, fit: Fit) -> None:
        names = fit.per_process_statistics
        if names:
            listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            self.context.say(f"{fit.stage.name}: batch norm statistics are per process, process 0's are kept: {listed}")
        if self._run:
            self._run.finish_stage(fit.stage.name, fit.facts())


def _check_names(stages: Sequence[Stage]) -> None:
    names = [stage.name for stage in stages]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise ValueError(f"stage name {name!r}: letters, digits, '_', '-' only (it names a directory)")
    if len(set(names)) < len(names):
        raise ValueError(f"stage names must differ: {names}")
