"""One recording without caching yields every constant: what is planted is recovered, decisions are foretold."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import accel
from accel import (
    FORA,
    AdaCache,
    DBCache,
    DiCache,
    EasyCache,
    Extrapolate,
    FirstBlockCache,
    FixedInterval,
    MagCache,
    SeaCache,
    SmoothCache,
    StaticSchedule,
    TeaCache,
    calibrate,
)
from accel.caching.calibration import files
from accel.caching.calibration.calibration import Calibration
from accel.caching.calibration.recorder import RunRecord
from accel.caching.calibration.simulate import compute_masks
from accel.caching.calibration.table import LAGS
from tests.accel.residue import snapshot, traces
from tests.accel.witness import witness
from tests.caching.toy import ToyPipeline
from tests.tiny import TINY, run

EXPERTS = "wan_two_experts"


def recorded(name: str = "wan", steps: int = 12, prompts: int = 2, **options: Any) -> tuple[Any, Calibration]:
    """A tiny pipeline and its calibration, which is made once: nothing changes a calibration."""
    return TINY[name].build(), calibration_of(name, steps, prompts, **options)


@functools.cache
def calibration_of(name: str, steps: int, prompts: int, **options: Any) -> Calibration:
    def generate(pipe: Any, _: str, index: int) -> None:
        run(pipe, TINY[name], steps=steps, seed=index, prompt=index)

    return calibrate(TINY[name].build(), ["x"] * prompts, generate=generate, **options)


def of_forty_steps() -> Calibration:
    return recorded(steps=40, prompts=1)[1]


def computed(pipe: Any, method: Any, **options: Any) -> tuple[bool, ...]:
    """What a real run computes, leading calls only."""
    with accel.accelerate(pipe, cache=method) as session:
        pipe(**options)
    calls = {(call.run, call.step): call.action == "computed" for call in reversed(session.report().calls)}
    return tuple(calls[key] for key in sorted(calls))


def linear(latents: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.full_like(latents, 3.0 - 2.0 * sigma)


def sigmas_of(pipe: Any, steps: int) -> list[float]:
    pipe.scheduler.set_timesteps(steps)
    return pipe.scheduler.sigmas[:steps].tolist()


# What is planted is recovered


def test_magcache_ratios_recover_the_planted_residual_norms():
    norms = {}

    def formula(latents, sigma):
        norms[sigma] = 1.0 + sigma**2
        return latents + norms[sigma] * torch.ones_like(latents)

    ratios = calibrate(ToyPipeline(formula), ["x"], num_inference_steps=12).magcache().ratios
    expected = [1.0] + [now / before for before, now in pairwise(norms.values())]
    assert ratios == pytest.approx(expected, rel=1e-4)


def test_teacache_polynomial_recovers_the_planted_relation():
    """The output moves exactly as the signal does: P(d) = d."""

    def formula(latents, sigma):
        return torch.full_like(latents, (1.0 + sigma) ** 2)

    pipe = ToyPipeline(formula, lambda sigma: (1.0 + sigma) ** 2)
    calibration = calibrate(pipe, ["x"], num_inference_steps=30)
    fitted = calibration.teacache(degree=1, warmup=4)
    assert fitted.coefficients == pytest.approx((1.0, 0.0), abs=1e-4)
    assert (fitted.signal, fitted.warmup) == ("modulated_input", 4)
    assert calibration.fit_quality(degree=1) == pytest.approx(1.0, abs=1e-6)
    assert calibration.signals()["modulated_input"] == pytest.approx(1.0)
    changes = [(a - b) / a for a, b in pairwise((1.0 + sigma) ** 2 for sigma in sigmas_of(pipe, 30))]
    assert fitted.fitted_range == pytest.approx((min(changes), max(changes)), rel=1e-4)


def test_inner_products_are_those_of_the_answers():
    """answer = a(sigma) u + b(sigma) w with u and w orthogonal, of mean square 1."""
    u, w = torch.ones(1, 2, 4, 4), torch.tensor([1.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    pipe = ToyPipeline(lambda latents, sigma: (1.0 + sigma) * u + sigma**2 * w)
    (table,) = calibrate(pipe, ["x", "y"], num_inference_steps=10).tables
    coordinates = np.array([(1.0 + sigma, sigma**2) for sigma in sigmas_of(pipe, 10)])
    np.testing.assert_allclose(table.inner_products(), coordinates @ coordinates.T, rtol=1e-6)
    features = table.features()
    assert features.shape == (10, 2)
    np.testing.assert_allclose(features @ features.T, coordinates @ coordinates.T, rtol=1e-6)


@pytest.mark.parametrize("batched", [False, True])
def test_guidance_multiplies_the_difference_of_its_streams(batched):
    """answers: c = 1 + sigma and u = sigma^2; products: (c c + u u) / 2 + scale^2 / 2 (c - u)(c - u)."""
    course = RunRecord("transformer", ())
    sigmas = np.linspace(1.0, 0.1, 8)
    for sigma in sigmas:
        course.rows.append(None)
        c, u = torch.full((1, 5), 1 + sigma), torch.full((1, 5), sigma**2)
        for name, value in {"all": torch.cat([c, u])}.items() if batched else {"cond": c, "uncond": u}.items():
            course.outputs.setdefault(name, []).append(value)
        course.inputs.append(torch.ones(2 if batched else 1, 5))
    c, u = 1 + sigmas, sigmas**2
    plain = (np.outer(c, c) + np.outer(u, u)) / 2
    np.testing.assert_allclose(course.inner_products(1.0), plain, rtol=1e-6)
    guided = plain + 4.0**2 / 2 * np.outer(c - u, c - u)
    np.testing.assert_allclose(course.inner_products(4.0), guided, rtol=1e-6)


def test_streams_that_come_and_go_leave_nothing_to_plan_with():
    class Shrinking(ToyPipeline):
        def __call__(self, prompt: str = "", **_: Any) -> None:
            self.scheduler.set_timesteps(12)
            latents = torch.ones(2, 2, 4, 4)
            for index, timestep in enumerate(self.scheduler.timesteps):
                part = latents[: 1 if index > 6 else 2]
                prediction = self.transformer(part, timestep)[0]
                latents = self.scheduler.step(prediction[:1].expand(2, -1, -1, -1), timestep, latents)[0]

    calibration = calibrate(Shrinking(linear), ["x"])
    assert calibration.compute(FixedInterval(2)) < 1
    with pytest.raises(ValueError, match="no stream that was there in every step"):
        calibration.schedule(0.5)


def test_answers_of_models_that_predict_noise_are_their_clean_estimates():
    pipe = TINY["sdxl"].build()
    with witness(pipe) as seen:
        calibration = calibrate(
            pipe, ["x"], generate=lambda pipe, *_: run(pipe, TINY["sdxl"], steps=12, guidance=False)
        )
    assert calibration.key.prediction == "epsilon"
    energies = np.diag(calibration.tables[0].inner_products())
    for exchange, energy in zip(seen.exchanges, energies, strict=True):
        a, b = 1 / math.sqrt(1 + exchange.sigma**2), exchange.sigma / math.sqrt(1 + exchange.sigma**2)
        clean = (exchange.latents[0] - b * exchange.outputs[0]) / a
        assert energy == pytest.approx(float((clean**2).mean()), rel=1e-4)


def test_rates_and_moves_are_easycaches():
    """in moves by (sigma' - sigma) out; out = 3 - 2 sigma, so it moves by 2 (sigma - sigma')."""
    pipe = ToyPipeline(linear)
    (table,) = calibrate(pipe, ["x"], num_inference_steps=12).tables
    (trace,) = table.runs
    sigmas = sigmas_of(pipe, 12)
    outs = [3 - 2 * sigma for sigma in sigmas]
    ins = [1.0]
    for index in range(11):
        ins.append(ins[-1] + (sigmas[index + 1] - sigmas[index]) * outs[index])
    assert trace.sizes == pytest.approx(outs, rel=1e-4)
    assert trace.moves == pytest.approx([0, *(abs(b - a) for a, b in pairwise(ins))], rel=1e-3)
    assert [len(row) for row in trace.rates] == [min(step, LAGS) for step in range(12)]
    assert trace.rates[9][2] == pytest.approx((outs[9] - outs[6]) / abs(ins[9] - ins[6]), rel=1e-3)


def test_drifts_are_distances_of_the_first_blocks_residual_over_several_steps():
    """Block 0 adds 1 + sigma, block 1 adds sigma: after one block 1 + sigma is left, after two 1 + 2 sigma."""
    pipe = ToyPipeline(linear)
    pipe.transformer = Stack()
    (table,) = calibrate(pipe, ["x"], num_inference_steps=12).tables
    (trace,) = table.runs
    sigmas = sigmas_of(pipe, 12)
    assert list(trace.drifts) == [1, 2]
    for depth, residual in ((1, lambda s: 1 + s), (2, lambda s: 1 + 2 * s)):
        for step, row in enumerate(trace.drifts[depth]):
            then = [residual(sigma) for sigma in sigmas[max(step - LAGS, 0) : step]][::-1]
            assert row == pytest.approx([(old - residual(sigmas[step])) / old for old in then], rel=2e-3)
    assert trace.changes["first_block"][1:] == pytest.approx([row[0] for row in trace.drifts[1][1:]], rel=1e-3)


class Stack(torch.nn.Module):
    """Three blocks on tokens that start as ones; the output is `linear`."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([Adds() for _ in range(3)])
        self.config = {"in_channels": 2}

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor) -> tuple[torch.Tensor]:
        sigma = float(timestep) / 1000
        tokens = torch.ones(1, 3, 4)
        for block, amount in zip(self.blocks, (1 + sigma, sigma, 0.0), strict=True):
            tokens = block(tokens, amount)
        return (linear(hidden_states, sigma),)


