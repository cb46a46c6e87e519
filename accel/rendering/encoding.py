"""Pictures, videos and sounds as bytes, with the settings that made them inside, and reading these settings back."""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from accel.measure.media import FASTEST, SLOWEST, durations, encode_mp4
from accel.measure.output import PipelineOutput
from accel.measure.sound import encode_flac, encode_wav
from accel.plain_data import parse_json
from accel.rendering.jobs import DEFAULT_FPS, Job
from accel.version import __version__

KEY = "accel"
SOUND_FORMATS = ("wav", "flac")
_DESCRIPTION = 0x010E  # the EXIF tag ImageDescription, which is ASCII by its standard
_THREADS = 2  # of x264, always as many, so that every machine writes the same bytes
_LARGEST_SETTINGS = 2**20
_MOST_PARTS = 1000  # chunks or boxes of a file that may come before the settings
_CLIPPED = 1.0005  # of full scale; below that it is rounding
_ROUNDED = 0.02
_COMPRESSION = 4  # of zlib: a quarter of the time of its best, for files a few per cent larger


def embedded_settings(job: Job) -> dict[str, Any]:
    """What is written into a file: the job as a line of a manifest, and its identity. Nothing about time, machine or
    its folders, so that the same job is the same file everywhere.
    """
    line = {name: value for name, value in job.as_text().items() if name != "output"}
    return {"accel": __version__, "id": job.id, "line": line}


def suffix_of(job: Job, frames: int) -> str:
    """The suffix of the job's file: as it asks, else PNG for one frame, MP4 for several and WAV for none.

    Raises ValueError where a picture or video is asked for as sound, a sound as a picture, or a video as PNG.
    """
    if job.format is None:
        return (".wav", ".png")[frames] if frames < 2 else ".mp4"
    if (job.format in SOUND_FORMATS) != (frames == 0):
        made = "sound; ask for the format wav or flac" if frames == 0 else "pictures; ask for png, webp or mp4"
        raise ValueError(f"the format is {job.format}, but the pipeline makes {made}.")
    if job.format == "png" and frames > 1:
        raise ValueError(f"a video of {frames} frames is no PNG; ask for the format mp4 or webp.")
    return f".{job.format}"


def encode(job: Job, made: PipelineOutput, *, embed: bool = True) -> tuple[bytes, str]:
    """The bytes of the job's file, and its suffix.

    PNG, WebP, WAV and FLAC are lossless (of 8 or 16 bits); a film's sound track is AAC. `embed` writes the settings
    into the file (PNG text, EXIF, MP4 tag, RIFF or Vorbis comment). Raises RuntimeError for MP4 and FLAC where PyAV or
    its encoder is missing.
    """
    suffix = suffix_of(job, made.size["frames"])
    settings = json.dumps(embedded_settings(job), ensure_ascii=suffix in (".png", ".webp")) if embed else ""
    return _ENCODERS[suffix](job, made, settings), suffix


def lost(job: Job, made: PipelineOutput) -> list[str]:
    """A sentence for what the file cannot hold of what was made."""
    if made.sound is None:
        return []
    if made.frames is not None and suffix_of(job, len(made.frames)) != ".mp4":
        return [f"The sound is left out, which {job.format or 'png'} cannot hold; ask for the format mp4."]
    peak = made.sound.peak
    return [f"The sound goes up to {peak:.2f} times full scale and is clipped there."] if peak > _CLIPPED else []


def fps_of(job: Job, made: PipelineOutput) -> float:
    """Frames per second: as the job asks, else so that the frames last as long as their sound (which is seldom a whole
    number of frames, so a rate near a whole number is that), else 16."""
    if job.fps is not None or made.sound is None or made.frames is None:
        return job.fps or DEFAULT_FPS
    exact = min(max(len(made.frames) / made.sound.seconds, SLOWEST), FASTEST)
    return float(round(exact)) if abs(round(exact) - exact) < _ROUNDED * exact else exact


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


def _wav(job: Job, made: PipelineOutput, settings: str) -> bytes:
    return encode_wav(made.heard, settings)


