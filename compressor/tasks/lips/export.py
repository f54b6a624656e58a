"""The lip reader as a bundle: an encoder step, a decoder step, real inputs of both, splits, teacher, lineage."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from compressor.data.lips_mouth import FRAMES_PER_SECOND
from compressor.tasks.lips.encoders import CausalEncoder, VideoFrontEnd
from compressor.tasks.lips.glue import Glue, evaluation
from compressor.tasks.lips.networks import DecoderStep, EncoderStep, WholeEncoder
from profiles.flops import count_module
from targets.glue import GraphCall, evenly_spread
from targets.graph import Arrays

if TYPE_CHECKING:
    from compressor.tasks.lips.task import Task
    from targets.export import BundleWriter

SLOT_NAMES = {"en": "letter", "cmn": "syllable"}


def export(task: Task, writer: BundleWriter) -> None:
    """Write graphs, inputs, splits, settings, teacher and lineage. The test part is read here, and nowhere before."""
    task.teacher.cpu().eval()
    # channels-last weights are for training; torch.export warns of them when it saves
    task.student.cpu().eval().to(memory_format=torch.contiguous_format)
    settings = settings_of(task)
    writer.settings(settings)
    _add_graphs(task, writer, settings)
    recorder = Recorder({name: writer.reference(name) for name in ("encoder", "decoder")})
    glue = Glue(recorder.graphs, settings, None)
    for part, count, write in (
        (task.train, task.config.deploy.calibration, writer.calibration),
        (task.validation, task.config.deploy.golden, writer.golden),
    ):
        recorder.clear()
        glue.readings([task.clips.frames(int(index)) for index in part[evenly_spread(len(part), 32)]])
        for graph in recorder.graphs:
            write(graph, recorder.sample(graph, count))
    for name in ("validation", "test"):
        _add_split(task, writer, name, glue, recorder)
    writer.lineage(task.describe())


def settings_of(task: Task) -> dict[str, Any]:
    """What the glue is given; see its docstring."""
    config, encoder = task.config, task.student.encoder
    state = [encoder.state_frames, encoder.dim] if isinstance(encoder, CausalEncoder) else None
    deploy = config.deploy
    return {
        "characters": task.vocabulary.characters,
        "stack": config.student.stack,
        "state": state,
        "hidden": config.student.decoder.hidden,
        "dim": encoder.dim,
        "max_frames": deploy.max_frames,
        "max_characters": deploy.max_characters,
        "beam": deploy.beam,
        "length_power": deploy.length_power,
        "frames_per_second": FRAMES_PER_SECOND,
        "slot_name": SLOT_NAMES.get(task.clips.language, "slot"),
    }


def _add_graphs(task: Task, writer: BundleWriter, settings: dict[str, Any]) -> None:
    student, frames, dim = task.student, settings["max_frames"], settings["dim"]
    height_px, width_px = task.clips.all_frames.shape[1:]
    encoder: torch.nn.Module
    front_end = student.front_end
    if isinstance(student.encoder, CausalEncoder) and isinstance(front_end, VideoFrontEnd):
        examples = {"pictures": np.zeros((2, settings["stack"], height_px, width_px), np.float32)}
        examples["state"] = np.zeros((2, *settings["state"]), np.float32)
        outputs = ["memory", "state_out"]
        encoder = EncoderStep(front_end, student.encoder)
    else:
        examples = {"frames": np.zeros((2, frames, height_px, width_px), np.float32)}
        examples["mask"] = np.ones((2, frames), np.float32)
        outputs = ["memory"]
        encoder = WholeEncoder(student)
    rng = np.random.default_rng(0)
    examples = {name: value + rng.random(value.shape, np.float32) * 0.5 for name, value in examples.items()}
    writer.add_graph("encoder", encoder, examples, outputs=outputs)
    hidden, vocabulary = settings["hidden"], len(task.vocabulary)
    shapes = {"previous": (2, vocabulary), "memory": (2, frames, dim), "mask": (2, frames)}
    shapes |= {"state1": (2, hidden), "state2": (2, hidden)}
    writer.add_graph(
        "decoder",
        DecoderStep(student),
        {name: rng.random(shape, np.float32) for name, shape in shapes.items()},
        outputs=("logits", "state1_out", "state2_out", "attention"),
    )


class Recorder:
    """Graphs that remember what they were given: real inputs for calibration and golden outputs."""

    def __init__(self, graphs: dict[str, GraphCall]) -> None:
        self.seen: dict[str, list[Arrays]] = {}
        self.calls: dict[str, int] = {}
        self.keep = True
        self.graphs = {name: self._recorded(name, graph) for name, graph in graphs.items()}

    def _recorded(self, name: str, graph: GraphCall) -> GraphCall:
        def call(feeds: Arrays) -> dict[str, np.ndarray]:
            rows = len(next(iter(feeds.values())))
            self.calls[name] = self.calls.get(name, 0) + rows
            if self.keep:
                first = self.calls[name] % min(7, rows)  # rows of different clips and hypotheses, step by step
                self.seen.setdefault(name, []).append({key: value[first::11].copy() for key, value in feeds.items()})
            return graph(feeds)

        return call

    def clear(self, keep: bool = True) -> None:
        self.seen, self.calls, self.keep = {}, {}, keep

    def sample(self, name: str, count: int) -> dict[str, np.ndarray]:
        """At most `count` rows, evenly spread over all that were kept."""
        parts = self.seen[name]
        whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        chosen = evenly_spread(len(next(iter(whole.values()))), count)
        return {key: value[chosen] for key, value in whole.items()}


def split_arrays(task: Task, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays that the glue evaluates; see its docstring."""
    slots = [task.slots[index] or (-1, -1) for index in chosen]
    return {
        "frames": np.concatenate([task.clips.frames(int(index)) for index in chosen]),
        "counts": task.clips.frame_counts[chosen],
        "texts": np.array([task.texts[index] for index in chosen]),
        "heard": np.array(task.hear(chosen)),
        "slots": np.array(slots, np.int64),
        "sound": np.concatenate([task.clips.companded(int(index)) for index in chosen]),
        "samples": task.clips.sample_counts[chosen],
    }


