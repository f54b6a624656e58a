"""One of two gloo processes that distil through one queue."""

from __future__ import annotations

import torch
from torch.nn import functional

STEPS, LENGTH, BATCH = 3, 11, 8


def unit_rows(count: int, dim: int = 5, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1)


def queue_and_gradient(rank: int, world_size: int, store: str, output: str) -> None:
    """Steps over this process's part of every batch; writes the queue and the last step's averaged gradient."""
    import torch.distributed as dist

    from compressor.distributed import gather
    from compressor.losses.queue import EmbeddingQueue, queue_cross_entropy

    torch.set_num_threads(1)
    if world_size > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    queue = EmbeddingQueue(LENGTH)
    weight = torch.eye(5, dtype=torch.float64).requires_grad_()
    for step in range(STEPS):
        teacher = unit_rows(BATCH, seed=10 + step).chunk(world_size)[rank]
        student = unit_rows(BATCH, seed=20 + step).chunk(world_size)[rank] @ weight
        queue.append(gather(teacher))
        loss = queue_cross_entropy(student, teacher, queue.rows)
    loss.backward()
    gradient = weight.grad
    assert gradient is not None
    if world_size > 1:
        dist.all_reduce(gradient)
        dist.destroy_process_group()
    torch.save({"rows": queue.in_order(), "gradient": gradient / world_size}, output)
