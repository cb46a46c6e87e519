"""Caches that run the first blocks, decide, and leave the denoiser there: what they hear, decide and predict."""

import json
import math

import pytest
import torch
from diffusers import AuraFlowTransformer2DModel, LatteTransformer3DModel
from diffusers.hooks._helpers import TransformerBlockRegistry
from torch._dynamo.utils import counters

import accel
from accel import Align, DBCache, DiCache, FirstBlockCache, LastOutput, TeaCache
from accel.anatomy import _image_output, anatomy_of, inspect
from accel.caching.cache_method import NotApplicable
from accel.caching.methods.dbcache import CappedDistance
from accel.caching.methods.dicache import ProbeTrajectory, RetainedDistance
from accel.caching.methods.firstblock import BlockResidual, WithinThreshold, after_blocks
from accel.caching.policy import AccumulatedDistance
from accel.caching.probe import image_tokens
from accel.caching.signal import Probe
from accel.call import DenoiserCall
from accel.clock import StepContext
from tests.accel.residue import snapshot, traces
from tests.accel.witness import pipeline, plain, witness
from tests.caching.toy import ToyPipeline
from tests.tiny import TINY, run

STEPS = 20
PROBE = Probe("blocks.0", "blocks", ("blocks.0",))


class Block(torch.nn.Module):
    """Adds a number or tensor to the image tokens. In a joint block the text comes along and is returned first."""

    def __init__(self, joint=False):
        super().__init__()
        self.joint, self.calls = joint, 0

    def forward(self, hidden_states, addend, encoder_hidden_states=None):
        self.calls += 1
        hidden_states = hidden_states + addend
        return (encoder_hidden_states, hidden_states) if self.joint else hidden_states


class FluxTransformerBlock(Block):
    """Known, by its name, to return (text, image)."""


class BlockDenoiser(torch.nn.Module):
    """Two lists of blocks. The first block adds signal(sigma) to image tokens of zero, the others add one each; the
    prediction is formula(what the first block added, sigma)."""

    def __init__(self, signal, formula, sizes=(2, 3), packed=False):
        super().__init__()
        self.transformer_blocks = torch.nn.ModuleList(FluxTransformerBlock(joint=True) for _ in range(sizes[0]))
        self.single_transformer_blocks = torch.nn.ModuleList(Block() for _ in range(sizes[1]))
        self.signal, self.formula, self.packed, self.config = signal, formula, packed, {"in_channels": 2}

    @property
    def calls(self):
        return [block.calls for block in (*self.transformer_blocks, *self.single_transformer_blocks)]

    def forward(self, hidden_states, timestep, encoder_hidden_states=None):
        sigma = float(timestep) / 1000
        # As many text tokens as image tokens: only the place in the tuple tells them apart.
        text, image = torch.full((len(hidden_states), 3, 4), 7.0), torch.zeros(len(hidden_states), 3, 4)
        added = self.signal(sigma) * torch.ones_like(image)
        for index, block in enumerate(self.transformer_blocks):
            text, image = block(image, added if index == 0 else 1.0, encoder_hidden_states=text)
        if self.packed:
            image = torch.cat([text, image], dim=1)
        for block in self.single_transformer_blocks:
            image = block(image, 1.0)
        return (self.formula(added.mean((1, 2)).view(-1, 1, 1, 1), sigma).expand_as(hidden_states).clone(),)


class ForgivingDenoiser(BlockDenoiser):
    """Answers zero where something goes wrong inside."""

    def forward(self, hidden_states, timestep, encoder_hidden_states=None):
        try:
            return super().forward(hidden_states, timestep, encoder_hidden_states)
        except Exception:
            return (torch.zeros_like(hidden_states),)


def block_pipeline(signal, formula=lambda added, sigma: added, batch=1, **options):
    pipe = ToyPipeline(None)
    pipe.transformer = BlockDenoiser(signal, formula, **options)
    pipe.shape = (batch, 2, 4, 4)
    return pipe


def step_of(sigma):
    """The step of a run of STEPS that has this noise level."""
    return round((1.0 - sigma) / (1.0 - 0.001) * (STEPS - 1))


