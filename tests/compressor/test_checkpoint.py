"""Training state on disk: comes back equal, or is refused; never pickled."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compressor.checkpoint import Checkpoints, load_modules, load_state, save_state
from profiles.errors import RequestError


def equal(a: Any, b: Any) -> bool:
    """Equal in type, value and bits, at every depth."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bytes(raw(a)) == bytes(raw(b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def raw(tensor: torch.Tensor) -> np.ndarray:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


DTYPES = (torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool)


def test_every_kind_of_state_comes_back_as_it_was(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    state = {
        "numbers": [0.1, -0.0, float("inf"), float("nan"), 10**30, True, None, "text", ""],
        "optimiser": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": base}}, "betas": (0.9, 0.999)},
        "views": [base, base.T, base[1:3], base[:, ::2]],
        "types": [
            torch.ones(2, dtype=t) for t in (torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool)
        ],
        "empty": [torch.empty(0, 3), {}, [], ()],
        "arrays": {
            "a": np.arange(6.0).reshape(2, 3).T,
            "scalar": np.array(2),
            "big": np.array([2**63], np.uint64),
        },
        "milestones": Counter({10: 1, 20: 2}),
        "dollar": {"$tensor": "not one", "a.b": {"c": 1}, "a": {"b.c": 2}},
    }
    save_state(tmp_path / "s", state)
    assert equal(load_state(tmp_path / "s"), state)


def test_numbers_of_numpy_become_plain_numbers(tmp_path: Path) -> None:
    save_state(tmp_path / "s", {"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": np.float64(0.1)})
    assert equal(load_state(tmp_path / "s"), {"a": 0.5, "b": 3, "c": True, "d": 0.1})


@pytest.mark.parametrize("bad", [object(), {1, 2}, b"bytes", {"deep": [lambda: 1]}, {(1, 2): 3}])
def test_what_would_need_pickle_is_refused_with_its_place(tmp_path: Path, bad: Any) -> None:
    with pytest.raises(TypeError, match=r"state\.x"):
        save_state(tmp_path / "s", {"x": bad})
    assert not list(tmp_path.iterdir()), "nothing is left behind"


SCHEDULERS = {
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 9),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    "steps": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [3, 5]),
    "warm-up": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=4), torch.optim.lr_scheduler.CosineAnnealingLR(o, 9)],
        milestones=[4],
    ),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
}
OPTIMISERS = {
    "adamw": lambda p: torch.optim.AdamW(p, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, centered=True),
    "radam": lambda p: torch.optim.RAdam(p),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_an_optimiser_and_its_schedule_go_on_exactly(tmp_path: Path, optimiser: str, scheduler: str) -> None:
    """Ten steps at once, against five, a checkpoint into fresh objects, and five."""

    def make() -> tuple[nn.Module, Any, Any]:
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        optimizer = OPTIMISERS[optimiser](model.parameters())
        return model, optimizer, SCHEDULERS[scheduler](optimizer)

    def steps(parts: tuple[nn.Module, Any, Any], first: int, last: int) -> None:
        model, optimizer, schedule = parts
        for step in range(first, last):
            torch.manual_seed(step)
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            schedule.step()

    whole, half, resumed = make(), make(), make()
    steps(whole, 0, 10)
    steps(half, 0, 5)
    save_state(tmp_path / "s", [part.state_dict() for part in half])
    for part, state in zip(resumed, load_state(tmp_path / "s"), strict=True):
        part.load_state_dict(state)
    steps(resumed, 5, 10)
    assert equal(resumed[0].state_dict(), whole[0].state_dict())
    assert resumed[2].get_last_lr() == whole[2].get_last_lr()


@pytest.mark.parametrize("file", ["state.json", "tensors.safetensors"])
def test_any_changed_byte_is_noticed(tmp_path: Path, file: str) -> None:
    save_state(tmp_path / "s", {"lr": 0.123, "w": torch.arange(5.0)})
    path = tmp_path / "s" / file
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        changed = bytearray(content)
        changed[position] ^= 0x04
        path.write_bytes(changed)
        try:
            loaded = load_state(tmp_path / "s")
        except RequestError as error:
            assert str(tmp_path / "s") in str(error) and "\n" not in str(error)
        else:  # white space of the JSON, which says nothing
            assert equal(loaded, {"lr": 0.123, "w": torch.arange(5.0)})
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RequestError):
        load_state(tmp_path / "s")
    path.unlink()
    with pytest.raises(RequestError, match="no such file"):
        load_state(tmp_path / "s")


def test_another_format_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "s", {})
    record = json.loads((tmp_path / "s" / "state.json").read_text())
    (tmp_path / "s" / "state.json").write_text(json.dumps(record | {"format": 99}))
    with pytest.raises(RequestError, match="checkpoint format 99, this version reads 1"):
        load_state(tmp_path / "s")


def test_the_newest_checkpoint_that_loads_is_taken(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "stage", keep=2)
    warnings: list[str] = []
    assert checkpoints.newest(warnings.append) is None
    for step in (2, 10, 9):
        checkpoints.save(f"step-{step}", {"step": step})
    checkpoints.rotate()
    assert checkpoints.steps() == [9, 10], "ordered as numbers"
    (tmp_path / "stage" / "step-10" / "state.json").write_text("{")
    assert checkpoints.newest(warnings.append) == "step-9" and len(warnings) == 1
    (tmp_path / "stage" / "step-9" / "tensors.safetensors").unlink()
    with pytest.raises(RequestError, match="no checkpoint loads; remove this directory"):
        checkpoints.newest(warnings.append)


def test_a_checkpoint_of_two_processes_needs_both_parts(tmp_path: Path) -> None:
    first, second = (Checkpoints(tmp_path, keep=1, rank=rank, world_size=2) for rank in (0, 1))
    second.save("step-1", {"own": 1})
    assert first.newest(print) is None, "the first process has not written: it does not count"
    first.save("step-1", {"own": 0})
    assert first.newest(print) == "step-1" and second.load("step-1") == {"own": 1}
    second.save("step-2", {"own": 1})
    first.save("step-2", {"own": 0})
    first.rotate()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-2", "step-2.rank-1"]


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="does not fit module net") as caught:
        load_modules({"net": nn.Linear(2, 3)}, {"net": nn.Linear(3, 3).state_dict()}, tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match="has the modules"):
        load_modules({"net": nn.Linear(2, 3)}, {"other": {}}, tmp_path)


def test_a_full_disk_is_an_error_of_the_system_with_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line turns ENOSPC into one line and exit code 3; safetensors hides the number in its text."""
    import errno

    from safetensors import SafetensorError

    def full(*args: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("compressor.checkpoint.save_file", full)
    with pytest.raises(OSError) as caught:
        save_state(tmp_path / "s", {"x": torch.ones(1)})
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())
