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


def beam_search(
    step: GraphCall,
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
    rows = clips * width
    memory, mask = np.repeat(memory, width, axis=0), np.repeat(mask, width, axis=0)
    states = [np.zeros((rows, hidden), np.float32) for _ in range(2)]
    tokens = np.full((rows, longest), BLANK, np.int64)
    attention = np.zeros((rows, longest, frames), np.float32)
    scores = np.where(np.arange(rows) % width == 0, 0.0, -np.inf)  # at first all hypotheses of a clip are one
    last = np.full(rows, EDGE)
    best: list[Reading | None] = [None] * clips
    open_clips = np.ones(clips, bool)
    for place in range(longest):
        live = np.flatnonzero(np.repeat(open_clips, width))
        one_hot = np.zeros((len(live), vocabulary), np.float32)
        one_hot[np.arange(len(live)), last[live]] = 1
        feeds = {"previous": one_hot, "memory": memory[live], "mask": mask[live]}
        found = step({**feeds, "state1": states[0][live], "state2": states[1][live]})
        log_probs = np.full((rows, vocabulary), -np.inf)
        log_probs[live] = log_softmax(found["logits"])
        log_probs[:, BLANK] = -np.inf
        for state, name in zip(states, ("state1_out", "state2_out"), strict=True):
            state[live] = found[name]
        attention[live, place] = found["attention"]
        totals = (scores[:, None] + log_probs).reshape(clips, width * vocabulary)
        for clip in np.flatnonzero(open_clips):
            own = slice(clip * width, (clip + 1) * width)
            order = np.argsort(-totals[clip], kind="stable")[: 2 * width]
            kept: list[tuple[int, int, float]] = []
            for choice in order:
                parent, token = divmod(int(choice), vocabulary)
                total = float(totals[clip, choice])
                row = int(clip) * width + parent
                if not np.isfinite(total):
                    continue
                if token == EDGE:
                    score = total / (place + 1) ** length_power
                    if best[clip] is None or score > best[clip].score:  # type: ignore[union-attr]
                        best[clip] = Reading(tokens[row, :place].tolist(), score, attention[row, :place].copy())
                elif len(kept) < width:
                    kept.append((row, token, total))
            _reorder(own, kept, place, tokens, attention, states, scores, last)
            ended = best[clip]
            bound = max((total for *_, total in kept), default=-np.inf) / longest**length_power
            open_clips[clip] = bool(kept) and not (ended is not None and ended.score >= bound)
        if not open_clips.any():
            break
    return [
        reading if reading is not None else _unended(clip, width, tokens, attention, scores, longest, length_power)
        for clip, reading in enumerate(best)
    ]


def _reorder(
    own: slice,
    kept: list[tuple[int, int, float]],
    place: int,
    tokens: np.ndarray,
    attention: np.ndarray,
    states: list[np.ndarray],
    scores: np.ndarray,
    last: np.ndarray,
) -> None:
    """Put a clip's kept hypotheses, (row of the parent, token, score), into the clip's rows; the rest is closed."""
    parents = [row for row, _, _ in kept] + [own.start] * (own.stop - own.start - len(kept))
    for array in (tokens, attention, *states):
        array[own] = array[parents]
    for offset in range(own.stop - own.start):
        row = own.start + offset
        scores[row] = kept[offset][2] if offset < len(kept) else -np.inf
        if offset < len(kept):
            tokens[row, place] = last[row] = kept[offset][1]


def _unended(
    clip: int,
    width: int,
    tokens: np.ndarray,
    attention: np.ndarray,
    scores: np.ndarray,
    longest: int,
    length_power: float,
) -> Reading:
    """The best open hypothesis of a clip of which none has ended."""
    row = clip * width + int(np.argmax(scores[clip * width : (clip + 1) * width]))
    return Reading(tokens[row].tolist(), float(scores[row]) / longest**length_power, attention[row])
