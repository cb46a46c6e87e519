"""Clips to files: MP4 (H.264, plays everywhere), PNG for single images, panels with labels side by side."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.measure.sound import Sound, layout_of, mux_sound

Pixels = NDArray[np.uint8]

_GAP = 8
_BACKGROUND = (17, 19, 24)
_FOREGROUND = (232, 234, 240)
_SOUND_BITS = 128_000  # of each channel and second of a sound track
_QUALITY = "14"  # x264 constant rate factor: 18 is already called visually lossless

SLOWEST, FASTEST = 0.01, 1000
"""Frames per second; a WebP counts in milliseconds."""

_HD_LINES = 720
_BT709, _BT601, _LIMITED = 1, 6, 1  # as H.273 numbers them; 6 is BT.601 with 525 lines, whose matrix is that of 625


def to_pixels(clip: NDArray[Any]) -> Pixels:
    """A clip with values in [0, 1] as uint8; uint8 passes through."""
    if clip.dtype == np.uint8:
        return clip
    return np.asarray(np.rint(np.clip(clip, 0.0, 1.0) * 255.0), np.uint8)


def changed_sizes(asked: Mapping[str, Any], made: Sequence[Any]) -> list[str]:
    """A sentence for each size that a pipeline made otherwise than it was asked: many round without a word.

    asked: frames, height and width; None is left to the pipeline. made: those of the clip, in this order.
    """
    units = {"frames": "frames", "height": "pixels of height", "width": "pixels of width"}
    return [
        f"The pipeline made {size} {unit}, not {asked[name]}."
        for (name, unit), size in zip(units.items(), made, strict=True)
        if asked.get(name) is not None and size is not None and asked[name] != size
    ]


def enlarge(pixels: Pixels, least: int) -> Pixels:
    """Repeats pixels (nearest neighbour, whole factors) until the shorter side of a frame reaches `least`."""
    factor = max(1, -(-least // min(pixels.shape[1:3])))
    return pixels.repeat(factor, axis=1).repeat(factor, axis=2)


def shrink(pixels: Pixels, most: int) -> Pixels:
    """Scales frames down so that the longer side is at most `most` pixels; smaller ones pass through."""
    height, width = pixels.shape[1:3]
    if max(height, width) <= most:
        return pixels
    from PIL import Image

    scale = most / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in pixels])


def amplified_difference(candidate: NDArray[Any], reference: NDArray[Any], gain: float) -> Pixels:
    """|candidate - reference| times `gain`, black where both agree. uint8 (frames, height, width, 3)."""
    difference = np.abs(to_pixels(candidate).astype(np.int16) - to_pixels(reference).astype(np.int16))
    return np.minimum(difference * gain, 255.0).astype(np.uint8)


def grid(rows: Sequence[Sequence[Pixels]]) -> Pixels:
    """Joins clips of one shape into one clip without gaps: rows of panels, each row equally long."""
    return np.concatenate([np.concatenate(list(row), axis=2) for row in rows], axis=1)


def side_by_side(clips: Sequence[NDArray[Any]], labels: Sequence[str], *, least: int = 256) -> Pixels:
    """Clips of one shape next to each other, each under its label, small ones enlarged. One label per clip."""
    panels = [enlarge(to_pixels(clip), least) for clip in clips]
    headers = _headers(labels, panels[0].shape[2])
    gap = np.full((headers.shape[1] + panels[0].shape[1], _GAP, 3), _BACKGROUND, np.uint8)
    gaps = np.broadcast_to(gap, (len(panels[0]), *gap.shape))
    joined: list[Pixels] = []
    for panel, header in zip(panels, headers, strict=True):
        above = np.broadcast_to(header, (len(panel), *header.shape))
        joined += [gaps, np.concatenate([above, panel], axis=1)]
    return np.concatenate(joined[1:], axis=2)


def encode_mp4(
    pixels: Pixels, fps: float, tags: Mapping[str, str] | None = None, threads: int = 0, sound: Sound | None = None
) -> bytes:
    """H.264 in yuv420p, with a key frame at least every 12 frames so that seeking is quick. `tags` are metadata,
    `sound` is its sound track, in AAC.

    Frames with an odd width or height are extended by one pixel, as the colour format needs even sizes. `fps` is kept
    as an exact fraction (12.5, 0.5, 30000/1001). The bytes depend on the number of threads; 0 takes as many as the
    machine has. Raises RuntimeError where PyAV or its H.264 encoder is missing.
    """
    try:
        import av

        av.codec.Codec("libx264", "w")
    except (ImportError, ValueError) as error:
        raise RuntimeError("writing MP4 needs PyAV with libx264: pip install av") from error
    frames = np.pad(pixels, ((0, 0), (0, pixels.shape[1] % 2), (0, pixels.shape[2] % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"movflags": "use_metadata_tags"} if tags else {}) as container:
        container.metadata.update(tags or {})
        # Without B-frames, because with them x264's vector code gives other bytes now and then (PyAV 18).
        options = {"bf": "0", "crf": _QUALITY, "g": "12", "preset": "medium", "threads": str(threads)}
        stream: Any = container.add_stream("libx264", rate=rate_of(fps), options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        matrix = _BT709 if frames.shape[1] >= _HD_LINES else _BT601
        _tag(stream.codec_context, matrix)
        track: Any = None if sound is None else container.add_stream("aac", rate=sound.rate)
        if sound is not None:
            track.layout, track.bit_rate = layout_of(sound), _SOUND_BITS * sound.samples.shape[1]
        for frame in frames:
            rgb: Any = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture = rgb.reformat(format="yuv420p", dst_colorspace=matrix, dst_color_range=_LIMITED)
            _tag(picture, matrix)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        if sound is not None:
            mux_sound(container, track, sound, "fltp")
    return buffer.getvalue()


def rate_of(fps: float) -> Fraction:
    """Frames per second as the fraction that was meant: 12.5 is 25/2, and 29.97002997 is 30000/1001."""
    if not SLOWEST <= fps <= FASTEST:
        raise ValueError(f"fps must be from {SLOWEST} to {FASTEST}, not {fps}.")
    return Fraction(fps).limit_denominator(1001)


def _tag(picture: Any, matrix: int) -> None:
    """Says how the colours are written, which players otherwise guess by the size. Primaries and curve are those of
    BT.709 in either case, as those of the pictures are (sRGB); what differs is the matrix.
    """
    picture.colorspace, picture.color_range = matrix, _LIMITED
    picture.color_primaries = picture.color_trc = _BT709


def encode_png(pixels: Pixels) -> bytes:
    """One frame (height, width, 3) as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def encode_webp(pixels: Pixels, fps: float) -> bytes:
    """Frames as a lossless animated WebP that repeats for ever: what is written where MP4 cannot be."""
    from PIL import Image

    buffer = io.BytesIO()
    first, *rest = [Image.fromarray(frame) for frame in pixels]
    shown = durations(len(pixels), fps)
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=shown, loop=0, lossless=True)
    return buffer.getvalue()


