"""Pictures and videos as bytes, with the settings that made them inside, and reading these settings back."""

from __future__ import annotations

import io
import json
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

from accel.measure.media import Pixels, durations, encode_mp4
from accel.plain_data import parse_json
from accel.rendering.jobs import DEFAULT_FPS, Job
from accel.version import __version__

KEY = "accel"
_DESCRIPTION = 0x010E  # the EXIF tag ImageDescription, which is ASCII by its standard
_THREADS = 2  # of x264, always as many, so that every machine writes the same bytes
_LARGEST_SETTINGS = 2**20
_MOST_PARTS = 1000  # chunks or boxes of a file that may come before the settings
_COMPRESSION = 4  # of zlib: a quarter of the time of its best, for files a few per cent larger


def embedded_settings(job: Job) -> dict[str, Any]:
    """What is written into a file: the job as a line of a manifest, and its identity. Nothing about time, machine or
    its folders, so that the same job is the same file everywhere.
    """
    line = {name: value for name, value in job.as_text().items() if name != "output"}
    return {"accel": __version__, "id": job.id, "line": line}


def suffix_of(job: Job, frames: int) -> str:
    """The suffix of the job's file: as it asks, else PNG for one frame and MP4 for several.

    Raises ValueError where a picture is asked for as MP4 or a video as PNG.
    """
    if job.format is None:
        return ".png" if frames == 1 else ".mp4"
    if job.format == "png" and frames > 1:
        raise ValueError(f"a video of {frames} frames is no PNG; ask for the format mp4 or webp.")
    return f".{job.format}"


def encode(job: Job, pixels: Pixels, *, embed: bool = True) -> tuple[bytes, str]:
    """The bytes of the job's file, and its suffix. `pixels` is uint8 (frames, height, width, 3).

    PNG and WebP are lossless. `embed` writes the settings into the file (PNG text, EXIF, MP4 tag).
    Raises RuntimeError for MP4 where PyAV or its H.264 encoder is missing.
    """
    suffix = suffix_of(job, len(pixels))
    settings = json.dumps(embedded_settings(job), ensure_ascii=suffix != ".mp4") if embed else ""
    if suffix == ".mp4":
        tags = {KEY: settings, "comment": job.prompt or ""} if embed else {}
        return encode_mp4(pixels, job.fps or DEFAULT_FPS, tags, _THREADS), suffix
    return (_png(pixels, settings) if suffix == ".png" else _webp(pixels, job.fps or DEFAULT_FPS, settings)), suffix


def settings_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The line of a manifest that renders this file again, from its embedded settings.

    Raises ValueError for a file that cannot be read or that holds no settings.
    """
    source = Path(path)
    try:
        with open(source, "rb") as file:
            reader = _READERS.get(source.suffix.lower())
            text = reader(file) if reader else ""
    except FileNotFoundError:
        raise ValueError(f"there is no file {str(path)!r}.") from None
    except Exception as error:  # decoders have errors of their own
        raise ValueError(f"{str(path)!r} cannot be read ({type(error).__name__}).") from None
    try:
        line = parse_json(text)["line"]
    except (ValueError, KeyError, TypeError):
        line = None
    if not isinstance(line, dict):
        raise ValueError(f"{str(path)!r} holds no settings of accel (rendered by something else, or without them).")
    return line


def _png(pixels: Pixels, settings: str) -> bytes:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    if settings:
        text.add_itxt(KEY, settings)
    buffer = io.BytesIO()
    Image.fromarray(pixels[0]).save(buffer, "PNG", pnginfo=text, compress_level=_COMPRESSION)
    return buffer.getvalue()


def _webp(pixels: Pixels, fps: float, settings: str) -> bytes:
    from PIL import Image

    options: dict[str, Any] = {"lossless": True}
    if settings:
        exif = Image.Exif()
        exif[_DESCRIPTION] = settings
        options["exif"] = exif.tobytes()
    first, *rest = [Image.fromarray(frame) for frame in pixels]
    if rest:
        options |= {"save_all": True, "append_images": rest, "duration": durations(len(pixels), fps), "loop": 0}
    buffer = io.BytesIO()
    first.save(buffer, "WEBP", **options)
    return buffer.getvalue()


def _png_text(file: BinaryIO) -> str:
    """Without decoding a pixel: asked for EXIF, Pillow would."""
    from PIL import Image

    with Image.open(file, formats=["PNG"]) as picture:
        return str(picture.info.get(KEY, ""))


def _webp_exif(file: BinaryIO) -> str:
    """The EXIF chunk, walking over the others: a decoder would first make room for the picture."""
    from PIL import Image

    kind, _, form = struct.unpack("<4sI4s", file.read(12))
    if (kind, form) != (b"RIFF", b"WEBP"):
        raise ValueError("no WebP")
    for _ in range(_MOST_PARTS):
        name, size = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
        if name == b"EXIF":
            exif = Image.Exif()
            exif.load(file.read(min(size, _LARGEST_SETTINGS)))
            return str(exif.get(_DESCRIPTION, ""))
        file.seek(size + size % 2, os.SEEK_CUR)
    return ""


def _mp4_tag(file: BinaryIO) -> str:
    """Walking over the boxes: FFmpeg would make room for all the frames that a file of some bytes claims to have."""
    end = _entered(file, b"moov", file.seek(0, os.SEEK_END), start=0)
    try:
        end = _entered(file, b"meta", _entered(file, b"udta", end))
        names = _entered(file, b"keys", end, start=file.tell() + 4)
        (count,) = struct.unpack(">4xI", file.read(8))
        for number in range(1, min(count, _MOST_PARTS) + 1):
            stop = _entered(file, b"mdta", names)
            if file.read(min(stop - file.tell(), len(KEY) + 1)) == KEY.encode():
                listed = _entered(file, b"ilst", end, start=names)
                stop = _entered(file, b"data", _entered(file, struct.pack(">I", number), listed))
                return file.read(min(stop - file.tell(), _LARGEST_SETTINGS))[8:].decode()
            file.seek(stop)
    except LookupError:
        pass
    return ""


def _entered(file: BinaryIO, name: bytes, end: int, start: int | None = None) -> int:
    """Goes to the content of the first box of this name from here (or `start`) to `end`, and gives where it ends.

    Raises LookupError where there is none.
    """
    place = file.tell() if start is None else start
    for _ in range(_MOST_PARTS):
        file.seek(place)
        size: int
        size, kind = struct.unpack(">I4s", file.read(8).ljust(8, b"\0"))
        if size == 1:  # a box of more than four gigabytes
            (size,) = struct.unpack(">Q", file.read(8))
        if size < 8 or place + size > end:
            break
        if kind == name:
            return place + size
        place += size
    raise LookupError(f"no box {name!r}")


_READERS = {".png": _png_text, ".webp": _webp_exif, ".mp4": _mp4_tag}
