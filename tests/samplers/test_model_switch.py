"""Two denoisers in one run. Wan 2.2 is such a pair by itself: a pipeline with one expert and the other as stand-in must
be that pipeline bit for bit, whatever other levers are on."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

import accel
from accel.caching import FORA, DeepCache, EasyCache, Extrapolate, FirstBlockCache, FixedInterval
from accel.samplers import AdaptiveGuidance, Euler, GuidanceInterval, ModelSwitch, PseudoCorrector
from tests.accel.residue import raising_in_call, snapshot, traces
from tests.accel.witness import denoisers, pipeline, plain
from tests.tiny import TINY, run
from tests.tiny.kinds import crossed
from tests.tiny.video import wan_transformer
from tests.tiny.weights import randomise

BOUNDARY = 0.875  # of the tiny Wan 2.2: three of eight steps are above it
GUARDS: dict[str, Any] = {"warmup": 1, "final": 1, "min_steps": 1}
LEVERS: dict[str, dict[str, Any]] = {
    "none": {},
    "fixed": {"cache": FixedInterval(2, predictor=Extrapolate(1), **GUARDS)},
    "easy": {"cache": EasyCache(0.5, **GUARDS)},
    "first block": {"cache": FirstBlockCache(0.5, **GUARDS)},
    "modules": {"cache": FORA(2)},
    "guidance": {"guidance": AdaptiveGuidance(-1.0, start=0.0, rest="conditional")},
    "guidance and cache": {
        "guidance": AdaptiveGuidance(-1.0, start=0.0, rest="conditional"),
        "cache": FixedInterval(2, **GUARDS),
    },
}


def alone(expert: int) -> DiffusionPipeline:
    """A pipeline with one of the two experts."""
    pair = TINY["wan_two_experts"].build()
    pipe = WanPipeline(None, None, pair.vae, FlowMatchEulerDiscreteScheduler(shift=5.0), wan_transformer(seed=expert))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def accelerated(pipe: DiffusionPipeline, name: str, **levers: Any) -> tuple[torch.Tensor, accel.Report]:
    options = {key: levers.pop(key) for key in ("steps", "batch", "size", "guidance_on") if key in levers}
    with accel.accelerate(pipe, accel.Recipe(**levers)) as session:
        return run(pipe, TINY[name], **options), session.report()


@pytest.mark.part(1)
@pytest.mark.parametrize("levers", LEVERS)
@pytest.mark.parametrize("given", [0, 1], ids=["early expert given", "late expert given"])
def test_a_stand_in_is_what_the_second_expert_of_wan_is(given: int, levers: str) -> None:
    pair, marks = accelerated(pipeline("wan_two_experts"), "wan_two_experts", steps=12, **LEVERS[levers])
    switch = ModelSwitch(wan_transformer(seed=given), BOUNDARY, "below" if given else "above")
    output, report = accelerated(alone(1 - given), "wan", steps=12, sampler=switch, **LEVERS[levers])
    assert torch.equal(output, pair)
    assert [call.action for call in report.calls] == [call.action for call in marks.calls]
    assert [lever.engaged for lever in report.levers[1:]] == [lever.engaged for lever in marks.levers]
    assert levers == "none" or marks.levers[0].engaged


def test_a_solver_starts_anew_at_the_switch_as_with_a_second_expert() -> None:
    pair, _ = accelerated(pipeline("wan_two_experts"), "wan_two_experts", sampler=PseudoCorrector())
    switch = ModelSwitch(wan_transformer(seed=1), BOUNDARY, solver=PseudoCorrector())
    output, report = accelerated(alone(0), "wan", sampler=switch)
    assert torch.equal(output, pair)
    assert "8 of 8 updates replaced" in report.levers[0].reason


@pytest.mark.part(1)
@pytest.mark.parametrize(
    "name", ["wan", "wan_token_timesteps", "flux", "z_image", "sdxl", "sd", "animatediff", "mochi"]
)
@pytest.mark.parametrize("side", ["below", "above"])
def test_two_copies_of_one_network_are_that_network(name: str, side: str) -> None:
    (denoiser,) = denoisers(pipeline(name)).values()
    output, report = accelerated(pipeline(name), name, sampler=ModelSwitch(copy.deepcopy(denoiser), 0.6, side))
    assert torch.equal(output, plain(name))
    whose = {call.reason.startswith(type(denoiser).__name__) for call in report.calls}
    assert whose == {True, False}, "both must have answered"


@pytest.mark.slow  # two copies of one network are that network, above
@pytest.mark.part(1)
@crossed("cache", [None, DeepCache(2), FORA(2), FixedInterval(2, **GUARDS)], ["wan", "sdxl", "ltx"], kinds=["wan"])
def test_at_the_ends_there_is_one_model_alone_with_every_cache(name: str, cache: Any) -> None:
    """Everything from the other model: as if the pipeline had it. Nothing: as if there were no switch."""
    pipe, own = TINY[name].build(), pipeline(name)
    (part,) = denoisers(pipe)
    other = copy.deepcopy(getattr(own, part))
    randomise(getattr(pipe, part), seed=3)
    first, _ = accelerated(pipe, name, cache=cache, steps=12)
    second, expected = accelerated(own, name, cache=cache, steps=12)
    assert not torch.equal(first, second)
    for boundary, side, output in ((1.0, "below", second), (0.0, "above", second), (0.0, "below", first)):
        found, report = accelerated(pipe, name, cache=cache, steps=12, sampler=ModelSwitch(other, boundary, side))
        assert torch.equal(found, output)
        assert report.levers[0].engaged == (output is second)
        assert [call.action for call in report.calls] == [call.action for call in expected.calls]


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "sdxl"])
def test_the_side_goes_by_the_noise_level_whatever_the_schedule(name: str) -> None:
    """In the common coordinates: a flow's own level, ratio / (1 + ratio) for the others."""
    (denoiser,) = denoisers(pipeline(name)).values()
    for steps in (5, 8, 20):
        _, report = accelerated(pipeline(name), name, steps=steps, sampler=ModelSwitch(copy.deepcopy(denoiser), 0.4))
        for call in report.calls:
            level = call.sigma if name == "wan" else call.sigma / (1 + call.sigma)
            assert call.reason.startswith(type(denoiser).__name__) == (level <= 0.4)


