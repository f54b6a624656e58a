"""Paired video and inertial signals, simulated from motion capture: a stick figure, and a virtual sensor on its body.

The twenty clips are those that pybullet ships: DeepMimic's humanoid3d files and a walker's. Every pair has its own
moment, speed, camera and sensor mounting, and one of many bodies. All of it follows from the settings, seed included.
This is a simulation, and is called one wherever a number from it appears.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from compressor.data.imu_windows import LENGTH, RATE_HZ, Pairs, Windows, load_windows, save_windows
from compressor.data.packages import Package, fetch_archive, read_members
from compressor.data.source import Progress, Source, build_once, silent
from profiles.errors import RequestError
from profiles.storage import cache_root, load_npz, save_npz

if TYPE_CHECKING:
    from compressor.data.mocap_simulation.clips import Motion, Skeleton

REVISION = 1
PYBULLET = Package(
    client="pip",
    name="pybullet",
    version="3.2.7",
    sha256="5d858abf7c12a21ef3ed351cf81dac1b5e486ec25c9ab59bfc84beb89034edff",
    licence="Zlib",
    url="https://github.com/bulletphysics/bullet3",
    note="motion clips from DeepMimic (Peng et al. 2018), which pybullet ships; read from the wheel, nothing installed",
    platform="manylinux2014_x86_64",
)
URDF = "pybullet_data/humanoid/humanoid.urdf"
# Where a sensor is: the point whose segment it is fixed to, and its place in that segment's frame (x forward, y up, z
# to the right), m. On the waist it hangs at a random place around the body.
SITES = {
    "waist": ("root", (0.0, 0.03, 0.0)),
    "chest": ("chest", (0.09, 0.12, 0.0)),
    "head": ("neck", (0.0, 0.17, 0.0)),
    "thigh": ("right_hip", (0.05, -0.15, 0.05)),
    "ankle": ("right_knee", (0.0, -0.38, 0.04)),
    "wrist": ("right_elbow", (0.0, -0.24, 0.02)),
}
WAIST_M = 0.12  # from the body's axis
MARGIN_S = 0.5  # of a motion at either end, where its filter has seen too little


class MocapSettings(BaseModel):
    """What is simulated. Angles in rad, spreads are standard deviations."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int = Field(default=20_000, ge=1, description="pairs, the same number from every clip but for the rest")
    seed: int = 0
    sites: tuple[str, ...] = ("waist",)
    side_px: int = Field(default=32, ge=8)
    frames: int = Field(default=16, ge=2)
    bodies: int = Field(default=12, ge=1, description="per clip")
    size_spread: float = Field(default=0.07, ge=0, description="of the log of a body's height")
    proportion_spread: float = Field(default=0.05, ge=0, description="of the log of legs, arms and trunk against it")
    cutoff_hz: tuple[float, float] = Field(default=(5.0, 9.0), description="of the low-pass before differentiation")
    speed: tuple[float, float] = Field(default=(0.6, 1.4), description="lowest and highest")
    still_share: float = Field(default=0.15, ge=0, le=1, description="pairs at a twentieth of the speed: a posture")
    yaw: float = Field(default=float(np.pi), ge=0, description="mounting: turned by up to so much about the vertical")
    tilt: float = Field(default=0.15, ge=0, description="mounting: spread about each horizontal axis")
    mirror_share: float = Field(default=0.5, ge=0, le=1, description="bodies with left and right exchanged")
    acc_noise: float = Field(default=0.05, ge=0, description="m/s2")
    gyro_noise: float = Field(default=0.01, ge=0, description="rad/s")
    acc_bias: float = Field(default=0.1, ge=0, description="spread over pairs, m/s2")
    gyro_bias: float = Field(default=0.01, ge=0, description="spread over pairs, rad/s")


def load_pairs(path: Path) -> Pairs:
    """The pairs that a directory holds, from `source.fetch()` or `fetch_pairs`; signals and video memory-mapped."""
    about = load_npz(path / "about.npz")
    video = np.load(path / "video.npy", mmap_mode="r")
    return Pairs(load_windows(path), video, about["clip"], about["site"])


