"""Pictures and videos that a call starts from: checked before a model loads, and read when they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from accel.plain_data import quote

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpegts,mpeg,flv,ogg"
"""FFmpeg's names of what may hold a video to start from."""

PICTURES = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of what may be a picture. It would start Ghostscript for others, which run programs of their own."""


FILES: dict[str, str] = {
    "image": "image",
    "mask_image": "image",
    "control_image": "image",
    "ip_adapter_image": "image",
    "video": "video",
}
"""What of a call may be a file, by the names of the fields of a manifest, and whether that is an "image" or "video"."""


_CALLED = {"image": "a picture", "video": "a video", "lora": "LoRA weights"}


def read_inputs(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call in which files are read where there is the path of one. Raises ValueError for a file that
    is missing or broken."""
    found = dict(given)
    for name, kind in FILES.items():
        if isinstance(found.get(name), (str, os.PathLike)):
            path = Path(found[name]).expanduser()
            try:
                check_input(path, kind)
            except ValueError as error:
                raise ValueError(f"{name}: {str(error).partition('; paths')[0].rstrip('.')}.") from None
            found[name] = load_input(str(path), kind)
    return found


def check_input(path: Path, kind: str) -> None:
    """Raises ValueError for a file that is missing or that is no picture ("image"), video ("video") or file of weights
    ("lora", in safetensors: others may run code when they are read)."""
    if not os.path.isfile(path):
        raise ValueError(f"there is no file {quote(str(path))}; paths are relative to the manifest's folder.")
    status = path.stat()
    problem = _problem(str(path), kind, status.st_size, status.st_mtime_ns)
    if problem:
        raise ValueError(problem)


@lru_cache(maxsize=4096)
def _problem(path: str, kind: str, size: int, modified: int) -> str:
    """What is wrong with the file, found by its header; "" for nothing. One look at a file that many lines share."""
    try:
        if kind == "lora":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as weights:
                return "" if any(weights.keys()) else f"{path!r} holds no weights."
        if kind == "image":
            from PIL import Image

            with Image.open(path, formats=PICTURES) as picture:
                picture.verify()
        else:
            with opened_video(path) as container:
                if not container.streams.video:
                    return f"{path!r} holds no video."
    except OSError as error:
        return f"{path!r} cannot be read as {_CALLED[kind]} ({type(error).__name__})."
    except Exception as error:  # decoders raise SyntaxError, their own errors, and others for a broken file
        return f"{path!r} is broken ({type(error).__name__})."
    return ""


@contextmanager
def opened_video(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The container of a video. Playlists, which would have FFmpeg open other files and addresses, are not let in."""
    import av

    with open(path, "rb") as file, av.open(file, options={"format_whitelist": CONTAINERS}) as container:
        yield container


def load_input(path: str, kind: str) -> Any:
    """A picture, or the pictures of a video."""
    return load_image(path) if kind == "image" else load_video(path)


def load_image(path: str) -> Any:
    """The picture in RGB, turned as its camera says."""
    from PIL import Image, ImageOps

    with Image.open(path, formats=PICTURES) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def load_video(path: str) -> list[Any]:
    """The frames of the video as pictures."""
    from PIL import Image

    with opened_video(path) as container:
        stream = container.streams.video[0]
        return [Image.fromarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
