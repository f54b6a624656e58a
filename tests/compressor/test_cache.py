"""The teacher-output cache: keyed by everything, verified, never half-written, shared by processes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compressor import cache as cache_module
from compressor.cache import TeacherCache, weights_hash
from tests.compressor.engine import fork

KEY = {"teacher": "abc", "px": 96, "views": [1, 2]}


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> TeacherCache:
    monkeypatch.setattr(cache_module, "_verified", set())
    return TeacherCache(tmp_path / "cache", warnings.append)


def never() -> dict[str, np.ndarray]:
    raise AssertionError("it was computed again")


def test_arrays_are_computed_once_and_come_back_memory_mapped_and_read_only(cache: TeacherCache) -> None:
    arrays = {"z": np.random.default_rng(0).normal(size=(5, 3)), "n": np.array(7), "u": np.zeros((0, 2), np.uint8)}
    cache.get(KEY, lambda: arrays)
    again = cache.get(dict(reversed(KEY.items())), never)
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in again.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()
    }
    assert isinstance(again["z"], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        again["z"][0] = 1


@pytest.mark.parametrize("change", [{"teacher": "abd"}, {"px": 97}, {"px": 96.5}, {"views": [2, 1]}, {"new": None}])
def test_every_change_of_the_key_is_another_entry(cache: TeacherCache, change: dict[str, Any]) -> None:
    cache.get(KEY, lambda: {"z": np.zeros(1)})
    assert float(cache.get(KEY | change, lambda: {"z": np.ones(1)})["z"][0]) == 1


@pytest.mark.parametrize("key", [{"a": object()}, {"a": float("nan")}, {"a": np.float32(1)}])
def test_a_key_that_json_cannot_say_is_refused(cache: TeacherCache, key: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        cache.get(key, never)


def test_chunks_lie_one_after_the_other(cache: TeacherCache) -> None:
    def chunks() -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, 1000, 300):
            rows = np.arange(start, min(start + 300, 1000), dtype=np.int32)
            yield {"rows": rows, "square": (rows[:, None] ** 2).astype(np.float32)}

    arrays = cache.get(KEY, chunks)
    assert np.array_equal(arrays["rows"], np.arange(1000)) and arrays["square"].shape == (1000, 1)
    assert np.array_equal(np.load(cache.path(KEY) / "rows.npy", allow_pickle=False), np.arange(1000)), "a plain .npy"


@pytest.mark.parametrize(
    "second",
    [{"a": np.zeros((1, 3))}, {"a": np.zeros((1, 2), np.float32)}, {"b": np.zeros((1, 2))}, {"a": np.zeros(())}],
)
def test_chunks_that_do_not_fit_leave_nothing(cache: TeacherCache, second: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError):
        cache.get(KEY, lambda: iter([{"a": np.zeros((1, 2))}, second]))
    assert not cache.path(KEY).exists()


def test_objects_and_paths_as_names_are_refused(cache: TeacherCache) -> None:
    with pytest.raises(TypeError):
        cache.get(KEY, lambda: {"a": np.array([object()])})
    with pytest.raises(ValueError, match="array name"):
        cache.get(KEY, lambda: {"../a": np.zeros(1)})
    assert not cache.path(KEY).exists()


def damage_bytes(path: Path) -> None:
    content = bytearray((path / "z.npy").read_bytes())
    content[-1] ^= 1
    (path / "z.npy").write_bytes(content)


def damage_length(path: Path) -> None:
    (path / "z.npy").write_bytes((path / "z.npy").read_bytes()[:-8])


def damage_shape(path: Path) -> None:
    np.save(path / "z.npy", np.zeros((3, 2)))


def damage_record(path: Path) -> None:
    (path / "key.json").write_text("{")


def damage_key(path: Path) -> None:
    record = json.loads((path / "key.json").read_text())
    (path / "key.json").write_text(json.dumps(record | {"key": {"another": 1}}))


def remove_file(path: Path) -> None:
    (path / "z.npy").unlink()


@pytest.mark.parametrize("damage", [damage_bytes, damage_length, damage_shape, damage_record, damage_key, remove_file])
def test_a_damaged_entry_is_noticed_said_and_computed_again(
    cache: TeacherCache, warnings: list[str], damage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.get(KEY, lambda: {"z": np.ones((2, 3))})
    damage(cache.path(KEY))
    monkeypatch.setattr(cache_module, "_verified", set())  # another process
    assert np.array_equal(cache.get(KEY, lambda: {"z": np.ones((2, 3))})["z"], np.ones((2, 3)))
    assert len(warnings) >= 1 and "cache entry refused, computing it again" in warnings[0]
    count = len(warnings)
    cache.get(KEY, never)
    assert len(warnings) == count


def test_an_interrupted_computation_leaves_nothing(cache: TeacherCache) -> None:
    def chunks() -> Iterator[dict[str, np.ndarray]]:
        yield {"z": np.zeros((4, 2))}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get(KEY, chunks)
    assert [path.name for path in cache.root.iterdir() if path.is_dir()] == []


def test_two_processes_that_ask_at_once_compute_it_once(tmp_path: Path) -> None:
    import sys

    from tests.compressor.engine import TOY

    sys.path.insert(0, str(TOY)) if str(TOY) not in sys.path else None
    from toy_tasks.child import fill_cache

    processes = [fork(fill_cache, str(tmp_path / "cache"), str(tmp_path / "log")) for _ in range(2)]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "log").read_text() == "computed\n"


def test_an_open_entry_survives_its_replacement(cache: TeacherCache) -> None:
    first = cache.get(KEY, lambda: {"z": np.ones(4)})["z"]
    cache._write(cache.path(KEY), KEY, {"z": np.zeros(4)})
    assert np.array_equal(first, np.ones(4)) and np.array_equal(cache.get(KEY, never)["z"], np.zeros(4))


def test_an_entry_that_another_process_wrote_first_is_taken(
    cache: TeacherCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where locks do not work, both compute, and the rename of the second meets the first one's directory."""
    real = os.rename

    def late(source: Any, target: Any) -> None:
        monkeypatch.setattr(os, "rename", real)
        cache._write(cache.path(KEY), KEY, {"z": np.ones(3)})
        real(source, target)

    monkeypatch.setattr(os, "rename", late)
    assert np.array_equal(cache.get(KEY, lambda: {"z": np.ones(3)})["z"], np.ones(3))
    assert not [path for path in cache.root.iterdir() if ".tmp-" in path.name]


def test_the_weights_hash_follows_every_bit_name_and_buffer() -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))

    base = weights_hash(net())
    assert weights_hash(net().train()) == weights_hash(net().eval()) == base
    changed = net()
    with torch.no_grad():
        changed[0].bias.view(torch.int32)[1] ^= 1  # type: ignore[index, union-attr, operator]
    statistics = net()
    statistics[1].running_mean[0] = 1e-30  # type: ignore[index, operator]
    assert len({base, weights_hash(changed), weights_hash(statistics), weights_hash(net().bfloat16())}) == 4