def _add_split(task: Task, writer: BundleWriter, part: str, glue: Glue, recorder: Recorder) -> None:
    """One part's arrays, the teacher's and the student's CER; from the validation part, calls per clip."""
    arrays = split_arrays(task, getattr(task, part))
    heard = evaluation([str(text) for text in arrays["heard"]], arrays, glue.settings["slot_name"])
    writer.split(part, arrays, teacher_value=heard.value)
    recorder.clear(keep=False)
    own = glue.evaluate(arrays)
    clips = len(arrays["counts"])
    if part == "validation":
        writer.uses({"query": {name: count / clips for name, count in recorder.calls.items()}})
    for of, found in (("student", own), ("teacher", heard)):
        writer.metric("CER", found.value, split=part, n=clips, of=of, higher_is_better=False, **_plain(found.extras))
    if part == "test":
        _describe_teacher(task, writer, heard.value)


def _plain(extras: Any) -> dict[str, float]:
    return {name.replace(" ", "_"): float(value) for name, value in extras.items()}


def _describe_teacher(task: Task, writer: BundleWriter, value: float) -> None:
    teacher = task.config.teacher
    mel = torch.zeros(1, 200, task.clips.all_mel.shape[1])
    costs = count_module(_Hearing(task.teacher.encode), mel)
    writer.teacher(
        name=f"speech recogniser, BiGRU {teacher.encoder.layers} x {teacher.encoder.hidden}; MACs: its encoder on 2 s",
        macs=costs.macs,
        parameters=sum(parameter.numel() for parameter in task.teacher.parameters()),
        metric="CER",
        value=value,
    )


class _Hearing(torch.nn.Module):
    """The teacher's encoder as a module of one input, to be counted."""

    def __init__(self, encode: Callable[..., Any]) -> None:
        super().__init__()
        self.encode = encode

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        return self.encode(mel, torch.ones(mel.shape[:2], dtype=torch.bool)).memory
