"""Simulated pairs: the virtual sensor against mechanics, the moving body against its bones, its video upright."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from compressor.data.imu_windows import GRAVITY
from compressor.data.mocap import URDF, MocapSettings, load_pairs, simulate
from compressor.data.mocap_simulation.clips import Clip, Skeleton, move, prolong, read_clips, rotate
from compressor.data.mocap_simulation.sensor import UP, Track, about, apply_gains, matching_gains, spectrum
from profiles.errors import RequestError

RATE_HZ = 100.0
STILL = np.array([1.0, 0, 0, 0])
URDF_TEXT = """<robot>
 <joint><parent link="base"/><child link="root"/><origin xyz="0 0 0"/></joint>
 <joint><parent link="root"/><child link="chest"/><origin xyz="0 1 0"/></joint>
 <joint><parent link="chest"/><child link="neck"/><origin xyz="0 1 0"/></joint>
 {limbs}
</robot>"""


def track(positions: np.ndarray, rotations: np.ndarray) -> Track:
    return Track(positions, rotations, RATE_HZ)


def read(found: Track, times: np.ndarray, place: np.ndarray | None = None, mounting: np.ndarray = STILL) -> np.ndarray:
    return found.read(times[None], np.zeros((1, 3)) if place is None else place[None], mounting[None])[0]


def test_at_rest_the_sensor_reads_gravity_in_its_own_frame() -> None:
    still = track(np.zeros((200, 3)), np.tile(STILL, (200, 1)))
    rolled = about(np.array([0.0, 0, 1]), np.array(np.pi / 2))  # its x axis points up, its y axis to -x
    signal = read(still, np.linspace(0.5, 1.0, 20), mounting=rolled)
    assert np.allclose(signal[:3], np.array([[GRAVITY], [0], [0]]), atol=1e-9)
    assert np.allclose(signal[3:], 0, atol=1e-9)


def test_a_turntable_gives_its_rate_and_the_centripetal_acceleration() -> None:
    rate, radius = 3.0, 0.4
    times = np.arange(300) / RATE_HZ
    signal = read(
        track(np.zeros((300, 3)), about(UP, rate * times)), np.linspace(1, 2, 50), place=np.array([radius, 0, 0])
    )
    assert np.allclose(signal[3:], np.array([[0], [rate], [0]]), atol=1e-4)
    assert np.allclose(signal[:3], np.array([[-(rate**2) * radius], [GRAVITY], [0]]), atol=1e-3)


@pytest.mark.parametrize("speed", [1.0, 0.5])
def test_a_pendulum_reads_what_its_closed_form_says(speed: float) -> None:
    """theta(t) = a sin(w t) by hand: along the rod l theta'^2 + g cos theta, across it l theta'' + g sin theta."""
    length, swing, omega = 0.8, 0.6, 4.0
    times = np.arange(400) / RATE_HZ
    theta = swing * np.sin(omega * times)
    rotations = about(np.array([0.0, 0, 1]), theta)
    found = track(np.zeros((400, 3)), rotations)
    moments = np.linspace(1, 3, 80)
    signal = found.read(moments[None], np.array([[0, -length, 0]]), STILL[None], np.array([speed]))[0]
    phase = omega * moments
    angle, turning = swing * np.sin(phase), swing * omega * np.cos(phase) * speed
    bending = -swing * omega**2 * np.sin(phase) * speed**2
    expected = [length * bending + GRAVITY * np.sin(angle), length * turning**2 + GRAVITY * np.cos(angle)]
    assert np.allclose(signal[:2], expected, atol=2e-3)
    assert np.allclose(signal[5], turning, atol=1e-4)


def test_a_clip_that_wraps_goes_on_where_it_ended_in_the_direction_it_turned_to() -> None:
    """A quarter turn to the left per metre: four cycles are a square."""
    times = np.linspace(0, 1, 11)
    rotations = np.tile(STILL, (11, 13, 1))
    rotations[:, 0] = about(UP, np.pi / 2 * times)
    root = np.stack([times, np.ones(11), 0 * times], axis=1)
    longer = prolong(Clip("square", times, root, rotations, True), 3.9)
    corners = [np.argmin(np.abs(longer.times - second)) for second in range(5)]
    expected = [[0, 1, 0], [1, 1, 0], [1, 1, -1], [0, 1, -1], [0, 1, 0]]
    assert np.allclose(longer.root[corners], expected, atol=1e-9)
    assert np.allclose(np.abs((longer.rotations[corners[4], 0] * longer.rotations[0, 0]).sum()), 1)


def test_a_clip_that_does_not_wrap_runs_backwards_and_keeps_its_frames_durations() -> None:
    times = np.array([0.0, 0.1, 0.4])
    root = np.array([[0.0, 1, 0], [1, 1, 0], [2, 1, 0]])
    longer = prolong(Clip("once", times, root, np.tile(STILL, (3, 13, 1)), False), 0.8)
    assert np.allclose(longer.times, [0, 0.1, 0.4, 0.7, 0.8, 0.9, 1.2])
    assert longer.root[:, 0].tolist() == [0, 1, 2, 1, 0, 1, 2]


