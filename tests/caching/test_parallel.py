"""Two processes that share a denoiser decide alike, whatever each of them measures (gloo, on the CPU)."""

import math
from types import SimpleNamespace

import pytest
import torch

from accel.caching import parallel
from accel.caching.methods.adacache import RatePolicy
from accel.caching.methods.firstblock import WithinThreshold
from accel.caching.policy import AccumulatedDistance
from accel.call import DenoiserCall
from accel.clock import StepContext
from tests.caching import ranks
from tests.caching.ranks import MODULES, PROBED, RANKS, SHARED, WHOLE
from tests.processes import needs_fork

pytestmark = needs_fork
ADAPTIVE = [(name, label) for name in SHARED for label in ("sea", *PROBED) if label in SHARED[name]]
BEFORE = [("before", label) for label in ("sea", "first block")]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What both ranks report, by scenario: a pair."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.start_processes(ranks.work, (folder,), nprocs=RANKS, start_method="fork")  # at once
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS))
    assert list(first) == list(second)
    return {scenario: (first[scenario], second[scenario]) for scenario in first}


def alike(pair):
    return all(pair[0][part] == pair[1][part] for part in ("timeline", "reasons", "reductions"))


def asunder(pair, *deciders):
    """The first step at which each rank, had it decided alone, would have gone another way, or None."""
    timeline = next(iter(pair[0]["timeline"].values()))
    for (step, one, _), (_, other, _) in zip(pair[0]["measured"], pair[1]["measured"], strict=True):
        if one is not None and 1 <= step < len(timeline) - 1:
            ways = {
                decider.decide(own, step, len(timeline)).skip
                for decider, own in zip(deciders, (one, other), strict=True)
            }
            if len(ways) > 1:
                return step
        if timeline[step] == "█":
            for decider in deciders:
                decider.after_compute()
    return None


@pytest.mark.parametrize("name", ["tea", "sea"])
def test_ranks_that_are_not_known_to_share_a_denoiser_decide_for_themselves(found, name):
    pair = found["apart", name]
    assert pair[0]["timeline"] != pair[1]["timeline"]
    assert pair[0]["reductions"] == pair[1]["reductions"] == 0


def test_ranks_that_share_a_denoiser_decide_by_the_largest_distance(found):
    """The signal of rank r is exp((1 + r) sigma), and sigma falls by a nineteenth of nearly one in each step."""
    pair = found["together", "tea"]
    assert alike(pair)
    fall = (1.0 - 0.001) / 19
    for rank in range(RANKS):
        for _, own, agreed in pair[rank]["measured"][1:]:
            assert own == pytest.approx(1.0 - math.exp(-(1 + rank) * fall), rel=1e-4)
            assert agreed == pytest.approx(1.0 - math.exp(-2 * fall), rel=1e-4)
    # 0.0998 in each step: the third sum since a computed step is above 0.25.
    assert pair[0]["timeline"] == {"pass 1": "█··█··█··█··█··█··██"}


def test_a_distance_that_is_not_a_number_computes_everywhere(found):
    pair = found["together", "not a number"]
    assert alike(pair)
    lost = [
        (mine[2], yours[2])
        for mine, yours in zip(pair[0]["measured"], pair[1]["measured"], strict=True)
        if yours[1] is not None and math.isnan(yours[1])
    ]
    assert len(lost) >= 9 and set(lost) == {(math.inf, math.inf)}
    assert pair[0]["timeline"]["pass 1"].endswith("█" * len(lost))


@pytest.mark.parametrize("scenario", [*(("together", name) for name in ("tea", "sea")), *ADAPTIVE, *BEFORE])
def test_the_largest_distance_counts_everywhere(found, scenario):
    pair = found[scenario]
    assert alike(pair)
    agreements = 0
    for (_, one, agreed), (_, other, agreed_too) in zip(pair[0]["measured"], pair[1]["measured"], strict=True):
        assert agreed == agreed_too == (None if one is None else pytest.approx(max(one, other), rel=1e-6))
        agreements += one is not None
    assert agreements > 0
    # DiCache also has an alignment from the third step on.
    assert pair[0]["reductions"] == agreements + (agreements - 1 if scenario[1] == "di" else 0)


