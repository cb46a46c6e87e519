"""The masks of the static methods against loops over tokens, their densities, and their parameters."""

from __future__ import annotations

import pytest
import torch

from accel.attention.layout import TokenLayout
from accel.attention.methods.radial import Radial, reach
from accel.attention.methods.sliding_tile import SlidingTile
from accel.attention.planner import HeadPlan
from accel.attention.static import StaticPlanner
from accel.method import from_dict
from tests.attention.masks import activations, inputs


def tile_sees(query: int, key: int, grid: tuple[int, ...], tile: tuple[int, ...], window: tuple[int, ...]) -> bool:
    """Section 3 of the paper for odd windows: the centre is clamped, a tile sees those within half a window of it."""
    for axis in range(3):
        below = grid[2] if axis == 1 else grid[1] * grid[2] if axis == 0 else 1
        ours, theirs = (token // below % grid[axis] // tile[axis] for token in (query, key))
        last = (grid[axis] - 1) // tile[axis]
        half = window[axis] // 2
        if window[axis] <= last and abs(min(max(ours, half), last - half) - theirs) > half:
            return False
    return True


@pytest.mark.part(2)
@pytest.mark.parametrize(
    ("grid", "tile", "window"),
    [((6, 4, 6), (2, 2, 2), (1, 1, 3)), ((5, 5, 7), (2, 2, 3), (1, 3, 1)), ((4, 6, 5), (1, 2, 1), (3, 1, 5))],
    ids=["divides", "does not divide", "covers an axis"],
)
@pytest.mark.parametrize("text", [0, 2])
def test_the_mask_of_tiles(
    grid: tuple[int, int, int], tile: tuple[int, int, int], window: tuple[int, int, int], text: int
) -> None:
    layout = TokenLayout(*grid, text=text, text_first=True)
    mask = SlidingTile(tile=tile, window=window).layout_plan(layout).mask()
    for query in range(layout.tokens):
        for key in range(layout.tokens):
            words = query < text or key < text
            assert mask[query, key] == (words or tile_sees(query - text, key - text, grid, tile, window))


def test_every_token_stands_in_one_tile_and_a_window_as_large_as_the_grid_is_dense() -> None:
    layout = TokenLayout(5, 7, 9, text=3)
    plan = SlidingTile(tile=(2, 3, 4), window=(3, 3, 3)).layout_plan(layout)
    assert torch.equal(plan.order[plan.order >= 0].sort().values, torch.arange(layout.video))
    assert plan.density == 1 and plan.mask().all()
    q, k, v = activations(layout)
    assert (
        StaticPlanner(SlidingTile(tile=(2, 3, 4), window=(9, 9, 9)).layout_plan).plan(inputs(layout, q, k, v)) is None
    )


@pytest.mark.parametrize(
    "layout",
    [TokenLayout(9, 16, 16), TokenLayout(5, 8, 8), TokenLayout(21, 30, 52), TokenLayout(33, 45, 80, text=256)],
    ids=["pocket", "tiny", "Wan 480p", "HunyuanVideo 720p"],
)
@pytest.mark.parametrize("density", [0.2, 0.3, 0.5])
def test_defaults_fit_the_grid_and_keep_the_density(layout: TokenLayout, density: float) -> None:
    plan = SlidingTile(density=density).layout_plan(layout)
    assert density * 0.7 <= plan.density <= density
    assert len(plan.order) >= 4 * 4


def test_a_plan_is_made_once_for_each_layout() -> None:
    layout, made = TokenLayout(4, 4, 4), []
    planner = StaticPlanner(lambda layout: made.append(layout) or SlidingTile().layout_plan(layout))
    answers = [planner.plan(inputs(layout, *activations(layout))) for _ in range(2)]
    assert made == [layout] and answers[0] == answers[1]
    assert answers[0] is not None and isinstance(answers[0][0], HeadPlan) and answers[0][0].heads is None
    assert sum(tensor.numel() for tensor in planner.kept_tensors()) > layout.tokens


def radial_sees(query: int, key: int, frame: int, block: int, decay: float, sink: bool) -> bool:
    """The rule of the dossier, section 7, for two tokens."""
    distance, apart = abs(query // frame - key // frame), abs(query % frame - key % frame)
    if distance <= 1 or (sink and key < frame):
        return True
    width = 2 ** frame.bit_length() / 2 ** distance.bit_length()
    return apart <= max(decay * width, block) and (width >= block or distance % int(block / width) == 0)


@pytest.mark.part(1)
@pytest.mark.parametrize("sink", [False, True])
@pytest.mark.parametrize(("layout", "decay"), [(TokenLayout(9, 3, 4), 0.2), (TokenLayout(7, 6, 6), 0.7)])
def test_the_mask_of_radial_attention_by_tokens(layout: TokenLayout, decay: float, sink: bool) -> None:
    """With blocks of one token nothing is rounded, so the plan is the rule."""
    mask = Radial(decay=decay, block=1, sink=sink).layout_plan(layout).mask()
    for query in range(layout.video):
        for key in range(layout.video):
            assert mask[query, key] == radial_sees(query, key, layout.frame, 1, decay, sink), (query, key)
    assert torch.equal(mask, mask.T) or sink


@pytest.mark.part(1)
@pytest.mark.parametrize("sink", [False, True])
def test_the_mask_of_radial_attention_by_blocks(sink: bool) -> None:
    """Frames of 40 tokens in blocks of 7: a block sees another if more than 60 % of the columns that it sees anything
    of are seen by more than a third of its rows, and itself.
    """
    layout, size, decay = TokenLayout(11, 5, 8), 7, 0.2
    mask = Radial(decay=decay, block=size, sink=sink).layout_plan(layout).mask()
    rule = torch.tensor(
        [
            [radial_sees(query, key, layout.frame, size, decay, sink) for key in range(layout.video)]
            for query in range(layout.video)
        ]
    ).double()
    for top in range(0, layout.video, size):
        for left in range(0, layout.video, size):
            columns = rule[top : top + size, left : left + size].mean(0)
            seen = (columns > 1 / 3).sum() > 0.6 * (columns > 0).sum()
            assert mask[top, left] == (bool(seen) or top == left)
    assert mask.any(1).all() and 0.2 < mask.double().mean() < 0.7


@pytest.mark.parametrize(
    ("layout", "decay", "density"),
    [
        (TokenLayout(21, 45, 80), 0.2, 0.245),
        (TokenLayout(21, 45, 80), 1.0, 0.38),
        (TokenLayout(33, 45, 80), 0.95, 0.28),
        (TokenLayout(21, 30, 52), 0.2, 0.31),
    ],
    ids=["Wan 720p", "Wan 720p at 1", "HunyuanVideo 720p", "Wan 480p"],
)
def test_densities_as_published(layout: TokenLayout, decay: float, density: float) -> None:
    """By tokens and with the first frame seen by all; a band of reach w has S (2 w + 1) - w (w + 1) pairs."""
    frame, pairs = layout.frame, 0
    for query in range(layout.frames):
        for key in range(layout.frames):
            width = min(reach(layout, abs(query - key), 128, decay), frame - 1) if key else frame - 1
            pairs += max(frame * (2 * width + 1) - width * (width + 1), 0)
    assert pairs / layout.video**2 == pytest.approx(density, abs=0.005)


def test_two_frames_are_dense() -> None:
    assert Radial().layout_plan(TokenLayout(2, 9, 9)).density == 1


@pytest.mark.parametrize("value", [(1, 2), (0, 1, 1), (1.0, 2, 3), 4, "2x2"])
@pytest.mark.parametrize("name", ["tile", "window"])
def test_sizes_are_checked_in_a_sentence(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"SlidingTile.{name} must be \(frames, height, width\) in t.*or None, not"):
        SlidingTile(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Radial\.sink must be True or False"):
        Radial(sink=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [SlidingTile(tile=(2, 3, 4), window=(1, 3, 3)), SlidingTile(), Radial(decay=0.5)])
def test_parameters_survive_a_file(method: SlidingTile | Radial) -> None:
    data = method.to_dict()
    assert from_dict("attention", data, "attention") == method
