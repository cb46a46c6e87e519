"""What FlexAttention and xFormers are told: the plan, and nothing but the plan."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from accel.attention import flex
from accel.attention.flex import MASK_BLOCK, Flex, flex_inputs
from accel.attention.layout import TokenLayout
from accel.attention.methods.sliding_tile import tile_plan
from accel.attention.plan import KeyPlan
from accel.attention.selftest import random_fault
from accel.attention.xformers import XFormers
from tests.attention.masks import activations, error, first_text, masked, random_plan


def pairs(plan: KeyPlan, text: torch.Tensor, samples: int, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The plan's mask in the order that it was packed in, (B, h, queries, keys), and all that the block mask does not
    skip.
    """
    work = flex_inputs(plan, samples, heads, text)
    queries, keys = (places.expand(samples, heads, -1) for places in (work.queries, work.keys))
    mask = plan.mask().expand(samples, heads, -1, -1)
    mask = mask.gather(2, queries[..., None].expand(-1, -1, -1, mask.shape[-1]))
    mask = mask.gather(3, keys[:, :, None].expand(-1, -1, queries.shape[-1], -1))
    mask[..., plan.layout.video + len(text) :] = False
    blocks = work.mask.to_dense().bool().expand(samples, heads, -1, -1)
    return mask, blocks.repeat_interleave(MASK_BLOCK, 2).repeat_interleave(MASK_BLOCK, 3)


@pytest.mark.part(2)
@pytest.mark.parametrize("form", ["identity", "shared", "own blocks", "own order"])
@pytest.mark.parametrize(("size", "text"), [(96, 0), (128, 5), (200, 5)])
def test_the_block_mask_is_the_plan(form: str, size: int, text: int) -> None:
    torch.manual_seed(0)
    layout = TokenLayout(3, 16, 23, text=text)
    plan, seen = random_plan(layout, size, form, samples=2, heads=2), first_text(layout, max(text - 2, 0))
    mask, blocks = pairs(plan, seen, 2, 2)
    video, keys = layout.video, layout.video + len(seen)
    assert not (mask & ~blocks).any()  # nothing that the plan sees is skipped

    work = flex_inputs(plan, 2, 2, seen)
    index = [torch.arange(length) for length in (2, 2, *mask.shape[2:])]
    rule = work.mask.mask_mod(*torch.meshgrid(*index, indexing="ij"))
    assert torch.equal(rule[:, :, :video], mask[:, :, :video])  # what partial blocks are asked
    assert not rule[..., keys:].any()

    counts, numbers = work.mask.full_kv_num_blocks, work.mask.full_kv_indices
    for b, h, row in torch.cartesian_prod(*(torch.arange(length) for length in counts.shape)).tolist():
        for column in numbers[b, h, row, : counts[b, h, row]].tolist():  # full blocks are asked nothing
            assert rule[b, h, row * 128 : row * 128 + 128, column * 128 : column * 128 + 128].all()


def test_blocks_of_128_tokens_are_full_and_are_all_that_is_computed() -> None:
    layout = TokenLayout(8, 16, 8)
    plan = tile_plan(layout, (2, 8, 8), (1, 2, 1))
    work = flex_inputs(plan, 1, 1, first_text(layout, 0))
    assert int(work.mask.kv_num_blocks.sum()) == 0
    assert work.mask.to_dense().float().mean() == plan.density


def test_uneven_tiles_stand_behind_the_full_ones_so_that_those_stay_aligned() -> None:
    layout = TokenLayout(5, 16, 24)  # tiles of 2 x 8 x 8 tokens; the third of the frames has half of them
    work = flex_inputs(tile_plan(layout, (2, 8, 8), (1, 1, 1)), 1, 1, first_text(layout, 0))
    assert work.mask.full_kv_num_blocks[0, 0].tolist() == [1] * 12 + [0] * 3
    assert work.mask.kv_num_blocks[0, 0].tolist() == [0] * 12 + [1] * 3


@pytest.mark.part(2)
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["eager", "compiled"])
@pytest.mark.parametrize("text", [0, 4])
@pytest.mark.parametrize("size", [96, pytest.param(128, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["identity", "shared", "own blocks", "own order"])
def test_flex_attention_computes_the_plan(
    form: str, size: int, text: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly: as torch defines what it compiles, and as it compiles that for a CPU."""
    if not compiled:
        monkeypatch.setattr(flex, "_compiled", lambda: flex_attention)
        # Without this it compiles a part of itself, for three seconds.
        monkeypatch.setattr("torch.nn.attention.flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    torch.manual_seed(0)
    layout = TokenLayout(2, 11, 16, text=text)
    plan, (q, k, v), seen = random_plan(layout, size, form), activations(layout), text // 2
    mask = plan.mask().clone()
    mask[..., layout.tokens - text + seen :] = False
    with torch.inference_mode():
        output = Flex()(q, k, v, plan, 0.3, first_text(layout, seen))
    assert error(output, masked(q, k, v, mask)) < 1e-5


@pytest.mark.parametrize("form", ["shared", "own order"])
def test_xformers_computes_the_plan(form: str) -> None:
    pytest.importorskip("xformers.ops")
    if not torch.cuda.is_available():
        pytest.skip("xFormers computes on GPUs")
    layout = TokenLayout(2, 11, 16, text=4)
    like = activations(layout, width=64, dtype=torch.float16)[0].cuda()
    assert random_fault(XFormers(), like, random_plan(layout, 96, form)) is None
