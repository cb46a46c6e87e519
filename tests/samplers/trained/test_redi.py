"""ReDi: a bank that holds the query gives the full run, look-ups are a plain computation, and everything that does not
belong to the bank runs in full and says why."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, WanPipeline

import accel
from accel.caching import FORA, Extrapolate, FixedInterval
from accel.parametrization import flow_time
from accel.samplers import AdaptiveGuidance, Euler, PseudoCorrector, ReDi, SchedulerSolver, TrajectoryBank
from tests.accel.residue import raising_in_call, traces
from tests.accel.witness import pipeline, plain
from tests.tiny import TINY, run

KEY, LANDING, STEPS, SEED, PROMPTS = 3, 6, 8, 5, 4
FAR = 1e9  # a radius that everything is within
WORLDS = ["wan", "wan_two_experts", "qwen_image", "flux", "z_image", "sdxl", "sd3", "cogvideox", "pixart"]
BANKS: dict[str, TrajectoryBank] = {}


def asked(name: str, prompt: int, **options: Any) -> dict[str, Any]:
    return TINY[name].arguments(pipeline(name), prompt=prompt, **options)


def bank(name: str) -> TrajectoryBank:
    if name not in BANKS:
        prompts = [asked(name, prompt) for prompt in range(PROMPTS)]
        BANKS[name] = TrajectoryBank.build(
            pipeline(name), prompts, steps=STEPS, key=(2, KEY), landing=(5, LANDING), seed=SEED
        )
    return BANKS[name]


def sampled(name: str, sampler: Any, **options: Any) -> tuple[torch.Tensor, accel.Report]:
    levers = {key: options.pop(key) for key in ("cache", "guidance_method") if key in options}
    levers = {"guidance" if key == "guidance_method" else key: lever for key, lever in levers.items()}
    with accel.accelerate(pipeline(name), accel.Recipe(sampler=sampler, **levers)) as session:
        return run(pipeline(name), TINY[name], **options), session.report()


@cache
def full(name: str, prompt: int, seed: int = SEED) -> torch.Tensor:
    """The run without a bank, which many of the tests look at."""
    return sampled(name, Euler(), seed=seed, prompt=prompt)[0]


def redi(name: str, **settings: Any) -> ReDi:
    return ReDi(bank(name), **{"radius": FAR, "key": KEY, "landing": LANDING, **settings})


@pytest.mark.part(1)
@pytest.mark.parametrize("name", WORLDS)
def test_a_bank_with_the_query_gives_the_full_run_bit_for_bit(name: str) -> None:
    """With another seed: the noise is the bank's."""
    output, report = sampled(name, redi(name), seed=77, prompt=2)
    assert torch.equal(output, full(name, 2))
    assert not torch.equal(output, full(name, 2, seed=77))
    dropped = {call.step for call in report.calls if call.action == "dropped"}
    assert dropped == set(range(KEY, LANDING))
    assert all((call.action == "computed") == (call.step not in dropped) for call in report.calls)
    assert report.levers[0].engaged and "3 steps taken over from 'prompt 2', 0 away" in report.levers[0].reason


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "sdxl", "flux"])
def test_a_batch_looks_up_every_sample_for_itself(name: str) -> None:
    alone = torch.cat([full(name, prompt) for prompt in (1, 2, 3)])
    output, report = sampled(name, redi(name), batch=3, prompt=1)
    torch.testing.assert_close(output, alone, rtol=1e-4, atol=1e-4)
    assert report.dropped and "'3 prompts'" in report.levers[0].reason


def test_a_batch_skips_only_if_all_of_its_samples_are_near() -> None:
    output, report = sampled("wan", redi("wan", radius=1e-3), batch=2, prompt=3)  # 3 is in the bank and 4 is not
    assert not report.dropped and not report.levers[0].engaged
    assert "beyond radius=0.001" in report.levers[0].reason
    alone = torch.cat([full("wan", prompt) for prompt in (3, 4)])
    torch.testing.assert_close(output, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "sdxl"])
