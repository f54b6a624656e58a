"""The sketch student as a bundle: encoder graphs for the deployed canvases, real inputs, splits, lineage."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from compressor.data.sketch import pack_sketches
from compressor.tasks.sketch.glue import GALLERY, INDEX, Glue
from compressor.tasks.sketch.index import Index
from compressor.tasks.sketch.raster import MINIMUM_WIDTH_PX, rasterise_batch
from compressor.tasks.sketch.selector.export import add_selector
from compressor.tasks.sketch.selector.front import sweep
from compressor.tasks.sketch.selector.stage import SelectorStage
from compressor.tasks.sketch.views import resize_pixels
from profiles.flops import count_module
from targets.glue import GraphCall, evenly_spread
from targets.graph import Arrays

if TYPE_CHECKING:
    from compressor.tasks.sketch.task import Task
    from targets.export import BundleWriter

THUMB_PX = 48
CPU = torch.device("cpu")
PACKAGES = ("torch", "timm", "numpy", "lightning-fabric", "torch-pruning", "resvg-py", "svgelements")


def export(task: Task, writer: BundleWriter) -> None:
    """Write graphs, inputs, splits, settings, teacher and lineage. The test part is read here, and nowhere before."""
    deploy = task.config.deploy
    task.teacher.cpu().eval()
    task.student.cpu().eval()
    for px in deploy.canvases:
        _add_encoder(task, writer, px)
    names = [f"encoder_{px}" for px in deploy.canvases]
    if task.config.gallery == "student":
        _add_photo_encoder(task, writer)
        writer.uses({"index": {"photo_encoder": 1}})
        names.append("photo_encoder")
    settings = {
        "selector": {"kind": "fixed", "canvas_px": deploy.canvas_px},
        "gallery": task.config.gallery,
        "index": deploy.index,
        "normalise": {"mean": 0.0, "std": 1.0},
        "photo_normalise": {"mean": [0.0] * 3, "std": [1.0] * 3},
        "minimum_width_px": MINIMUM_WIDTH_PX,
    }
    if task.selector is not None:
        names += add_selector(task, task.selector, writer)
        settings["selector"] = task.selector.settings_for_glue()
        writer.lineage({"selector": {"students": task.selector.students}, "charts": [_front(task, task.selector)]})
    writer.settings(settings)
    student = FloatStudent({name: writer.reference(name) for name in names}, settings)
    teacher_value = 0.0
    for part in ("validation", "test"):
        teacher_value = _add_split(task, writer, part, student)
    gallery = _gallery(task, np.arange(len(task.pairs)))
    if deploy.index == "int8" and "embeddings" in gallery:
        index = Index.build(gallery["embeddings"], gallery["labels"].tolist())
        writer.asset(INDEX, index.arrays())
    else:
        writer.asset(GALLERY, gallery)
    _describe_teacher(task, writer, teacher_value)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    writer.lineage({**task.describe(), "versions": versions})


def _front(task: Task, stage: SelectorStage) -> dict[str, Any]:
    """The chart of what other lambda_F would have given, for the report."""
    if stage.samples is None:  # a run that was resumed behind its last stage
        stage.start(task.context)
    assert stage.samples is not None
    return asdict(sweep(task, stage.settings, stage.samples.outcomes, like=stage).chart())


class FloatStudent:
    """The bundle's graphs in float, joined by the glue; counts how often a query calls each."""

    def __init__(self, graphs: Mapping[str, GraphCall], settings: Mapping[str, Any]) -> None:
        self.calls: Counter[str] = Counter()
        self.glue = Glue({name: self._counted(name, graph) for name, graph in graphs.items()}, settings, None)

    def _counted(self, name: str, graph: GraphCall) -> GraphCall:
        def call(feeds: Arrays) -> dict[str, np.ndarray]:
            self.calls[name] += len(next(iter(feeds.values())))
            return graph(feeds)

        return call

    def evaluate(self, arrays: Arrays) -> tuple[float, dict[str, float]]:
        """acc@1 on a split's arrays, and the mean number of calls per query of every graph that was called, 0 for an
        encoder that the selector may choose and did not."""
        self.calls.clear()
        value = self.glue.evaluate(arrays).value
        queries = len(arrays["truth"])
        calls = {f"encoder_{px}": 0.0 for px in self.glue.selector.canvases}
        calls |= {name: count / queries for name, count in self.calls.items() if name != "photo_encoder"}
        return value, dict(sorted(calls.items()))