def test_guidance_ends_where_the_distilled_model_begins() -> None:
    """Diversity distillation: base model with guidance first, then the distilled one without."""
    levers = {"guidance": GuidanceInterval(low=BOUNDARY, unit="sigma")}
    output, report = accelerated(alone(0), "wan", sampler=ModelSwitch(wan_transformer(seed=1), BOUNDARY), **levers)
    assert report.timeline() == {"cond": "████████", "uncond": "███○○○○○"}
    expected = run(pipeline("wan_two_experts"), TINY["wan_two_experts"], guidance_scale_2=1.0)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


def test_batches_sizes_and_runs_one_after_another() -> None:
    pipe, asked = alone(0), [{}, {"batch": 3}, {"size": "other"}, {"steps": 5}, {}]
    with accel.accelerate(pipe, accel.Recipe(sampler=ModelSwitch(wan_transformer(seed=1), BOUNDARY))):
        found = [run(pipe, TINY["wan"], **options) for options in asked]
    for output, options in zip(found, asked, strict=True):
        assert torch.equal(output, plain("wan_two_experts", **options))
    assert torch.equal(run(pipe, TINY["wan"]), run(alone(0), TINY["wan"]))


# Models from disk


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The late expert, alone and in a pipeline's folder."""
    folder = tmp_path_factory.mktemp("models")
    wan_transformer(seed=1).save_pretrained(folder / "alone")
    alone(1).save_pretrained(folder / "pipeline")
    return folder


@pytest.mark.usefixtures("quick_collection")
@pytest.mark.part(1)
@pytest.mark.parametrize("folder", ["alone", "pipeline"])
def test_a_folder_is_read_at_the_first_call_and_let_go_by_restore(saved: Path, folder: str) -> None:
    pipe = alone(0)
    session = accel.accelerate(pipe, accel.Recipe(sampler=ModelSwitch(str(saved / folder), BOUNDARY)))
    assert session._levers[0]._other is None
    pair = TINY["wan_two_experts"].build()
    path = saved / folder / ("transformer" if folder == "pipeline" else "")
    # Of the same file: its weights lie elsewhere in memory than others, and some products round otherwise there.
    pair.transformer_2 = WanTransformer3DModel.from_pretrained(path).eval()
    expected = run(pair, TINY["wan_two_experts"])
    torch.testing.assert_close(expected, plain("wan_two_experts"), rtol=1e-4, atol=1e-4)
    for _ in range(2):
        assert torch.equal(run(pipe, TINY["wan"]), expected)
    module = session._levers[0]._other
    alive = weakref.ref(module)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    assert session.report().levers[0].extra_bytes == 4 * parameters
    del module
    session.restore()
    gc.collect()
    assert alive() is None


