"""The lip reader on a device: pictures in one by one, a text out at the end. numpy only.

Settings of the bundle:

    characters                 the vocabulary, in the order of its tokens from 2 on
    stack                      pictures per step, the newest and those before it; black before the first
    state                      [frames, dim] of the encoder's state, zero at first; null: it does not stream
    hidden, dim                of the decoder's states, of the memory
    max_frames, max_characters the longest clip, the longest text
    beam, length_power         of the search (beam.py)
    frames_per_second          of the pictures
    slot_name                  what the hard word of a sentence is called

Graphs: `encoder` ("pictures" (batch, stack, H, W) float32 in 0 to 1, "state" (batch, frames, dim) -> "memory" (batch,
dim), "state_out"), or of a student that does not stream ("frames" (batch, max_frames, H, W), "mask" (batch, max_frames)
-> "memory" (batch, max_frames, dim)); `decoder` ("previous" (batch, vocabulary) one-hot, "memory" (batch, max_frames,
dim), "mask", "state1", "state2" (batch, hidden) -> "logits", "state1_out", "state2_out", "attention").

Arrays of a split: `frames` (all frames, H, W) uint8, clip after clip; `counts` (n,) frames of each; `texts` (n,) what
is said; `heard` (n,) what the recogniser made of the sound; `slots` (n, 2) place of the hard word, -1 where there is
none; `sound` (all samples,) uint8 and `samples` (n,) how many of each clip, companded (lips_audio.mu_law).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.lips_audio import from_mu_law
from compressor.tasks.lips.beam import Reading, beam_search
from compressor.tasks.lips.vocabulary import Vocabulary, edit_distance, slot_is_right
from profiles.errors import RequestError
from targets.glue import Answer, Evaluation, Example, GraphCall, evenly_spread
from targets.graph import Arrays

METRIC = "CER"
TIMES_REAL_TIME, LAST_TO_TEXT_MS = "times faster than real time", "last picture to text, ms"
CHUNK = 32  # clips that are read side by side while evaluating


class Stream:
    """One clip, or several of equal start, read as they come: `push` each picture, then `memory`.

    Every `push` costs one step of the encoder, whatever came before.
    """

    def __init__(self, glue: Glue, clips: int = 1) -> None:
        assert glue.state is not None, "this student does not stream"
        self.glue = glue
        self.rows: list[np.ndarray] = []
        self.state = np.zeros((clips, *glue.state), np.float32)
        self.pictures: np.ndarray | None = None

    def push(self, picture: np.ndarray) -> None:
        """The next picture of every clip, (clips, H, W) uint8 or float in 0 to 1."""
        new = _as_float(picture)
        if self.pictures is None:
            self.pictures = np.zeros((len(new), self.glue.stack, *new.shape[1:]), np.float32)
        self.pictures = np.concatenate([self.pictures[:, 1:], new[:, None]], axis=1)
        outputs = self.glue.graphs["encoder"]({"pictures": self.pictures, "state": self.state})
        self.state = outputs["state_out"]
        self.rows.append(outputs["memory"])

    def memory(self) -> np.ndarray:
        """(clips, frames so far, dim)."""
        return np.stack(self.rows, axis=1)

    def texts(self) -> list[str]:
        """What the clips say, up to here: the beam search, all that is left to do after the last picture."""
        memory = self.memory()
        self.glue.check_length(memory.shape[1])
        clips, frames, dim = memory.shape
        padded = np.zeros((clips, self.glue.max_frames, dim), np.float32)
        padded[:, :frames] = memory
        mask = np.repeat((np.arange(self.glue.max_frames) < frames).astype(np.float32)[None], clips, axis=0)
        return [self.glue.vocabulary.text(reading.tokens) for reading in self.glue.search(padded, mask)]


class Glue:
    """See the module's docstring for graphs and settings."""

    def __init__(self, graphs: Mapping[str, GraphCall], settings: Mapping[str, Any], assets: Path | None) -> None:
        self.graphs, self.settings = graphs, settings
        self.vocabulary = Vocabulary(settings["characters"])
        self.stack = int(settings["stack"])
        self.state = tuple(settings["state"]) if settings["state"] is not None else None
        self.max_frames = int(settings["max_frames"])

    def __call__(self, query: np.ndarray) -> str:
        """What a clip, (t, H, W) uint8, says. Batch 1, picture by picture, as on the device."""
        return self.vocabulary.text(self.read([query])[0].tokens)

    def timings(self, query: np.ndarray) -> dict[str, float]:
        """Of a clip (t, H, W) uint8 that comes in picture by picture: seconds of video per second of work, and what is
        still to do when its last picture is there. Empty where the student does not stream."""
        if self.state is None:
            return {}
        stream, began = Stream(self), time.perf_counter()
        last = began
        for picture in query:
            last = time.perf_counter()
            stream.push(picture[None])
        stream.texts()
        end = time.perf_counter()
        seconds = len(query) / float(self.settings["frames_per_second"])
        return {TIMES_REAL_TIME: seconds / (end - began), LAST_TO_TEXT_MS: 1000 * (end - last)}

    def read(self, clips: Sequence[np.ndarray]) -> list[Reading]:
        """The best hypothesis for each clip; they go through the graphs side by side."""
        return self.search(*self.encode(clips))

    def check_length(self, frames: int) -> None:
        """Raises RequestError if a clip of that many frames is too long."""
        if frames > self.max_frames:
            raise RequestError(f"a clip of {frames} frames: this student reads at most {self.max_frames}; cut it")

    def encode(self, clips: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """memory (n, max_frames, dim), zero after each clip's end, and mask (n, max_frames) of 0 and 1."""
        longest = max(len(clip) for clip in clips)
        self.check_length(longest)
        mask = np.zeros((len(clips), self.max_frames), np.float32)
        frames = np.zeros((len(clips), longest, *clips[0].shape[1:]), np.float32)
        for row, clip in enumerate(clips):
            mask[row, : len(clip)] = 1
            frames[row, : len(clip)] = _as_float(clip)
        if self.state is None:
            whole = np.zeros((len(clips), self.max_frames, *frames.shape[2:]), np.float32)
            whole[:, :longest] = frames
            return self.graphs["encoder"]({"frames": whole, "mask": mask})["memory"], mask
        stream = Stream(self, len(clips))
        for place in range(longest):
            stream.push(frames[:, place])
        memory = np.zeros((len(clips), self.max_frames, int(self.settings["dim"])), np.float32)
        memory[:, :longest] = stream.memory()
        return memory * mask[..., None], mask

    def search(self, memory: np.ndarray, mask: np.ndarray) -> list[Reading]:
        """What is left to do after the last picture."""
        own = self.settings
        return beam_search(
            self.graphs["decoder"],
            memory,
            mask,
            vocabulary=len(self.vocabulary),
            hidden=int(own["hidden"]),
            width=int(own["beam"]),
            longest=int(own["max_characters"]),
            length_power=float(own["length_power"]),
        )

    def texts(self, arrays: Arrays, limit: int | None = None) -> list[str]:
        """What each of the split's clips says, in their order; clips of similar length are read together."""
        return [self.vocabulary.text(reading.tokens) for reading in self.readings(clips_of(arrays)[:limit])]

    def readings(self, clips: Sequence[np.ndarray]) -> list[Reading]:
        order = np.argsort([len(clip) for clip in clips], kind="stable")
        found: dict[int, Reading] = {}
        for start in range(0, len(order), CHUNK):
            places = order[start : start + CHUNK]
            found.update(zip(places.tolist(), self.read([clips[place] for place in places]), strict=True))
        return [found[place] for place in range(len(clips))]

    def evaluate(self, arrays: Arrays, limit: int | None = None) -> Evaluation:
        """CER: per clip, weighted by the characters of the truth. Extras: sentences and hard words that are right."""
        read = self.texts(arrays, limit)
        return evaluation(read, arrays, str(self.settings.get("slot_name", "slot")))

    def queries(self, arrays: Arrays) -> Iterator[np.ndarray]:
        """The split's clips."""
        yield from clips_of(arrays)

    def examples(self, arrays: Arrays, count: int) -> list[Example]:
        """Clips evenly spread over the split, what was read, what the recogniser heard; and where the decoder looked,
        characters from top to bottom, pictures from left to right."""
        clips = clips_of(arrays)
        chosen = evenly_spread(len(clips), count)
        readings = self.read([clips[index] for index in chosen])
        sounds = sounds_of(arrays)
        examples = []
        for index, reading in zip(chosen, readings, strict=True):
            truth, heard = str(arrays["texts"][index]), str(arrays["heard"][index])
            read = self.vocabulary.text(reading.tokens)
            looked = attention_picture(reading.attention[:, : len(clips[index])])
            answers = (
                Answer(None, f"read: {read}", read == truth),
                Answer(None, f"heard: {heard}", heard == truth),
                Answer(looked, "where it looked, a row per character", False),
            )
            wrong = edit_distance(read, truth)
            remark = f"{wrong} of {len(truth)} characters wrong" if wrong else "read right"
            sound = sounds[index] if sounds else None
            examples.append(Example(truth, clips[index][..., None], answers, sound, remark))
        return examples


def evaluation(read: Sequence[str], arrays: Arrays, slot_name: str) -> Evaluation:
    """CER of texts against a split's first ones."""
    truth = [str(text) for text in arrays["texts"][: len(read)]]
    lengths = np.array([len(text) for text in truth], np.float64)
    errors = np.array([edit_distance(a, b) for a, b in zip(read, truth, strict=True)], np.float64)
    extras = {"sentence accuracy": float(np.mean([a == b for a, b in zip(read, truth, strict=True)]))}
    right = slots_right(read, truth, arrays["slots"])
    if len(right):
        extras[f"{slot_name} accuracy"] = float(right.mean())
    return Evaluation(METRIC, errors / lengths, weights=lengths, higher_is_better=False, extras=extras)


def slots_right(read: Sequence[str], truth: Sequence[str], slots: np.ndarray) -> np.ndarray:
    """1 or 0 for every text that has a hard word."""
    triples = [(a, b, s) for a, b, s in zip(read, truth, slots[: len(read)].tolist(), strict=True) if s[0] >= 0]
    return np.array([slot_is_right(a, b, (s[0], s[1])) for a, b, s in triples], np.float64)


def clips_of(arrays: Arrays) -> list[np.ndarray]:
    """The clips of a split, (t, H, W) uint8 each."""
    missing = [name for name in ("frames", "counts", "texts", "slots") if name not in arrays]
    if missing:
        raise RequestError(f"the split has no array {missing[0]!r}, so it is none of the lips task")
    return np.split(arrays["frames"], np.cumsum(arrays["counts"])[:-1])


def sounds_of(arrays: Arrays) -> list[np.ndarray] | None:
    """The sound of a split's clips, (n,) int16 each; None where the split has none."""
    if "sound" not in arrays:
        return None
    whole = (from_mu_law(arrays["sound"]) * 32767).round().astype(np.int16)
    return np.split(whole, np.cumsum(arrays["samples"])[:-1])


def attention_picture(attention: np.ndarray, zoom: int = 4) -> np.ndarray:
    """(characters, frames) in 0 to 1 -> (zoom characters, zoom frames, 1) uint8, dark where the decoder looked."""
    shade = np.uint8(255) - (attention * 255 + 0.5).astype(np.uint8)
    return shade.repeat(zoom, axis=0).repeat(zoom, axis=1)[..., None]


def _as_float(pictures: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in 0 to 1; what is float already stays."""
    return pictures.astype(np.float32) / 255 if pictures.dtype == np.uint8 else np.asarray(pictures, np.float32)