def _add_encoder(task: Task, writer: BundleWriter, px: int) -> None:
    """One graph per canvas, one set of weights. Golden inputs are validation sketches, calibration training ones."""
    name = f"encoder_{px}"
    golden = _canvases(task, task.split.validation, task.config.deploy.golden, px)
    writer.add_graph(name, task.student, {"canvas": golden[:2]}, outputs=("embedding",), weights="encoder")
    writer.golden(name, {"canvas": golden})
    writer.calibration(name, {"canvas": _canvases(task, task.split.train, task.config.deploy.calibration, px)})


def _add_photo_encoder(task: Task, writer: BundleWriter) -> None:
    """The same weights on photos."""
    deploy = task.config.deploy
    golden = _photos(task, task.split.validation, deploy.golden)
    writer.add_graph("photo_encoder", task.student, {"image": golden[:2]}, outputs=("embedding",), weights="encoder")
    writer.golden("photo_encoder", {"image": golden})
    writer.calibration("photo_encoder", {"image": _photos(task, task.split.train, deploy.calibration)})


def _spread(indices: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of them, evenly spread."""
    return indices[evenly_spread(len(indices), count)]


def _canvases(task: Task, indices: np.ndarray, count: int, px: int) -> np.ndarray:
    return rasterise_batch([task.sketches[index] for index in _spread(indices, count)], px)[:, None]


def _photos(task: Task, indices: np.ndarray, count: int) -> np.ndarray:
    pixels = _gallery_images(task, _spread(indices, count)).astype(np.float32) / 255
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _gallery_images(task: Task, indices: np.ndarray) -> np.ndarray:
    """(n, px, px, 3) uint8 at the size that the photo encoder takes."""
    return resize_pixels(task.pairs.photos(indices)[:, task.gallery_vendor], task.config.deploy.canvas_px)


def _gallery(task: Task, indices: np.ndarray) -> dict[str, np.ndarray]:
    """What is searched: labels, and the teacher's embeddings of the photos, or the photos that the student embeds."""
    labels = np.array([task.pairs.label(int(index)) for index in indices])
    if task.config.gallery == "student":
        return {"labels": labels, "images": _gallery_images(task, indices)}
    return {"labels": labels, "embeddings": np.array(task.targets["photos"][indices])}


def _add_split(task: Task, writer: BundleWriter, part: str, student: FloatStudent) -> float:
    """The arrays that the glue evaluates, the teacher's and the student's acc@1. Returns the teacher's.

    How often a query calls each graph is what the selector chose on the validation part.
    """
    indices: np.ndarray = getattr(task.split, part)
    photos = task.pairs.photos(indices)[:, task.gallery_vendor]
    sketches, truth = task.pairs.queries(indices)
    arrays: dict[str, Any] = pack_sketches(sketches)
    arrays["truth"] = truth
    names = {"labels": "labels", "images": "gallery_images", "embeddings": "gallery"}
    arrays |= {names[key]: value for key, value in _gallery(task, indices).items()}
    arrays["gallery_thumbs"] = resize_pixels(photos, THUMB_PX)
    teacher_value = task.teacher_accuracy(indices, CPU)
    writer.split(part, arrays, teacher_value=teacher_value)
    value, calls = student.evaluate(arrays)
    if part == "validation":
        writer.uses({"query": calls})
    writer.metric("acc@1", value, split=part, n=len(truth), of="student")
    writer.metric("acc@1", teacher_value, split=part, n=len(truth), of="teacher")
    return teacher_value


def _describe_teacher(task: Task, writer: BundleWriter, value: float) -> None:
    px = task.config.teacher.canvas_px
    costs = count_module(task.teacher, torch.zeros(1, 1, px, px))
    writer.teacher(
        name=f"{task.config.teacher.network.removeprefix('timm:')} at {px} px",
        macs=costs.macs,
        parameters=costs.parameters,
        metric="acc@1",
        value=value,
    )
