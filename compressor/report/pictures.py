"""Pictures and sounds of queries and answers: checked, and small enough for the page."""

from __future__ import annotations

import base64
import binascii
import io
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressor.report.details import Answer, Example
from profiles.errors import RequestError, require
from targets.glue import SOUND_HZ

LARGEST_PX = 192  # shown at half of this, so that it is sharp on dense screens
DATA = "data:image/png;base64,"
CLIP_HZ = 25.0  # pictures per second


@dataclass(frozen=True)
class Picture:
    url: str  # data:
    width: int
    height: int
    still: str | None = None  # data: of one picture, where the other one moves


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
    sound: str | None  # data:
    remark: str | None

    @property
    def found(self) -> bool:
        return any(answer.correct for answer in self.answers)


def encode_png(image: Any) -> str:
    """A picture (height, width) or (height, width, 1, 3 or 4) uint8 as base64 of a PNG, for details.json.

    A clip (pictures, height, width, 1, 3 or 4) becomes an animated one, at 25 pictures a second.
    """
    image_module = require("PIL.Image", "report")
    pixels = image[..., 0] if image.ndim >= 3 and image.shape[-1] == 1 else image
    return _to_png([image_module.fromarray(each) for each in (pixels if image.ndim == 4 else [pixels])])


def encode_wav(samples: Any) -> str:
    """Sound (n,) int16 at SOUND_HZ as base64 of a WAV file, for details.json."""
    return _to_wav(samples.astype("<i2").tobytes(), SOUND_HZ)


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
        sound=_sound(example.query_wav, where), remark=example.remark,
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
    frames = require("PIL.ImageSequence", "report").Iterator(image)
    stills = [each.copy() if each.mode in ("L", "RGB", "RGBA") else each.convert("RGBA") for each in frames]
    for still in stills:
        still.thumbnail((LARGEST_PX, LARGEST_PX))
    middle = DATA + _to_png([stills[len(stills) // 2]]) if len(stills) > 1 else None
    width, height = stills[0].size
    return Picture(DATA + _to_png(stills), width, height, middle)


def _sound(encoded: str | None, where: str) -> str | None:
    """Decode base64 of a WAV file and encode it again, so that the page holds nothing but samples."""
    if encoded is None:
        return None
    try:
        with wave.open(io.BytesIO(base64.b64decode(encoded, validate=True))) as file:
            if (file.getnchannels(), file.getsampwidth()) != (1, 2):
                raise wave.Error("not 16-bit mono")
            return "data:audio/wav;base64," + _to_wav(file.readframes(file.getnframes()), file.getframerate())
    except (binascii.Error, EOFError, wave.Error) as error:
        raise RequestError(f"{where}: not a WAV file in base64 ({error})") from None


def _to_wav(samples: bytes, rate_hz: int) -> str:
    """Base64 of a WAV file of 16-bit samples, one channel."""
    stored = io.BytesIO()
    with wave.open(stored, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples)
    return base64.b64encode(stored.getvalue()).decode("ascii")


def _to_png(images: Sequence[Any]) -> str:
    """Base64 of a PNG file, animated where there is more than one picture."""
    first, *more = images
    file = io.BytesIO()
    moving = {"save_all": True, "append_images": more, "duration": 1000 / CLIP_HZ, "loop": 0} if more else {}
    first.save(file, "PNG", optimize=True, **moving)
    return base64.b64encode(file.getvalue()).decode("ascii")
