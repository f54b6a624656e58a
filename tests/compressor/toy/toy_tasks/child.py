"""Runs in a child process that tests may kill: a training, with an optional death inside a write."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def train(
    recipe: str,
    overrides: list[str],
    run_dir: str,
    cache: str,
    output: str,
    die_at_write: int | None,
    die_after_seconds: float | None,
) -> None:
    """`compressor distill` without the command line; what it says goes to the end of the file `output`."""
    os.environ["EDGE_COMPRESSOR_CACHE"] = cache
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if die_at_write is not None:
        kill_at_file_operation(die_at_write)
    if die_after_seconds is not None:
        kill_after_processor_time(die_after_seconds)
    from compressor.recipe import load_recipe
    from compressor.train import distill
    from profiles.errors import CompressorError

    try:
        distill(load_recipe(recipe, overrides), run_dir, resume=True)
    except CompressorError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"processor seconds: {time.process_time()}", file=sys.stderr)


def kill_after_processor_time(seconds: float) -> None:
    """SIGKILL this process when it has used that much processor time, wherever it is then."""

    def watch() -> None:
        while time.process_time() < seconds:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def kill_at_file_operation(number: int) -> None:
    """SIGKILL this process just before its `number`-th fsync, rename, replacement or removal of a file."""
    left = [number]

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapped

    for owner, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (Path, "rename"), (shutil, "rmtree")):
        setattr(owner, name, deadly(getattr(owner, name)))


def gathered_gradient(rank: int, world_size: int, store: str, whole_loss: bool, output: str) -> None:
    """One gloo process of a contrastive loss: the gradients of its weights, averaged over processes as DDP does."""
    import torch.distributed as dist

    from compressor.distributed import gather

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    weight, batch = contrastive_problem()
    rows = batch.chunk(world_size)[rank]
    joined = gather(torch.tanh(rows @ weight))
    losses = contrastive_losses(joined)
    loss = losses.mean() if whole_loss else losses.chunk(world_size)[rank].mean()
    loss.backward()
    gradient = weight.grad
    assert gradient is not None
    dist.all_reduce(gradient)
    if rank == 0:
        torch.save(gradient / world_size, output)
    dist.destroy_process_group()


def contrastive_problem() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    return weight, torch.randn(8, 5, generator=generator, dtype=torch.float64)


def contrastive_losses(embedded: torch.Tensor) -> torch.Tensor:
    """(n, d) -> (n,): every row against all others, with its neighbour as the positive."""
    similarity = embedded @ embedded.T - 1e9 * torch.eye(len(embedded), dtype=embedded.dtype)
    positive = torch.arange(len(embedded)) ^ 1
    return torch.nn.functional.cross_entropy(similarity, positive, reduction="none")


def fill_cache(root: str, output: str) -> None:
    """Ask for an entry whose computation takes a while; note every computation in a file."""
    import numpy as np

    from compressor.cache import TeacherCache

    def compute() -> dict[str, np.ndarray]:
        with open(output, "a") as file:
            file.write("computed\n")
        time.sleep(0.5)
        return {"z": np.arange(1000.0)}

    arrays = TeacherCache(root).get({"teacher": "slow"}, compute)
    assert float(arrays["z"].sum()) == 499500.0
