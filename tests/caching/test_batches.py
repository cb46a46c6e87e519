"""A batch is decided as one, by the sample that moved most; a schedule that is known beforehand sees no batches."""

import pytest
import torch

import accel
from accel import EasyCache, Extrapolate, FixedInterval, LastResidual, SeaCache, TGate
from accel.anatomy import inspect
from accel.caching.calibration.published import Polynomial
from accel.caching.methods.dicache import ProbeTrajectory
from accel.caching.methods.easycache import TransformationRate
from accel.caching.methods.firstblock import BlockResidual
from accel.caching.methods.seacache import SpectralChange
from accel.caching.methods.teacache import ProbedChange
from accel.caching.signal import Probe
from accel.call import DenoiserCall
from accel.clock import StepContext
from tests.accel.witness import pipeline, witness
from tests.tiny import TINY, run

SAMPLES = 4
STATIC = {
    "reuse": FixedInterval(3, predictor=LastResidual(), min_steps=1),
    "parabola": FixedInterval(2, predictor=Extrapolate(2), min_steps=1),
    "modules": TGate(min_steps=1),
}
PROBE = Probe("blocks.0", "blocks", ("blocks.0",))
SIGNALS = {
    "sea": lambda: SpectralChange(0.0, "flow", {"in_channels": 2}),
    "easy": TransformationRate,
    "tea": lambda: ProbedChange(PROBE, Polynomial("given", "modulated_input", (1.0, 0.0), None), True),
    "first block": lambda: BlockResidual(PROBE),
    "di": lambda: ProbeTrajectory(PROBE, "delta_minus"),
}


@pytest.mark.part(1)
@pytest.mark.parametrize("label", STATIC)
@pytest.mark.parametrize("name", ["wan", "flux", "sdxl"])
def test_with_a_static_schedule_a_batch_of_four_is_four_single_runs(name, label):
    """Up to the rounding of batched products, which on these models is some millionths of the largest latent."""
    with accel.accelerate(pipeline(name), cache=STATIC[label]) as session:
        batch = run(pipeline(name), TINY[name], batch=SAMPLES)
        assert session.report().levers[0].engaged or (name, label) == ("flux", "modules")  # no cross-attention
        singles = [run(pipeline(name), TINY[name], seed=sample, prompt=sample) for sample in range(SAMPLES)]
    torch.testing.assert_close(batch, torch.cat(singles), rtol=0.0, atol=2e-5 * float(batch.abs().max()))


@pytest.mark.parametrize("label", SIGNALS)
def test_the_distance_of_a_batch_is_the_largest_of_its_samples(label):
    """Each sample walks at random, and another one takes the longest stride in each step."""
    generator = torch.Generator().manual_seed(0)
    position = torch.randn(SAMPLES, 2, 6, 6, generator=generator)
    batch, singles = SIGNALS[label](), [SIGNALS[label]() for _ in range(SAMPLES)]
    longest = set()
    for step in range(8):
        stride = torch.full((SAMPLES, 1, 1, 1), 0.1)
        stride[step % SAMPLES] = 0.5
        position = position + stride * torch.randn(position.shape, generator=generator)
        together = observed(batch, position, step)
        alone = [observed(signal, position[sample : sample + 1], step) for sample, signal in enumerate(singles)]
        if together is None:
            assert alone == [None] * SAMPLES
        else:
            assert together == pytest.approx(max(alone), rel=1e-5)
            longest.add(alone.index(max(alone)))
    assert len(longest) > 1


def observed(signal, latents, step):
    """The distance at this step, which is computed. The probe hears twice as much behind a block as in front of it."""
    context = StepContext(run=1, step=step, position=step, total=8, sigma=1.0 - step / 8)
    call = DenoiserCall("transformer", "cond", True, context, (), {}, [latents], torch.nn.Identity(), {})
    tokens = latents.flatten(2)
    blocks = isinstance(signal, (BlockResidual, ProbeTrajectory))
    distance = signal.observe(call, torch.stack([tokens, 2 * tokens + tokens.sin()]) if blocks else tokens)
    signal.after_compute(call, [latents.cos()])
    return distance


@pytest.mark.part(1)
@pytest.mark.parametrize(
    ("name", "cache"),
    [
        ("flux", SeaCache(0.3, max_skips=1000, min_steps=1)),
        ("sdxl", SeaCache(0.5, max_skips=1000, min_steps=1)),
        # Uncorrected answers: they are what this signal learns from.
        ("wan", EasyCache(0.3, predictor=Extrapolate(corrector=0, reach=9.0), warmup=2, min_steps=1)),
        ("flux", EasyCache(0.3, predictor=Extrapolate(corrector=0, reach=9.0), warmup=2, min_steps=1)),
    ],
)
def test_an_adaptive_batch_computes_wherever_one_of_its_samples_alone_would(name, cache):
    pipe = pipeline(name)
    with accel.accelerate(pipe, cache=cache) as session, witness(pipe) as seen:
        run(pipe, TINY[name], batch=SAMPLES, steps=16)
    calls = [call for call, exchange in zip(session.report().calls, seen.exchanges, strict=True) if not exchange.stream]
    exchanges = [exchange for exchange in seen.exchanges if not exchange.stream]
    wishes = wanted(cache, inspect(pipe), calls, exchanges)
    free = [step for step, call in enumerate(calls) if call.reason.startswith("distance")]
    assert {calls[step].action for step in free} == {"computed", "predicted"}
    for step in free:
        assert calls[step].action == "computed" or not any(wishes[step])
    assert any(0 < sum(wishes[step]) < len(wishes[step]) for step in free)  # they were not of one mind


def wanted(cache, anatomy, calls, exchanges):
    """For each step, which samples would have computed it for their own sake, given what the batch did before."""
    (denoiser,) = anatomy.denoisers
    samples = len(exchanges[0].latents[0])
    parts = [cache.make_policy(anatomy, denoiser) for _ in range(samples)]
    wishes = []
    for step, (record, exchange) in enumerate(zip(calls, exchanges, strict=True)):
        context = StepContext(1, step, record.position, len(calls), record.sigma)
        wishes.append([])
        for sample, (signal, policy) in enumerate(parts):
            latents = [exchange.latents[0][sample : sample + 1]]
            call = DenoiserCall(denoiser, "cond", True, context, (), {}, latents, torch.nn.Identity(), exchange.kwargs)
            distance = signal.observe(call, None)
            if record.reason.startswith("distance"):
                wishes[-1].append(not policy.decide(distance, record.position, len(calls)).skip)
            if record.action == "computed":
                signal.after_compute(call, [exchange.outputs[0][sample : sample + 1]])
                policy.after_compute()
    return wishes
