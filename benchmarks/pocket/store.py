"""Stores the denoisers of the packaged pocket models small: `python -m benchmarks.pocket.store`.

In float16, of which each number keeps the leading bits alone: the wheel is compressed, and the zeros behind them take
next to no room. The models are what these weights say; they are computed in float32. To be run after a training whose
model is to be packaged; a second time it changes nothing.
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from accel import pocket

POCKET = Path(pocket.__file__).parent
PARTS = {
    "video/transformer": 6,
    "video/text_encoder": 7,
    "video/vae": 8,
    "few/transformer": 6,
    "small/transformer": 6,
    "refiner": 6,
    "image/unet": 7,
    "image/text_encoder": 7,
}
"""Significant bits of the weights in each folder; float16 has eleven. What rounding does to the clips is in the card of
the model "video"."""


def rounded(weights: torch.Tensor, bits: int) -> torch.Tensor:
    """The same to so many significant bits."""
    fraction, exponent = torch.frexp(weights.float())
    return torch.ldexp((fraction * 2**bits).round() / 2**bits, exponent).to(weights.dtype)


def store(folder: Path, bits: int) -> int:
    """Rounds the weights in this folder; returns the bytes that they take in a wheel.

    In float16, but for text encoders, whose library would compute in what it finds.
    """
    [path] = folder.glob("*.safetensors")
    kind = torch.float32 if folder.name == "text_encoder" else torch.float16
    save_file({name: rounded(each.to(kind), bits) for name, each in load_file(path).items()}, path, {"format": "pt"})
    return len(zlib.compress(path.read_bytes(), 6))


def main(arguments: list[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    for name, bits in PARTS.items():
        print(f"{name}: {store(POCKET / name, bits) / 1e6:.2f} MB in a wheel")


if __name__ == "__main__":
    main()