def _flac(job: Job, made: PipelineOutput, settings: str) -> bytes:
    return encode_flac(made.heard, {KEY: settings, "comment": job.prompt or ""} if settings else {})


def _mp4(job: Job, made: PipelineOutput, settings: str) -> bytes:
    tags = {KEY: settings, "comment": job.prompt or ""} if settings else {}
    return encode_mp4(made.pixels, fps_of(job, made), tags, _THREADS, made.sound)


def _png(job: Job, made: PipelineOutput, settings: str) -> bytes:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    if settings:
        text.add_itxt(KEY, settings)
    buffer = io.BytesIO()
    Image.fromarray(made.pixels[0]).save(buffer, "PNG", pnginfo=text, compress_level=_COMPRESSION)
    return buffer.getvalue()


def _webp(job: Job, made: PipelineOutput, settings: str) -> bytes:
    from PIL import Image

    pixels, fps = made.pixels, fps_of(job, made)

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


_ENCODERS = {".png": _png, ".webp": _webp, ".mp4": _mp4, ".wav": _wav, ".flac": _flac}


def _png_text(file: BinaryIO) -> str:
    """Without decoding a pixel: asked for EXIF, Pillow would."""
    from PIL import Image

    with Image.open(file, formats=["PNG"]) as picture:
        return str(picture.info.get(KEY, ""))


def _webp_exif(file: BinaryIO) -> str:
    """The EXIF chunk, walking over the others: a decoder would first make room for the picture."""
    from PIL import Image

    for name, size in _riff_chunks(file, b"WEBP"):
        if name == b"EXIF":
            exif = Image.Exif()
            exif.load(file.read(min(size, _LARGEST_SETTINGS)))
            return str(exif.get(_DESCRIPTION, ""))
    return ""


def _riff_chunks(file: BinaryIO, wanted: bytes) -> Iterator[tuple[bytes, int]]:
    """The names and sizes of the chunks of a RIFF file of this form, with the file at the content of each."""
    kind, _, form = struct.unpack("<4sI4s", file.read(12))
    if (kind, form) != (b"RIFF", wanted):
        raise ValueError(f"no {wanted.decode()}")
    for _ in range(_MOST_PARTS):
        name, size = struct.unpack("<4sI", file.read(8).ljust(8, b"\0"))
        begins = file.tell()
        yield name, size
        file.seek(begins + size + size % 2)


def _wav_comment(file: BinaryIO) -> str:
    """The comment of RIFF, walking over the other chunks."""
    for name, size in _riff_chunks(file, b"WAVE"):
        if name == b"LIST" and file.read(4) == b"INFO":
            listed = file.read(min(size - 4, _LARGEST_SETTINGS))
            if listed[:4] == b"ICMT":
                return listed[8 : 8 + int.from_bytes(listed[4:8], "little")].rstrip(b"\0").decode()
    return ""


def _flac_comment(file: BinaryIO) -> str:
    """The Vorbis comment of our name, walking over the blocks of metadata in front of the sound."""
    if file.read(4) != b"fLaC":
        raise ValueError("no FLAC")
    for _ in range(_MOST_PARTS):
        (head,) = struct.unpack(">I", file.read(4))
        size, last, kind = head & 0xFFFFFF, head >> 31, head >> 24 & 0x7F
        if kind == 4:
            return _vorbis(file.read(min(size, _LARGEST_SETTINGS)))
        if last:
            break
        file.seek(size, os.SEEK_CUR)
    return ""


def _vorbis(block: bytes) -> str:
    """The value of our key among the comments of a block: lengths are little-endian, names know no case."""
    place = 4 + int.from_bytes(block[:4], "little") + 4
    while place + 4 <= len(block):
        size = int.from_bytes(block[place : place + 4], "little")
        name, _, value = block[place + 4 : place + 4 + size].partition(b"=")
        if name.lower() == KEY.encode():
            return value.decode()
        place += 4 + size
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


_READERS = {
    ".png": _png_text,
    ".webp": _webp_exif,
    ".mp4": _mp4_tag,
    ".wav": _wav_comment,
    ".flac": _flac_comment,
}
