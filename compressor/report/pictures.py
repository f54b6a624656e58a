"""Pictures of queries and answers: checked, and small enough for the page."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.report.details import Answer, Example
from profiles.errors import RequestError, require

LARGEST_PX = 192  # shown at half of this, so that it is sharp on dense screens


@dataclass(frozen=True)
class Picture:
    url: str  # data:
    width: int
    height: int


@dataclass(frozen=True)
class ShownAnswer:
    label: str
    correct: bool
    picture: Picture | None


@dataclass(frozen=True)
class ShownExample:
    title: str
    text: str | None
    picture: Picture | None
    answers: list[ShownAnswer]
    truth: ShownAnswer | None
    rank: int | None  # of the right answer, from 1; None: not known

    @property
    def found(self) -> bool:
        return any(answer.correct for answer in self.answers)


def encode_png(image: Any) -> str:
    """A picture (height, width) or (height, width, 1, 3 or 4) uint8 as base64 of a PNG, for details.json."""
    image_module = require("PIL.Image", "report")
    pixels = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    file = io.BytesIO()
    image_module.fromarray(pixels).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def shown_examples(examples: Mapping[str, Sequence[Example]]) -> dict[str, list[ShownExample]]:
    """Decode every picture. Raises RequestError for one that is not a picture."""
    return {student: [_example(student, each) for each in some] for student, some in examples.items() if some}


def _example(student: str, example: Example) -> ShownExample:
    where = f"details.json: examples of {student}, {example.title!r}"
    answers = [_answer(answer, where) for answer in example.answers]
    first = next((place for place, answer in enumerate(answers, start=1) if answer.correct), None)
    return ShownExample(
        title=example.title, text=example.query_text, picture=_picture(example.query_png, where), answers=answers,
        truth=_answer(example.truth, where) if example.truth else None, rank=first or example.rank,
    )  # fmt: skip


def _answer(answer: Answer, where: str) -> ShownAnswer:
    return ShownAnswer(answer.label, answer.correct, _picture(answer.png, where))


def _picture(encoded: str | None, where: str) -> Picture | None:
    """Decode a base64 picture and encode it again as PNG, so that the page holds nothing but pixels."""
    if encoded is None:
        return None
    image_module = require("PIL.Image", "report")
    try:
        image = image_module.open(io.BytesIO(base64.b64decode(encoded, validate=True)), formats=("PNG", "JPEG"))
        image.load()
    except (binascii.Error, OSError, SyntaxError, image_module.DecompressionBombError) as error:
        raise RequestError(f"{where}: not a PNG or JPEG in base64 ({error})") from None
    if image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert("RGBA")
    image.thumbnail((LARGEST_PX, LARGEST_PX))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return Picture("data:image/png;base64," + base64.b64encode(file.getvalue()).decode(), *image.size)