def durations(frames: int, fps: float) -> list[int]:
    """Milliseconds of each frame, so that the whole lasts as long as it should though they are whole numbers."""
    ends = [round(1000 * number / fps) for number in range(frames + 1)]
    return [after - before for before, after in pairwise(ends)]


def encode(pixels: Pixels, fps: float) -> tuple[bytes, str]:
    """The best format at hand: (bytes, suffix) with suffix ".png" for one frame, else ".mp4" or ".webp"."""
    if len(pixels) == 1:
        return encode_png(pixels[0]), ".png"
    try:
        return encode_mp4(pixels, fps), ".mp4"
    except RuntimeError:
        return encode_webp(pixels, fps), ".webp"


def save_clip(stem: Path, pixels: Pixels, fps: float) -> Path:
    """Writes `pixels` to `stem` plus the suffix that :func:`encode` chose; returns the path."""
    data, suffix = encode(pixels, fps)
    path = stem.with_name(stem.name + suffix)
    path.write_bytes(data)
    return path


def _headers(labels: Sequence[str], width: int) -> Pixels:
    """The labels as strips of text, (labels, height, width, 3), in one size in which the longest line fits."""
    from PIL import Image, ImageDraw, ImageFont

    lines = [text.split("\n") for text in labels]
    size = 18
    font = ImageFont.load_default(size)
    while size > 9 and max(font.getlength(line) for each in lines for line in each) > width - 8:
        size -= 1
        font = ImageFont.load_default(size)
    line_height = round(size * 1.4)
    height = line_height * max(len(each) for each in lines) + 8
    strips = []
    for each in lines:
        strip = Image.new("RGB", (width, height), _BACKGROUND)
        draw = ImageDraw.Draw(strip)
        for row, line in enumerate(each):
            draw.text((4, 3 + row * line_height), line, font=font, fill=_FOREGROUND)
        strips.append(np.asarray(strip))
    return np.stack(strips)
