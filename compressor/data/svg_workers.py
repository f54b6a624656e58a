"""Many SVGs at once, on every core: neither svgelements nor resvg releases the GIL, so they run in child processes.

The children are plain `python -m compressor.data.svg_workers`, not multiprocessing: a user's unguarded script would be
run again by each of those.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from compressor.data.sketch import Sketch, pack_sketches, unpack_sketches
from compressor.data.svg import parse_svg, render_svg
from profiles.errors import CompressorError, require

CHUNK = 200  # SVGs per child: seconds of work against a third of a second to start
Done = Callable[[int], None]  # how many are done


def parse_svgs(texts: Sequence[str], done: Done) -> list[Sketch]:
    """`parse_svg` of each."""
    require("svgelements", "train")
    parts = _map({"do": "parse"}, texts, done)
    return [sketch for part in parts for sketch in unpack_sketches(part, prefix="")]


def render_svgs(texts: Sequence[str], size_px: int, done: Done) -> np.ndarray:
    """`render_svg` of each: (n, size_px, size_px, 3) uint8."""
    require("resvg_py", "train")
    require("PIL.Image", "train")
    parts = _map({"do": "render", "size_px": size_px}, texts, done)
    return np.concatenate([part["pixels"] for part in parts])


def _map(request: dict[str, object], texts: Sequence[str], done: Done) -> list[dict[str, np.ndarray]]:
    requests = [{**request, "svgs": texts[start : start + CHUNK]} for start in range(0, len(texts), CHUNK)]
    workers = max(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 1)
    answers, finished = [], 0
    with ThreadPoolExecutor(min(workers, 8)) as pool:
        for own, answer in zip(requests, pool.map(_in_child, requests), strict=True):
            answers.append(answer)
            finished += len(own["svgs"])  # type: ignore[arg-type]
            done(finished)
    return answers


def _in_child(request: dict[str, object]) -> dict[str, np.ndarray]:
    root = str(Path(__file__).resolve().parents[2])  # a checkout that is not installed is found too
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    finished = subprocess.run(
        [sys.executable, "-m", "compressor.data.svg_workers"],
        input=json.dumps(request).encode(),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    if finished.returncode != 0:
        lines = finished.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {finished.returncode}"]
        raise CompressorError(f"reading SVGs failed in a child process: {lines[-1]}")
    with np.load(io.BytesIO(finished.stdout), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def main() -> None:
    """One request on standard input, JSON; its arrays as an .npz on standard output."""
    request = json.load(sys.stdin)
    if request["do"] == "parse":
        arrays = pack_sketches([parse_svg(text) for text in request["svgs"]], prefix="")
    else:
        arrays = {"pixels": np.stack([render_svg(text, request["size_px"]) for text in request["svgs"]])}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    sys.stdout.buffer.write(buffer.getvalue())


if __name__ == "__main__":
    main()