def marks(pipe, cache):
    with accel.accelerate(pipe, cache=cache) as session:
        pipe(num_inference_steps=STEPS)
    (timeline,) = session.report().timeline().values()
    return timeline


def call_with(alignment=None, latents=1):
    context = StepContext(run=1, step=3, position=3, total=10, sigma=0.5)
    values = [torch.zeros(2, 1, 2, 2) for _ in range(latents)]
    return DenoiserCall("transformer", "cond", True, context, (), {}, values, torch.nn.Identity(), {}, alignment)


def heard(entered, left):
    return torch.stack([torch.as_tensor(entered, dtype=torch.float32), torch.as_tensor(left, dtype=torch.float32)])


def test_leaving_a_denoiser_is_no_error_that_it_could_catch():
    """The prediction is the last output, and not what the model answers to errors."""
    outputs = []
    for kind in (BlockDenoiser, ForgivingDenoiser):
        pipe = block_pipeline(lambda sigma: 2.0)
        pipe.transformer = kind(lambda sigma: 2.0, lambda added, sigma: added)
        with accel.accelerate(pipe, cache=FirstBlockCache(math.inf, max_skips=3, predictor=LastOutput())) as session:
            outputs.append(pipe(num_inference_steps=STEPS))
        assert pipe.transformer.calls[1] == session.report().computed == 6
    assert torch.equal(*outputs)


# Policies.


def test_first_block_computes_above_the_threshold_and_zero_never_skips():
    distances = (None, 0.05, 0.1, 0.11, 0.0)
    assert [WithinThreshold(0.1).decide(d, 5, 20).skip for d in distances] == [False, True, True, False, True]
    assert not any(WithinThreshold(0.0).decide(d, 5, 20).skip for d in distances)


def test_dbcache_counts_predictions_and_follows_its_mask():
    capped = CappedDistance(0.1, most=3, mask=None)
    distances = (0.05, 0.2, 0.05, 0.05, 0.05, 0.05)
    assert [capped.decide(d, 5, 20).skip for d in distances] == [True, False, True, True, False, False]

    mask = (1, 1, 0, 0, 1, 0)
    dynamic, static = CappedDistance(0.1, 100, mask), CappedDistance(None, 100, mask)
    distances = (0.0, 0.0, 0.05, 0.2, 0.0, 0.05)
    assert [dynamic.decide(d, i, 6).skip for i, d in enumerate(distances)] == [False, False, True, False, False, True]
    assert [static.decide(None, i, 6).skip for i in range(6)] == [False, False, True, True, False, True]
    # Eleven steps: each takes the nearest of the six entries, 0 0 1 2 2 2 3 4 4 4 5 (halves to even).
    longer = [round(i * 5 / 10) for i in range(11)]
    assert [static.decide(None, i, 11).skip for i in range(11)] == [mask[entry] == 0 for entry in longer]


def test_dicache_computes_the_first_fraction_and_then_accumulates():
    decider, seen = RetainedDistance(0.3, AccumulatedDistance(0.25)), []
    for position in range(10):
        skip = decider.decide(0.1, position, 10).skip
        seen.append(skip)
        if not skip:
            decider.after_compute()
    # Three steps of retention, then .1, .2 and .3 >= .25.
    assert seen == [False, False, False, True, True, False, True, True, False, True]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"mask": (1, 2)}, "DBCache.mask"),
        ({"mask": ()}, "DBCache.mask"),
        ({"mask": [1, 0]}, "DBCache.mask"),
        ({"policy": "static"}, "mask=(1, 1, 0, 1)"),
        ({"threshold": -0.1}, "DBCache.threshold"),
        ({"first": 0}, "DBCache.first"),
    ],
)
def test_dbcache_refuses_what_it_cannot_follow(arguments, word):
    with pytest.raises(ValueError) as error:
        DBCache(**arguments)
    assert word in str(error.value)


def test_the_mask_survives_a_recipe_file(tmp_path):
    recipe = accel.Recipe(cache=DBCache(first=1, mask=(1, 1, 0, 1), policy="static"))
    recipe.save(tmp_path / "recipe.json")
    assert json.loads((tmp_path / "recipe.json").read_text())["cache"]["mask"] == [1, 1, 0, 1]
    assert accel.Recipe.load(tmp_path / "recipe.json").cache == recipe.cache


