"""Motion capture clips as a moving body: joints in space at any rate, for a body of any proportions.

The clips are DeepMimic's humanoid3d files (Peng et al., SIGGRAPH 2018). A frame is its duration, the root's position (x
forward, y up, z to the right, m) and quaternion (w, x, y, z), then each joint's rotation against its parent: a
quaternion, or one angle about z for knees and elbows. Bones are the joints' origins in humanoid.urdf, which is drawn at
four times its size.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

URDF_SCALE = 0.25
CLIP = re.compile(r"data/motions/(?:humanoid3d_|walker/)(\w+)\.txt$")
# Joints in the order of a frame's numbers, after the root; hinges have one angle.
FRAME_JOINTS = (
    "chest", "neck", "right_hip", "right_knee", "right_ankle", "right_shoulder", "right_elbow",
    "left_hip", "left_knee", "left_ankle", "left_shoulder", "left_elbow",
)  # fmt: skip
HINGES = ("right_knee", "right_elbow", "left_knee", "left_elbow")
# Points that no joint marks: the ends of the links' shapes, m.
ENDS = {"head": ("neck", (0, 0.2, 0)), "right_toe": ("right_ankle", (0.13, -0.05, 0))}
ENDS["left_toe"] = ("left_ankle", ENDS["right_toe"][1])
RATE_HZ = 100.0  # of a moving body


@dataclass(frozen=True)
class Skeleton:
    """Points of the body, parents before children. `offsets` (points, 3): from the parent, in its frame, m."""

    names: tuple[str, ...]
    parents: tuple[int, ...]  # -1 for the root
    offsets: np.ndarray

    @property
    def bones(self) -> np.ndarray:
        """(bones, 2) indices of points: parent, child."""
        return np.array([(parent, child) for child, parent in enumerate(self.parents) if parent >= 0])

    def stretched(self, legs: float, arms: float, trunk: float) -> Skeleton:
        """With bones of other lengths."""
        factors = [
            legs if re.search("hip|knee|ankle|toe", name) else arms if re.search("elbow|wrist", name) else trunk
            for name in self.names
        ]
        return Skeleton(self.names, self.parents, self.offsets * np.array(factors)[:, None])


def read_skeleton(urdf: bytes) -> Skeleton:
    """The points and bones of humanoid.urdf, in metres, and the ends that it has no joints for."""
    origins: dict[str, tuple[str, np.ndarray]] = {}
    for joint in ElementTree.fromstring(urdf.rstrip(b"\0")).iter("joint"):
        parent, child, origin = (joint.find(tag) for tag in ("parent", "child", "origin"))
        assert parent is not None and child is not None and origin is not None
        offset = URDF_SCALE * np.array([float(number) for number in origin.attrib["xyz"].split()])
        origins[child.attrib["link"]] = (parent.attrib["link"], offset)
    origins.update({name: (parent, np.array(offset)) for name, (parent, offset) in ENDS.items()})
    names = ["root"]
    while len(names) < len(origins):  # parents first, whatever the file's order
        names += [name for name, (parent, _) in origins.items() if name not in names and parent in names]
    parents = tuple(names.index(origins[name][0]) if name != "root" else -1 for name in names)
    return Skeleton(tuple(names), parents, np.array([origins[name][1] for name in names], np.float64))


@dataclass(frozen=True)
class Clip:
    """times (n,) s; root (n, 3) m; rotations (n, 1 + joints, 4) unit quaternions w, x, y, z of the root and of
    FRAME_JOINTS against their parents; `wraps`: its end goes on with its beginning."""

    name: str
    times: np.ndarray
    root: np.ndarray
    rotations: np.ndarray
    wraps: bool


def read_clips(files: Mapping[str, bytes]) -> list[Clip]:
    """Clips by name, from files by path; other files are passed over."""
    clips = []
    for path, content in files.items():
        if found := CLIP.search(path):
            data = json.loads(content)
            clips.append(_clip(found[1], np.array(data["Frames"], np.float64), data["Loop"] == "wrap"))
    return sorted(clips, key=lambda clip: clip.name)


def _clip(name: str, frames: np.ndarray, wraps: bool) -> Clip:
    times = np.concatenate([[0.0], np.cumsum(frames[:-1, 0])])
    columns, start = [frames[:, 4:8]], 8
    for joint in FRAME_JOINTS:
        if joint in HINGES:
            half = frames[:, start] / 2
            columns.append(np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], axis=1))
            start += 1
        else:
            columns.append(frames[:, start : start + 4])
            start += 4
    assert start == frames.shape[1], f"{name}: {frames.shape[1]} numbers in a frame, expected {start}"
    rotations = np.stack(columns, axis=1)
    return Clip(name, times, frames[:, 1:4], rotations / np.linalg.norm(rotations, axis=-1, keepdims=True), wraps)


def prolong(clip: Clip, seconds: float) -> Clip:
    """At least so long: a clip that wraps starts again where it ended, in the direction it had turned to; any other
    one runs backwards and forwards in turn."""
    times, roots, rotations = [clip.times], [clip.root], [clip.rotations]
    period = clip.times[-1]
    turn, place = np.array([1.0, 0, 0, 0]), clip.root[0]
    if clip.wraps:
        step = multiply(clip.rotations[-1, 0], conjugate(clip.rotations[0, 0]))
        heading = np.array([step[0], 0, step[2], 0]) / np.hypot(step[0], step[2])  # its twist about the vertical
    for cycle in range(1, int(np.ceil(seconds / period)) + 1):
        times.append(cycle * period + clip.times[1:])
        if clip.wraps:
            place = place + rotate(turn, (clip.root[-1] - clip.root[0]) * [1, 0, 1])
            turn = multiply(heading, turn)
            turned = clip.rotations[1:].copy()
            turned[:, 0] = multiply(turn, turned[:, 0])
            roots.append(place + rotate(turn, clip.root[1:] - clip.root[0]))
            rotations.append(turned)
        else:
            order = slice(-2, None, -1) if cycle % 2 else slice(1, None)
            roots.append(clip.root[order])
            rotations.append(clip.rotations[order])
            if cycle % 2:  # backwards: the frames' durations too
                times[-1] = cycle * period + (period - clip.times[-2::-1])
    return Clip(
        clip.name, np.concatenate(times), np.concatenate(roots), continuous(np.concatenate(rotations)), clip.wraps
    )


@dataclass(frozen=True)
class Motion:
    """A body that moves, at RATE_HZ: positions (t, points, 3) m, rotations (t, points, 4) quaternions to the world.
    `right`: 1, or -1 where left and right have changed places."""

    skeleton: Skeleton
    positions: np.ndarray
    rotations: np.ndarray
    right: int = 1

    def mirrored(self) -> Motion:
        """z is reversed, and with it the turns about x and y."""
        turned = self.rotations * np.array([1.0, -1, -1, 1])
        return Motion(self.skeleton, self.positions * np.array([1.0, 1, -1]), turned, -self.right)


def move(clip: Clip, skeleton: Skeleton, seconds: float, cutoff_hz: float, height: float = 1.0) -> Motion:
    """Forward kinematics of a prolonged clip, low-passed before (Butterworth of order 2, forwards and backwards), so
    that what is differentiated twice later is smooth. `height`: of the hips, against the clip's."""
    from scipy.signal import butter, sosfiltfilt

    clip = prolong(clip, seconds)
    times = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    flat = np.concatenate([clip.root * height, clip.rotations.reshape(len(clip.root), -1)], axis=1)
    dense = np.stack([np.interp(times, clip.times, column) for column in flat.T], axis=1)
    dense = sosfiltfilt(butter(2, cutoff_hz, fs=RATE_HZ, output="sos"), dense, axis=0)
    local = dense[:, 3:].reshape(len(times), -1, 4)
    local /= np.linalg.norm(local, axis=-1, keepdims=True)
    positions = np.empty((len(times), len(skeleton.names), 3))
    rotations = np.empty((len(times), len(skeleton.names), 4))
    positions[:, 0], rotations[:, 0] = dense[:, :3], local[:, 0]
    for point, parent in enumerate(skeleton.parents):
        if parent < 0:
            continue
        name = skeleton.names[point]
        positions[:, point] = positions[:, parent] + rotate(rotations[:, parent], skeleton.offsets[point])
        own = local[:, 1 + FRAME_JOINTS.index(name)] if name in FRAME_JOINTS else None
        rotations[:, point] = rotations[:, parent] if own is None else multiply(rotations[:, parent], own)
    return Motion(skeleton, positions, rotations)


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The quaternion product of (..., 4) and (..., 4): first b, then a."""
    aw, av, bw, bv = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    scalar = aw * bw - (av * bv).sum(-1, keepdims=True)
    return np.concatenate([scalar, aw * bv + bw * av + np.cross(av, bv)], axis=-1)


def conjugate(q: np.ndarray) -> np.ndarray:
    return q * np.array([1.0, -1, -1, -1])


def rotate(q: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) turned by unit quaternions (..., 4)."""
    w, u = q[..., :1], q[..., 1:]
    twice = 2 * np.cross(u, v)
    return v + w * twice + np.cross(u, twice)


def continuous(rotations: np.ndarray) -> np.ndarray:
    """The same rotations (t, joints, 4), each quaternion in the hemisphere of the one before it."""
    signs = np.sign((rotations[1:] * rotations[:-1]).sum(-1))
    signs = np.cumprod(np.where(signs == 0, 1, signs), axis=0)
    return rotations * np.concatenate([np.ones_like(rotations[:1, :, 0]), signs])[..., None]