class Adds(torch.nn.Module):
    def forward(self, hidden_states: torch.Tensor, amount: float) -> torch.Tensor:
        return hidden_states + amount


def test_layer_errors_are_those_of_the_outputs():
    """The toy's attention gives 1 + sigma for every element."""
    pipe = ToyPipeline(lambda latents, sigma: latents)
    method = calibrate(pipe, ["x", "y"], layer_lags=2, num_inference_steps=10).smoothcache()
    ((denoiser, kind, rows),) = method.errors
    assert (denoiser, kind, len(rows), method.most) == ("transformer", "self_attention", 10, 2)
    sigmas = sigmas_of(pipe, 10)
    for step, row in enumerate(rows):
        later = [1 + sigma for sigma in sigmas[step + 1 : step + 3]]
        expected = [abs(1 + sigmas[step] - value) / value for value in later]
        assert row == pytest.approx((sigmas[step], *expected), rel=1e-4)


# What is simulated is what happens


@pytest.mark.part(2)
@pytest.mark.parametrize(
    "method",
    [
        FixedInterval(3),
        FixedInterval(2, warmup=5, final=3, max_skips=1),
        StaticSchedule((1.0, 0.9, 0.3, 0.25, 0.001)),
        MagCache(0.08, 3, 0.1),
        MagCache(0.5, 6),
        TeaCache(0.03),
        TeaCache(0.2, max_skips=3),
        EasyCache(0.05),
        EasyCache(0.3, warmup=2),
        SeaCache(0.15),
        SeaCache(0.4, max_skips=6),
    ],
    ids=str,
)
def test_simulated_decisions_are_the_real_ones_where_forecasts_are_exact(method):
    """The answers are linear in sigma, so that a run with forecasts is the run without."""
    pipe = ToyPipeline(linear)
    calibration = calibrate(pipe, ["x"], num_inference_steps=30)
    method = replace(method, predictor=Extrapolate(1, corrector=0, reach=9.0), warmup=max(method.warmup, 2))
    method = method.fitted(calibration)
    (foretold,) = compute_masks(method, calibration.tables)
    assert not all(foretold)
    assert foretold == computed(pipe, method, num_inference_steps=30)


