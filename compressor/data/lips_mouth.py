"""A simulated mouth: phoneme times become lip movements, and these become grey pictures of a face's mouth region.

It is a simulation for comparing methods; what it shows carries over to real faces only as far as the visemes do. What
it keeps of the real task: several phonemes share one viseme (p, b, m; f, v; t, d, n; k, g), neighbours colour each
other (co-articulation), faces, light, speed, head movement and the camera's noise vary.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np

FRAMES_PER_SECOND = 25
HEIGHT_PX, WIDTH_PX = 32, 48
STEP_MS = 5.0  # of the fine grid on which movements are computed
REST = "rest"

# What a viseme asks of the mouth, and how strongly it insists (the dominance of Cohen and Massaro 1993): opening of
# the lips, spreading, rounding, upper teeth, lower teeth, tongue, lower lip tucked under the upper teeth; dominance.
PARAMETERS = ("opening", "spread", "rounding", "upper_teeth", "lower_teeth", "tongue", "tuck")
VISEMES: dict[str, tuple[float, ...]] = {
    REST: (0.00, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5),
    "bilabial": (0.00, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0, 3.5),
    "labiodental": (0.12, 0.1, 0.0, 0.8, 0.0, 0.0, 1.0, 2.5),
    "dental": (0.28, 0.1, 0.0, 0.6, 0.3, 1.0, 0.0, 1.6),
    "alveolar": (0.22, 0.2, 0.0, 0.6, 0.4, 0.4, 0.0, 0.6),
    "sibilant": (0.16, 0.4, 0.0, 0.9, 0.9, 0.0, 0.0, 1.2),
    "lateral": (0.35, 0.1, 0.0, 0.5, 0.2, 0.9, 0.0, 0.9),
    "postalveolar": (0.25, -0.3, 0.6, 0.8, 0.7, 0.0, 0.0, 1.5),
    "velar": (0.30, 0.0, 0.0, 0.3, 0.1, 0.2, 0.0, 0.3),
    "glide_round": (0.10, -0.6, 1.0, 0.0, 0.0, 0.0, 0.0, 1.8),
    "close_front": (0.25, 0.9, 0.0, 0.6, 0.4, 0.1, 0.0, 1.0),
    "mid_front": (0.45, 0.6, 0.0, 0.5, 0.2, 0.2, 0.0, 1.0),
    "open": (0.95, 0.2, 0.0, 0.4, 0.1, 0.3, 0.0, 1.2),
    "open_back": (0.80, -0.1, 0.2, 0.2, 0.1, 0.1, 0.0, 1.1),
    "mid_back": (0.50, -0.4, 0.7, 0.1, 0.0, 0.0, 0.0, 1.1),
    "close_back": (0.18, -0.6, 0.9, 0.0, 0.0, 0.0, 0.0, 1.3),
    "close_front_round": (0.15, -0.5, 0.95, 0.1, 0.0, 0.0, 0.0, 1.4),
    "neutral": (0.35, 0.0, 0.0, 0.3, 0.1, 0.1, 0.0, 0.5),
}
PHONEMES: dict[str, str] = {
    viseme_symbol: viseme
    for viseme, symbols in {
        "bilabial": "pbm",
        "labiodental": "fv",
        "dental": "θð",
        "alveolar": "tdnɾɗ",
        "sibilant": "sz",
        "lateral": "lɫ",
        "postalveolar": "ʃʒɹɻʂʐ",
        "velar": "kɡgŋhxχ",
        "glide_round": "wʍ",
        "close_front": "iɪjɕ",
        "mid_front": "eɛ",
        "open": "aæɐʌ",
        "open_back": "ɑɒ",
        "mid_back": "oɔ",
        "close_back": "uʊ",
        "close_front_round": "yɥ",
        "neutral": "əɜɚɝɤrᵻ",
    }.items()
    for viseme_symbol in symbols
}
MARKS = "ˈˌː.ʰʲ˞0123456789-_ ˥˦˧˨˩|"  # stress, length, tone, aspiration: not seen; nor are combining marks


def visemes_of(ipa: str) -> list[str]:
    """The visemes of one phoneme, two of a diphthong or an affricate; rest of a pause.

    Raises ValueError for a symbol that is not in the table.
    """
    symbols = [symbol for symbol in ipa if symbol not in MARKS and not unicodedata.combining(symbol)]
    unknown = [symbol for symbol in symbols if symbol not in PHONEMES]
    if unknown:
        raise ValueError(f"phoneme {ipa!r}: no viseme for {unknown[0]!r}")
    found = [PHONEMES[symbol] for symbol in symbols]
    if len(found) == 2 and symbols[1] == "h":  # an aspirated plosive, espeak's "th"
        return found[:1]
    return found or [REST]


@dataclass(frozen=True)
class Face:
    """One simulated person, in shares of the picture's width or of full brightness."""

    skin: float
    lips: float
    width: float
    upper_lip: float
    lower_lip: float
    reach: float  # how far the mouth opens
    bow: float  # depth of the cupid's bow
    asymmetry: float
    teeth: float
    stubble: float
    texture_seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Face:
        skin = rng.uniform(0.35, 0.85)
        return cls(
            skin=skin,
            lips=skin * rng.uniform(0.60, 0.85),
            width=rng.uniform(0.29, 0.39),
            upper_lip=rng.uniform(0.045, 0.090),
            lower_lip=rng.uniform(0.060, 0.115),
            reach=rng.uniform(0.22, 0.33),
            bow=rng.uniform(0.0, 0.35),
            asymmetry=rng.uniform(-0.12, 0.12),
            teeth=rng.uniform(0.70, 1.0),
            stubble=max(0.0, rng.uniform(-0.06, 0.08)),
            texture_seed=int(rng.integers(2**31)),
        )


