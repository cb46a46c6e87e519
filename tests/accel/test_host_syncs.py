"""On a device that is not the CPU every technique keeps to it, and none makes the host wait more than it says.

A line of accel that stalls in one step of a run has set something up (a timetable is read, a kernel is tested, a plan
is packed for a batch, and for half of it). One that stalls in more does so again and again, which lets a GPU run dry.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

import accel
from accel.method import Method
from tests.accel.witness import pipeline
from tests.devices.cases import ADAPTIVE, ELSEWHERE, ONLINE, STATIC
from tests.devices.hosted import (
    ROOT,
    MixedDevices,
    Watch,
    again_and_again,
    hosted_device,
    most_in_a_step,
    on_cpu,
    to_hosted,
    watched,
)
from tests.tiny import TINY, run
from tests.tiny.kinds import KINDS

STEPS = 8
LAYERS = 10  # of the tiny pipelines, at most
FEWER_BITS = ("attention in bfloat16", "layers in bfloat16", "layers in 8 bits", "weights in 8 bits")
FAST = {
    **{"planned": "wan", "difference carried, planned": "ltx", "four levers": "flux", "UniPC": "wan", "FORA": "sd"},
    **{"tiles": "flux", "coarse to fine": "flux", "planned, guarded": "wan", "EasyCache": "flux", "DiCache": "flux"},
    **{"agreement": "ltx", "top blocks": "flux", "every third, aligned": "flux"},
}


def crossed(cases: dict[str, Any]) -> pytest.MarkDecorator:
    pairs = [
        pytest.param(name, label, marks=() if FAST.get(label) == name else pytest.mark.slow, id=f"{label}-{name}")
        for label in cases
        for name in KINDS
    ]
    return pytest.mark.parametrize(("name", "label"), pairs)


@cache
def hosted(name: str) -> Any:
    return to_hosted(TINY[name].build())


def accelerated(name: str, label: str, cases: dict[str, Any]) -> tuple[Watch, accel.Report]:
    """A run on the hosted device, which must give what the CPU gives."""
    pipe = hosted(name)
    with watched() as seen, torch.no_grad(), accel.accelerate(pipe, cases[label]) as session:
        output = run(pipe, TINY[name], steps=STEPS)
    with accel.accelerate(pipeline(name), cases[label]) as here:
        expected = run(pipeline(name), TINY[name], steps=STEPS)
    if label not in FEWER_BITS and here.report().timeline() == session.report().timeline():
        assert (on_cpu(output) - expected).norm() <= 2e-3 * expected.norm()
    assert not again_and_again(seen.made), "tensors are made on the host in every step"
    return seen, session.report()


@pytest.mark.part(1)
@crossed(STATIC)
def test_what_is_decided_beforehand_never_makes_the_host_wait(name: str, label: str) -> None:
    seen, _ = accelerated(name, label, STATIC)
    assert not again_and_again(seen.ours)


@pytest.mark.part(1)
@crossed(ADAPTIVE)
def test_what_goes_by_a_number_reads_one_in_a_step(name: str, label: str) -> None:
    seen, _ = accelerated(name, label, ADAPTIVE)
    assert most_in_a_step(again_and_again(seen.ours)) <= 1


@crossed(ONLINE)
def test_what_plans_from_the_activations_reads_once_for_each_attention(name: str, label: str) -> None:
    seen, _ = accelerated(name, label, ONLINE)
    asked = [stall for stall in seen.ours if stall.where.startswith("attention/planner.py")]
    assert most_in_a_step(asked) <= 2 * LAYERS


@pytest.mark.parametrize("lever", ["cache", "attention", "guidance", "sampler", "precision", "resolution"])
def test_every_technique_is_here_or_has_its_reason(lever: str) -> None:
    used = {type(getattr(recipe, lever)).__name__ for recipe in (STATIC | ADAPTIVE | ONLINE).values()}
    ours = {name for name, kind in Method.registry[lever].items() if kind.__module__.startswith("accel.")}
    assert ours - used == {*ELSEWHERE.get(lever, {})}


def test_the_device_refuses_what_a_gpu_refuses_and_counts_what_makes_it_wait() -> None:
    device = hosted_device()
    with watched() as seen:
        x = torch.arange(6.0, device=device)
        assert (x + torch.tensor(1.0)).device == x.sum().device == device  # numbers may come from the host
        assert not seen.stalls
        with pytest.raises(MixedDevices):
            x + torch.ones(6)
        found = [float(x[5]), x.cpu().tolist(), len(x[x > 2]), len(x.nonzero()), bool(torch.equal(x, x))]
        torch.tensor([1.0, 2.0], device=device)
    assert found == [5.0, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 3, 5, True]
    assert [stall.what for stall in seen.stalls] == [
        "_local_scalar_dense", "_to_copy", "index", "nonzero", "equal", "_copy_from"
    ]  # fmt: skip


@pytest.mark.slow  # tests a count of the tests
def test_the_count_sees_a_number_that_is_read_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy of ours that looks at the latents, as a careless one would."""
    from accel.caching.signal import NoSignal

    source = "def observe(self, call, heard):\n    return float(call.latents[0].mean())\n"
    looks: dict[str, Any] = {}
    exec(compile(source, ROOT / "caching" / "careless.py", "exec"), looks)
    monkeypatch.setattr(NoSignal, "observe", looks["observe"])
    seen, _ = accelerated("flux", "planned", STATIC)
    assert most_in_a_step(again_and_again(seen.ours)) == 1
    assert {stall.where for stall in again_and_again(seen.ours)} == {"caching/careless.py:2"}