@pytest.mark.parametrize("method", [FirstBlockCache(0.1), DBCache(0.2, first=2, warmup=3), DiCache(0.1)], ids=str)
def test_probes_are_simulated_exactly_where_tokens_do_not_depend_on_the_answers(method):
    pipe = ToyPipeline(linear)
    pipe.transformer = Stack()
    calibration = calibrate(pipe, ["x"], num_inference_steps=24)
    (foretold,) = compute_masks(method, calibration.tables)
    assert not all(foretold)
    assert foretold == computed(pipe, method, num_inference_steps=24)


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", EXPERTS, "sd", "flux_img2img"])
def test_content_free_schedules_are_simulated_exactly_on_real_models(name):
    """Time embeddings, ratios and noise levels do not depend on the outputs."""
    pipe, calibration = recorded(name, steps=14, prompts=1)
    methods = (
        calibration.teacache(0.3, signal="time_embedding", degree=2),
        calibration.magcache(1.0, retention=0.1),
        calibration.schedule(0.5),
    )
    for method in methods:
        simulated = set(compute_masks(method, calibration.tables))
        (only,) = simulated
        assert not all(only)
        with accel.accelerate(pipe, cache=method) as session:
            run(pipe, TINY[name], steps=14)
        actions = {call.step: call.action == "computed" for call in session.report().calls}
        assert only == tuple(actions[step] for step in sorted(actions))