# Signals.


def test_the_residual_is_compared_with_the_last_computed_step_by_the_sample_that_moved_most():
    signal = BlockResidual(PROBE)
    x = torch.full((2, 3, 4), 5.0)
    assert signal.observe(call_with(), heard(x, x + 1.0)) is None
    signal.after_compute(call_with(), [])
    moved = torch.ones(2, 1, 1) * torch.tensor([1.1, 1.2]).view(2, 1, 1)
    assert signal.observe(call_with(), heard(x, x + moved)) == pytest.approx(0.2, rel=1e-4)
    # That step was skipped, so the comparison is still with 1.0; the input itself does not count.
    assert signal.observe(call_with(), heard(3 * x, 3 * x + 1.3)) == pytest.approx(0.3, rel=1e-4)
    assert signal.observe(call_with(), heard(x, x + 1.0)) == pytest.approx(0.0, abs=1e-6)
    signal.after_compute(call_with(), [])
    assert signal.observe(call_with(), heard(x, x + 0.5)) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize(("mode", "expected"), [("delta_y", 0.5), ("delta_minus", 0.3)])
def test_dicache_compares_with_the_previous_step(mode, expected):
    """x goes 1, 1.2, 1.2 and h goes 2, 3, 3: relL1(h) is .5 then 0, relL1(x) is .2 then 0."""
    signal = ProbeTrajectory(PROBE, mode)
    tokens = torch.ones(1, 3, 4)
    assert signal.observe(call_with(), heard(tokens, 2 * tokens)) is None
    signal.after_compute(call_with(), [])
    assert signal.observe(call_with(), heard(1.2 * tokens, 3 * tokens)) == pytest.approx(expected, rel=1e-4)
    # Skipped, and the next distance is from here all the same.
    assert signal.observe(call_with(), heard(1.2 * tokens, 3 * tokens)) == pytest.approx(0.0, abs=1e-6)


def test_alignment_is_how_far_the_residual_has_come_for_each_sample():
    signal, x = ProbeTrajectory(PROBE, "delta_y"), torch.randn(2, 3, 4)
    direction = torch.randn(2, 3, 4)
    for progress in ((9.0, 9.0), (0.0, 1.0), (2.0, 2.0)):  # of three computed steps, two are remembered
        speed = torch.tensor(progress).view(2, 1, 1)
        signal.observe(call_with(), heard(x, x + speed * direction))
        signal.after_compute(call_with(), [])
    signal.observe(call_with(), heard(x, x + torch.tensor([2.5, 2.25]).view(2, 1, 1) * direction))
    torch.testing.assert_close(signal.alignment, torch.tensor([1.25, 1.25]))
    signal.observe(call_with(), heard(x, x + torch.tensor([2.5, 3.0]).view(2, 1, 1) * direction))
    torch.testing.assert_close(signal.alignment, torch.tensor([1.25, 2.0]))
    assert len(signal.kept_tensors()) == 4  # the previous tokens, two windows and the present residual


def test_a_computed_step_that_was_not_heard_starts_the_windows_anew():
    signal, x = ProbeTrajectory(PROBE, "delta_y"), torch.ones(1, 3, 4)
    for progress in (1.0, 2.0):
        signal.observe(call_with(), heard(x, x + progress))
        signal.after_compute(call_with(), [])
    signal.after_compute(call_with(), [])
    signal.observe(call_with(), heard(x, x + 3.0))
    assert signal.alignment is None


# Predictor.


def history(*values):
    predictor, call = Align(), call_with()
    return [predictor.remember(call, [torch.as_tensor(value)], "flow") for value in values]


