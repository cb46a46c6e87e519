"""Pooled keys: exact where the keys of a block are equal; by the letter everywhere else, whatever the sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import accel
from accel.attention.blocks import regions
from accel.attention.layout import TokenLayout
from accel.attention.log_sum_exp import PartialAttention, _in_chunks, in_channels, weighted, with_exact, with_log_sum
from accel.attention.methods.pooled_keys import PooledKeys, PooledKeysPlanner
from accel.attention.methods.window_residual import WindowResidual, WindowResidualPlanner
from accel.attention.planner import AttentionInputs
from tests.accel.witness import pipeline, plain
from tests.attention.by_the_letter import ask, at, random
from tests.tiny import TINY, run

LAYOUTS = [
    TokenLayout(2, 4, 6),
    TokenLayout(3, 5, 7, text=4),
    TokenLayout(1, 8, 8, text=3, text_first=True),
]
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=str)
NOW: dict[str, Any] = {"min_tokens": 0}


def computed(inputs: AttentionInputs, method: PooledKeys) -> torch.Tensor:
    found = PooledKeysPlanner(method).compute(inputs)
    assert found is not None
    return found.output


def together(layout: TokenLayout, block: tuple[int, int, int]) -> torch.Tensor:
    """(L, L) which tokens are in the same block; text tokens are alone."""
    number = torch.arange(layout.video)
    places = number // layout.frame, number % layout.frame // layout.width, number % layout.width
    name = sum(place // size * 1000**axis for axis, (place, size) in enumerate(zip(places, block, strict=True)))
    same = torch.eye(layout.tokens, dtype=torch.bool)
    same[layout.video_rows, layout.video_rows] = name[:, None] == name
    return same


def by_the_letter(inputs: AttentionInputs, method: PooledKeys) -> torch.Tensor:
    """With as many keys as ever, each of which is the mean of its block, or itself where it is near."""
    layout, near = inputs.layout, torch.zeros(inputs.layout.tokens, inputs.layout.tokens, dtype=torch.bool)
    if method.near is not None:
        rows = layout.video_rows
        near[rows, rows] = together(layout, method.near)[rows, rows]
    blocks = together(layout, method.factor).float()
    mean = blocks / blocks.sum(1, keepdim=True)
    scores = torch.where(near, inputs.q @ inputs.k.mT, inputs.q @ (mean @ inputs.k).mT) * inputs.scale
    if inputs.key_mask is not None:
        scores = scores.masked_fill(~inputs.key_mask[:, None, None], -torch.inf)
    weights = scores.softmax(-1)
    return (weights * near) @ inputs.v + (weights * ~near) @ (mean @ inputs.v)


@every_layout
@pytest.mark.parametrize("near", [None, (2, 4, 4), (9, 10, 10)])
def test_every_key_counts_as_the_mean_of_its_block_unless_it_is_near(layout: TokenLayout, near: Any) -> None:
    inputs, method = ask(*random(layout, samples=2, heads=3)[:2], layout), PooledKeys(near=near)
    torch.testing.assert_close(computed(inputs, method), by_the_letter(inputs, method), atol=2e-6, rtol=0)


@every_layout
@pytest.mark.parametrize("near", [None, (2, 4, 4)])
def test_it_is_exact_where_the_keys_of_a_block_are_equal(layout: TokenLayout, near: Any) -> None:
    q, k, v = random(layout)
    blocks = together(layout, (1, 2, 2)).float()
    k, v = (blocks / blocks.sum(1, keepdim=True) @ tokens for tokens in (k * 3, v))
    inputs = ask(q * 3, k, layout, v)
    torch.testing.assert_close(computed(inputs, PooledKeys(near=near)), inputs.dense(), atol=1e-5, rtol=0)


def test_padded_text_is_never_seen() -> None:
    layout = LAYOUTS[1]
    mask = torch.ones(2, layout.tokens, dtype=torch.bool)
    mask[0, -1] = False
    inputs = ask(*random(layout, samples=2)[:2], layout, key_mask=mask)
    torch.testing.assert_close(computed(inputs, PooledKeys()), by_the_letter(inputs, PooledKeys()), atol=2e-6, rtol=0)


def test_blocks_of_one_token_and_low_noise_leave_attention_to_the_model() -> None:
    q, k, _ = random(LAYOUTS[0])
    early, late = ask(q, k, LAYOUTS[0], step=4), ask(q, k, LAYOUTS[0], step=12)
    assert PooledKeysPlanner(PooledKeys(factor=(1, 1, 1))).compute(early) is None
    planner = PooledKeysPlanner(PooledKeys(until=0.5))
    assert planner.compute(early) is not None and planner.compute(late) is None


def test_the_share_of_the_pairs_is_what_is_computed() -> None:
    def share(layout: TokenLayout, **options: Any) -> float:
        found = PooledKeysPlanner(PooledKeys(**options)).compute(ask(*random(layout)[:2], layout))
        assert found is not None
        return found.density

    assert share(TokenLayout(2, 4, 8)) == 1 / 4
    assert share(TokenLayout(2, 4, 8), factor=(2, 1, 1)) == 1 / 2
    assert share(TokenLayout(2, 4, 8), near=(1, 4, 4)) == 1 / 4 + 1 / 4 * (1 + 1 / 4)
    assert share(TokenLayout(2, 4, 8, text=64)) == (16 + 64) / 128


@every_layout
def test_regions_cover_the_grid_once_and_give_back_what_they_cut(layout: TokenLayout) -> None:
    grid = torch.randn(2, 3, layout.frames, layout.height, layout.width, 4)
    again = torch.zeros_like(grid)
    for part in regions(layout, (2, 2, 4)):
        assert not part.of(again).any()
        blocks = part.blocks(grid)
        torch.testing.assert_close(blocks.mean(3), part.means(grid))
        part.put(blocks, again)
    assert torch.equal(again, grid)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_as_channels_are_those_of_a_mask(dtype: torch.dtype) -> None:
    q, k, v = (part.to(dtype) for part in random(TokenLayout(2, 4, 8)))
    weights = torch.arange(1, 65).log()
    wider = torch.nn.functional.scaled_dot_product_attention(*in_channels(q, k, v, 0.25, weights), scale=0.25)
    right = weighted(q.float(), k.float(), v.float(), 0.25, weights)
    torch.testing.assert_close(wider[..., :16].float(), right, atol=2e-6 if dtype == torch.float32 else 2e-2, rtol=0)


def test_log_sums_are_those_of_the_logits_by_kernel_and_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accel.attention.log_sum_exp.SCORES", 1000)
    q, k, v = random(TokenLayout(2, 5, 7))
    weights = torch.arange(1, 71).log()
    logits = q @ k.mT * 0.3 + weights
    for found in (with_log_sum(q, k, v, 0.3, weights), _in_chunks(q, k, v, 0.3, weights)):
        torch.testing.assert_close(found.log_sum, logits.logsumexp(-1))
        torch.testing.assert_close(found.output, logits.softmax(-1) @ v, atol=2e-6, rtol=1e-5)


def test_parts_are_exchanged_without_losing_digits() -> None:
    """Even where one near key is all that counts, so that nearly everything is taken away again."""
    layout = TokenLayout(1, 4, 4)
    q, k, v = random(layout)
    k[:, :, 0] = q[:, :, 0] * 40
    inputs, method = ask(q, k, layout, v), PooledKeys(near=(1, 2, 2))
    torch.testing.assert_close(computed(inputs, method), by_the_letter(inputs, method), atol=1e-5, rtol=0)
    one = PartialAttention(torch.ones(1, 1, 1, 1), torch.full((1, 1, 1), 90.0))
    assert with_exact(one, one, PartialAttention(one.output * 2, one.log_sum)) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"factor": (2, 2)}, r"PooledKeys.factor must be \(frames, height, width\) in tokens"),
        ({"factor": (1, 0, 2)}, "whole numbers from 1"),
        ({"near": (1, 3, 4)}, "must be whole blocks of the factor"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PooledKeys(**options)


def test_a_recipe_keeps_its_settings() -> None:
    recipe = accel.Recipe(attention=PooledKeys(0.5, factor=(3, 1, 1), near=(3, 2, 2)))
    assert accel.Recipe.from_dict(recipe.to_dict()) == recipe


def test_the_residual_puts_back_what_the_means_leave_out() -> None:
    layout = TokenLayout(2, 4, 4)
    planner = WindowResidualPlanner(WindowResidual(PooledKeys(), refresh=4), PooledKeysPlanner(PooledKeys(until=0.2)))
    inputs = ask(*random(layout)[:2], layout)
    first, second = planner.compute(inputs), planner.compute(at(inputs, 1))
    assert first is not None and second is not None and planner.kept_tensors()
    assert torch.equal(first.output, inputs.dense())
    torch.testing.assert_close(second.output, inputs.dense())  # nothing has changed since


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["flux", "sd3", "wan", "ltx", "hunyuan_video", "cogvideox", "qwen_image"])
def test_it_acts_and_is_undone_to_the_bit(name: str) -> None:
    pipe = pipeline(name)
    with accel.accelerate(pipe, accel.Recipe(attention=PooledKeys(**NOW))) as session:
        output = run(pipe, TINY[name])
    (report,) = session.report().levers
    assert report.engaged and "kernel pooled keys" in report.reason
    assert output.isfinite().all() and not torch.equal(output, plain(name))
    assert torch.equal(run(pipe, TINY[name]), plain(name))


def test_a_factor_of_one_changes_no_bit_of_a_run() -> None:
    with accel.accelerate(pipeline("wan"), accel.Recipe(attention=PooledKeys(factor=(1, 1, 1), **NOW))) as session:
        assert torch.equal(run(pipeline("wan"), TINY["wan"]), plain("wan"))
    assert not session.report().levers[0].engaged
