"""Pictures and films as bytes, with the settings that made them inside, and reading these settings back."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

from accel.media import Pixels, durations, encode_mp4
from accel.plain import parsed
from accel.rendering.jobs import DEFAULT_FPS, Job

KEY = "accel"
_DESCRIPTION = 0x010E  # the EXIF tag ImageDescription, which is ASCII by its standard
_THREADS = 2  # of x264, always as many, so that every machine writes the same bytes
_COMPRESSION = 4  # of zlib: a quarter of the time of its best, for files a few per cent larger


def embedded(job: Job) -> dict[str, Any]:
    """What is written into a file: the job as a line of a manifest, and its identity. Nothing about time, machine or
    its folders, so that the same job is the same file everywhere.
    """
    from accel import __version__

    line = {name: value for name, value in job.told().items() if name != "output"}
    return {"accel": __version__, "id": job.id, "line": line}


def suffix_of(job: Job, frames: int) -> str:
    """The suffix of the job's file: as it asks, else PNG for one frame and MP4 for several.

    Raises ValueError where a picture is asked for as MP4 or a film as PNG.
    """
    if job.format is None:
        return ".png" if frames == 1 else ".mp4"
    if job.format == "png" and frames > 1:
        raise ValueError(f"a film of {frames} frames is no PNG; ask for the format mp4 or webp.")
    return f".{job.format}"


def encode(job: Job, pixels: Pixels, *, embed: bool = True) -> tuple[bytes, str]:
    """The bytes of the job's file, and its suffix. `pixels` is uint8 (frames, height, width, 3).

    PNG and WebP are lossless. `embed` writes the settings into the file (PNG text, EXIF, MP4 tag).
    Raises RuntimeError for MP4 where PyAV or its H.264 encoder is missing.
    """
    suffix = suffix_of(job, len(pixels))
    settings = json.dumps(embedded(job), ensure_ascii=suffix != ".mp4") if embed else ""
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
        text = _mp4_tag(source) if source.suffix.lower() == ".mp4" else _picture_text(source)
    except FileNotFoundError:
        raise ValueError(f"there is no file {str(path)!r}.") from None
    except Exception as error:  # decoders have errors of their own
        raise ValueError(f"{str(path)!r} cannot be read ({type(error).__name__}).") from None
    try:
        line = parsed(text)["line"]
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


def _picture_text(path: Path) -> str:
    from PIL import Image

    with Image.open(path, formats=("PNG", "WEBP")) as picture:
        # Where a PNG has no text, Pillow would look for EXIF behind the pixels, and decode them all.
        return str(picture.info.get(KEY, "") if picture.format == "PNG" else picture.getexif().get(_DESCRIPTION, ""))


def _mp4_tag(path: Path) -> str:
    from accel.rendering.inputs import opened_video

    with opened_video(path, "mov,mp4,m4a,3gp,3g2,mj2") as container:
        return str(container.metadata.get(KEY, ""))