def test_bones_keep_their_length_whatever_the_body_does() -> None:
    rng = np.random.default_rng(0)
    skeleton = Skeleton(("root", "chest", "neck", "head"), (-1, 0, 1, 2), np.array([[0, 0, 0], *3 * [[0.1, 0.3, 0]]]))
    times = np.linspace(0, 2, 40)
    rotations = np.tile(STILL, (40, 13, 1)) + 0.2 * rng.standard_normal((1, 13, 4)) * np.sin(3 * times)[:, None, None]
    rotations /= np.linalg.norm(rotations, axis=-1, keepdims=True)
    motion = move(Clip("wild", times, np.ones((40, 3)), rotations, False), skeleton, 3.0, 8.0)
    for parent, child in skeleton.bones:
        lengths = np.linalg.norm(motion.positions[:, child] - motion.positions[:, parent], axis=-1)
        assert np.allclose(lengths, np.hypot(0.1, 0.3))
    mirrored = motion.mirrored()
    again = mirrored.positions[:, 1] + rotate(mirrored.rotations[:, 1], np.array([0.1, 0.3, 0]) * [1, 1, -1])
    assert np.allclose(again, mirrored.positions[:, 2])


def test_matched_windows_have_the_real_ones_spectrum_and_their_own_mean() -> None:
    rng = np.random.default_rng(0)
    simulated = rng.standard_normal((300, 6, 128)) + 5
    real = np.cumsum(rng.standard_normal((300, 6, 128)), axis=-1) * 0.5
    matched = apply_gains(simulated, matching_gains(simulated, real))
    near = slice(3, 60)
    assert np.abs(np.log(spectrum(matched)[:, near] / spectrum(real)[:, near])).mean() < 0.15
    assert np.allclose(matched.mean(-1), simulated.mean(-1), atol=1e-4)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive laid out as pybullet's, with two short motions: standing still, and swaying."""
    limbs = "".join(
        f'<joint><parent link="{parent}"/><child link="{side}_{child}"/><origin xyz="{xyz}"/></joint>'
        for side, sign in (("right", 1), ("left", -1))
        for parent, child, xyz in (
            ("root", "hip", f"0 0 {0.34 * sign}"),
            (f"{side}_hip", "knee", "0 -1.7 0"),
            (f"{side}_knee", "ankle", "0 -1.6 0"),
            ("chest", "shoulder", f"0 1 {0.7 * sign}"),
            (f"{side}_shoulder", "elbow", "0 -1.1 0"),
            (f"{side}_elbow", "wrist", "0 -1 0"),
        )
    )
    frames = {"stand": np.zeros(60), "sway": 0.4 * np.sin(np.linspace(0, 12, 60))}
    path = tmp_path_factory.mktemp("wheel") / "pybullet.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(URDF, URDF_TEXT.format(limbs=limbs) + "\0")
        for name, angles in frames.items():
            rows = [_frame(float(angle)) for angle in angles]
            text = json.dumps({"Loop": "none", "Frames": rows})
            archive.writestr(f"pybullet_data/data/motions/humanoid3d_{name}.txt", text)
    return path


def _frame(angle: float) -> list[float]:
    still, bent = [1.0, 0, 0, 0], [np.cos(angle / 2), np.sin(angle / 2), 0, 0]
    arm = [*still, 0.0]
    leg = [*still, 0.0, *still]
    return [1 / 30, 0.0, 0.85, 0.0, *bent, *still, *still, *leg, *arm, *leg, *arm]


def settings(**changed: object) -> MocapSettings:
    return MocapSettings(**{"count": 24, "bodies": 2, "side_px": 16, "frames": 4, **changed})  # type: ignore[arg-type]


def test_pairs_depend_on_the_seed_alone_and_are_split_by_clip(wheel: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, (0, 0, 1), strict=True):
        folder.mkdir()
        simulate(folder, wheel, settings(seed=seed))
    first, again, other = (load_pairs(folder) for folder in folders)
    assert np.array_equal(first.windows.signals, again.windows.signals) and np.array_equal(first.video, again.video)
    assert not np.allclose(first.windows.signals, other.windows.signals)
    assert first.video.shape == (24, 4, 16, 16) and first.windows.signals.shape == (24, 6, 128)
    assert isinstance(first.video, np.memmap) and isinstance(first.windows.signals, np.memmap)
    training, held_out = first.split(["sway"])
    assert set(first.clip[training]) == {"stand"} and set(first.clip[held_out]) == {"sway"}
    with pytest.raises(RequestError, match="no pairs of clip 'jog'; there are stand, sway"):
        first.split(["jog"])


def test_who_stands_feels_gravity_upwards_and_is_drawn_upright(wheel: Path, tmp_path: Path) -> None:
    simulate(tmp_path, wheel, settings(tilt=0.0, acc_bias=0.0, gyro_bias=0.0, acc_noise=0.0, gyro_noise=0.0))
    pairs = load_pairs(tmp_path)
    standing = pairs.clip == "stand"
    expected = np.array([GRAVITY, 0, 0, 0, 0, 0])  # the phone's x axis is up
    assert np.allclose(pairs.windows.signals[standing], expected[:, None], atol=1e-3)
    ink = pairs.video[standing].astype(float)
    assert (ink.sum((1, 2, 3)) > 0).all()
    tall = (ink.max(axis=3) > 0).sum(-1)
    wide = (ink.max(axis=2) > 0).sum(-1)
    assert (tall > wide).all()


def test_a_site_that_there_is_not_is_refused_by_name(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="sensor site 'tail': there are waist, chest"):
        simulate(tmp_path, wheel, settings(sites=("tail",)))


def test_files_that_are_no_clips_are_passed_over() -> None:
    assert read_clips({"pybullet_data/data/motions/laikago_walk.txt": b"{}"}) == []
