"""Pictures and films that jobs start from: checked before a model loads, and read when their job is due."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any


def check_input(path: Path, kind: str) -> None:
    """Raises ValueError for a file that is missing or that is no picture ("image") or film ("video")."""
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}; paths are relative to the manifest's folder.")
    status = path.stat()
    problem = _problem(str(path), kind, status.st_size, status.st_mtime_ns)
    if problem:
        raise ValueError(problem)


@lru_cache(maxsize=4096)
def _problem(path: str, kind: str, size: int, modified: int) -> str:
    """What is wrong with the file, found by its header; "" for nothing. One look at a file that many lines share."""
    try:
        if kind == "image":
            from PIL import Image

            with Image.open(path) as picture:
                picture.verify()
        else:
            import av

            with av.open(path) as container:
                if not container.streams.video:
                    return f"{path!r} holds no film."
    except OSError as error:
        return f"{path!r} cannot be read as {'a picture' if kind == 'image' else 'a film'} ({type(error).__name__})."
    except Exception as error:  # decoders raise SyntaxError, their own errors, and others for a broken file
        return f"{path!r} is broken ({type(error).__name__})."
    return ""


def load_image(path: str) -> Any:
    """The picture in RGB, turned as its camera says."""
    from PIL import Image, ImageOps

    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def load_video(path: str) -> list[Any]:
    """The frames of the film as pictures."""
    import av
    from PIL import Image

    with av.open(path) as container:
        stream = container.streams.video[0]
        return [Image.fromarray(frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
