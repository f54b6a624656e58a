"""What looks alike looks alike, sound keeps its pitch, parts share nothing, videos are read as they were written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compressor.data.lips import CLIPS, ESPEAK, FACES, generate, picture_and_sound, unpack_espeak
from compressor.data.lips_audio import HOP, RATE_HZ, log_mel, mel_filters, resample
from compressor.data.lips_clips import Clip, Clips, write_clips
from compressor.data.lips_espeak import Speech
from compressor.data.lips_mouth import PARAMETERS, Face, movements, render, visemes_of
from compressor.data.lips_text import ENGLISH, GRAMMARS, MANDARIN, draw_sentences
from compressor.data.lips_video import crop_mouths, prepare_videos
from compressor.recipe import load_recipe
from compressor.tasks.lips.task import Task
from compressor.tasks.lips.teacher import Heard
from profiles.errors import MissingError, RequestError
from tests.tools import need_module


def mouth(first: str) -> np.ndarray:
    rng = np.random.default_rng(5)
    return movements([(100.0, first), (220.0, "a"), (400.0, "")], 500.0, 15, rng)


def test_p_b_and_m_look_alike_and_t_does_not() -> None:
    assert np.array_equal(mouth("p"), mouth("b")) and np.array_equal(mouth("p"), mouth("m"))
    assert np.abs(mouth("p") - mouth("t")).max() > 0.1


def test_lips_close_for_a_bilabial_and_open_for_a_vowel() -> None:
    opening = mouth("p")[:, PARAMETERS.index("opening")]
    assert opening[3] < 0.2 < 0.5 < opening[7]  # at 140 ms and 300 ms


def test_a_diphthong_is_two_visemes_and_an_unknown_symbol_is_an_error() -> None:
    assert (
        visemes_of("ˈaɪ") == ["open", "close_front"] and visemes_of("") == ["rest"] and visemes_of("th") == ["alveolar"]
    )
    with pytest.raises(ValueError, match="no viseme"):
        visemes_of("Q")


def test_an_open_mouth_is_dark_inside_and_the_same_seed_gives_the_same_pictures() -> None:
    face = Face.draw(np.random.default_rng(0))
    shut, wide = (np.zeros((4, len(PARAMETERS)), np.float32) for _ in range(2))
    wide[:, 0] = 1.0
    pictures = [render(face, own, np.random.default_rng(1)).astype(float) for own in (shut, wide)]
    assert pictures[1][:, 12:20, 20:28].mean() < pictures[0][:, 12:20, 20:28].mean() - 10
    assert np.array_equal(render(face, wide, np.random.default_rng(1)), render(face, wide, np.random.default_rng(1)))


def test_a_tone_keeps_its_pitch_and_what_is_too_high_does_not_fold() -> None:
    need_module("scipy")
    time = np.arange(22050) / 22050
    low, high = (resample(np.sin(2 * np.pi * hz * time).astype(np.float32), 22050) for hz in (1000, 10000))
    assert abs(len(low) - RATE_HZ) <= 1
    assert np.argmax(np.abs(np.fft.rfft(low))) * RATE_HZ / len(low) == pytest.approx(1000, abs=2)
    assert np.sqrt((high[500:-500] ** 2).mean()) < 0.02


def test_log_mel_peaks_in_the_band_of_the_tone() -> None:
    time = np.arange(RATE_HZ) / RATE_HZ
    mel = log_mel(np.sin(2 * np.pi * 1500 * time).astype(np.float32))
    assert mel.shape == (RATE_HZ // HOP, 40)
    bins = np.argmax(mel_filters(), axis=0) * RATE_HZ / 512
    assert abs(bins[mel[50].argmax()] - 1500) < 150


def test_sentences_differ_and_every_chinese_character_has_its_pinyin() -> None:
    for grammar in GRAMMARS.values():
        assert grammar.size > 2 * sum(CLIPS.values())
        texts = [grammar.text(words) for words in draw_sentences(grammar, 500, np.random.default_rng(0))]
        assert len(set(texts)) == 500
    assert sum(FACES.values()) >= 100 and ENGLISH.size == 4 * 4 * 4 * 25 * 10 * 4
    assert all(character in MANDARIN.pinyin for slot in MANDARIN.slots for word in slot for character in word)


def test_picture_and_sound_are_equally_long() -> None:
    need_module("scipy")
    speech = Speech(22050, np.zeros(20000, np.int16), [(0.0, "p"), (300.0, "a")])
    face, rng = Face.draw(np.random.default_rng(0)), np.random.default_rng(1)
    frames, audio, phonemes = picture_and_sound(speech, face, rng)
    assert len(frames) * RATE_HZ // 25 == len(audio) == len(log_mel(audio)) * HOP
    assert [name for _, name in phonemes] == ["p", "a"] and phonemes[1][0] - phonemes[0][0] == 300


def test_clips_are_read_as_they_were_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = [
        Clip(rng.integers(0, 256, (n, 4, 6), dtype=np.uint8), rng.uniform(-1, 1, n * 640), f"text {n}", "face", part)
        for n, part in ((3, "train"), (5, "test"))
    ]
    assert write_clips(tmp_path, "cmn", MANDARIN.pinyin, iter(made)) == {"train": 1, "validation": 0, "test": 1}
    read = Clips(tmp_path)
    assert read.romanised("打给老包今天九点") == "da gei lao bao jin tian jiu dian"
    first, end = read.romanised_slot("打给老包今天九点", (2, 4))
    assert "da gei lao bao jin tian jiu dian"[first:end] == "lao bao" and read.romanised_slot("打给", (0, 1)) == (0, 2)
    assert np.array_equal(read.frames(1), made[1].frames) and read.texts == ["text 3", "text 5"]
    assert np.allclose(read.mel(1), log_mel(made[1].audio), atol=1e-2) and read.part("test").tolist() == [1]
    assert np.abs(read.audio(1) - made[1].audio).max() < 0.023 and len(read.audio(0)) == 3 * 640
    with pytest.raises(RequestError, match="no clips"):
        write_clips(tmp_path / "none", "en", {}, iter([]))


@pytest.mark.slow
def test_espeak_gives_the_same_clips_twice_and_parts_share_no_face_or_sentence(tmp_path: Path) -> None:
    from compressor.data.packages import fetch_archive

    try:
        archive = fetch_archive(ESPEAK)
    except MissingError as error:
        pytest.skip(str(error))
    library, data = unpack_espeak(archive, tmp_path)
    counts, faces = {"train": 6, "validation": 2, "test": 2}, {"train": 3, "validation": 1, "test": 1}
    for grammar in GRAMMARS.values():
        twice = [list(generate(grammar, library, data, counts, faces, 0, lambda *_: None)) for _ in range(2)]
        assert all(
            np.array_equal(a.frames, b.frames) and np.array_equal(a.audio, b.audio) for a, b in zip(*twice, strict=True)
        )
        assert all(20 < len(clip.frames) < 100 and np.abs(clip.audio).max() > 0.01 for clip in twice[0])
        for attribute in ("face", "text"):
            parts = [{getattr(c, attribute) for c in twice[0] if c.part == part} for part in counts]
            assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


# --- one's own videos ---


def write_video(path: Path, pictures: np.ndarray, rate: int = 25) -> None:
    """Grey pictures and a 440 Hz tone at 44.1 kHz, stereo."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=rate)
        video.width, video.height, video.pix_fmt = pictures.shape[2], pictures.shape[1], "yuv420p"
        video.bit_rate = 4_000_000
        audio = container.add_stream("aac", rate=44100, layout="stereo")
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.repeat(picture[..., None], 3, axis=2), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        count = 44100 * len(pictures) // rate
        tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(count) / 44100)).astype(np.float32)
        for start in range(0, count, 1024):
            part = np.stack([tone[start : start + 1024]] * 2)
            sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="fltp", layout="stereo")
            sound.sample_rate, sound.pts = 44100, start
            container.mux(audio.encode(sound))
        container.mux(audio.encode())


