"""Beam search with length normalisation over a decoder graph. numpy only; the same on every runtime."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compressor.tasks.lips.vocabulary import BLANK, EDGE
from targets.glue import GraphCall


@dataclass(frozen=True)
class Reading:
    """tokens of the best hypothesis, without EDGE; score: its mean log-probability as the search ranks it; attention
    (characters, frames) with which each token was written."""

    tokens: list[int]
    score: float
    attention: np.ndarray


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


class _Beams:
    """The hypotheses of all clips, `width` rows per clip: tokens, attention (rows, longest, frames), two decoder
    states, log-probabilities (-inf where a row is closed), the last token."""

    def __init__(self, clips: int, width: int, longest: int, frames: int, hidden: int) -> None:
        rows = clips * width
        self.width = width
        self.tokens = np.full((rows, longest), BLANK, np.int64)
        self.attention = np.zeros((rows, longest, frames), np.float32)
        self.states = [np.zeros((rows, hidden), np.float32) for _ in range(2)]
        self.scores = np.where(np.arange(rows) % width == 0, 0.0, -np.inf)  # at first all hypotheses of a clip are one
        self.last = np.full(rows, EDGE)

    def reading(self, row: int, length: int, score: float) -> Reading:
        return Reading(self.tokens[row, :length].tolist(), score, self.attention[row, :length].copy())

    def keep(self, clip: int, kept: list[tuple[int, int, float]], place: int) -> None:
        """Put a clip's kept hypotheses, (row of the parent, token, score), into its rows; the rest is closed."""
        own = slice(clip * self.width, (clip + 1) * self.width)
        parents = [row for row, _, _ in kept] + [own.start] * (self.width - len(kept))
        arrays: list[np.ndarray] = [self.tokens, self.attention, *self.states]
        for array in arrays:
            array[own] = array[parents]
        self.scores[own] = -np.inf
        for row, (_, token, score) in enumerate(kept, own.start):
            self.scores[row] = score
            self.tokens[row, place] = self.last[row] = token

    def step(
        self, decoder: GraphCall, memory: np.ndarray, mask: np.ndarray, live: np.ndarray, place: int, size: int
    ) -> np.ndarray:
        """One character for the rows `live`: log-probabilities (rows, size), -inf in the others."""
        one_hot = np.zeros((len(live), size), np.float32)
        one_hot[np.arange(len(live)), self.last[live]] = 1
        clip = live // self.width
        feeds = {"previous": one_hot, "memory": memory[clip], "mask": mask[clip]}
        found = decoder({**feeds, "state1": self.states[0][live], "state2": self.states[1][live]})
        log_probs = np.full((len(self.last), size), -np.inf)
        log_probs[live] = log_softmax(found["logits"])
        log_probs[:, BLANK] = -np.inf
        for state, name in zip(self.states, ("state1_out", "state2_out"), strict=True):
            state[live] = found[name]
        self.attention[live, place] = found["attention"]
        return log_probs


def beam_search(
    decoder: GraphCall,
    memory: np.ndarray,
    mask: np.ndarray,
    *,
    vocabulary: int,
    hidden: int,
    width: int,
    longest: int,
    length_power: float,
) -> list[Reading]:
    """The best hypothesis of every clip; memory (clips, frames, dim), mask (clips, frames), both float32.

    `width` hypotheses per clip are extended together by one character at a time. One that ends is set aside with its
    log-probability divided by length ** `length_power` (its EDGE counted); a clip is done when no open hypothesis can
    beat its best one that ended, each open one judged as if it were of the greatest length. Source: Wu et al. 2016,
    section 7, with a plain power of the length.
    """
    clips, frames = mask.shape
    beams = _Beams(clips, width, longest, frames, hidden)
    best: list[Reading | None] = [None] * clips
    open_clips = np.ones(clips, bool)
    for place in range(longest):
        live = np.flatnonzero(np.repeat(open_clips, width) & np.isfinite(beams.scores))
        log_probs = beams.step(decoder, memory, mask, live, place, vocabulary)
        totals = (beams.scores[:, None] + log_probs).reshape(clips, width * vocabulary)
        for clip in np.flatnonzero(open_clips).tolist():
            kept: list[tuple[int, int, float]] = []
            for choice in np.argsort(-totals[clip], kind="stable")[: 2 * width].tolist():
                total = float(totals[clip, choice])
                row, token = clip * width + choice // vocabulary, choice % vocabulary
                if token == EDGE and np.isfinite(total):
                    best[clip] = _better(best[clip], beams.reading(row, place, total / (place + 1) ** length_power))
                elif len(kept) < width and np.isfinite(total):
                    kept.append((row, token, total))
            beams.keep(clip, kept, place)
            bound = max((total for *_, total in kept), default=-np.inf) / longest**length_power
            ended = best[clip]
            open_clips[clip] = bool(kept) and (ended is None or ended.score < bound)
        if not open_clips.any():
            break
    return [ended if ended is not None else _unended(beams, clip, length_power) for clip, ended in enumerate(best)]


def _better(old: Reading | None, new: Reading) -> Reading:
    return new if old is None or new.score > old.score else old


def _unended(beams: _Beams, clip: int, length_power: float) -> Reading:
    """The best open hypothesis of a clip of which none has ended."""
    row = clip * beams.width + int(np.argmax(beams.scores[clip * beams.width : (clip + 1) * beams.width]))
    longest = beams.tokens.shape[1]
    return beams.reading(row, longest, float(beams.scores[row]) / longest**length_power)