def test_align_goes_as_far_as_the_probe_within_its_limits():
    older, newer = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    past = history(older, newer)
    for gamma, expected in (((0.2, 1.25), (1.0, 1.25)), ((1.5, 9.0), (1.5, 1.5))):
        (answer,) = Align().predict(call_with(torch.tensor(gamma)), past, "flow")
        torch.testing.assert_close(answer, torch.tensor(expected).view(2, 1, 1, 1).expand(2, 1, 2, 2))
    (answer,) = Align(limit=2.0).predict(call_with(torch.tensor([1.9, 9.0])), past, "flow")
    torch.testing.assert_close(answer[:, 0, 0, 0], torch.tensor([1.9, 2.0]))
    (answer,) = Align().predict(call_with(torch.tensor([1.3, 1.3])), past[-1:], "flow")
    assert torch.equal(answer, newer)  # one computed output is reused


def test_a_list_of_tensors_is_a_batch_of_samples_to_align():
    samples = [torch.zeros(4, 1, 2), torch.zeros(4, 1, 2)]
    past = [
        Align().remember(call_with(latents=2), [sample + level for sample in samples], "flow") for level in (0.0, 1.0)
    ]
    answers = Align().predict(call_with(torch.tensor([1.1, 1.4]), latents=2), past, "flow")
    assert [float(answer.mean()) for answer in answers] == pytest.approx([1.1, 1.4])


def test_the_prediction_is_exact_where_the_output_is_affine_in_the_residual():
    """The residual approaches its limit, for each sample at its own pace, and the output follows it."""
    pace = torch.tensor([0.4, 0.25]).view(2, 1, 1)

    def signal(sigma):
        return 2.0 - pace ** step_of(sigma)

    def formula(added, sigma):
        return 3.0 * added - 1.0

    method = DiCache(math.inf, retention=0.0, warmup=2, max_skips=1)
    pipe = block_pipeline(signal, formula, batch=2)
    with accel.accelerate(pipe, cache=method) as session:
        predictions = pipe(num_inference_steps=STEPS)
    assert session.report().timeline() == {"pass 1": "██" + "·█" * 9}
    exact = block_pipeline(signal, formula, batch=2)(num_inference_steps=STEPS)
    torch.testing.assert_close(predictions, exact, rtol=1e-5, atol=1e-5)
    with accel.accelerate(pipe, cache=DiCache(math.inf, predictor=LastOutput(), retention=0.0, warmup=2, max_skips=1)):
        assert (pipe(num_inference_steps=STEPS) - exact).abs().max() > 0.1  # reusing is not


# In the engine.


def test_first_block_decides_as_computed_by_hand():
    """The residual grows by a tenth of its first value with every step: 1.0, 1.1, 1.2, ..."""
    values, full, expected = [1.0 + 0.1 * step for step in range(STEPS)], None, ""
    for step, value in enumerate(values):
        skip = 0 < step < STEPS - 1 and abs(value - full) / full <= 0.25
        full = full if skip else value
        expected += "·" if skip else "█"
    assert marks(block_pipeline(lambda sigma: values[step_of(sigma)]), FirstBlockCache(0.25)) == expected
    assert expected.startswith("█··█···█") and "·" in expected


def test_equal_inputs_are_no_change():
    assert marks(block_pipeline(lambda sigma: 1.0), FirstBlockCache(0.05)) == "█" + "·" * 18 + "█"
    assert marks(block_pipeline(lambda sigma: 1.0), FirstBlockCache(0.0)) == "█" * 20
    assert marks(block_pipeline(lambda sigma: 1.0), DiCache(0.1)) == "█" * 4 + "·" * 15 + "█"


@pytest.mark.part(5)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("method", "front"),
    [
        (FirstBlockCache(math.inf, max_skips=3), 1),
        (DBCache(math.inf, first=2, warmup=1, max_skips=3), 2),
        (DBCache(math.inf, first=3, warmup=1, max_skips=3), 3),  # the first of the second list
        (DBCache(math.inf, first=4, warmup=1, max_skips=3), 4),
        (DiCache(math.inf, depth=3, retention=0.0, max_skips=3), 3),
    ],
)
def test_a_skipped_step_runs_the_blocks_in_front_of_the_probe_and_no_other(method, front, packed):
    pipe = block_pipeline(lambda sigma: 1.0 + sigma, packed=packed)
    timeline = marks(pipe, method)
    assert timeline == "█···█···█···█···█··█"
    assert pipe.transformer.calls == [20] * front + [timeline.count("█")] * (5 - front)
    assert all(not block._forward_hooks and not block._forward_pre_hooks for block in pipe.transformer.modules())