@pytest.mark.parametrize("scenario", [*ADAPTIVE, *BEFORE])
def test_a_shared_transformer_skips_and_finishes_with_the_same_latents_everywhere(found, scenario):
    one, other = found[scenario]
    assert all("·" in timeline for timeline in one["timeline"].values())
    assert torch.equal(one["output"], other["output"])


@pytest.mark.parametrize(
    ("scenario", "decider"),
    [
        (("wan", "first block"), WithinThreshold),
        (("flux", "first block"), WithinThreshold),
        (("flux", "tea"), AccumulatedDistance),
    ],
)
def test_without_the_reduction_one_rank_would_wait_for_another_that_has_left(found, scenario, decider):
    threshold = {**WHOLE, **PROBED}[scenario[1]].threshold
    assert asunder(found[scenario], decider(threshold), decider(threshold)) is not None


def test_what_was_accelerated_before_its_denoiser_was_split_sees_the_latents_whole(found):
    """The layer goes on top of the hooks that split when the run begins, so that all ranks measure the same."""
    one, other = found["before", "sea"]
    assert [own for _, own, _ in one["measured"]] == [own for _, own, _ in other["measured"]]


@pytest.mark.parametrize("label", WHOLE)
def test_what_is_seen_whole_is_decided_as_on_one_device(found, label):
    alone, shared = found["alone", "wan", label][0], found["wan", label][0]
    assert shared["timeline"] == alone["timeline"]
    torch.testing.assert_close(shared["output"], alone["output"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scenario", [("together", "static"), ("wan", "static")])
def test_a_static_schedule_asks_nobody(found, scenario):
    pair = found[scenario]
    assert alike(pair) and "·" in next(iter(pair[0]["timeline"].values()))
    assert pair[0]["reductions"] == 0


@pytest.mark.parametrize("name", SHARED)
def test_leaving_early_leaves_nothing_half_done_in_the_hooks_that_split_and_gather(found, name):
    for plain, before, after in found["plain", name]:
        assert torch.equal(before, after)
        torch.testing.assert_close(after, plain, rtol=1e-4, atol=1e-4)


def test_module_reuse_takes_its_rate_from_the_largest_change(found):
    pair = found["wan", "ada"]
    assert alike(pair) and torch.equal(pair[0]["output"], pair[1]["output"])
    assert any(reason.startswith("reuses") for reason in pair[0]["reasons"])
    cache = MODULES["ada"]
    rate, last, differed = RatePolicy(cache.codebook, cache.otherwise, frozenset(), None).rate, 0, False
    for (step, one, agreed), (_, other, _) in zip(pair[0]["measured"], pair[1]["measured"], strict=True):
        if one is not None:
            assert agreed == pytest.approx(max(one, other), rel=1e-6)
            differed |= rate(one / (step - last)) != rate(other / (step - last))
            last = step
    assert differed  # alone, one rank would have reused for longer than the other


def test_one_device_pays_nothing(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("no reduction is needed")

    monkeypatch.setattr(torch.distributed, "all_reduce", refuse)
    for config in (None, SimpleNamespace(context_parallel_config=None, tensor_parallel_config=object())):
        module = torch.nn.Identity()
        module._parallel_config = config
        context = StepContext(run=1, step=3, position=3, total=10, sigma=0.5)
        call = DenoiserCall("transformer", "cond", True, context, (), {}, [torch.zeros(1)], module, {})
        alignment = torch.ones(1)
        assert parallel.largest(call, 0.5) == 0.5 and parallel.largest(call, None) is None
        assert parallel.average(call, alignment) is alignment and parallel.average(call, None) is None
        assert parallel.parts_here(module, [torch.zeros(1, 4, 2)]) == []