def test_the_landing_is_the_stored_state_and_the_pipeline_sees_every_step(name: str) -> None:
    """From outside: latents stay as they were in the steps left out, and then are those of the nearest prompt."""
    seen: list[torch.Tensor] = []

    def note(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        assert index == len(seen)
        seen.append(values["latents"].clone())
        return values

    sampled(name, redi(name), prompt=9, callback_on_step_end=note)
    assert len(seen) == STEPS
    distances = [float((seen[KEY - 1] - state).norm()) for state in bank(name).states[KEY].split(1)]
    nearest = int(np.argmin(distances))
    assert all(torch.equal(seen[index], seen[KEY - 1]) for index in range(KEY, LANDING - 1))
    assert torch.equal(seen[LANDING - 1][0], bank(name).states[LANDING][nearest])


def test_stored_states_are_the_latents_of_the_run() -> None:
    seen: list[torch.Tensor] = []

    def note(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        seen.append(values["latents"].clone())
        return values

    sampled("wan", Euler(), seed=SEED, prompt=1, callback_on_step_end=note)
    assert sorted(bank("wan").states) == [2, KEY, 5, LANDING]
    for step, states in bank("wan").states.items():
        assert torch.equal(states[1:2], seen[step - 1])


# The look-up


def test_neighbours_are_in_the_order_of_a_plain_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accel.samplers.trained.bank.CHUNK", 7 * 60)  # several chunks, the last one smaller
    rng = np.random.default_rng(0)
    stored, query = rng.normal(size=(50, 3, 4, 5)).astype(np.float32), rng.normal(size=(3, 4, 5)).astype(np.float32)
    made = TrajectoryBank(bank("wan").facts, tuple(map(str, range(50))), torch.zeros(1), {1: torch.tensor(stored)})
    order, distances = made.nearest(torch.tensor(query), 1, 10)
    expected = np.sqrt(((stored - query).astype(np.float64) ** 2).sum((1, 2, 3)))
    assert order.tolist() == np.argsort(expected)[:10].tolist()
    np.testing.assert_allclose(distances.numpy(), np.sort(expected)[:10], rtol=1e-5)


@pytest.mark.parametrize("neighbours", [2, 3, 4])
def test_several_neighbours_are_numpys_least_squares(neighbours: int) -> None:
    own, query = bank("wan"), torch.randn(2, *bank("wan").facts.shape, generator=torch.Generator().manual_seed(1))
    found = own.retrieve(query, KEY, LANDING, neighbours)
    share = 1 - own.facts.levels[KEY]  # a flow's clean part
    for sample, latents, distance in zip(query.numpy(), found.latents.numpy(), found.distances, strict=True):
        order, _ = own.nearest(torch.tensor(sample), KEY, neighbours)
        known, later = (own.states[step][order].flatten(1).double().numpy() for step in (KEY, LANDING))
        weights = np.linalg.lstsq(known.T, sample.ravel().astype(np.float64), rcond=None)[0]
        np.testing.assert_allclose(latents.ravel(), weights @ later, rtol=1e-4, atol=1e-5)
        remains = np.linalg.norm(weights @ known - sample.ravel())
        assert distance == pytest.approx(remains / np.sqrt(sample.size) / share, rel=1e-4)


def test_a_combination_that_contains_the_query_is_the_query() -> None:
    output, report = sampled("wan", redi("wan", neighbours=64), prompt=2)  # more than there are: all of them
    assert report.dropped
    torch.testing.assert_close(output, full("wan", 2), rtol=1e-4, atol=1e-5)


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "sdxl", "cogvideox"])
def test_distances_are_differences_of_clean_latents_in_every_convention(name: str) -> None:
    """Two trajectories x = a x0 + b n from one noise, whose clean latents differ by a constant of 0.3."""
    facts = bank(name).facts
    sigma = facts.levels[KEY]
    a = {"flow": 1 - sigma, "exploding": 1.0, "preserving": (1 + sigma**2) ** -0.5}[facts.samples]
    state = bank(name).states[KEY][:1]
    made = TrajectoryBank(facts, ("one",), bank(name).noise, {KEY: state, LANDING: state})
    (distance,) = made.retrieve(state + 0.3 * a, KEY, LANDING, 1).distances
    assert distance == pytest.approx(0.3, rel=1e-3)
    assert 0 < flow_time(sigma, facts.samples == "flow") < 1


# What does not belong to the bank


@pytest.mark.part(2)
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"steps": 6}, "num_inference_steps is 6 in this call and 8 in the bank"),
        ({"guidance": False}, "guidance_scale is 1.0 in this call and 3.0 in the bank"),
        ({"height": 48, "width": 80}, "height is 48 in this call and 64 in the bank"),
        ({"latents": torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(3))}, "latents of its own"),
    ],
)
def test_another_call_runs_in_full_with_its_own_noise(options: dict[str, Any], reason: str) -> None:
    output, report = sampled("wan", redi("wan"), **options)
    assert torch.equal(output, sampled("wan", Euler(), **options)[0])
    assert not report.levers[0].engaged and reason in report.levers[0].reason
    assert not report.dropped


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"shape": (16, 3, 4, 4)}, "where the bank has (16, 3, 4, 4)"),
        ({"levels": (0.9,) * 9}, "noise levels are not those of the bank"),
        ({"seed": SEED + 1}, "does not start from the bank's noise"),
    ],
)
def test_a_run_that_turns_out_otherwise_is_completed(change: dict[str, Any], reason: str) -> None:
    from dataclasses import replace

    own = bank("wan")
    other = TrajectoryBank(replace(own.facts, **change), own.prompts, own.noise, own.states)
    _, report = sampled("wan", ReDi(other, radius=FAR))
    assert reason in report.levers[0].reason and not report.dropped


