from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from accel.measure import media


def ramp(frames: int = 5, height: int = 48, width: int = 64) -> media.Pixels:
    """Smooth frames that differ, so that compression keeps them apart."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([np.stack([y * 3, x * 2, np.full_like(x, 40 * frame)], axis=-1) for frame in range(frames)]).astype(
        np.uint8
    )


def decoded(data: bytes) -> tuple[str, str, media.Pixels]:
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return stream.codec_context.name, str(stream.codec_context.pix_fmt), np.stack(frames)


def test_mp4_is_h264_in_the_colour_format_that_every_browser_plays() -> None:
    codec, pixel_format, frames = decoded(media.encode_mp4(ramp(), 8))
    assert (codec, pixel_format) == ("h264", "yuv420p")
    assert np.abs(frames.astype(int) - ramp()).mean() < 3


def test_mp4_extends_odd_sizes_instead_of_failing() -> None:
    *_, frames = decoded(media.encode_mp4(ramp(3, 47, 33), 8))
    assert frames.shape == (3, 48, 34, 3)


@pytest.mark.parametrize("fps", [12.5, 0.5, 23.976, 30000 / 1001, 8, 60, 0.01, 1000])
def test_videos_last_as_long_as_they_should(fps: float) -> None:
    with av.open(io.BytesIO(media.encode_mp4(ramp(), fps))) as container:
        (stream,) = container.streams.video
        assert stream.average_rate is not None and abs(float(stream.average_rate) / fps - 1) < 1e-6
        assert stream.duration is not None and stream.time_base is not None
        assert float(stream.duration * stream.time_base) == pytest.approx(5 / fps, rel=1e-3)
    with Image.open(io.BytesIO(media.encode_webp(ramp(30), fps))) as picture:
        shown = []
        for number in range(picture.n_frames):  # type: ignore[attr-defined]
            picture.seek(number)
            picture.load()
            shown.append(picture.info["duration"])
        assert abs(sum(shown) - 30_000 / fps) <= 1


BARS = [
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (200, 100, 50),
    (255, 255, 255),
    (0, 0, 0),
    (20, 200, 220),
    (128, 128, 128),
]
SHARES = {1: (0.2126, 0.7152, 0.0722), 6: (0.299, 0.587, 0.114)}
"""Of red, green and blue in the brightness: BT.709 and BT.601, as H.273 numbers them."""


@pytest.mark.parametrize(("height", "matrix"), [(48, 6), (718, 6), (720, 1), (1080, 1)])
def test_colours_are_written_with_the_matrix_that_the_file_names(height: int, matrix: int) -> None:
    """Seen without the decoder's own conversion: brightness and colour differences against the standard's formulas."""
    bars = np.zeros((2, height, 16 * len(BARS), 3), np.uint8)
    for number, colour in enumerate(BARS):
        bars[:, :, 16 * number : 16 * number + 16] = colour
    with av.open(io.BytesIO(media.encode_mp4(bars, 8))) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        assert tuple(map(int, tags)) == (matrix, 1, 1, 1), "matrix, primaries, curve, limited range"
        frame = next(container.decode(stream))
        assert int(frame.colorspace) == matrix
        planes = frame.to_ndarray()
    red, green, blue = SHARES[matrix]
    half = planes[height:].reshape(2, height // 2, -1)
    for number, (r, g, b) in enumerate(np.array(BARS) / 255):
        y = red * r + green * g + blue * b
        cb, cr = (b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))
        found = (planes[height // 2, 16 * number + 8], *half[:, height // 4, 8 * number + 4])
        np.testing.assert_allclose(found, (16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr), atol=2.5)


def test_without_an_encoder_frames_become_a_lossless_animation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str, mode: str) -> None:
        raise ValueError(name)

    monkeypatch.setattr(av.codec, "Codec", missing)
    path = media.save_clip(tmp_path / "clip", ramp(), 8)
    assert path.suffix == ".webp"
    with Image.open(path) as picture:
        assert picture.n_frames == 5
        picture.seek(3)
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), ramp()[3])


def test_a_single_frame_becomes_a_png(tmp_path: Path) -> None:
    path = media.save_clip(tmp_path / "prompt-1", ramp(1), 8)
    assert path.name == "prompt-1.png"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), ramp(1)[0])


def test_enlarging_repeats_whole_pixels() -> None:
    large = media.enlarge(ramp(2, 6, 8), 20)
    assert large.shape == (2, 24, 32, 3)
    np.testing.assert_array_equal(large[:, ::4, ::4], ramp(2, 6, 8))
    assert media.enlarge(ramp(), 10) is not None
    assert media.enlarge(ramp(), 10).shape == ramp().shape


def test_shrinking_keeps_the_shape_of_the_picture() -> None:
    assert media.shrink(ramp(2, 48, 64), 32).shape == (2, 24, 32, 3)
    assert media.shrink(ramp(), 64).shape == ramp().shape


def test_panels_stand_next_to_each_other_under_their_labels() -> None:
    black, white = np.zeros((2, 64, 64, 3), np.uint8), np.full((2, 64, 64, 3), 255, np.uint8)
    joined = media.side_by_side([black, white], ["one\nline more", "two"], least=64)
    panels = joined[:, -64:]
    np.testing.assert_array_equal(panels[:, :, :64], black)
    np.testing.assert_array_equal(panels[:, :, -64:], white)
    header = joined[0, :-64]
    assert header.max() > 150, "no text was drawn"
    np.testing.assert_array_equal(joined[0, :-64], joined[1, :-64])


def test_a_label_too_long_for_its_panel_is_set_smaller() -> None:
    panel = np.zeros((1, 128, 128, 3), np.uint8)
    small = media.side_by_side([panel], ["unaccelerated, 50 steps"], least=128)
    large = media.side_by_side([panel], ["short"], least=128)
    assert small.shape[1] < large.shape[1]


def test_the_difference_is_amplified_and_capped() -> None:
    reference = np.full((1, 2, 2, 3), 0.5, np.float32)
    assert media.amplified_difference(reference, reference, 8).max() == 0
    assert media.amplified_difference(reference + np.float32(10 / 255), reference, 8).min() == 80
    assert media.amplified_difference(reference * 0, reference, 8).max() == 255


def test_the_same_pixels_are_the_same_mp4_every_time() -> None:
    y, x = np.mgrid[0:64, 0:64]
    frames = [np.stack([(2 * x + 3 * t) % 256, (3 * y) % 256, (x + y + 5 * t) % 256], axis=-1) for t in range(17)]
    clip = np.stack(frames).astype(np.uint8)
    assert len({media.encode_mp4(clip, 8.0, threads=2) for _ in range(12)}) == 1
