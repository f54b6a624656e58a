"""One decision per hop: numpy on a live signal, on a recorded one, and in C around an encoder that is simple enough to
write by hand. The real networks are in test_imu_firmware.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compressor.tasks.imu.firmware.program import on_this_machine, write_program
from compressor.tasks.imu.stream import Decider, Head, Stream, StreamSettings, smooth
from profiles.errors import RequestError
from targets.tflite.affine import dequantize, quantize
from tests.tools import need

CLASSES = ("a", "b", "c")
SETTINGS = StreamSettings(CLASSES, scale=(9.8,) * 3 + (2.0,) * 3, offset=(4.9, 0, 0, 0, 0, 0), smoothing=0.4)
INPUT, OUTPUT, FEATURES = (0.03, 5), (0.05, -7), 16
# A feature is the mean of 48 neighbouring numbers, rounded down.
ENCODER = """#include <stdint.h>
static int8_t in[768], out[16];
void net_run(void) {
  for (int d = 0; d < 16; d++) {
    int32_t sum = 0;
    for (int i = 0; i < 48; i++) sum += in[48 * d + i] + 128;
    out[d] = (int8_t)(sum / 48 - 128);
  }
}
void *net_input(int index) { return index == 0 ? in : 0; }
void *net_output(int index) { return index == 0 ? out : 0; }
"""


def encode(windows: np.ndarray) -> np.ndarray:
    whole = quantize(windows, *INPUT).astype(np.int32).reshape(len(windows), FEATURES, -1)
    return dequantize(((whole + 128).sum(axis=-1) // 48 - 128).astype(np.int8), *OUTPUT)


def signal(samples: int) -> np.ndarray:
    """Counts (t, 6) that wander over the whole range of the sensor and beyond the encoder's."""
    rng = np.random.default_rng(0)
    steps = rng.normal(0, 400, (samples, 6)) + rng.normal(0, 3000, (samples, 6)) * (rng.random((samples, 6)) < 0.02)
    return np.clip(np.abs(np.cumsum(steps, axis=0) % 80000 - 40000) * 2 - 40000, -32768, 32767).astype(np.int16)


def head() -> Head:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((len(CLASSES), FEATURES))
    return Head.quantise(weight - weight.mean(axis=1, keepdims=True), rng.standard_normal(len(CLASSES)) * 0.1)


def test_a_live_stream_decides_as_the_recorded_signal_however_samples_arrive() -> None:
    counts, rng = signal(4000), np.random.default_rng(2)
    expected = Decider(SETTINGS, head(), encode).decide(counts)
    stream, start, found = Stream(SETTINGS, head(), encode), 0, []
    while start < len(counts):
        part = counts[start : start + rng.integers(1, 200)]
        start += len(part)
        found += stream.push(part)
    assert [decision.end for decision in found] == list(range(150, 4001, 50))
    assert [decision.index for decision in found] == [decision.index for decision in expected]
    assert np.array_equal([d.scores for d in found], [d.scores for d in expected])
    assert Decider(SETTINGS, head(), encode).decide(counts[:120]) == []


def test_generated_c_decides_by_the_same_bits_on_hours_of_signal(tmp_path: Path) -> None:
    need("gcc")
    ports = {"name": "net", "inputs": [_port(INPUT)], "outputs": [_port(OUTPUT)]}
    write_program(tmp_path, ports, SETTINGS, head(), "a test", {"encoder.c": ENCODER})
    session = on_this_machine(tmp_path)
    counts = signal(6 * 3600 * 50)
    hops = counts.reshape(-1, SETTINGS.hop, 6)
    found = session({"samples": hops, "count": np.full(len(hops), SETTINGS.hop, np.int32)})
    smoothed = smooth(Decider(SETTINGS, head(), encode).stream_scores(counts), SETTINGS.smoothing)
    assert found["decision"][:2].tolist() == [-1, -1]
    assert np.array_equal(found["decision"][2:], smoothed.argmax(axis=1))
    assert np.array_equal(found["scores"][2:], smoothed)
    assert np.bincount(smoothed.argmax(axis=1), minlength=len(CLASSES)).min() > 100  # not one answer to everything


def _port(affine: tuple[float, int]) -> dict[str, object]:
    return {"scale": affine[0], "zero_point": affine[1]}


def test_smoothing_is_the_exponential_mean_of_scores() -> None:
    scores = np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    assert np.allclose(smooth(scores, 0.5), [[1, 0], [0.5, 0.5], [0.25, 0.75]])
    assert np.array_equal(smooth(scores, 1.0), scores)


def test_counts_saturate_as_a_sensor_and_windows_are_scaled() -> None:
    counts = SETTINGS.counts(np.array([[1000.0], [-1000], [9.8], [0], [0], [1]]))
    assert counts[0, :2].tolist() == [32767, -32768]
    assert np.allclose(SETTINGS.windows(counts)[0, [2, 3, 5]], [1, 0, 0.5], atol=1e-3)


def test_a_quantised_head_scores_as_the_float_one() -> None:
    rng = np.random.default_rng(0)
    weight, bias, features = rng.standard_normal((6, 360)), rng.standard_normal(6), rng.standard_normal((50, 360))
    error = Head.quantise(weight, bias)(features.astype(np.float32)) - (features @ weight.T + bias)
    assert (
        np.abs(error).max() < 0.6
        and np.abs(Head.quantise(weight, bias, "int16")(features) - features @ weight.T - bias).max() < 0.01
    )


def test_settings_survive_json_and_nonsense_is_refused() -> None:
    assert StreamSettings.from_json(SETTINGS.to_json()) == SETTINGS
    with pytest.raises(RequestError, match="scale"):
        StreamSettings(CLASSES, scale=(1.0,) * 5)
    with pytest.raises(RequestError, match="smoothing lies in"):
        StreamSettings(CLASSES, scale=(1.0,) * 6, smoothing=0)
    with pytest.raises(RequestError, match="settings of an imu student"):
        StreamSettings.from_json({"hop": 5})
    with pytest.raises(RequestError, match="a head of 3 classes for 2 names"):
        Decider(StreamSettings(("a", "b"), scale=(1.0,) * 6), head(), encode)