def test_a_static_mask_probes_nothing():
    pipe = block_pipeline(lambda sigma: 1.0)
    mask = (1, 1, 1, 0, 0) * 4
    timeline = marks(pipe, DBCache(first=2, mask=mask, policy="static", warmup=1))
    assert timeline == "███··███··███··███·█"
    assert pipe.transformer.calls == [13] * 5


def test_the_sample_that_moves_most_decides_for_the_batch():
    def signal(sigma):
        return torch.tensor([1.0, 1.0 + 0.2 * (step_of(sigma) == 7)]).view(2, 1, 1)

    assert marks(block_pipeline(signal, batch=2), FirstBlockCache(0.1)) == "█······██··········█"


@pytest.mark.parametrize(
    ("method", "tokens", "latents"),
    [
        (FirstBlockCache(0.5, predictor=LastOutput()), 2, 1),
        (DBCache(0.5, predictor=LastOutput(), first=2, warmup=1), 2, 1),
        (DiCache(0.5, retention=0.0, warmup=2, max_skips=2), 4, 2),
        (DiCache(0.5, mode="delta_minus", retention=0.0, warmup=2, max_skips=2), 5, 2),
    ],
)
def test_extra_memory_is_what_the_docstring_says(method, tokens, latents):
    pipe = block_pipeline(lambda sigma: 1.0 + 0.01 * sigma)
    with accel.accelerate(pipe, cache=method) as session:
        pipe(num_inference_steps=STEPS)
        assert session._levers and all(not lever._streams for lever in session._levers)
    assert session.report().predicted > 0
    assert session.report().levers[0].extra_bytes == 4 * (tokens * 3 * 4 + latents * 2 * 4 * 4)


# Anatomy.


def test_flux_counts_through_both_lists_and_u_nets_have_none():
    flux = inspect(pipeline("flux"))
    lists = ("transformer_blocks", "single_transformer_blocks")
    assert after_blocks("DBCache", flux, "transformer", 1) == Probe(f"{lists[0]}.0", "blocks", (f"{lists[0]}.0",), 1)
    probe = after_blocks("DBCache", flux, "transformer", 3)
    assert probe == Probe(f"{lists[1]}.0", "blocks", (f"{lists[0]}.0", f"{lists[1]}.0"), 1)
    with pytest.raises(NotApplicable, match="has 4"):
        after_blocks("DBCache", flux, "transformer", 4)
    with pytest.raises(NotApplicable, match="no transformer blocks in UNet2DConditionModel"):
        after_blocks("DBCache", inspect(pipeline("sdxl")), "unet", 1)


def test_lists_are_counted_in_the_order_in_which_they_run():
    aura = anatomy_of(
        AuraFlowTransformer2DModel(
            sample_size=8,
            num_mmdit_layers=2,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=8,
            caption_projection_dim=16,
            pos_embed_max_size=16,
        )
    )
    assert aura.blocks == {"joint_transformer_blocks": 2, "single_transformer_blocks": 1}
    assert aura.image_output == {"joint_transformer_blocks": 1, "single_transformer_blocks": 0}
    latte = LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        in_channels=4,
        sample_size=8,
        patch_size=2,
        caption_channels=8,
    )
    pipe = ToyPipeline(None)
    pipe.transformer = latte
    assert after_blocks("DBCache", inspect(pipe), "transformer", 1).path == "transformer_blocks.0"
    with pytest.raises(NotApplicable, match="has 2"):  # the two temporal blocks run in between
        after_blocks("DBCache", inspect(pipe), "transformer", 2)


def test_image_tokens_are_where_diffusers_registry_says():
    TransformerBlockRegistry._register()
    # It says that Bria's blocks return the image first; they return (encoder_hidden_states, hidden_states).
    known = {kind: data for kind, data in TransformerBlockRegistry._registry.items() if "Bria" not in kind.__name__}
    assert len(known) > 20
    for kind, data in known.items():
        returned = data.return_hidden_states_index
        # Flux 2's single blocks return one tensor, and their registered index is for it.
        assert _image_output(object.__new__(kind)) == returned, kind.__name__