def test_beyond_the_radius_the_run_is_the_full_one_and_the_report_says_how_far() -> None:
    output, report = sampled("wan", redi("wan", radius=0.01), prompt=9)
    assert torch.equal(output, full("wan", 9))
    query, _ = sampled("wan", redi("wan"), prompt=9)
    assert not torch.equal(output, query)
    assert "the nearest stored trajectory is" in report.levers[0].reason and "radius=0.01" in report.levers[0].reason


class HandsOn(WanPipeline):  # type: ignore[misc]
    """A pipeline that names few of its arguments, as the pocket models do."""

    def __call__(self, prompt_embeds: Any = None, num_inference_steps: int = STEPS, **options: Any) -> Any:
        return super().__call__(prompt_embeds=prompt_embeds, num_inference_steps=num_inference_steps, **options)


def test_the_noise_is_chosen_also_where_the_pipeline_hands_its_arguments_on() -> None:
    pipe, expected = HandsOn(**pipeline("wan").components), sampled("wan", redi("wan"), prompt=1)[0]
    pipe.set_progress_bar_config(disable=True)
    prompts = [asked("wan", prompt) for prompt in range(2)]
    own = TrajectoryBank.build(pipe, prompts, steps=STEPS, key=KEY, landing=LANDING, seed=SEED)
    assert all(torch.equal(own.states[step], bank("wan").states[step][:2]) for step in (KEY, LANDING))
    with accel.accelerate(pipe, accel.Recipe(sampler=ReDi(own, radius=FAR))) as session:
        for generator in ({}, {"generator": torch.Generator().manual_seed(3)}):
            output = pipe(**prompts[1], **generator, output_type="latent", return_dict=False)[0]
            assert torch.equal(output, expected)
            assert session.report().dropped


def test_a_loop_of_ones_own_is_left_alone() -> None:
    pipe = pipeline("wan")
    with accel.accelerate(pipe, accel.Recipe(sampler=redi("wan"))) as session, session.running():
        WanPipeline.__call__(pipe, **asked("wan", 1), num_inference_steps=STEPS, output_type="latent")
    assert "a loop of your own" in session.report().levers[0].reason


@pytest.mark.part(2)
@pytest.mark.parametrize(
    ("name", "sampler", "reason"),
    [
        ("flux", lambda: ReDi(bank("wan")), "built with WanPipeline and not with FluxPipeline"),
        ("wan", lambda: redi("wan", solver=PseudoCorrector()), "built with Euler and not with PseudoCorrector"),
        ("sd", lambda: ReDi(bank("wan")), "No solver can stand in"),
    ],
)
def test_a_foreign_bank_leaves_the_pipeline_alone(name: str, sampler: Any, reason: str) -> None:
    output, report = sampled(name, sampler())
    assert torch.equal(output, plain(name))
    assert not report.levers[0].engaged and reason in report.levers[0].reason


def test_steps_that_the_bank_does_not_keep_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot go from step 4 to step 6: the bank keeps 2, 3, 5, 6"):
        accel.accelerate(pipeline("wan"), accel.Recipe(sampler=redi("wan", key=4)))
    with pytest.raises(ValueError, match="must be a deterministic one"):
        ReDi(bank("wan"), solver=SchedulerSolver())
    with pytest.raises(ValueError, match=r"ReDi\.bank must be"):
        ReDi("")


# With other levers, runs one after another, exceptions


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "sdxl"])
@pytest.mark.parametrize("lever", ["cache", "modules", "guidance"])
def test_other_levers_start_anew_after_the_jump(name: str, lever: str) -> None:
    """From one landing state the rest of the run is the same, however long it was before: nothing of that is left."""
    levers: dict[str, dict[str, Any]] = {
        "cache": {"cache": FixedInterval(2, predictor=Extrapolate(1), warmup=1, final=1, min_steps=1)},
        "modules": {"cache": FORA(3)},
        "guidance": {"guidance_method": AdaptiveGuidance(-1.0, start=0.0)},
    }
    own = TrajectoryBank.build(pipeline(name), [asked(name, 0)], steps=16, key=(3, 4, 6), landing=9, seed=SEED)
    outputs = []
    for key in (3, 4, 6):
        output, report = sampled(name, ReDi(own, radius=FAR, key=key), steps=16, prompt=1, **levers[lever])
        assert {call.step for call in report.calls if call.action == "dropped"} >= set(range(key, 9))
        assert report.levers[1].engaged
        outputs.append(output)
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_runs_one_after_another_do_not_know_of_each_other() -> None:
    pipe = pipeline("wan")
    asked_for: list[dict[str, Any]] = [{"prompt": 2}, {"steps": 6}, {"prompt": 9}, {"batch": 2}, {"prompt": 2}]
    fresh = [sampled("wan", redi("wan"), **options)[0] for options in asked_for[:-1]]
    with accel.accelerate(pipe, accel.Recipe(sampler=redi("wan"))):
        again = [run(pipe, TINY["wan"], **options) for options in asked_for]
    assert all(torch.equal(one, other) for one, other in zip([*fresh, fresh[0]], again, strict=True))
    assert torch.equal(run(pipe, TINY["wan"]), plain("wan"))


