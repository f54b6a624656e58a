"""Real recordings of body-worn sensors: units, rates, windows, and the paper's data sets in their own form on disk."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from compressor.data import basicmotions, hapt
from compressor.data.imu_layouts import load_pairs, load_parts
from compressor.data.imu_windows import GRAVITY, Windows, cut, load_windows, resample, save_windows, to_si
from profiles.errors import RequestError
from profiles.storage import save_npz
from tests.tools import need_module


def test_units_become_metres_and_radians_per_second() -> None:
    signal = np.tile([[1.0], [0], [0], [180.0], [0], [0]], (1, 4))
    assert np.allclose(to_si(signal, "g", "deg/s")[:, 0], [9.80665, 0, 0, np.pi, 0, 0])
    with pytest.raises(RequestError, match="unit 'mg': there are m/s2, g"):
        to_si(signal, "mg", "deg/s")


def test_another_rate_keeps_a_slow_sine_and_drops_what_would_fold_back() -> None:
    times = np.arange(400) / 200
    slow, fast = np.sin(2 * np.pi * 3 * times), np.sin(2 * np.pi * 60 * times)
    found = resample(np.stack([slow + fast]), 200, 50)[0]
    inside = slice(10, 90)
    assert np.allclose(found[inside], np.sin(2 * np.pi * 3 * np.arange(100) / 50)[inside], atol=0.02)


def test_windows_are_cut_selected_by_person_and_kept_on_disk(tmp_path: Path) -> None:
    signal = np.arange(6 * 300, dtype=np.float32).reshape(6, 300)
    views = cut(signal, 64)
    assert views.shape == (3, 6, 128) and np.array_equal(views[2], signal[:, 128:256])
    assert cut(signal[:, :100], 64).shape == (0, 6, 128)
    windows = Windows(np.ascontiguousarray(views), 50.0, np.array(["a", "b", "a"]), np.array([0, 1, 0]), ("x", "y"))
    save_windows(tmp_path, windows)
    again = load_windows(tmp_path)
    assert len(again.of_people(["a"])) == 2 and again.without_people(["a"]).people.tolist() == ["b"]
    assert np.array_equal(again.signals, windows.signals) and again.label_names == ("x", "y")
    with pytest.raises(RequestError, match="no windows of 'c'; there are a, b"):
        again.of_people(["c"])


def test_hapt_windows_lie_within_one_activity_of_one_recording(tmp_path: Path) -> None:
    labels = np.repeat([-1, 0, 3, 0, 7], [10, 300, 128, 127, 200])
    signal = np.tile(np.arange(len(labels), dtype=np.float32), (6, 1))
    arrays = {
        "signal": np.concatenate([signal, signal], axis=1),
        "labels": np.concatenate([labels, labels]).astype(np.int8),
        "bounds": np.array([0, len(labels), 2 * len(labels)]),
        "person": np.array(["1", "2"]),
    }
    save_npz(tmp_path / "recordings.npz", arrays)
    windows = hapt.load(tmp_path)
    assert windows.signals[:, 0, 0].tolist() == [10, 74, 138, 310] * 2  # (300 - 128) // 64 + 1, then one, then none
    assert windows.labels is not None and windows.labels.tolist() == [0, 0, 0, 3] * 2
    assert windows.people.tolist() == ["1"] * 4 + ["2"] * 4
    assert len(hapt.load(tmp_path, transitions=True)) == 12
    assert [recording.signal.shape for recording in hapt.recordings(tmp_path)] == [(6, 765)] * 2


def test_a_pickle_that_names_anything_else_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("run",)

    for value in (Trap(), [1, 2], {"1": [Trap()]}):
        with pytest.raises(RequestError, match="file: not the pickle of HAPT"):
            hapt.read_frames(pickle.dumps(value, protocol=2), "file")


def test_cases_of_the_archive_s_text_form() -> None:
    text = "#note\n@problemName B\n@classLabel true Standing Running\n@data\n1,2:3,4:Running\n5,6:7,8:Standing\n"
    cases, labels, names = basicmotions.read_ts(text, "file")
    assert cases.tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    assert labels == ["Running", "Standing"] and names == ("Standing", "Running")
    with pytest.raises(RequestError, match="file, line 7: a case of"):
        basicmotions.read_ts(text + "1,2:3,4:Sleeping\n", "file")


def write_video(path: Path, seconds: float, rate: int = 10) -> None:
    """Its frames' brightness says their time: frame k is 10 k grey levels, wider than tall."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(round(seconds * rate)):
            picture = np.full((64, 96, 3), min(10 * index % 250, 255), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def ego4d(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    need_module("av")
    monkeypatch.setenv("EDGE_COMPRESSOR_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "ego4d"
    (root / "imu").mkdir(parents=True)
    for part, uid in (("train", "aa"), ("val", "bb"), ("test", "cc")):
        (root / f"{part}.txt").write_text(f"{uid}\tCooking\n")
        rows = ["component_idx,canonical_timestamp_ms,gyro_x,gyro_y,gyro_z,accl_x,accl_y,accl_z"]
        # The sensor begins half a second after the video.
        rows += [f"0,{5 * index},0.1,0.2,0.3,9.8,0,{index / 200}" for index in range(100, 1300)]
        rows.insert(5, "0,-5,0,0,0,0,0,0")  # a row from before the video
        rows.insert(5, "0,,0,0,0,0,0,0")  # a row without a time
        (root / "imu" / f"{uid}.csv").write_text("\n".join(rows) + "\n")
        write_video(root / "full_scale" / f"{uid}.mp4", 6)
    return root


def test_ego4d_pairs_show_the_moments_of_their_windows(ego4d: Path) -> None:
    path, pairs = load_pairs(ego4d, frames=4, side_px=32)
    assert len(pairs) == 6 and pairs.clip.tolist() == ["aa", "aa", "bb", "bb", "cc", "cc"]
    assert load_parts(path).tolist() == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    assert pairs.windows.label_names == ("Cooking",) and pairs.video.shape == (6, 4, 32, 32, 3)
    inside = slice(20, -20)
    second = pairs.windows.signals[1][:, inside]
    assert np.allclose(second[[0, 1, 3, 4, 5]], [[9.8], [0], [0.1], [0.2], [0.3]], atol=0.02)
    times = 0.5 + 2.56 + np.arange(128)[inside] / 50
    assert np.allclose(second[2], times, atol=0.02)  # accl_z is the time in seconds
    seen = pairs.video[1].mean(axis=(1, 2, 3)) / 10
    expected = np.floor((0.5 + 2.56 + np.linspace(0, 2.54, 4)) * 10) % 25
    assert np.abs(seen - expected).max() < 0.6  # the frame that is shown then


def test_uestc_counts_and_egoexo_arrays_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_module("av")
    monkeypatch.setenv("EDGE_COMPRESSOR_CACHE", str(tmp_path / "cache"))
    uestc, egoexo = tmp_path / "uestc", tmp_path / "egoexo"
    for root in (uestc / "sensor" / "1_upstairs", egoexo / "processed_imu"):
        root.mkdir(parents=True)
    for part, name in (("train", "a"), ("val", "b"), ("test", "c")):
        (uestc / f"{part}.txt").write_text(f"yourdataset_path/data/1_upstairs/{name} 120 0\n")
        lines = ["ax,ay,az,gx,gy,gz", *["16384,0,0,1640,0,0"] * 150]
        (uestc / "sensor" / "1_upstairs" / f"{name}.csv").write_text("\n".join(lines) + "\n")
        write_video(uestc / "video" / "1_upstairs" / f"{name}.mp4", 3)
        (egoexo / f"{part}.txt").write_text(f"{name}\tBike Repair\n")
        np.save(egoexo / "processed_imu" / f"{name}.npy", np.tile([[9.8], [0], [0], [1], [0], [0]], (1, 600)))
        write_video(egoexo / "videos" / f"{name}.mp4", 3)
    _, pairs = load_pairs(uestc, frames=2, side_px=16)
    assert pairs.windows.label_names == ("upstairs",) and len(pairs) == 3
    assert np.allclose(pairs.windows.signals[:, [0, 3], 64], [GRAVITY, np.deg2rad(100)], atol=1e-3)
    _, pairs = load_pairs(egoexo, frames=2, side_px=16)
    assert pairs.windows.label_names == ("Bike Repair",) and len(pairs) == 3
    assert np.allclose(pairs.windows.signals[:, [0, 3], 64], [9.8, 1], atol=0.01)


def test_a_copy_that_is_not_whole_is_refused_naming_what_is_wrong(ego4d: Path) -> None:
    (ego4d / "val.txt").write_text("aa\tCooking\n")
    with pytest.raises(RequestError, match=r"val.txt, line 1: aa is in train.txt too"):
        load_pairs(ego4d)
    (ego4d / "val.txt").write_text("zz\tCooking\n")
    with pytest.raises(RequestError, match=r"val.txt, line 1: no file .*zz.csv"):
        load_pairs(ego4d)
    (ego4d / "val.txt").unlink()
    with pytest.raises(RequestError, match=r"val.txt: no such split file"):
        load_pairs(ego4d)
    with pytest.raises(RequestError, match="neither Ego4D"):
        load_pairs(ego4d / "imu")