def movements(
    phonemes: list[tuple[float, str]], end_ms: float, frames: int, rng: np.random.Generator, jitter_ms: float = 22.0
) -> np.ndarray:
    """Mouth parameters per frame, (frames, 7), in the order of PARAMETERS.

    Every phoneme's start is moved by a normal deviate of `jitter_ms`, half of it shared by the whole sentence, so that
    espeak's exact durations do not tell phonemes apart; order is kept. The parameters at time t are the mean of the
    visemes' targets around t, weighted by dominance and a Gaussian window. Frame i is at (i + 1/2) / 25 s.
    """
    starts = np.array([start for start, _ in phonemes] + [end_ms])
    starts = starts + rng.normal(0, jitter_ms / 2) + rng.normal(0, jitter_ms * 0.87, len(starts))
    starts = np.maximum.accumulate(starts)
    count = int(frames * 1000 / FRAMES_PER_SECOND / STEP_MS) + 1
    times = np.arange(count) * STEP_MS
    targets = np.tile(np.array(VISEMES[REST]), (count, 1))
    for index, (_, ipa) in enumerate(phonemes):
        parts = visemes_of(ipa)
        edges = np.linspace(starts[index], starts[index + 1], len(parts) + 1)
        for viseme, begin, end in zip(parts, edges[:-1], edges[1:], strict=True):
            effort = 1 + rng.normal(0, 0.12)
            values = np.array(VISEMES[viseme])
            values[: len(PARAMETERS)] *= effort
            targets[(times >= begin) & (times < end)] = values
    reach = np.arange(-120.0, 120.0 + STEP_MS, STEP_MS)
    window = np.exp(-0.5 * (reach / rng.uniform(24.0, 40.0)) ** 2)
    dominance = targets[:, -1:]

    def smooth(values: np.ndarray) -> np.ndarray:
        padded = np.pad(values, ((len(window) // 2,) * 2, (0, 0)), mode="edge")
        return np.stack([np.convolve(column, window, "valid") for column in padded.T], axis=1)

    smoothed = smooth(targets[:, :-1] * dominance) / smooth(dominance)
    middles = (np.arange(frames) + 0.5) * 1000 / FRAMES_PER_SECOND
    nearest = np.minimum((middles / STEP_MS).round().astype(int), count - 1)
    return smoothed[nearest].astype(np.float32)


def _wander(rng: np.random.Generator, frames: int, size: float) -> np.ndarray:
    """A slow random walk, (frames, 1, 1)."""
    steps = np.cumsum(rng.normal(0, size, frames + 4))
    return np.convolve(steps - steps.mean(), np.ones(5) / 5, "valid")[:, None, None].astype(np.float32)


def _inside(distance: np.ndarray, softness: float) -> np.ndarray:
    """1 where distance is well below 0, 0 well above: a soft edge, for anti-aliasing."""
    return np.clip(0.5 - distance / (2 * softness), 0, 1)


def _texture(face: Face) -> np.ndarray:
    """The skin's fixed pattern and stubble, (HEIGHT_PX, WIDTH_PX), about 0."""
    rng = np.random.default_rng(face.texture_seed)
    y, x = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX] / WIDTH_PX
    smooth = sum(
        np.cos(2 * np.pi * (a * x + b * y) + phase)
        for a, b, phase in zip(rng.normal(0, 2.5, 6), rng.normal(0, 2.5, 6), rng.uniform(0, 6.3, 6), strict=True)
    )
    return (0.012 * smooth + face.stubble * rng.normal(0, 0.5, x.shape)).astype(np.float32)


def render(face: Face, mouth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pictures (frames, HEIGHT_PX, WIDTH_PX) uint8 of this face making these movements (frames, 7).

    Place, size, tilt, light and noise are drawn for the clip; the head wanders a little within it.
    """
    frames = len(mouth)
    opening, spread, rounding, upper_teeth, lower_teeth, tongue, tuck = (
        mouth[:, k, None, None] for k in range(len(PARAMETERS))
    )
    rows, columns = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX].astype(np.float32)
    tilt = np.float32(rng.normal(0, 0.05)) + _wander(rng, frames, 0.004)
    size = np.float32(rng.uniform(0.88, 1.12)) * (1 + _wander(rng, frames, 0.003))
    dx = (columns - WIDTH_PX / 2)[None] / WIDTH_PX - np.float32(rng.normal(0, 0.02)) - _wander(rng, frames, 0.0025)
    dy = (rows - HEIGHT_PX / 2)[None] / WIDTH_PX - np.float32(rng.normal(-0.03, 0.02)) - _wander(rng, frames, 0.0025)
    x = (np.cos(tilt) * dx + np.sin(tilt) * dy) / size
    y = (-np.sin(tilt) * dx + np.cos(tilt) * dy) / size

    half = face.width * (1 + 0.16 * spread - 0.38 * rounding)
    gap = face.reach * np.clip(opening, 0, 1.2)
    u = x / half
    arch = np.sqrt(np.clip(1 - u * u, 0, 1))
    thick = 1 + 0.35 * rounding
    inner_half = half * (0.86 - 0.10 * rounding)
    inner = np.sqrt(np.clip(1 - (x / inner_half) ** 2, 0, 1))
    tilted = 1 + face.asymmetry * u
    top_inner = -0.35 * gap * inner * tilted
    bottom_inner = 0.65 * gap * inner * tilted - 0.02 * tuck * inner
    bow = 1 - face.bow * np.exp(-((u / 0.22) ** 2))
    top_outer = top_inner - face.upper_lip * thick * arch * bow
    bottom_outer = bottom_inner + face.lower_lip * thick * arch * (1 - 0.55 * np.clip(tuck, 0, 1))

    soft = 0.022
    lips = _inside(top_outer - y, soft) * _inside(y - bottom_outer, soft) * _inside(np.abs(x) - half, soft)
    hole = _inside(top_inner - y, soft) * _inside(y - bottom_inner, soft) * _inside(np.abs(x) - inner_half, soft)
    hole = hole * np.clip(gap / 0.03, 0, 1)
    seam = np.exp(-(((y - 0.5 * (top_inner + bottom_inner)) / 0.014) ** 2)) * _inside(np.abs(x) - inner_half, soft)
    seam = seam * np.clip(1 - gap / 0.04, 0, 1)
    upper = np.clip(upper_teeth, 0, 1) * _inside(y - top_inner - 0.055, soft) * hole
    lower = np.clip(lower_teeth, 0, 1) * _inside(bottom_inner - 0.040 - y, soft) * hole
    blob = ((x / (0.6 * inner_half)) ** 2 + ((y - bottom_inner + 0.02) / 0.07) ** 2) - 1
    tongue_here = np.clip(tongue, 0, 1) * _inside(blob * 0.05, soft) * hole

    light = np.float32(rng.uniform(0.75, 1.15)) * (
        1 + np.float32(rng.normal(0, 0.45)) * columns[None] / WIDTH_PX * 0.5
        + np.float32(rng.normal(0, 0.35)) * rows[None] / HEIGHT_PX * 0.5
    )  # fmt: skip
    picture = face.skin + _texture(face)[None] - 0.06 * np.exp(-(((y - bottom_outer - 0.05) / 0.03) ** 2))
    shade = face.lips * (1 + 0.10 * np.exp(-(((y - bottom_outer + 0.4 * face.lower_lip) / 0.02) ** 2)))
    for amount, tone in (
        (lips, shade),
        (0.7 * seam, 0.35 * face.lips),
        (hole, 0.10),
        (tongue_here, 0.75 * face.lips),
        (0.9 * lower, 0.75 * face.teeth),
        (0.9 * upper, 0.85 * face.teeth),
    ):
        picture = picture * (1 - amount) + amount * tone
    picture = picture * light
    picture = picture ** np.float32(rng.uniform(0.8, 1.25)) if (picture > 0).all() else np.clip(picture, 0, None)
    noise = np.float32(rng.uniform(0.01, 0.05))
    picture = picture + noise * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
