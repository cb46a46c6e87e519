"""The maps between blocks of latents and those of smaller pictures: noise stays white, and back is the inverse."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import accel
from accel import CoarseToFine, Recipe
from accel.resolution.block_maps import BlockMeans, LinearBlocks, fitted, from_numbers
from accel.resolution.latent_grid import LatentGrid
from tests.tiny import TINY, run

CHANNELS = 3
GRIDS = {
    "pictures": (LatentGrid((2, 3), 1, (6, 8), CHANNELS), (2, CHANNELS, 6, 8), (2, 2)),
    "clips": (LatentGrid((2, 3, 4), 1, (4, 6, 8), CHANNELS), (2, CHANNELS, 4, 6, 8), (2, 2, 2)),
    "frames first": (LatentGrid((1, 3, 4), 2, (4, 6, 8), CHANNELS), (2, 4, CHANNELS, 6, 8), (1, 2, 2)),
    "tokens": (LatentGrid((1, 2, 3), 4, (1, 6, 8), CHANNELS, (1, 3, 4), 2), (2, 1, 6, 8, CHANNELS), (1, 2, 2)),
}
every_grid = pytest.mark.parametrize("name", GRIDS)


def turned(seed: int = 0) -> LinearBlocks:
    """An autoencoder whose latents of a smaller picture are any directions of a block at all."""
    draw = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(4 * CHANNELS, CHANNELS, generator=draw, dtype=torch.float64)).Q
    return LinearBlocks(2, basis.mT.float() / 2, basis.float() * 2)


@every_grid
def test_down_of_up_is_the_same_and_noise_stays_white(name: str) -> None:
    grid, shape, blocks = GRIDS[name]
    maps, small = turned(), list(shape)
    for axis, block in zip(grid.axes, blocks, strict=True):
        small[axis] //= block
    clean = torch.randn(small, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(maps.down(grid, maps.up(grid, clean, blocks), blocks), clean)
    torch.testing.assert_close(maps.lower @ maps.lower.mT, torch.eye(CHANNELS) / 4)


@every_grid
def test_means_and_copies_are_one_of_these_maps(name: str) -> None:
    grid, shape, blocks = GRIDS[name]
    copies = torch.eye(CHANNELS).repeat(4, 1)
    maps, means = LinearBlocks(2, copies.mT / 4, copies), BlockMeans()
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    pooled = means.down(grid, values, blocks)
    torch.testing.assert_close(maps.down(grid, values, blocks), pooled)
    torch.testing.assert_close(maps.up(grid, pooled, blocks), means.up(grid, pooled, blocks))


def test_the_fit_finds_the_directions_and_what_the_rest_of_a_block_most_likely_is() -> None:
    maps, draw = turned(), torch.Generator().manual_seed(1)
    small, details = torch.randn(4000, CHANNELS, generator=draw), torch.randn(4000, 12, generator=draw)
    rest = torch.eye(12) - 4 * maps.lower.mT @ maps.lower
    found = fitted(small @ maps.upper.mT + details @ rest, small, 2)
    torch.testing.assert_close(found.lower, maps.lower, atol=2e-2, rtol=0)
    follows = small @ (maps.upper + rest @ torch.randn(12, CHANNELS, generator=draw)).mT
    found = fitted(follows, small, 2)
    torch.testing.assert_close(follows @ found.lower.mT @ found.upper.mT, follows, atol=1e-3, rtol=1e-3)
    again = from_numbers(2, found.numbers())
    torch.testing.assert_close(again.lower, found.lower, atol=2e-4, rtol=0)
    torch.testing.assert_close(again.lower @ again.upper, torch.eye(CHANNELS), atol=1e-5, rtol=0)


class Halves(torch.nn.Module):
    """Its latents are single pixels, turned by 30 degrees; of smaller pictures too."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"scaling_factor": 2.0, "shift_factor": 0.5}
        self.turn = torch.nn.Parameter(torch.tensor([[0.866, -0.5, 0.0], [0.5, 0.866, 0.0], [0.0, 0.0, 1.0]]))

    def encode(self, pictures: torch.Tensor) -> Any:
        latents = torch.einsum("ij,bjhw->bihw", self.turn, pictures) + 0.5
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))


def test_of_an_autoencoder_that_sees_pixels_means_are_found() -> None:
    pipe = SimpleNamespace(components={"vae": Halves()})
    pictures = [np.random.default_rng(seed).random((64, 64, 3), np.float32) for seed in range(8)]
    maps = from_numbers(2, accel.resolution.measure(pipe, pictures, CoarseToFine()).maps)
    torch.testing.assert_close(maps.lower, torch.eye(CHANNELS).repeat(1, 4) / 4, atol=1e-2, rtol=0)
    as_bytes = [(picture * 255).astype(np.uint8) for picture in pictures]
    again = from_numbers(2, accel.resolution.measure(pipe, as_bytes, CoarseToFine()).maps)
    torch.testing.assert_close(again.upper, maps.upper, atol=2e-2, rtol=0)


def test_what_cannot_be_measured_is_said_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="no autoencoder that encodes"):
        accel.resolution.measure(SimpleNamespace(components={}), [], CoarseToFine())
    with pytest.raises(ValueError, match="give more pictures"):
        pipe = SimpleNamespace(components={"vae": Halves()})
        accel.resolution.measure(pipe, [np.zeros((2, 2, 3), np.float32)], CoarseToFine())
    with pytest.raises(ValueError, match=r"must be what accel\.resolution\.measure found for factor 2"):
        CoarseToFine(maps=(1.0, 2.0))


@pytest.mark.part(2)
@pytest.mark.parametrize(("name", "channels"), [("wan", 16), ("flux", 16), ("sd", 4)])
def test_pipelines_run_with_maps_and_say_where_these_are_of_another_autoencoder(name: str, channels: int) -> None:
    draw = torch.Generator().manual_seed(0)
    small = torch.randn(400, channels, generator=draw)
    numbers = fitted(torch.randn(400, 4 * channels, generator=draw), small, 2).numbers()
    right = TINY[name].build()
    with accel.accelerate(right, Recipe(resolution=CoarseToFine(0.4, maps=numbers))) as session:
        assert run(right, TINY[name], steps=4).isfinite().all()
    (report,) = session.report().levers
    wrong = numbers[: 2 * 4 * 2**2]
    with accel.accelerate(right, Recipe(resolution=CoarseToFine(0.4, maps=wrong))) as session:
        run(right, TINY[name], steps=4)
    (other,) = session.report().levers
    assert report.engaged and not other.engaged and "of another autoencoder" in other.reason