def test_the_dtype_is_the_pipelines(saved: Path) -> None:
    pipe = alone(0).to(torch.bfloat16)
    with accel.accelerate(pipe, accel.Recipe(sampler=ModelSwitch(str(saved / "alone"), BOUNDARY))) as session:
        run(pipe, TINY["wan"])
        module = session._levers[0]._other
    assert module.get_submodule("proj_out").weight.dtype == torch.bfloat16


def test_recipes_name_a_folder_and_refuse_a_live_module(saved: Path) -> None:
    recipe = accel.Recipe(sampler=ModelSwitch(str(saved), 0.3, "above", solver=Euler()))
    assert accel.Recipe.from_dict(recipe.to_dict()) == recipe
    live = accel.Recipe(sampler=ModelSwitch(wan_transformer()))
    assert live.label == "ModelSwitch(model=WanTransformer3DModel)"
    with pytest.raises(ValueError, match=r"save_pretrained and give ModelSwitch the folder\.$"):
        live.to_dict()


def narrow(**settings: Any) -> torch.nn.Module:
    model = wan_transformer()
    kept = {name: value for name, value in model.config.items() if not name.startswith("_")}
    return type(model)(**{**kept, **settings})


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: narrow(in_channels=8), "input channels: 8, where the pipeline's WanTransformer3DModel has 16"),
        (lambda: narrow(out_channels=8), "output channels: 8"),
        (lambda: narrow(text_dim=32), "width of the prompt's embeddings: 32"),
        (lambda: "/nowhere/at/all", "There is no denoiser in '/nowhere/at/all'"),
        (lambda: "pocket:nothing", "there are no pocket files 'nothing'"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_attached(model: Any, reason: str) -> None:
    pipe = alone(0)
    before = snapshot(pipe)
    with pytest.raises(ValueError, match=reason):
        accel.accelerate(pipe, accel.Recipe(sampler=ModelSwitch(model())))
    assert snapshot(pipe) == before


def test_a_model_that_predicts_something_else_is_refused(tmp_path: Path) -> None:
    other = alone(1)
    other.scheduler = DDIMScheduler()
    other.save_pretrained(tmp_path / "noise")
    with pytest.raises(ValueError, match="what it predicts: epsilon, where the pipeline's WanTransformer3DModel"):
        accel.accelerate(alone(0), accel.Recipe(sampler=ModelSwitch(str(tmp_path / "noise"))))


def test_a_model_of_another_signature_is_refused_at_the_first_call() -> None:
    pipe = alone(0)
    switch = ModelSwitch(torch.nn.Linear(2, 2), 1.0)
    with (
        accel.accelerate(pipe, accel.Recipe(sampler=switch)),
        pytest.raises(ValueError, match="does not take hidden_states"),
    ):
        run(pipe, TINY["wan"])
    assert torch.equal(run(pipe, TINY["wan"]), run(alone(0), TINY["wan"]))


@pytest.mark.parametrize("model", ["", None, 3])
def test_a_model_must_be_named(model: Any) -> None:
    with pytest.raises(ValueError, match=r"ModelSwitch\.model must be"):
        ModelSwitch(model)


def test_nothing_is_left_on_either_model_not_even_by_an_exception() -> None:
    pipe, other = alone(0), wan_transformer(seed=1)
    run(pipe, TINY["wan"], steps=2)
    before = {path: set(vars(module)) for path, module in (*pipe.transformer.named_modules(), *other.named_modules())}
    session = accel.accelerate(pipe, accel.Recipe(sampler=ModelSwitch(other, BOUNDARY), cache=FORA(2)))
    run(pipe, TINY["wan"])
    hook = other.blocks[1].register_forward_hook(raising_in_call(2))
    with pytest.raises(InterruptedError):
        run(pipe, TINY["wan"])
    hook.remove()
    session.restore()
    after = {path: set(vars(module)) for path, module in (*pipe.transformer.named_modules(), *other.named_modules())}
    assert before == after
    assert not traces(pipe)
    assert torch.equal(run(pipe, TINY["wan"]), run(alone(0), TINY["wan"]))
