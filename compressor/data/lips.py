"""Spoken commands in English and Mandarin: synthetic speech, and a simulated mouth that says the same.

Speech and phoneme times are espeak-ng's, pictures are those of `lips_mouth`. Faces and voices are drawn independently;
faces and sentences of the parts are disjoint. Everything follows from SEED.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.lips_audio import RATE_HZ, resample
from compressor.data.lips_clips import Clip, write_clips
from compressor.data.lips_espeak import Speech, speak
from compressor.data.lips_mouth import FRAMES_PER_SECOND, Face, movements, render
from compressor.data.lips_text import GRAMMARS, Grammar, draw_sentences
from compressor.data.packages import Package, read_members
from compressor.data.source import Progress, Source

SEED = 0
CLIPS = {"train": 3200, "validation": 300, "test": 500}
FACES = {"train": 130, "validation": 15, "test": 15}
VOICES = (
    "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5", "Alex", "Andrea", "Andy", "Annie",
    "Denis", "Gene", "Lee", "Mario", "Michael", "Mike", "ed", "linda", "pablo", "steph", "travis", "victor", "zac",
)  # fmt: skip
FOLDER = "espeakng_loader/"
LIBRARY = f"{FOLDER}libespeak-ng.so.1"
WHEELS = {  # by the processor that runs the library
    "x86_64": "08721baf27d13d461f6be6eed9a65277e70d68234ff484fd8b9897b222cdcb6d",
    "aarch64": "d1e798141b46a050cdb75fcf3c17db969bb2c40394f3f4a48910655d547508b9",
}
ESPEAK = Package(
    client="pip",
    name="espeakng-loader",
    version="0.2.4",
    sha256=WHEELS.get(platform.machine(), WHEELS["x86_64"]),
    licence="GPL-3.0-or-later",
    url="https://github.com/espeak-ng/espeak-ng",
    note="espeak-ng 1.52 and its voices; run in a process of its own",
)


def build(directory: Path, archives: Mapping[str, Path], progress: Progress) -> dict[str, Any]:
    facts: dict[str, Any] = {"frames_per_second": FRAMES_PER_SECOND, "audio_hz": RATE_HZ, "simulation": True}
    with tempfile.TemporaryDirectory(prefix="espeak-") as folder:
        library, data = unpack_espeak(archives[ESPEAK.name], Path(folder))
        for grammar in GRAMMARS.values():
            clips = generate(grammar, library, data, CLIPS, FACES, SEED, progress)
            facts[grammar.language] = write_clips(directory / grammar.language, grammar.language, grammar.pinyin, clips)
    return facts


def unpack_espeak(archive: Path, folder: Path) -> tuple[Path, Path]:
    """The library and the directory of its data, unpacked from the wheel: espeak-ng reads both from the disk."""
    for name, content in read_members(archive, lambda path: path == LIBRARY or "/espeak-ng-data/" in path).items():
        path = folder / name.removeprefix(FOLDER)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / LIBRARY.removeprefix(FOLDER), folder


def generate(
    grammar: Grammar,
    library: Path,
    data: Path,
    counts: Mapping[str, int],
    faces: Mapping[str, int],
    seed: int,
    progress: Progress,
) -> Iterator[Clip]:
    """Clips of one language, `counts` of each part, by `faces` different faces of each part."""
    rng = np.random.default_rng([seed, *grammar.language.encode()])
    people = [Face.draw(rng) for _ in range(sum(faces.values()))]
    sentences = draw_sentences(grammar, sum(counts.values()), rng)
    first_face = dict(zip(faces, np.cumsum([0, *faces.values()]).tolist(), strict=False))
    parts = [part for part, count in counts.items() for _ in range(count)]
    owners = [first_face[part] + int(rng.integers(faces[part])) for part in parts]
    requests = [
        {
            "text": spoken(grammar, words),
            "voice": f"{grammar.voice}+{VOICES[rng.integers(len(VOICES))]}",
            "words_per_minute": int(rng.integers(145, 200)),
            "pitch": int(rng.integers(30, 70)),
        }
        for words in sentences
    ]
    for number, speech in enumerate(speak(library, data, requests)):
        words, part, owner = sentences[number], parts[number], owners[number]
        clip_rng = np.random.default_rng([seed, number, *grammar.language.encode()])
        frames, audio, phonemes = picture_and_sound(speech, people[owner], clip_rng)
        yield Clip(frames, audio, grammar.text(words), f"face-{owner}", part, slot_of(grammar, words), phonemes)
        if number % 50 == 49 or number + 1 == len(sentences):
            progress(f"{grammar.language} clips", number + 1, len(sentences))


def picture_and_sound(
    speech: Speech, face: Face, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[tuple[float, str]]]:
    """frames (t, H, W) uint8 and audio (n,) float32 at RATE_HZ, of equal duration, with up to 0.16 s of silence at both
    ends, and the phonemes of the audio, each with its start in ms."""
    before, after = rng.uniform(40, 160, 2)
    audio = speech.audio.astype(np.float32) / 32768
    silence = [np.zeros(round(ms * speech.rate_hz / 1000), np.float32) for ms in (before, after)]
    audio = resample(np.concatenate([silence[0], audio, silence[1]]), speech.rate_hz)
    frames = int(np.ceil(len(audio) * FRAMES_PER_SECOND / RATE_HZ))
    audio = np.pad(audio, (0, frames * RATE_HZ // FRAMES_PER_SECOND - len(audio)))
    phonemes = [(start + before, name) for start, name in speech.phonemes]
    spoken_ms = before + 1000 * len(speech.audio) / speech.rate_hz
    mouth = movements(phonemes, spoken_ms, frames, rng)
    return render(face, mouth, rng), audio, phonemes


def spoken(grammar: Grammar, words: list[str]) -> str:
    """What espeak is given: single letters are capitals, else "a" would be the article."""
    return grammar.text([word.upper() if len(word) == 1 and word.isascii() else word for word in words])


def slot_of(grammar: Grammar, words: list[str]) -> tuple[int, int]:
    """Where the hard slot's word stands in the text: first character, last character + 1."""
    before = grammar.text([*words[: grammar.hard_slot], ""])
    return len(before), len(before) + len(words[grammar.hard_slot])


source = Source(
    name="lips",
    summary="8,000 spoken commands, English and Mandarin: synthetic speech and a simulated mouth",
    packages=(ESPEAK,),
    build=build,
    revision=3,
)
