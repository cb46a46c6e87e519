"""Token merging: the matching is the plain loop's, equal tokens are merged without a trace, and a merged U-Net is the
one whose self-attentions are given the means."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import accel
from accel import TokenMerging
from accel.attention.layout import TokenLayout
from accel.attention.unets import token_merging
from accel.attention.unets.token_merging import Merging, MergingPlanner, destinations, match_tokens
from accel.method import from_dict
from tests.accel.residue import of_denoisers, raising_in_call, traces
from tests.accel.witness import pipeline as tiny_pipeline
from tests.accel.witness import plain as tiny_plain
from tests.attention.by_the_letter import ask, random
from tests.attention.unets.tiny import TINY, build, pipeline, plain
from tests.tiny import run

NAMES = ("sd", "sdxl")
FORCED = TokenMerging(min_tokens=0)
every_unet = pytest.mark.parametrize("name", NAMES)


def accelerated(name: str, method: TokenMerging, **options: Any) -> tuple[torch.Tensor, accel.Report]:
    with accel.accelerate(pipeline(name), accel.Recipe(attention=method)) as session:
        return run(pipeline(name), TINY[name], **options), session.report()


# Matching


def by_loops(metric: torch.Tensor, kept: list[int], count: int) -> dict[int, int]:
    """Which token is merged into which, of one sample."""
    best: dict[int, tuple[float, int]] = {}
    for token in range(len(metric)):
        if token not in kept:
            cosines = [float(F.cosine_similarity(metric[token], metric[end], dim=0)) for end in kept]
            best[token] = max(cosines), kept[cosines.index(max(cosines))]
    ranked = sorted(best, key=lambda token: -best[token][0])
    return {token: best[token][1] for token in ranked[:count]}


@pytest.mark.parametrize(("height", "width", "stride"), [(6, 8, 2), (5, 7, 2), (7, 9, 3)])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.99])
def test_matching_is_the_plain_loops(
    height: int, width: int, stride: int, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_merging, "CHUNK", 64)  # several chunks
    layout = TokenLayout(1, height, width)
    metric = torch.randn(2, layout.tokens, 6)
    kept = destinations(layout, stride, seed=3)
    count = int(ratio * layout.tokens)
    merging = match_tokens(metric, kept, count)
    tokens = torch.randn(2, 3, layout.tokens, 5)
    merged = merging.merged(tokens)
    for sample in range(2):
        into = by_loops(metric[sample], kept.tolist(), count)
        assert dict(zip(merging.sources[sample].tolist(), merging.order[sample][merging.targets[sample]].tolist(),
                        strict=True)) == into  # fmt: skip
        remain = [token for token in range(layout.tokens) if token not in into]
        assert sorted(merging.order[sample].tolist()) == remain
        for place, token in enumerate(merging.order[sample].tolist()):
            group = [token, *(source for source, end in into.items() if end == token)]
            assert all(int(merging.places[sample][member]) == place for member in group)
            torch.testing.assert_close(merged[sample, :, place], tokens[sample][:, group].mean(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_tokens_are_merged_and_unmerged_without_a_trace(dtype: torch.dtype) -> None:
    """Four kinds of tokens, each a corner of the picture: three quarters can go and nothing is lost, to the bit."""
    kinds = torch.randn(2, 3, 2, 2, 8).to(dtype)
    tokens = kinds.repeat_interleave(6, 2).repeat_interleave(6, 3).flatten(2, 3)
    kept = destinations(TokenLayout(1, 12, 12), 2, seed=0)
    merging = match_tokens(tokens.float().mean(1), kept, 108)
    assert merging.merged_tokens == 108 and merging.merged(tokens).shape == (2, 3, 36, 8)
    assert torch.equal(merging.unmerged(merging.merged(tokens)), tokens)


@pytest.mark.parametrize(("height", "width", "stride"), [(8, 8, 2), (7, 9, 2), (9, 13, 4)])
def test_every_cell_has_one_destination(height: int, width: int, stride: int) -> None:
    layout = TokenLayout(2, height, width)
    cells = math.ceil(height / stride) * math.ceil(width / stride)
    drawn = [destinations(layout, stride, seed) for seed in range(20)]
    for tokens in drawn:
        row, column, frame = tokens % layout.frame // width, tokens % width, tokens // layout.frame
        cell = frame * cells + row // stride * math.ceil(width / stride) + column // stride
        assert sorted(cell.tolist()) == list(range(2 * cells))
    assert set(torch.cat(drawn).tolist()) == set(range(layout.tokens)) or stride == 4
    assert torch.equal(drawn[0], destinations(layout, stride, 0)) and not torch.equal(drawn[0], drawn[1])


# The attention


def merged_by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, merging: Merging, queries: bool) -> torch.Tensor:
    """Sample by sample, with means over lists of tokens."""
    out = torch.empty_like(q)
    for sample, places in enumerate(merging.places.tolist()):
        groups = [[token for token, at in enumerate(places) if at == place] for place in range(max(places) + 1)]
        means = [torch.stack([one[sample][:, group].mean(1) for group in groups], 1) for one in (q, k, v)]
        asking = means[0] if queries else q[sample]
        answer = ((asking @ means[1].mT) * q.shape[-1] ** -0.5).softmax(-1) @ means[2]
        out[sample] = answer[:, places] if queries else answer
    return out


@pytest.mark.parametrize("queries", [True, False])
def test_attention_among_the_means(queries: bool) -> None:
    layout = TokenLayout(1, 6, 7)
    q, k, v = random(layout, samples=2)
    inputs = ask(q, k, layout, v)
    planner = MergingPlanner(replace(FORCED, queries=queries), {"transformer": ("blocks.",)})
    answer = planner.compute(inputs)
    assert answer is not None
    drawn = token_merging.random.Random(f"0 0 {inputs.site.path}").getrandbits(62)
    merging = match_tokens(k.mean(1), destinations(layout, 2, drawn), 21)
    torch.testing.assert_close(answer.output, merged_by_hand(q, k, v, merging, queries), atol=1e-5, rtol=1e-5)
    assert answer.density == (0.25 if queries else 0.5)
    assert MergingPlanner(FORCED, {"transformer": ("other.",)}).compute(inputs) is None


def test_means_of_projections_are_projections_of_means() -> None:
    """So it makes no difference that tokens are merged behind the projections and not in front of them."""
    layout = TokenLayout(1, 6, 6)
    hidden = torch.randn(1, 1, layout.tokens, 12)
    merging = match_tokens(hidden[:, 0], destinations(layout, 2, 0), 18)
    project = torch.nn.Linear(12, 20)
    torch.testing.assert_close(merging.merged(project(hidden)), project(merging.merged(hidden)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        merging.unmerged(project(hidden[:, :, :18])), project(merging.unmerged(hidden[:, :, :18]))
    )


@pytest.mark.part(1)
@every_unet
def test_a_ratio_of_zero_changes_no_bit(name: str) -> None:
    output, report = accelerated(name, replace(FORCED, ratio=0.0), steps=2)
    assert torch.equal(output, plain(name, steps=2))
    assert not report.levers[0].engaged and "as the method chose" in report.levers[0].reason


@pytest.mark.part(1)
@every_unet
@pytest.mark.parametrize("options", [{}, {"size": "other", "batch": 2}, {"guidance": False}], ids=str)
def test_only_the_self_attentions_of_the_highest_resolution_are_merged(name: str, options: dict[str, Any]) -> None:
    output, report = accelerated(name, FORCED, steps=2, **options)
    again, _ = accelerated(name, FORCED, steps=2, **options)
    assert torch.equal(output, again)
    assert not torch.allclose(output, plain(name, steps=2, **options), atol=1e-2)
    assert not torch.allclose(output, accelerated(name, replace(FORCED, seed=1), steps=2, **options)[0], atol=1e-3)
    calls, merged, every = (3, 5, 16) if name == "sd" else (2, 10, 22)
    assert report.levers[0].reason.startswith(
        f"{calls * merged} of {calls * every} self-attentions sparse, computing 2"  # 25 to 27 %: odd sizes round up
    )
    assert "(kernel token merging)" in report.levers[0].reason


def test_samples_do_not_mix() -> None:
    batch, _ = accelerated("sd", FORCED, steps=2, batch=2)
    for sample in range(2):
        alone, _ = accelerated("sd", FORCED, steps=2, seed=sample, prompt=sample)
        torch.testing.assert_close(batch[sample : sample + 1], alone, atol=1e-3, rtol=1e-3)


def test_small_pictures_are_left_alone() -> None:
    output, report = accelerated("sd", TokenMerging(), steps=2)
    assert torch.equal(output, plain("sd", steps=2))
    assert "too short to gain (256 tokens, from 512 on it pays: min_tokens)" in report.levers[0].reason


@pytest.mark.parametrize(("side", "merges"), [(32, False), (40, True)])
def test_where_merging_costs_more_than_it_saves_it_is_left_out(side: int, merges: bool) -> None:
    layout = TokenLayout(1, side, side)
    inputs = ask(*random(layout)[:2], layout)
    planner = MergingPlanner(TokenMerging(), {"transformer": ("blocks.",)})
    assert (planner.compute(inputs) is not None) == merges


@pytest.mark.part(1)
@every_unet
@pytest.mark.parametrize(
    "recipe",
    [
        accel.Recipe(cache=accel.FixedInterval(2, warmup=1, final=0, min_steps=1)),
        accel.Recipe(cache=accel.FORA(2, warmup=1, final=0, min_steps=1)),
        accel.Recipe(cache=accel.DeepCache(2, 1, min_steps=1)),
        accel.Recipe(guidance=accel.GuidanceInterval(0.0, 0.7)),
    ],
    ids=lambda recipe: recipe.label,
)
def test_beside_caches_and_guidance(name: str, recipe: accel.Recipe) -> None:
    with accel.accelerate(pipeline(name), replace(recipe, attention=FORCED)) as session:
        output = run(pipeline(name), TINY[name], steps=6)
    assert output.isfinite().all() and all(lever.engaged for lever in session.report().levers)


def test_restore_and_exceptions_leave_no_trace() -> None:
    pipe = build("sd")
    run(pipe, TINY["sd"], steps=2)
    before = of_denoisers(pipe)
    with accel.accelerate(pipe, accel.Recipe(attention=FORCED)):
        handle = pipe.unet.get_submodule("up_blocks.3.attentions.1").register_forward_pre_hook(raising_in_call(2))
        with pytest.raises(InterruptedError):
            run(pipe, TINY["sd"], steps=2)
        handle.remove()
        run(pipe, TINY["sd"], steps=2)
    assert of_denoisers(pipe) == before and traces(pipe) == []
    assert torch.equal(run(pipe, TINY["sd"], steps=2), plain("sd", steps=2))


@pytest.mark.part(2)
@pytest.mark.parametrize("name", ["wan", "flux", "sd3", "pixart", "animatediff", "svd"])
def test_other_models_are_left_alone_and_the_report_says_why(name: str) -> None:
    with accel.accelerate(tiny_pipeline(name), accel.Recipe(attention=FORCED)) as session:
        assert torch.equal(run(tiny_pipeline(name), TINY[name], steps=2), tiny_plain(name, steps=2))
    report = session.report().levers[0]
    assert not report.engaged
    assert report.reason.startswith("TokenMerging is worked out for the U-Nets of Stable Diffusion 1.5, 2.1 and SDXL")


def test_parameters_survive_a_file_and_are_checked() -> None:
    method = TokenMerging(0.4, stride=4, queries=False)
    assert from_dict("attention", method.to_dict(), "attention") == method
    with pytest.raises(TypeError, match=r"TokenMerging\.queries must be True or False"):
        TokenMerging(queries=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"TokenMerging\.ratio must be a number from 0 to 0.99"):
        TokenMerging(1.0)