def fetch_pairs(settings: MocapSettings, progress: Progress = silent) -> Path:
    """The directory of these settings' pairs in the cache, simulated when they are not there.

    Raises RequestError for a site that there is not, MissingError if pip cannot get the clips.
    """
    key = json.dumps([REVISION, PYBULLET.sha256, settings.model_dump(mode="json")], sort_keys=True)
    path = cache_root() / "data" / f"mocap-pairs-{hashlib.sha256(key.encode()).hexdigest()[:16]}"

    def fill(directory: Path) -> Mapping[str, Any]:
        facts = simulate(directory, fetch_archive(PYBULLET), settings, progress)
        return {"revision": REVISION, "packages": [PYBULLET.to_json()], **facts}

    return build_once(path, "mocap", fill)


def simulate(directory: Path, archive: Path, settings: MocapSettings, progress: Progress = silent) -> dict[str, Any]:
    """Write the pairs of these settings into a directory; gives facts for its manifest."""
    from compressor.data.mocap_simulation.clips import read_clips, read_skeleton

    if unknown := [site for site in settings.sites if site not in SITES]:
        raise RequestError(f"sensor site {unknown[0]!r}: there are {', '.join(SITES)}")
    files = read_members(archive, lambda path: path == URDF or "data/motions/" in path)
    skeleton = read_skeleton(files[URDF])
    clips = read_clips(files)
    signals = np.empty((settings.count, 6, LENGTH), np.float32)
    shape = (settings.count, settings.frames, settings.side_px, settings.side_px)
    video = np.lib.format.open_memmap(directory / "video.npy", "w+", np.uint8, shape)
    clip_names = np.empty(settings.count, "U32")
    sites = np.empty(settings.count, "U8")
    jobs = [(clip, body) for clip in clips for body in range(settings.bodies)]
    bounds = np.linspace(0, settings.count, len(jobs) + 1).round().astype(int)
    for number, (clip, body) in enumerate(jobs):
        rows = slice(bounds[number], bounds[number + 1])
        rng = np.random.default_rng([settings.seed, body, *clip.name.encode()])
        clip_names[rows] = clip.name
        if rows.start < rows.stop:
            motion = _body(clip, skeleton, settings, rng)
            signals[rows], sites[rows] = _record(motion, settings, rng, video[rows])
        progress("bodies", number + 1, len(jobs))
    video.flush()
    save_windows(directory, Windows(signals, RATE_HZ, clip_names))
    save_npz(directory / "about.npz", {"clip": clip_names, "site": sites})
    return {"pairs": settings.count, "clips": [clip.name for clip in clips], "settings": settings.model_dump()}


def _body(clip: Any, skeleton: Skeleton, settings: MocapSettings, rng: np.random.Generator) -> Motion:
    """One body that does a clip's motion for as long as windows need."""
    from compressor.data.mocap_simulation.clips import move

    size = np.exp(settings.size_spread * rng.standard_normal())
    legs, arms, trunk = size * np.exp(settings.proportion_spread * rng.standard_normal(3))
    seconds = 2 * MARGIN_S + LENGTH / RATE_HZ * settings.speed[1] + max(clip.times[-1], 4.0)
    cutoff_hz = rng.uniform(*settings.cutoff_hz)
    motion = move(clip, skeleton.stretched(legs, arms, trunk), seconds, cutoff_hz, height=legs)
    return motion.mirrored() if rng.random() < settings.mirror_share else motion