@pytest.mark.part(1)
@pytest.mark.parametrize("method", [SmoothCache(), FORA()])
def test_shares_of_reused_modules_are_simulated(method):
    pipe, calibration = recorded(prompts=1)
    method = calibration.threshold(method, 0.6)
    with accel.accelerate(pipe, cache=method) as session:
        run(pipe, TINY["wan"])  # once more than recorded, with another number of steps
        run(pipe, TINY["wan"], steps=12)
    reason = session.report().levers[0].reason
    reused, calls = (int(word) for word in reason.split(" module")[0].split(" of "))
    assert calibration.compute(method) == pytest.approx(1 - reused / calls, abs=1e-9)
    assert calibration.compute(method) == pytest.approx(0.6, abs=0.1)


@pytest.mark.part(1)
@pytest.mark.parametrize("compute", [0.35, 0.5, 0.8])
def test_thresholds_compute_the_wanted_fraction(compute):
    calibration = of_forty_steps()
    guards = {"warmup": 2, "max_skips": 20}
    methods = [SeaCache(**guards), EasyCache(**guards), TeaCache(**guards), FirstBlockCache(**guards)]
    methods += [MagCache(most=20, retention=0.0), DiCache(retention=0.0), DBCache(first=1, **guards), SmoothCache()]
    for method in methods:
        assert calibration.compute(calibration.threshold(method, compute)) == pytest.approx(compute, abs=0.04)
    away = {n: abs(calibration.compute(FixedInterval(n)) - compute) for n in range(1, 10)}
    assert away[calibration.threshold(FixedInterval(), compute).interval] == min(away.values())


@pytest.mark.slow
def test_a_threshold_holds_on_a_trained_model():
    """On the pocket model, with a prompt that was not recorded."""
    from accel import pocket

    pipe = pocket.load("video")
    pipe.set_progress_bar_config(disable=True)
    prompts, options = pocket.prompts(3, seed=5), {"num_inference_steps": 50, "num_frames": 9}
    calibration = calibrate(pipe, prompts[:2], layer_lags=0, **options)
    assert calibration.check(pipe) == []
    method = calibration.threshold(SeaCache(), 0.5)
    with accel.accelerate(pipe, cache=method) as session:
        pipe(prompts[2], generator=torch.Generator().manual_seed(7), **options)
    report = session.report()
    assert report.computed / len(report.calls) == pytest.approx(0.5, abs=0.1)
    assert calibration.fit_quality("time_embedding") > 0.8


