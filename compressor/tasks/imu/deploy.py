"""What the task says about its student beside what export.py writes: settings of the stream, teacher, lineage."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

import torch

from compressor.tasks.imu.export import export_student
from compressor.tasks.imu.stream import Head, StreamSettings
from profiles.flops import count_module
from targets.glue import evenly_spread

if TYPE_CHECKING:
    from compressor.tasks.imu.task import Task
    from targets.export import BundleWriter

PACKAGES = ("torch", "numpy", "lightning-fabric")


def export(task: Task, writer: BundleWriter) -> None:
    """The classifier as a bundle. The test part is read here, and nowhere before."""
    deploy, windows = task.config.deploy, task.train
    classifier = task.classify.classifier.cpu().eval()
    settings = StreamSettings(
        classes=task.classes,
        scale=task.scale,
        rate_hz=windows.rate_hz,
        length=windows.signals.shape[2],
        hop=deploy.hop,
        smoothing=deploy.smoothing,
    )
    export_student(
        writer,
        classifier.encoder,
        settings,
        Head.quantise(*classifier.folded()),
        {"validation": task.validation, "test": task.test},
        windows.select(evenly_spread(len(windows), deploy.calibration)),
    )
    if task.config.stages.distill.steps:
        # It sees video, the student's sets have none: there is no accuracy of its own beside the student's.
        frames, px = task.pairs.video.shape[1:3]
        costs = count_module(task.teacher.cpu().eval(), torch.zeros(1, frames, px, px))
        name = f"{task.config.teacher.network} on {frames} frames of {px} px"
        writer.teacher(name=name, macs=costs.macs, parameters=costs.parameters)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    writer.lineage({**task.describe(), "versions": versions})
