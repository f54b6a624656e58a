"""Several processes: Fabric with the recipe's settings, its worker processes, and tensors joined with their gradients.

The first process starts the workers of its machine itself (`python -m compressor.distributed`, the recipe on standard
input) in the way that Fabric documents for processes which are started by hand, so that `distill` works from the
command line, from a program and from a test alike. Under torchrun or SLURM the processes are there already.
"""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, ParallelStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from compressor.interrupts import Stopped
from compressor.recipe import RecipeConfig, TrainConfig, parse_recipe
from profiles.errors import CompressorError, RequestError

PATIENCE_SECONDS = 3.0  # a worker's error is usually the first process's error too, which then speaks for both
HANG_SECONDS = 60.0
# torch has renamed the option; it still broadcasts buffers once, when a module is wrapped.
_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)
VARIABLES = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")


class WorkerError(CompressorError):
    """A worker process ended before its time. Carries that process's exit code."""

    def __init__(self, rank: int, code: int) -> None:
        self.exit_code = code if code in (1, 2, 3) else 4
        how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
        why = "; was there enough memory?" if code == -signal.SIGKILL else "; its message is above"
        super().__init__(f"training process {rank} {how}{why}")


def make_fabric(train: TrainConfig) -> Fabric:
    """Fabric for these settings. Raises RequestError for a device or precision that is not to be had here."""
    options: dict[str, Any] = {
        "accelerator": train.accelerator,
        "devices": train.devices,
        "num_nodes": train.num_nodes,
        "precision": train.precision,
    }
    try:
        fabric = Fabric(**options)
        if train.strategy != "auto" or isinstance(fabric.strategy, ParallelStrategy):
            # Buffers are not broadcast: that writes to batch norm's statistics between two forward passes of a step,
            # which autograd refuses. They stay per process, and the run says so.
            unused = train.strategy == "ddp_find_unused_parameters_true"
            ddp: dict[str, Any] = {_SYNC_BUFFERS: False, "find_unused_parameters": unused}
            strategy = DDPStrategy(**ddp)
            fabric = Fabric(**options, strategy=strategy)
    except Exception as error:  # Fabric and torch raise many types here, all about these settings
        line = " ".join(str(error).split()).split(". ")[0]
        settings = ", ".join(f"train.{name}={value}" for name, value in options.items())
        raise RequestError(f"these settings do not work on this machine ({settings}): {line}") from None
    return fabric


def is_first_process() -> bool:
    """Before the processes have found each other: is this the one that owns the run directory?"""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK")
    return all(os.environ.get(name, "0") == "0" for name in names)


def starts_externally(fabric: Fabric) -> bool:
    """Whether something else (torchrun, SLURM, our own first process) has started the processes."""
    environment = getattr(fabric.strategy, "cluster_environment", None)
    return environment is not None and environment.creates_processes_externally


@contextlib.contextmanager
def processes(fabric: Fabric, recipe: RecipeConfig, run_dir: Path) -> Iterator[None]:
    """Start the workers that these settings need, join them, and see to it that they end."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    workers = Workers()
    strategy = fabric.strategy
    try:
        if isinstance(strategy, DDPStrategy) and not starts_externally(fabric):
            workers.start(strategy.num_processes, recipe, run_dir)
        fabric.launch()
        yield
        _leave_group()
        workers.wait()
    except BaseException as error:
        workers.end(error)
        raise
    finally:
        _leave_group()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _leave_group() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


class Workers:
    """The worker processes of this machine; none in a run of one process."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self._over = threading.Event()

    def start(self, count: int, recipe: RecipeConfig, run_dir: Path) -> None:
        """Start processes 1 to count - 1 and put this one, number 0, into the same group."""
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
        os.environ.setdefault("NODE_RANK", "0")
        os.environ["LOCAL_RANK"] = "0"
        os.environ["WORLD_SIZE"] = str(count * recipe.train.num_nodes)
        request = {"recipe": recipe.model_dump(mode="json"), "run_dir": str(run_dir.absolute()), "parent": os.getpid()}
        for rank in range(1, count):
            environment = os.environ | {"LOCAL_RANK": str(rank), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            command = [sys.executable, "-m", "compressor.distributed"]
            process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=sys.stderr)
            self.processes.append(process)
            assert process.stdin is not None
            with process.stdin:
                process.stdin.write(json.dumps(request).encode())
        if self.processes:
            threading.Thread(target=self._watch, name="workers", daemon=True).start()

    def wait(self) -> None:
        """Wait until all are done. Raises WorkerError if one failed."""
        for rank, process in enumerate(self.processes, start=1):
            code = process.wait()
            if code:
                raise WorkerError(rank, code)
        self._over.set()

    def end(self, error: BaseException) -> None:
        """End them because of `error`. Raises WorkerError if one of them had failed first and caused it."""
        self._over.set()
        failed = None
        if not isinstance(error, CompressorError | KeyboardInterrupt):  # such as a broken connection
            failed = self._first_failure(seconds=2 * PATIENCE_SECONDS)
        patience = PATIENCE_SECONDS * 5 if isinstance(error, Stopped) else 0.0
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
            if process.poll() is None:
                process.kill()
                process.wait()
        if failed:
            raise WorkerError(*failed) from None  # this process's error is only the broken connection

    def _first_failure(self, seconds: float) -> tuple[int, int] | None:
        deadline = time.monotonic() + seconds
        while self.processes and time.monotonic() < deadline:
            for rank, process in enumerate(self.processes, start=1):
                code = process.poll()
                if code:
                    return rank, code
            time.sleep(0.05)
        return None

    def _watch(self) -> None:
        """The last resort when a worker has died and this process hangs in a collective that never notices."""
        while not self._over.wait(1.0):
            failed = next(((r, p.returncode) for r, p in enumerate(self.processes, start=1) if p.poll()), None)
            if failed and not self._over.wait(HANG_SECONDS):
                error = WorkerError(*failed)
                print(f"error: {error}", file=sys.stderr, flush=True)
                for process in self.processes:
                    process.kill()
                os._exit(error.exit_code)


class _Gather(torch.autograd.Function):
    """Forward: the tensors of all processes, by rank. Backward: what every process's loss asks of this one's tensor."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """(n, ...) in each of W processes -> (W n, ...) in all of them, ordered by rank, with gradient.

    n must be the same everywhere. Together with the averaging of gradients over processes, a loss of the gathered
    tensor has the gradient that one process with the joined batch would compute, whether every process computes the
    whole loss or the mean over its own rows.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensor
    return _Gather.apply(tensor)


def share_buffers(modules: Mapping[str, nn.Module]) -> None:
    """Give every process the first one's buffers (batch norm's statistics), as it has the same parameters already."""
    for module in modules.values():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _die_with(parent: int) -> None:
    """Be killed when the first process dies, however it dies (Linux; elsewhere the broken connection ends us)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        pr_set_pdeathsig = 1
        libc.prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(4)


def main() -> None:
    """A worker: reads what to train from standard input."""
    request = json.loads(sys.stdin.buffer.read())
    _die_with(request["parent"])
    from compressor.train import distill

    recipe = parse_recipe(request["recipe"], f"recipe {request['recipe'].get('name')}")
    try:
        distill(recipe, Path(request["run_dir"]), resume=True)
    except Stopped as error:
        sys.exit(error.exit_code)
    except CompressorError as error:
        time.sleep(PATIENCE_SECONDS)
        print(f"error: process {os.environ['LOCAL_RANK']}: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except Exception:
        traceback.print_exc()
        sys.exit(4)


if __name__ == "__main__":
    main()