def _record(
    motion: Motion, settings: MocapSettings, rng: np.random.Generator, video: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Windows (n, 6, length) and their sensor's site (n,) of moments drawn at random; their video is written."""
    from compressor.data.mocap_simulation.clips import RATE_HZ as MOTION_HZ
    from compressor.data.mocap_simulation.sensor import Track

    count = len(video)
    speed = rng.uniform(*settings.speed, count) * np.where(rng.random(count) < settings.still_share, 0.05, 1.0)
    last_s = (len(motion.positions) - 1) / MOTION_HZ - MARGIN_S
    begin = rng.uniform(MARGIN_S, last_s - (LENGTH - 1) / RATE_HZ * speed)
    times = begin[:, None] + speed[:, None] * np.arange(LENGTH) / RATE_HZ
    mounting, yaw = _mounting(settings, rng, count)
    sites = rng.choice(settings.sites, count)
    signals = np.empty((count, 6, LENGTH))
    for site in settings.sites:
        rows = sites == site
        point, place = SITES[site]
        index = motion.skeleton.names.index(point)
        places = np.tile(np.array(place) * [1, 1, motion.right], (rows.sum(), 1))
        if site == "waist":
            places += WAIST_M * np.stack([np.cos(yaw[rows]), 0 * yaw[rows], -np.sin(yaw[rows])], axis=1)
        track = Track(motion.positions[:, index], motion.rotations[:, index], MOTION_HZ)
        signals[rows] = track.read(times[rows], places, mounting[rows], speed[rows])
    _draw(motion, begin, speed, rng, video)
    return _imperfect(signals, settings, rng).astype(np.float32), sites


def _mounting(settings: MocapSettings, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Quaternions (n, 4) from the sensor's frame (x up, y to the left, z to the back when it hangs at the front) to the
    body's, and the yaw that is in each."""
    from compressor.data.mocap_simulation.clips import multiply
    from compressor.data.mocap_simulation.sensor import UP, about

    upright = np.array([0.5, -0.5, -0.5, 0.5])
    yaw = rng.uniform(-settings.yaw, settings.yaw, count)
    tilt = settings.tilt * rng.standard_normal((count, 3)) * [1, 0, 1]
    angle = np.linalg.norm(tilt, axis=1)
    leaning = about(tilt / np.maximum(angle, 1e-9)[:, None], angle)
    return multiply(multiply(about(UP, yaw), leaning), np.broadcast_to(upright, (count, 4))), yaw


def _imperfect(signals: np.ndarray, settings: MocapSettings, rng: np.random.Generator) -> np.ndarray:
    """With the sensor's noise and bias."""
    noise = np.repeat([settings.acc_noise, settings.gyro_noise], 3)[:, None]
    bias = np.repeat([settings.acc_bias, settings.gyro_bias], 3)[:, None]
    return signals + noise * rng.standard_normal(signals.shape) + bias * rng.standard_normal((*signals.shape[:2], 1))


def _draw(motion: Motion, begin: np.ndarray, speed: np.ndarray, rng: np.random.Generator, video: np.ndarray) -> None:
    from compressor.data.mocap_simulation.clips import RATE_HZ as MOTION_HZ
    from compressor.data.mocap_simulation.video import Camera, draw_figures, project

    count, frames, side = video.shape[:3]
    skeleton = motion.skeleton
    tall_m = float(np.abs(skeleton.offsets[:, 1]).sum() / 2.5)  # near the body's height, which is all that is needed
    moments = np.linspace(0, (LENGTH - 1) / RATE_HZ, frames)
    places = (begin[:, None] + speed[:, None] * moments) * MOTION_HZ
    whole = np.minimum(places.astype(int), len(motion.positions) - 2)
    part = (places - whole)[..., None, None]
    positions = motion.positions[whole] * (1 - part) + motion.positions[whole + 1] * part
    camera = Camera(rng, count, side, tall_m)
    points = project(positions, camera).reshape(count * frames, -1, 3)
    thick = np.array([0.055 if skeleton.names[child] != "head" else 0.1 for _, child in skeleton.bones])
    radii = np.maximum(thick * camera.pixels_per_m[:, None], 0.5)
    pictures = np.zeros((count * frames, side, side), np.uint8)
    draw_figures(points, skeleton.bones, np.repeat(radii, frames, axis=0), pictures)
    video[:] = pictures.reshape(video.shape)


def build(directory: Path, archives: Mapping[str, Path], progress: Progress) -> dict[str, Any]:
    return simulate(directory, archives["pybullet"], MocapSettings(), progress)


source = Source(
    name="mocap",
    summary="Simulated pairs of stick figure video and a virtual waist sensor's signal, from pybullet's motion clips",
    packages=(PYBULLET,),
    build=build,
    revision=REVISION,
)