def face_video(frames: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """A bright mouth that wanders to the right over a grey picture, and its landmarks."""
    pictures = np.full((frames, 96, 128), 60, np.uint8)
    points = np.zeros((frames, 68, 2), np.float32)
    for number in range(frames):
        x = 50 + number
        pictures[number, 56:64, x - 10 : x + 10] = 220
        angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        points[number, 48:] = np.stack([x + 10 * np.cos(angles), 60 + 4 * np.sin(angles)], axis=1)
    return pictures, points


def copy_of(root: Path, layout: str) -> None:
    """Three clips of a data set, one of each part."""
    names = {"train": "s1/a.1", "val": "s2/b", "test": "s3/c"}
    if layout == "CMLR":
        names = {part: name.replace("/", "/20170121/") for part, name in names.items()}
    pictures, points = face_video()
    for part, name in names.items():
        video, text = ("mvlrs_v1/main",) * 2 if layout == "LRS2" else ("video", "text")
        write_video(root / video / f"{name}.mp4", pictures)
        (root / text / name).parent.mkdir(parents=True, exist_ok=True)
        said = "Text:  HELLO THERE\nConf: 3\n" if layout == "LRS2" else "你 好\n"
        (root / text / f"{name}.txt").write_text(said)
        (root / "landmarks" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / "landmarks" / f"{name}.npy", points)
        (root / f"{part}.{'txt' if layout == 'LRS2' else 'csv'}").write_text(f"{name} NF\n" if part == "test" else name)


@pytest.mark.parametrize(("layout", "text"), [("LRS2", "hello there"), ("CMLR", "你好")])
def test_a_copy_of_a_data_set_is_read(tmp_path: Path, monkeypatch, layout: str, text: str) -> None:
    need_module("av", "PIL")
    monkeypatch.setenv("EDGE_COMPRESSOR_CACHE", str(tmp_path / "cache"))
    copy_of(tmp_path / "set", layout)
    directory, about = prepare_videos(tmp_path / "set", 16, 32)
    clips = Clips(directory)
    assert about["data"]["name"] == layout and sorted(clips.parts) == ["test", "train", "validation"]
    assert clips.texts == [text] * 3 and len(set(clips.faces)) == 3 and clips.frame_counts.tolist() == [10] * 3
    frames = clips.frames(0).astype(float)
    assert frames.shape[1:] == (16, 32) and frames[:, 7:9, 12:20].mean() > 180 > 90 > frames[:, :3].mean()
    bands = mel_filters().argmax(0) * RATE_HZ / 512
    loudest = np.asarray(clips.mel(0), np.float32)[10:30].mean(0).argmax()
    assert abs(bands[loudest] - 440) < 80
    assert prepare_videos(tmp_path / "set", 16, 32)[0] == directory
    (tmp_path / "set" / "landmarks" / ("s2/b.npy" if layout == "LRS2" else "s2/20170121/b.npy")).unlink()
    with pytest.raises(RequestError, match=r"b\.npy: no such file"):
        prepare_videos(tmp_path / "set", 16, 32)


def test_a_mouth_at_the_pictures_edge_is_cropped_with_its_edge_repeated() -> None:
    need_module("PIL")
    pictures, points = face_video(3)
    points[..., 0] -= 50
    assert crop_mouths(pictures, points, 8, 16).shape == (3, 8, 16)


def test_another_rate_of_pictures_is_refused(tmp_path: Path, monkeypatch) -> None:
    need_module("av", "PIL")
    from compressor.data.lips_video import read_video

    write_video(tmp_path / "v.mp4", face_video()[0], rate=30)
    with pytest.raises(RequestError, match="30 pictures a second"):
        read_video(tmp_path / "v.mp4")


def test_the_paper_s_recipe_learns_from_a_copy_at_its_own_size(tmp_path: Path, monkeypatch) -> None:
    need_module("av", "PIL")
    monkeypatch.setenv("EDGE_COMPRESSOR_CACHE", str(tmp_path / "cache"))
    copy_of(tmp_path / "set", "CMLR")
    sizes = ["stages.teacher.batch=1", "stages.distill.batch=1"]
    own = ["data.language=cmn", f"data.source={tmp_path / 'set'}"]
    task: Any = Task(load_recipe("lips-paper", [*own, *sizes]))
    task.setup(SimpleNamespace())
    assert task.clips.all_frames.shape[1:] == (64, 128) and task.texts == ["你好"] * 3
    loss = task.config.stages.distill.loss
    assert (loss.sequence, loss.context, loss.frame, loss.attention, loss.schedule) == (10, 40, 10, 0, "constant")
    teacher, _, distillation = task.stages()
    for stage in (teacher, distillation):
        stage.targets = HeardNothing(task.teacher.encoder.dim)
        found = stage.loss(stage.modules(), stage.batch(0, np.random.default_rng(0)))
        assert bool(found["loss"].isfinite())
        found["loss"].backward()
    assert all(parameter.grad is not None for parameter in task.student.parameters())


class HeardNothing:
    """A teacher's word on every clip: two frames of silence, no character right."""

    def __init__(self, dim: int) -> None:
        rows = [np.zeros(shape, np.float16) for shape in ((2, dim), (dim,), (2, dim), (2, 2))]
        self.own = Heard(*rows, np.zeros(2, bool))

    def __getitem__(self, index: int) -> Heard:
        return self.own