def test_what_cannot_be_simulated_says_so():
    _, calibration = recorded(prompts=1, layer_lags=0)
    cases = [
        (lambda: calibration.threshold(AdaCache(), 0.5), "AdaCache cannot be simulated"),
        (lambda: calibration.compute(AdaCache()), "AdaCache cannot be simulated"),
        (lambda: calibration.compute(accel.OptimalSchedule(0.5)), "OptimalSchedule cannot be simulated; accel.compare"),
        (lambda: calibration.compute(SeaCache(power=2.0)), "power=0"),
        (lambda: calibration.compute(DiCache(depth=2)), "depth=1"),
        (lambda: calibration.compute(DBCache(first=8)), r"behind 8 blocks: recorded for the transformer are 1\."),
        (lambda: calibration.threshold(SeaCache(), 0.1), "whatever its threshold.*warmup=1, final=1, max_skips=2"),
        (lambda: calibration.threshold(SeaCache(), 1.5), "above 0 and at most 1"),
        (lambda: calibration.threshold(SmoothCache(), 0.5), "layer_lags=0"),
        (lambda: calibration.teacache(signal="nothing"), "must be one of auto, modulated_input"),
        (lambda: calibration.teacache(degree=99), "needs more than 99 different changes"),
        (lambda: calibration.schedule(0.5, steps=1), "steps must be a whole number from 2"),
    ]
    for make, sentence in cases:
        with pytest.raises(ValueError, match=sentence):
            make()
    toy = calibrate(ToyPipeline(linear), ["x"])
    for make, sentence in [
        (lambda: toy.teacache(signal="time_embedding"), "no time embedding"),
        (lambda: toy.compute(DiCache()), "no block output in the records"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            make()


# Two experts


def test_each_expert_has_a_table_of_its_own():
    pipe, calibration = recorded(EXPERTS, steps=16, prompts=1)
    first, second = calibration.tables
    assert (first.denoiser, second.denoiser) == ("transformer", "transformer_2")
    assert (first.start, second.start, calibration.steps) == (0, first.steps, 16)
    assert first.section[-1] == second.sigmas[0]
    ratios = calibration.magcache().ratios
    assert (len(ratios), ratios[0], ratios[second.start]) == (16, 1.0, 1.0)
    method = calibration.teacache(0.2, signal="time_embedding", degree=2)
    assert [name for name, _, _ in method.experts] == ["transformer", "transformer_2"]
    assert method.experts[0][1] != method.experts[1][1]
    assert accel.Recipe.from_dict(accel.Recipe(cache=method).to_dict()).cache == method
    for cache in (method, calibration.magcache(1.0), calibration.smoothcache(0.3), calibration.schedule(0.5)):
        with accel.accelerate(pipe, cache=cache) as session:
            run(pipe, TINY[EXPERTS], steps=16, guidance=False)
        assert session.report().levers[0].engaged


def test_nothing_is_interpolated_from_one_expert_to_the_other():
    _, calibration = recorded(EXPERTS, steps=16, prompts=1)
    first, second = calibration.tables
    finer = calibration.resample(np.interp(np.linspace(0, 16, 41), np.arange(17), calibration.sigmas).tolist())
    one, other = finer.tables
    assert (one.steps + other.steps, other.start) == (40, one.steps)
    assert min(one.sigmas) >= (first.sigmas[-1] + second.sigmas[0]) / 2 > max(other.sigmas)
    assert (one.ratios[0], other.ratios[0]) == (1.0, 1.0)
    assert math.isnan(other.runs[0].changes["output"][0])
    assert np.diag(other.inner_products())[0] == pytest.approx(np.diag(second.inner_products())[0], rel=0.05)


def test_bad_experts_get_a_sentence():
    for experts in ((), (("transformer", (1.0,)),), (("transformer", ("x",), None),), "transformer"):
        with pytest.raises(ValueError, match=r"TeaCache\.experts must be rows"):
            TeaCache(experts=experts)


# Other noise levels


def test_resampling_to_the_recorded_noise_levels_changes_nothing():
    _, calibration = recorded(prompts=1)
    (table,), (same,) = calibration.tables, calibration.resample(calibration.sigmas).tables
    np.testing.assert_allclose(same.inner_products(), table.inner_products(), rtol=1e-7)
    assert same.ratios == pytest.approx(table.ratios, rel=1e-5)
    assert same.runs[0].changes["spectral"][1:] == pytest.approx(table.runs[0].changes["spectral"][1:], rel=1e-4)
    for depth, rows in table.runs[0].drifts.items():
        for row, other in zip(rows, same.runs[0].drifts[depth], strict=True):
            assert other == pytest.approx(row, rel=1e-3)
    assert calibration.schedule(0.5, steps=12) == calibration.schedule(0.5)


def test_every_second_step_has_sums_of_changes_and_products_of_ratios():
    _, calibration = recorded(prompts=1)
    (table,) = calibration.tables
    (half,) = calibration.resample([*table.sigmas[::2], table.section[-1]]).tables
    changes, moves = table.runs[0].changes["latents"], table.runs[0].moves
    for step in range(1, 6):
        now = 2 * step
        assert half.ratios[step] == pytest.approx(table.ratios[now] * table.ratios[now - 1], rel=1e-4)
        assert half.runs[0].changes["latents"][step] == pytest.approx(changes[now] + changes[now - 1], rel=1e-3)
        assert half.runs[0].moves[step] == pytest.approx(moves[now] + moves[now - 1], rel=1e-3)
        assert half.runs[0].drifts[1][step][0] == pytest.approx(table.runs[0].drifts[1][now][1], rel=1e-2)
    np.testing.assert_allclose(half.inner_products(), table.inner_products()[::2, ::2], rtol=1e-6)


def test_answers_that_are_a_parabola_in_noise_level_are_resampled_exactly():
    pipe = ToyPipeline(lambda latents, sigma: torch.full_like(latents, 1.0 + sigma - 3.0 * sigma**2))
    calibration = calibrate(pipe, ["x"], num_inference_steps=10)
    wanted = [1.0, 0.93, 0.77, 0.5, 0.31, 0.12, 0.05]
    (table,) = calibration.resample([*wanted, 0.0]).tables
    answers = np.array([1.0 + sigma - 3.0 * sigma**2 for sigma in wanted])
    np.testing.assert_allclose(table.inner_products(), np.outer(answers, answers), atol=1e-5)


@pytest.mark.parametrize("steps", [7, 19, 40])
def test_a_schedule_for_another_step_count_computes_as_much(steps):
    calibration = calibrate(pipe := ToyPipeline(lambda x, sigma: x * sigma), ["x"], num_inference_steps=20)
    method = replace(calibration.schedule(0.6, steps=steps), min_steps=1)
    taken = computed(pipe, method, num_inference_steps=steps)
    assert sum(taken) == len(method.sigmas) == pytest.approx(0.6 * steps, abs=1)
    sigmas = pipe.scheduler.sigmas[:steps].tolist()
    assert [sigma for sigma, wanted in zip(sigmas, taken, strict=True) if wanted] == pytest.approx(
        method.sigmas, abs=1e-6
    )
    assert len(calibration.magcache(steps=steps).ratios) == steps


def test_noise_levels_that_do_not_fall_are_refused():
    calibration = calibrate(ToyPipeline(linear), ["x"])
    for levels in ([1.0, 0.5], [0.0, 0.5, 1.0], [1.0, math.nan, 0.0]):
        with pytest.raises(ValueError, match="falling noise levels"):
            calibration.resample(levels)


def test_image_to_image_is_recorded_by_its_place_in_the_timetable():
    _, calibration = recorded("flux_img2img", steps=16)
    (table,) = calibration.tables
    assert table.start > 0
    assert len(calibration.magcache().ratios) == 16
    assert calibration.sigmas == table.section
    assert calibration.schedule(0.5).sigmas[0] == table.sigmas[0]


# Files and the hub


def test_a_saved_calibration_yields_the_same(tmp_path):
    _, calibration = recorded(EXPERTS)
    calibration.save(tmp_path / "deep" / "mine.json")
    loaded = Calibration.load(tmp_path / "deep" / "mine.json")
    assert files.to_json(loaded) == files.to_json(calibration)
    assert loaded.key == calibration.key
    assert str(loaded) == str(calibration)
    assert loaded.teacache(degree=2) == calibration.teacache(degree=2)
    assert loaded.schedule(0.5) == calibration.schedule(0.5)
    assert loaded.threshold(EasyCache(), 0.6) == calibration.threshold(EasyCache(), 0.6)
    assert loaded.smoothcache() == calibration.smoothcache()


@pytest.mark.slow
def test_eight_runs_of_fifty_steps_are_a_small_file():
    _, calibration = recorded(steps=50, prompts=8)
    assert len(files.to_json(calibration)) < 150_000


def test_a_folder_keeps_a_calibration(tmp_path):
    _, calibration = recorded(prompts=1)
    calibration.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["accel_calibration.json"]
    assert files.to_json(Calibration.from_pretrained(tmp_path)) == files.to_json(calibration)
    with pytest.raises(ValueError, match=r"no folder, and no accel_calibration\.json could be had"):
        Calibration.from_pretrained("someone/something", local_files_only=True)


def test_the_hub_gets_the_file(monkeypatch, tmp_path):
    sent: dict[str, Any] = {}

    class Api:
        def __init__(self, token: Any = None) -> None:
            sent["token"] = token

        def create_repo(self, repository: str, **options: Any) -> None:
            sent["repository"] = (repository, options)

        def upload_file(self, *, path_or_fileobj: bytes, path_in_repo: str, repo_id: str, **options: Any) -> str:
            sent["file"] = (path_or_fileobj, path_in_repo, repo_id, options)
            return f"https://hub/{repo_id}"

    def download(repository: str, name: str, **options: Any) -> str:
        sent["asked"] = (repository, name, options)
        (tmp_path / name).write_bytes(sent["file"][0])
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    _, calibration = recorded(prompts=1)
    assert calibration.push_to_hub("me/mine", token="t", private=True, revision="main") == "https://hub/me/mine"
    assert sent["token"] == "t"
    assert sent["repository"] == ("me/mine", {"private": True, "exist_ok": True})
    assert sent["file"][1:] == (
        "accel_calibration.json",
        "me/mine",
        {"commit_message": "Calibration for accel", "revision": "main"},
    )
    again = Calibration.from_pretrained("me/mine", revision="main")
    assert sent["asked"] == ("me/mine", "accel_calibration.json", {"revision": "main"})
    assert files.to_json(again) == files.to_json(calibration)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data.pop("tables"), 'with "schema", "key" and "tables"'),
        (lambda data: data.update(schema=7), "schema is 7, but this version reads 1"),
        (lambda data: data.update(tables=[]), "tables is empty"),
        (lambda data: data.update(notes=None), "notes is missing"),
        (lambda data: data.update(notes=3), "notes is not valid: 3"),
        (lambda data: data["key"].pop("pipeline"), "key.pipeline is missing"),
        (lambda data: data["key"].update(wrong=1), "key.wrong is not a field"),
        (lambda data: data["key"].update(euler_steps=1), "key.euler_steps is not valid: 1"),
        (lambda data: data["tables"].append(3), r"tables\[1\] must be an object"),
        (lambda data: data["tables"][0].update(start=-1), r"tables\[0\].timetable must hold"),
        (lambda data: data["tables"][0].update(timetable=[0.0, 1.0]), r"tables\[0\].timetable must hold"),
        (lambda data: data["tables"][0].update(ratios=["x"]), r"tables\[0\].ratios must be a list of numbers"),
        (lambda data: data["tables"][0]["gram"].pop(), r"tables\[0\].gram must be a lower triangle of 12 rows"),
        (lambda data: data["tables"][0]["gram"][3].pop(), r"tables\[0\].gram must be a lower triangle"),
        (lambda data: data["tables"][0].update(curves=[1]), r"tables\[0\].curves must be pairs"),
        (lambda data: data["tables"][0]["runs"][0]["moves"].pop(), r"runs\[0\].moves must be a list of 12 numbers"),
        (lambda data: data["tables"][0]["runs"][0]["changes"].pop("output"), r"changes.output is missing"),
        (lambda data: data["tables"][0]["runs"][0]["changes"].update(spectral=3), r"changes.spectral must be a list"),
        (lambda data: data["tables"][0]["runs"][0].update(drifts={"one": []}), r"drifts must be named by numbers"),
    ],
)
def test_a_malformed_file_gets_a_sentence_that_names_the_field(small, tmp_path, change, sentence):
    data = json.loads(small)
    change(data)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=sentence) as caught:
        Calibration.load(path)
    assert str(caught.value).startswith(str(path))