def test_image_tokens_of_another_shape_are_found_by_the_shape_that_entered():
    text, image = torch.zeros(1, 5, 4), torch.ones(1, 3, 4)
    for output, element in (((image, text), 1), ((text, image), 0), (image, 1), ((None, image), 0)):
        entered, left = image_tokens(output, element, [image])
        assert entered is image and torch.equal(left, image)
    assert image_tokens((text, image), 0, [torch.zeros(1, 8, 4)]) is None
    assert image_tokens((image, image + 1), 1, [image])[1].mean() == 2


# On real architectures. Where the image tokens stand in what block 0 returns, read off the source of each model.
IMAGE_ELEMENT = {
    "wan": ("blocks", None),
    "ltx": ("transformer_blocks", None),
    "mochi": ("transformer_blocks", 0),
    "hunyuan_video": ("transformer_blocks", 0),
    "cogvideox": ("transformer_blocks", 0),
    "flux": ("transformer_blocks", 1),
    "flux_true_guidance": ("transformer_blocks", 1),
    "sd3": ("transformer_blocks", 1),
    "qwen_image": ("transformer_blocks", 1),
    "pixart": ("transformer_blocks", None),
    "sana": ("transformer_blocks", None),
}


@pytest.mark.part(2)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", IMAGE_ELEMENT)
def test_dicache_on_a_real_model_is_the_papers_formula(name, batch):
    """gamma from hooks of our own on block 0, the outputs from outside; one prediction after each computed step."""
    pipe, (path, element) = pipeline(name), IMAGE_ELEMENT[name]
    block, residuals, entered = getattr(pipe.transformer, path)[0], [], []

    def before(module, args, kwargs):
        entered.append((kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]).clone())

    def after(module, args, output):
        residuals.append((output if element is None else output[element]) - entered[-1])

    handles = [block.register_forward_pre_hook(before, with_kwargs=True), block.register_forward_hook(after)]
    method = DiCache(math.inf, predictor=Align(math.inf), retention=0.0, warmup=3, max_skips=1, min_steps=1)
    with accel.accelerate(pipe, cache=method) as session, witness(pipe) as seen:
        run(pipe, TINY[name], batch=batch)
    for handle in handles:
        handle.remove()
    heard, computed, past, checked, gamma = iter(residuals), [], {}, 0, None
    for call, exchange in zip(session.report().calls, seen.exchanges, strict=True):
        leader = exchange.stream == 0
        residual = next(heard) if leader or call.action == "computed" else None
        if leader and len(computed) >= 2:
            p0, p1 = computed[-2:]
            gamma = (residual - p0).abs().flatten(1).mean(1) / (p1 - p0).abs().flatten(1).mean(1)
        answers = past.setdefault(exchange.stream, [])
        if call.action == "predicted":
            older, newer = answers[-2:]
            expected = older + gamma.view(-1, *[1] * (older.ndim - 1)) * (newer - older)
            torch.testing.assert_close(exchange.outputs[0], expected, rtol=1e-4, atol=1e-4)
            assert gamma.min() > 1.0
            checked += 1
        else:
            answers.append(exchange.outputs[0])
            if leader:
                computed.append(residual)
    assert checked == session.report().predicted > 0
    assert next(heard, None) is None  # block 0 ran no other time


def test_too_few_blocks_leave_the_pipeline_alone_and_say_so():
    with accel.accelerate(pipeline("wan"), cache=DBCache(min_steps=1)) as session:
        assert torch.equal(run(pipeline("wan"), TINY["wan"]), plain("wan"))
    reason = session.report().levers[0].reason
    assert "DBCache(first=8)" in reason and "WanTransformer3DModel" in reason and "has 2" in reason


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["sdxl", "svd"])
def test_a_u_net_is_left_alone_and_the_report_says_why(name):
    with accel.accelerate(pipeline(name), cache=FirstBlockCache(min_steps=1)) as session:
        assert torch.equal(run(pipeline(name), TINY[name]), plain(name))
    assert "no transformer blocks" in session.report().levers[0].reason


