"""A kept hidden state is held, or goes on along a line as far as the last one should have gone."""

from __future__ import annotations

import pytest
import torch

from accel.caching.kept_feature import KeptFeature

DRAW = torch.Generator().manual_seed(0)
START, WAY = torch.randn(2, 3, 4, 4, generator=DRAW), torch.randn(2, 3, 4, 4, generator=DRAW)


def kept(line: float, times: list[float], values: list[torch.Tensor]) -> KeptFeature:
    feature = KeptFeature(line)
    for time, value in zip(times, values, strict=True):
        feature.keep(time, [value])
    return feature


def straight(time: float) -> torch.Tensor:
    return START + (1.0 - time) * WAY


def test_without_a_line_the_last_is_held_and_nothing_else() -> None:
    feature = kept(0.0, [1.0, 0.8], [straight(1.0), straight(0.8)])
    assert torch.equal(feature.at(0.7)[0], straight(0.8))
    assert len(feature.tensors) == 1


def test_what_is_handed_out_may_be_written_into() -> None:
    feature = kept(0.0, [1.0], [straight(1.0)])
    feature.at(0.9)[0].zero_()
    assert torch.equal(feature.at(0.9)[0], straight(1.0))


def test_a_line_is_followed_all_the_way_where_it_was_right() -> None:
    feature = kept(1.0, [1.0, 0.9, 0.7], [straight(1.0), straight(0.9), straight(0.7)])
    torch.testing.assert_close(feature.at(0.6)[0], straight(0.6))


def test_it_goes_at_most_so_far() -> None:
    feature = kept(0.5, [1.0, 0.9, 0.7], [straight(1.0), straight(0.9), straight(0.7)])
    torch.testing.assert_close(feature.at(0.6)[0], straight(0.65))


def test_each_sample_stays_where_its_line_would_have_been_wrong() -> None:
    turned = straight(0.8)
    turned[0] = straight(1.0)[0]  # it went back
    feature = kept(1.0, [1.0, 0.9, 0.8], [straight(1.0), straight(0.9), turned])
    found = feature.at(0.7)[0]
    torch.testing.assert_close(found[0], turned[0])
    torch.testing.assert_close(found[1], straight(0.7)[1])


@pytest.mark.parametrize("times", [[1.0, 1.0], [1.0, 0.9, 0.9]])
def test_two_states_of_one_time_say_nothing_of_a_way(times: list[float]) -> None:
    """Heun's method evaluates a noise level twice."""
    values = [straight(1.0), straight(0.9), straight(0.8)][: len(times)]
    assert torch.equal(kept(1.0, times, values).at(0.5)[0], values[-1])


def test_the_data_type_stays() -> None:
    feature = kept(1.0, [1.0, 0.9], [straight(1.0).half(), straight(0.9).half()])
    assert feature.at(0.8)[0].dtype == torch.float16
