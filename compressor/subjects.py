"""What a command is pointed at: a bundle, an artifact, a recipe or a model, by its name or path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from profiles.errors import RequestError
from targets.bundle import Bundle

MODEL_SUFFIXES = (".onnx", ".pt2")


def is_model(subject: str) -> bool:
    """Whether the subject is a user's own model: a .onnx or .pt2 file, or timm:NAME."""
    return subject.startswith("timm:") or subject.lower().endswith(MODEL_SUFFIXES)


def is_bundle(subject: str) -> bool:
    return (Path(subject) / "bundle.json").is_file()


def is_recipe(subject: str) -> bool:
    """Whether the subject is a recipe: a YAML file, or a shipped name that is no directory of the user's."""
    return subject.endswith((".yaml", ".yml")) or not (is_model(subject) or Path(subject).exists())


def open_bundle(
    subject: str,
    work: Path,
    *,
    data: str | None = None,
    metric: str | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
) -> Bundle:
    """Open a bundle; import a model into `work`, or distil a recipe there, and open what comes out.

    Raises RequestError if the subject is none of these, or options do not fit its kind.
    """
    if is_model(subject):
        from targets.importing import import_model

        _refuse(subject, "a model", overrides=bool(overrides), resume=resume)
        return import_model(subject, work / "bundle", data=data, metric=metric)
    if data is not None or metric is not None:
        raise RequestError(f"{subject}: --data and --metric are for a model of your own; a bundle brings its own")
    if is_bundle(subject):
        _refuse(subject, "a bundle", overrides=bool(overrides), resume=resume)
        return Bundle.open(subject)
    if is_recipe(subject):
        from compressor.recipe import load_recipe
        from compressor.train import distill

        return Bundle.open(distill(load_recipe(subject, overrides), work, resume=resume))
    raise RequestError(f"{subject}: neither a bundle (no bundle.json in it), nor a recipe, nor a model")


def _refuse(subject: str, kind: str, *, overrides: bool, resume: bool) -> None:
    if overrides or resume:
        raise RequestError(f"{subject} is {kind}: key=value and --resume are for recipes")
