"""What is left out adds nothing, and comes back to the bit."""

from __future__ import annotations

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention

from benchmarks.judges import JUDGES
from benchmarks.pruning import Pruning, removables, without


def test_a_head_that_is_left_out_is_the_attention_without_it() -> None:
    torch.manual_seed(0)
    attention, x = Attention(query_dim=8, heads=2, dim_head=4), torch.randn(1, 5, 8)
    parts = [part for part in removables(attention) if "head" in part.name]
    plain = attention(x)
    with without(parts):
        assert torch.allclose(attention(x), attention.to_out[0].bias.expand_as(x))
    each = []
    for part in parts:
        with without([part]):
            each.append(attention(x) - attention.to_out[0].bias)
    assert torch.allclose(sum(each) + attention.to_out[0].bias, plain, atol=1e-6)
    assert torch.equal(attention(x), plain)


def test_all_channels_of_a_feed_forward_are_all_that_it_adds() -> None:
    forward, x = FeedForward(8), torch.randn(1, 5, 8)
    parts = list(removables(forward))
    assert sum(part.parameters for part in parts) >= 2 * 8 * 32
    with without(parts):
        assert torch.allclose(forward(x), forward.net[-1].bias.expand_as(x))


def test_parts_go_in_order_of_what_they_cost_until_the_share_is_saved() -> None:
    pruning = Pruning(next(iter(JUDGES)), steps=2, prompts=1)
    order = pruning.parts
    taken = pruning.taken(order, 0.05)
    saved = [sum(part.parameters for part in taken[:count]) / pruning.whole for count in (len(taken) - 1, len(taken))]
    assert saved[0] < 0.05 <= saved[1]
    assert pruning.decibels([]) == 99.0 > pruning.decibels(taken)
