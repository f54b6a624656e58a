"""espeak-ng in a process of its own: sentences go in, audio and phoneme times come out.

The library is GPL-3, so it is loaded by the child only. Protocol: one JSON line per sentence on standard input
({"text", "voice", "words_per_minute", "pitch"}); on standard output a JSON line {"rate_hz", "samples", "phonemes":
[[start_ms, IPA], ...]}, then the samples as little-endian int16.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from profiles.errors import MissingError

# Of espeak-ng's speak_lib.h
AUDIO_OUTPUT_SYNCHRONOUS = 2
PHONEME_EVENTS, PHONEME_IPA = 1, 2
EVENT_END, EVENT_PHONEME = 0, 7
RATE, PITCH = 1, 3
UTF8 = 1
SEED = 1


@dataclass(frozen=True)
class Speech:
    """audio (n,) int16 at `rate_hz`; phonemes: start in ms, IPA, in order of time."""

    rate_hz: int
    audio: np.ndarray
    phonemes: list[tuple[float, str]]


def speak(library: Path, data: Path, requests: Iterable[dict[str, Any]]) -> Iterator[Speech]:
    """Speech of every request, in order, from one child. Raises MissingError if espeak-ng does not run here."""
    command = [sys.executable, str(Path(__file__).resolve()), str(library), str(data)]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PYTHONPATH": str(root)}
    ) as child:
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        try:
            for request in requests:
                child.stdin.write(json.dumps(request).encode() + b"\n")
                child.stdin.flush()
                header = child.stdout.readline()
                if not header:
                    reason = child.stderr.read().decode(errors="replace").strip().splitlines()
                    raise MissingError(f"espeak-ng does not run here: {reason[-1] if reason else 'it ended'}")
                facts = json.loads(header)
                samples = child.stdout.read(2 * facts["samples"])
                phonemes = [(float(start), str(name)) for start, name in facts["phonemes"]]
                yield Speech(facts["rate_hz"], np.frombuffer(samples, "<i2"), phonemes)
        except BrokenPipeError:
            reason = child.stderr.read().decode(errors="replace").strip().splitlines()
            raise MissingError(f"espeak-ng does not run here: {reason[-1] if reason else 'it ended'}") from None
        finally:
            with contextlib.suppress(BrokenPipeError):  # the child is gone, and what it was to read is still here
                child.stdin.close()


# --- the child ---


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)  # samples, their number, events


class _Espeak:
    def __init__(self, library: str, data: str) -> None:
        self.library = ctypes.CDLL(library)
        options = PHONEME_EVENTS | PHONEME_IPA
        self.rate_hz = self.library.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, data.encode(), options)
        if self.rate_hz <= 0:
            raise SystemExit(f"espeak_Initialize gives {self.rate_hz} with the voices in {data}")
        self._callback = _Callback(self._take)
        self.library.espeak_SetSynthCallback(self._callback)
        self.audio: list[bytes] = []
        self.phonemes: list[tuple[int, str]] = []

    def _take(self, samples: Any, count: int, events: Any) -> int:
        if samples and count:
            self.audio.append(ctypes.string_at(samples, 2 * count))
        number = 0
        while events[number].type != EVENT_END:
            if events[number].type == EVENT_PHONEME:
                name = bytes(events[number].id.string).decode("utf-8", "replace")
                self.phonemes.append((events[number].audio_position, name))
            number += 1
        return 0

    def say(self, text: str, voice: str, words_per_minute: int, pitch: int) -> None:
        self.audio.clear()
        self.phonemes.clear()
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SystemExit(f"espeak-ng has no voice {voice}")
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(SEED))  # of a voice's breath; the clock's if nobody sets it
        self.library.espeak_SetParameter(RATE, words_per_minute, 0)
        self.library.espeak_SetParameter(PITCH, pitch, 0)
        encoded = text.encode()
        self.library.espeak_Synth(encoded, len(encoded) + 1, 0, 0, 0, UTF8, None, None)
        self.library.espeak_Synchronize()


def _serve(lines: BinaryIO, answers: BinaryIO, library: str, data: str) -> None:
    espeak = _Espeak(library, data)
    for line in lines:
        espeak.say(**json.loads(line))
        audio = b"".join(espeak.audio)
        facts = {"rate_hz": espeak.rate_hz, "samples": len(audio) // 2, "phonemes": espeak.phonemes}
        answers.write(json.dumps(facts).encode() + b"\n" + audio)
        answers.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer, sys.argv[1], sys.argv[2])