@pytest.mark.part(1)
@pytest.mark.parametrize("step", [1, KEY + 1])
def test_an_exception_leaves_nothing_for_the_next_run(step: int) -> None:
    pipe: DiffusionPipeline = TINY["wan"].build()

    def stop(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if index == step:
            raise InterruptedError
        return values

    with accel.accelerate(pipe, accel.Recipe(sampler=redi("wan"))) as session:
        with pytest.raises(InterruptedError):
            run(pipe, TINY["wan"], callback_on_step_end=stop)
        lever: Any = session._levers[0]
        assert lever._target is None and not lever._answers
        assert torch.equal(run(pipe, TINY["wan"], prompt=2), sampled("wan", redi("wan"), prompt=2)[0])
    assert torch.equal(run(pipe, TINY["wan"]), plain("wan"))
    assert not traces(pipe)


# Building, saving, loading


def test_an_interrupted_build_leaves_the_pipeline_as_it_was() -> None:
    pipe: DiffusionPipeline = TINY["wan"].build()
    run(pipe, TINY["wan"], steps=2)
    hook = pipe.transformer.register_forward_hook(raising_in_call(20))
    with pytest.raises(InterruptedError):
        prompts = [TINY["wan"].arguments(pipe, prompt=prompt) for prompt in range(3)]
        TrajectoryBank.build(pipe, prompts, steps=STEPS, key=KEY, landing=LANDING)
    hook.remove()
    assert not traces(pipe) and "forward" not in vars(pipe.transformer)
    assert torch.equal(run(pipe, TINY["wan"]), plain("wan"))


def test_a_saved_bank_is_the_same_bank(tmp_path: Path) -> None:
    folder = tmp_path / "banks" / "wan"
    bank("wan").save(folder)
    bank("wan").save(folder)  # takes the place of the first
    assert sorted(path.name for path in folder.parent.iterdir()) == ["wan"]
    again = TrajectoryBank.load(folder)
    assert again.facts == bank("wan").facts and again.prompts == bank("wan").prompts
    assert all(torch.equal(again.states[step], states) for step, states in bank("wan").states.items())
    recipe = accel.Recipe.from_dict(accel.Recipe(sampler=ReDi(folder, radius=FAR)).to_dict())
    assert torch.equal(sampled("wan", recipe.sampler, prompt=2)[0], full("wan", 2))


def test_a_live_bank_is_not_for_a_recipe_file() -> None:
    recipe = accel.Recipe(sampler=redi("wan"))
    assert recipe.label == "ReDi(bank=4 trajectories, radius=1000000000.0, key=3, landing=6)"
    with pytest.raises(ValueError, match="save it and give ReDi the folder"):
        recipe.to_dict()


def test_a_bank_is_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = bank("wan")
    own.save(tmp_path / "old")
    other = TrajectoryBank(own.facts, tuple(reversed(own.prompts)), own.noise, own.states)

    def full_disk(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("accel.samplers.trained.bank.write_whole", full_disk)
    for folder in (tmp_path / "new", tmp_path / "old"):
        with pytest.raises(OSError, match="no space"):
            other.save(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]
    assert TrajectoryBank.load(tmp_path / "old").prompts == own.prompts


def test_folders_that_are_no_bank_are_refused(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("dear")
    with pytest.raises(ValueError, match="holds something else"):
        bank("wan").save(tmp_path / "letters")
    with pytest.raises(ValueError, match="no trajectory bank file"):
        TrajectoryBank.load(tmp_path / "letters")
    bank("wan").save(tmp_path / "damaged")
    (tmp_path / "damaged" / "states.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="cannot be read"):
        TrajectoryBank.load(tmp_path / "damaged")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"prompts": []}, "at least one prompt"),
        ({"key": 0}, "steps from 1 to 7"),
        ({"key": 6}, "key the smaller"),
        ({"landing": 8}, "steps from 1 to 7"),
        ({"solver": SchedulerSolver()}, "give a solver such as Euler"),
    ],
)
def test_a_build_that_makes_no_sense_is_refused(options: dict[str, Any], reason: str) -> None:
    given = {"prompts": [asked("wan", 0)], "steps": STEPS, "key": KEY, "landing": LANDING, **options}
    with pytest.raises(ValueError, match=reason):
        TrajectoryBank.build(pipeline("wan"), **given)
