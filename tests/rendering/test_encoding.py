from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from accel.measure.output import PipelineOutput
from accel.measure.sound import Sound
from accel.rendering import Job, settings_of
from accel.rendering.encoding import encode, fps_of, lost

PIXELS = np.random.default_rng(0).integers(0, 255, (5, 32, 48, 3), dtype=np.uint8)
JOB = Job(
    "pocket:video",
    'ein "Käfer" 🐞\nzwei = Zeilen; # \\' * 20,
    negative_prompt="",
    seed=3,
    width=48,
    height=32,
    recipe={"schema": 1, "name": "mine", "cache": {"method": "EasyCache", "threshold": 0.05}},
    arguments={"strength": 0.5, "names": ["ä", None]},
)


def made(fmt: str | None) -> Job:
    line = JOB.to_line() | ({"format": fmt} if fmt else {})
    line.pop("output", None)
    return Job(**line)


@pytest.mark.parametrize(
    ("fmt", "frames", "suffix"),
    [(None, 1, ".png"), ("png", 1, ".png"), ("webp", 1, ".webp"), ("webp", 5, ".webp"), (None, 5, ".mp4")],
)
def test_a_file_tells_the_line_that_makes_it_again(fmt: str | None, frames: int, suffix: str, tmp_path: Path) -> None:
    job = made(fmt)
    data, found = encode(job, PipelineOutput(PIXELS[:frames]))
    path = tmp_path / f"file{suffix}"
    path.write_bytes(data)
    assert found == suffix
    assert settings_of(path) == job.to_line()
    assert encode(job, PipelineOutput(PIXELS[:frames]))[0] == data, "the same job is the same file"


@pytest.mark.parametrize(("fmt", "frames"), [("png", 1), ("webp", 1), ("mp4", 5)])
def test_settings_can_be_left_out(fmt: str, frames: int, tmp_path: Path) -> None:
    data, suffix = encode(made(fmt), PipelineOutput(PIXELS[:frames]), embed=False)
    path = tmp_path / f"file{suffix}"
    path.write_bytes(data)
    assert b"pocket" not in data and "Käfer".encode() not in data
    with pytest.raises(ValueError, match="holds no settings of accel"):
        settings_of(path)


def test_pictures_are_lossless_and_videos_play_at_their_rate() -> None:
    for fmt in ("png", "webp"):
        with Image.open(io.BytesIO(encode(made(fmt), PipelineOutput(PIXELS[:1]))[0])) as picture:
            np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), PIXELS[0])
    line = JOB.to_line() | {"fps": 24.0}
    with av.open(io.BytesIO(encode(Job(**line), PipelineOutput(PIXELS))[0])) as video:
        assert video.streams.video[0].average_rate == 24 and sum(1 for _ in video.decode(video=0)) == 5


def test_what_cannot_be_written_or_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a video of 5 frames is no PNG"):
        encode(made("png"), PipelineOutput(PIXELS))
    (tmp_path / "a.png").write_bytes(b"no picture")
    (tmp_path / "a.mp4").write_bytes(b"no video")
    for name, sentence in (("a.png", "cannot be read"), ("a.mp4", "cannot be read"), ("b.png", "there is no file")):
        with pytest.raises(ValueError, match=sentence):
            settings_of(tmp_path / name)


TIME = np.arange(4000) / 4000
SOUND = Sound(np.stack([np.sin(2000 * TIME), np.cos(700 * TIME)], axis=1).astype(np.float32) * 0.7, 16_000)


@pytest.mark.parametrize("fmt", [None, "wav", "flac"])
def test_a_sound_tells_the_line_that_makes_it_again(fmt: str | None, tmp_path: Path) -> None:
    job = made(fmt)
    data, suffix = encode(job, PipelineOutput(sound=SOUND))
    path = tmp_path / f"file{suffix}"
    path.write_bytes(data)
    assert suffix == f".{fmt or 'wav'}"
    assert settings_of(path) == job.to_line()
    assert encode(job, PipelineOutput(sound=SOUND))[0] == data, "the same job is the same file"
    with av.open(io.BytesIO(data)) as file:
        (stream,) = file.streams.audio
        heard = np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in file.decode(stream)])
        assert stream.rate == 16_000
    np.testing.assert_array_equal(heard, SOUND.pcm())


def test_a_film_has_its_sound_track_and_lasts_as_long() -> None:
    film = PipelineOutput(PIXELS, SOUND)  # 5 frames in a quarter of a second
    with av.open(io.BytesIO(encode(made(None), film)[0])) as file:
        assert file.streams.video[0].average_rate == 20 and file.streams.audio[0].rate == 16_000
        heard = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1).T[: len(SOUND.samples)]
    assert np.corrcoef(heard.ravel(), SOUND.samples.ravel())[0, 1] > 0.99
    assert fps_of(Job("any", fps=24.0), film) == 24.0
    assert fps_of(Job("any"), PipelineOutput(PIXELS, Sound(SOUND.samples[:3000], 14_500))) == 24.0, "24.2 is meant so"


def test_what_a_file_cannot_hold_is_said() -> None:
    assert lost(made(None), PipelineOutput(PIXELS, SOUND)) == []
    assert "left out" in lost(made("webp"), PipelineOutput(PIXELS, SOUND))[0]
    assert "1.40 times full scale" in lost(made(None), PipelineOutput(sound=Sound(SOUND.samples * 2, 16_000)))[0]
    with pytest.raises(ValueError, match="makes sound; ask for the format wav or flac"):
        encode(made("mp4"), PipelineOutput(sound=SOUND))
    with pytest.raises(ValueError, match="makes pictures; ask for png"):
        encode(made("flac"), PipelineOutput(PIXELS))
