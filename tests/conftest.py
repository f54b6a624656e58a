"""What all tests share: one thread per process, the longest files first, and things that are made once per run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

# Before torch is imported, and for every child. Tests run side by side (make test): threads of networks this small
# would wait for each other, and OpenMP's wait is a busy one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest

from tests.sharing import Shared

# Files go to the processes of pytest-xdist in this order, then as collected: what is long must not begin last.
LONGEST = (
    "test_readme.py", "test_cli.py", "test_bench_mcu.py", "test_docker.py", "test_clip_task.py", "test_lips_task.py",
    "test_remote.py", "test_imu_task.py", "test_sketch_selector.py", "test_container.py", "test_tflite_rewrite.py",
    "test_tflite.py", "test_tflite_onnx.py", "test_sketch_task.py", "test_artifact.py", "test_runtimes.py",
    "test_ethos_u.py", "test_c_operators.py", "test_kernels.py", "test_quantise_aware.py", "test_firmware.py",
    "test_packaging.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Stable: tests of one file keep their order and stay together."""
    place = {name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """shared(name, make): a folder that `make` filled, once for all processes of this test run; read only."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # then the base is a worker's own, in that of the run
        root = root.parent
    return Shared(root / "shared")