# Compiled blocks.

LOOSE = {
    "first block": FirstBlockCache(math.inf, predictor=LastOutput(), warmup=2, max_skips=2, min_steps=1),
    "db": DBCache(math.inf, predictor=LastOutput(), first=1, warmup=2, max_skips=2, min_steps=1),
    "di": DiCache(math.inf, retention=0.0, warmup=2, max_skips=2, min_steps=1),
}


def blocks_of(pipe):
    """Attributes and hooks of the blocks and all that is in them."""
    return {path: found for path, found in snapshot(pipe).items() if path.startswith("transformer.blocks.")}


@pytest.mark.slow  # test_compiled.py has such a probe, test_compile.py counts graphs
@pytest.mark.part(1)
@pytest.mark.parametrize("method", LOOSE)
def test_compiled_blocks_are_probed_from_outside_and_nothing_is_recompiled(method):
    torch._dynamo.reset()
    counters.clear()
    pipe = TINY["wan"].build()
    pipe.transformer.compile_repeated_blocks(backend="eager")
    before = blocks_of(pipe)
    with accel.accelerate(pipe, cache=LOOSE[method]) as session:
        first = run(pipe, TINY["wan"])
        graphs = counters["stats"]["unique_graphs"]
        assert graphs == 1  # two blocks of one class, in steps that are skipped and in steps that are not
        assert torch.equal(run(pipe, TINY["wan"]), first)
        assert session.report().timeline() == dict.fromkeys(("cond", "uncond"), "██··█··█")
    assert blocks_of(pipe) == before and traces(pipe) == []
    run(pipe, TINY["wan"])
    assert counters["stats"]["unique_graphs"] == graphs and not counters["recompiles"]
    with accel.accelerate(pipeline("wan"), cache=LOOSE[method]):
        torch.testing.assert_close(first, run(pipeline("wan"), TINY["wan"]), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_blocks_that_are_wrapped_by_torch_compile_are_probed_as_well():
    torch._dynamo.reset()
    counters.clear()
    pipe = TINY["flux"].build()
    for blocks in (pipe.transformer.transformer_blocks, pipe.transformer.single_transformer_blocks):
        for index, block in enumerate(blocks):
            blocks[index] = torch.compile(block, backend="eager")
    run(pipe, TINY["flux"])
    graphs = counters["stats"]["unique_graphs"]
    with accel.accelerate(pipe, cache=DBCache(math.inf, first=3, warmup=2, max_skips=2, min_steps=1)) as session:
        run(pipe, TINY["flux"])
    assert session.report().timeline() == {"cond": "██··█··█"}
    assert counters["stats"]["unique_graphs"] == graphs


def test_a_probe_inside_a_compiled_block_computes_and_says_why():
    torch._dynamo.reset()
    pipe = TINY["wan"].build()
    pipe.transformer.compile_repeated_blocks(backend="eager")
    compiled = run(pipe, TINY["wan"])
    with accel.accelerate(pipe, cache=TeaCache(math.inf, coefficients=(1.0, 0.0), min_steps=1)) as session:
        assert torch.equal(run(pipe, TINY["wan"]), compiled)
    assert "blocks.0.attn1 lies inside the compiled blocks.0" in session.report().levers[0].reason


@pytest.mark.slow  # the first of these three has the blocks restored
def test_nothing_stays_on_a_compiled_block_when_the_denoiser_fails():
    torch._dynamo.reset()
    pipe = TINY["wan"].build()
    pipe.transformer.compile_repeated_blocks(backend="eager")
    run(pipe, TINY["wan"])
    before = blocks_of(pipe)

    def fail(module, args, output):
        raise RuntimeError("out of memory")

    handle = pipe.transformer.norm_out.register_forward_hook(fail)
    with accel.accelerate(pipe, cache=LOOSE["di"]), pytest.raises(RuntimeError, match="out of memory"):
        run(pipe, TINY["wan"])
    handle.remove()
    assert blocks_of(pipe) == before and traces(pipe) == []
