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


def check_subject(
    subject: str,
    *,
    data: str | None = None,
    metric: str | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
) -> None:
    """At once and before any work: raises RequestError if the subject is neither a model, a bundle nor a recipe, or if
    options do not fit its kind."""
    if is_model(subject):
        _refuse(subject, "a model", overrides=bool(overrides), resume=resume)
        return
    if data is not None or metric is not None:
        raise RequestError(f"{subject}: --data and --metric are for a model of your own; a bundle brings its own")
    if is_bundle(subject):
        _refuse(subject, "a bundle", overrides=bool(overrides), resume=resume)
    elif is_recipe(subject):
        from compressor.recipe import load_recipe

        load_recipe(subject, overrides)
    else:
        raise RequestError(f"{subject}: neither a bundle (no bundle.json in it), nor a recipe, nor a model")


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

    Raises RequestError as `check_subject` does.
    """
    check_subject(subject, data=data, metric=metric, overrides=overrides, resume=resume)
    if is_model(subject):
        from targets.importing import import_model

        return import_model(subject, work / "bundle", data=data, metric=metric)
    if is_bundle(subject):
        return Bundle.open(subject)
    from compressor.recipe import load_recipe
    from compressor.train import distill

    return Bundle.open(distill(load_recipe(subject, overrides), work, resume=resume))


def _refuse(subject: str, kind: str, *, overrides: bool, resume: bool) -> None:
    if overrides or resume:
        raise RequestError(f"{subject} is {kind}: key=value and --resume are for recipes")