@pytest.fixture(scope="module")
def small() -> str:
    return files.to_json(recorded(prompts=1)[1])


def test_files_that_are_none_get_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="There is no calibration file"):
        Calibration.load(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        Calibration.load(tmp_path / "text.json")
    with pytest.raises(ValueError, match="cannot be read"):
        Calibration.load(tmp_path)


# What a calibration belongs to


def test_another_pipeline_is_found_out():
    pipe, calibration = recorded(prompts=1)
    assert calibration.check(pipe) == []
    assert calibration.check(accel.session.Session(pipe, accel.Recipe()).anatomy) == []
    accel.restore(pipe)
    (other,) = calibration.check(TINY["sd"].build())[:1]
    assert "calibrated on a transformer, and this pipeline has unet" in other
    assert any("calibrated on WanTransformer3DModel" in line for line in calibration.check(TINY["flux"].build()))
    shifted = TINY["wan"].build()
    shifted.scheduler.register_to_config(flow_shift=7.0)
    (line,) = calibration.check(shifted)
    assert "flow_shift" in line and "7.0" in line
    toy = calibrate(ToyPipeline(linear), ["x"])
    assert toy.check(ToyPipeline(linear)) == []
    (line,) = replace(toy, key=replace(toy.key, scheduler="DDIMScheduler")).check(ToyPipeline(linear))
    assert "DDIMScheduler, and this pipeline has FlowMatchEulerDiscreteScheduler" in line
    (line,) = replace(toy, tables=(replace(toy.tables[0], parameters=5_000_000),)).check(ToyPipeline(linear))
    assert "5 M parameters" in line


def test_the_report_says_what_is_known_and_what_is_unreliable():
    _, calibration = recorded(prompts=2)
    text = str(calibration)
    assert text == calibration.quality
    assert "WanPipeline" in text and "12 steps" in text
    assert "rank correlation with the output's change" in text and "first block" in text
    assert "recorded on 2 prompts only" in text
    toy = str(calibrate(ToyPipeline(linear), ["x"], layer_lags=0))
    assert "SmoothCache cannot be calibrated" in toy and "no first block to probe" in toy
    unequal = calibrate(
        ToyPipeline(linear), ["x"] * 3, generate=lambda pipe, _, index: pipe(num_inference_steps=12 if index else 8)
    )
    assert "1 of 3 runs of the transformer had other steps: left out" in str(unequal)
    assert len(unequal.tables[0].runs) == 2


# The recorder


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", EXPERTS, "flux", "sd3", "z_image", "sdxl", "mochi"])
def test_recording_changes_no_output_and_leaves_nothing_behind(name):
    pipe = TINY[name].build()
    expected = run(pipe, TINY[name], steps=12)
    before, outputs = snapshot(pipe), []
    calibrate(pipe, ["x"], generate=lambda pipe, *_: outputs.append(run(pipe, TINY[name], steps=12)))
    after = snapshot(pipe)
    assert torch.equal(outputs[0], expected)
    modules = [path for path in before if path.startswith(("transformer", "unet"))]
    assert modules and [path for path in modules if before[path] != after[path]] == []
    assert traces(pipe) == []


def test_batches_are_recorded_by_their_samples():
    """The second sample moves twice as fast as the first one: the largest counts, and answers are averaged."""
    pipe = ToyPipeline(lambda latents, sigma: torch.stack([latents[0] * 0 + 1 + sigma, latents[1] * 0 + 1 + 2 * sigma]))
    pipe.shape = (2, 2, 4, 4)
    (table,) = calibrate(pipe, ["x"], num_inference_steps=10).tables
    sigmas = sigmas_of(pipe, 10)
    change = [(2 * (a - b)) / (1 + 2 * a) for a, b in pairwise(sigmas)]
    assert table.runs[0].changes["output"][1:] == pytest.approx(change, rel=1e-4)
    energies = [((1 + sigma) ** 2 + (1 + 2 * sigma) ** 2) / 2 for sigma in sigmas]
    np.testing.assert_allclose(np.diag(table.inner_products()), energies, rtol=1e-6)


@pytest.mark.parametrize("nothing", [{}, {"tables": []}, 3, [4]])
def test_what_is_no_calibration_is_not_passed_over(nothing):
    with pytest.raises(TypeError, match="A calibration is what"):
        accel.accelerate(TINY["wan"].build(), "balanced", calibration=nothing)


def test_bad_input_gets_a_sentence():
    pipe = ToyPipeline(lambda latents, sigma: latents * sigma)
    for prompts, options, sentence in [
        ("x", {}, "list of at least one prompt"),
        ([], {}, "list of at least one prompt"),
        (["x"], {"layer_lags": -1}, "whole number from 0"),
        (["x"], {"num_inference_steps": 1}, "Nothing was recorded"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            calibrate(pipe, prompts, **options)
