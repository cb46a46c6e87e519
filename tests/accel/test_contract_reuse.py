"""What module reuse promises for every pipeline: nothing changes where nothing is reused, and a reused module gives
exactly what it gave last. Checked against hooks on a twin that accel never touches."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import accel
from accel import FORA, PAB, AdaCache, SmoothCache, TGate
from accel.caching import ReuseMethod
from tests.accel.residue import snapshot, traces
from tests.accel.test_contract import SCHEDULE, SCHEDULES
from tests.accel.witness import denoisers, flat, pipeline, plain, twin
from tests.tiny import TINY, run
from tests.tiny.kinds import KINDS, crossed, kinds_only

GUARDS: dict[str, Any] = {"warmup": 2, "final": 1, "min_steps": 1}
EVERYWHERE = (-1.0, 1001.0)
MODULES = ("self_attention", "temporal_attention", "cross_attention", "feed_forward")


def flat_errors(error: float) -> tuple[Any, ...]:
    """Error curves that are the same at every noise level of every pipeline here."""
    rows = tuple((sigma, error, error) for sigma in (1e7, 0.0))
    return tuple((name, kind, rows) for name in ("transformer", "transformer_2", "unet") for kind in MODULES)


NEVER: dict[str, ReuseMethod] = {
    "fora": FORA(1, min_steps=1),
    "pab, short ranges": PAB(1, 1, 1, EVERYWHERE, min_steps=1),
    "pab, empty window": PAB(window=(500.0, 500.0), min_steps=1),
    "tgate": TGate(math.inf, 1, min_steps=1),
    "adacache": AdaCache((0.0, 9), min_steps=1),
    "smoothcache": SmoothCache(0.0, flat_errors(0.0), min_steps=1),
    "guards": FORA(9, warmup=1000, min_steps=1),
}
# The guards alone decide: after each computed step all modules are reused twice.
FORCED: dict[str, ReuseMethod] = {
    "fora": FORA(3, **GUARDS),
    "adacache": AdaCache((1e9, 3), **GUARDS),
}


def accelerated(name: str, method: ReuseMethod, **options: Any) -> tuple[torch.Tensor, accel.Report]:
    with accel.accelerate(pipeline(name), accel.Recipe(cache=method)) as session:
        return run(pipeline(name), TINY[name], **options), session.report()


# The reference


SITES = {
    "self_attention": r"attn|attn1|attention",
    "temporal_attention": r"attn1",
    "cross_attention": r"attn2",
    "feed_forward": r"ff|ff_in|ffn|ff_context|img_mlp|txt_mlp|feed_forward|proj_mlp",
}


def kind_of(path: str, name: str) -> str | None:
    """What a module of the tiny pipelines is, written down from reading their models."""
    if not re.match(r"(.*\.)?(\w*transformer_blocks|layers|blocks)\.\d+\.\w+$", path) or "refiner" in path:
        return None
    last = path.rsplit(".", 1)[1]
    along_time = "motion_modules" in path or "temporal_transformer_blocks" in path
    if last == "attn2" and ("motion_modules" in path or name.startswith("sd3")):
        return "temporal_attention" if along_time else "self_attention"
    kind = next((kind for kind, names in SITES.items() if re.fullmatch(names, last)), None)
    return "temporal_attention" if kind == "self_attention" and along_time else kind


class Replay:
    """Hooks that replace outputs of modules by their last ones; `reused(denoiser, round)` says which kinds."""

    def __init__(self, reused: Any) -> None:
        self.reused = reused
        self.rounds: Counter[tuple[Any, ...]] = Counter()
        self.outputs: dict[tuple[Any, ...], Any] = {}
        self.replaced: Counter[str] = Counter()

    def enter(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        words = flat(kwargs.get("encoder_hidden_states", args[2] if len(args) > 2 else None))
        self.stream = (name, *(float(word.float().sum()) for word in words))
        self.kinds = self.reused(name, self.rounds[self.stream])
        self.rounds[self.stream] += 1

    def leave(self, path: str, kind: str, output: Any) -> Any:
        key = (self.stream, path)
        if kind in self.kinds:
            self.replaced[kind] += 1
            return self.outputs[key]
        self.outputs[key] = tuple(part.clone() for part in output) if isinstance(output, tuple) else output.clone()
        return output


@contextmanager
def replaying(name: str, reused: Any) -> Iterator[Replay]:
    replay, handles = Replay(reused), []
    for denoiser, root in denoisers(twin(name)).items():
        handles.append(
            root.register_forward_pre_hook(
                lambda _, args, kwargs, who=denoiser: replay.enter(who, args, kwargs), with_kwargs=True
            )
        )
        for path, module in root.named_modules():
            kind = kind_of(path, name)
            if kind is not None:
                handles.append(
                    module.register_forward_hook(
                        lambda _, __, output, path=path, kind=kind: replay.leave(path, kind, output)
                    )
                )
    try:
        yield replay
    finally:
        for handle in handles:
            handle.remove()


def check(name: str, method: ReuseMethod, reused: Any, **options: Any) -> None:
    output, report = accelerated(name, method, **options)
    with replaying(name, reused) as replay:
        expected = run(twin(name), TINY[name], **options)
    assert torch.equal(output, expected)
    assert not torch.equal(output, plain(name, **options))
    assert report.levers[0].engaged
    assert report.levers[0].reason.startswith(f"{sum(replay.replaced.values())} of ")
    assert report.computed == len(report.calls)


def forced(name: str, method: str = "fora") -> Any:
    """Everything is reused where test_contract.py's schedule predicts."""
    schedule = SCHEDULES.get(name, SCHEDULE)
    if name == "wan_two_experts":  # these caches do not know where the first expert hands over
        schedule = {"transformer": "CCP", "transformer_2": "CPPCC"}
    if (name, method) == ("wan_two_experts", "adacache"):  # each expert has to see a change first
        schedule = {"transformer": "CCP", "transformer_2": "CCPPC"}
    return lambda denoiser, number: MODULES if schedule[denoiser][number] == "P" else ()


@pytest.mark.part(1)
@crossed("method", NEVER)
def test_never_reusing_is_bit_identical(name: str, method: str) -> None:
    output, report = accelerated(name, NEVER[method])
    assert torch.equal(output, plain(name))
    assert not report.levers[0].engaged and report.levers[0].reason


@pytest.mark.part(2)
@crossed("method", FORCED, kinds=(*KINDS, "wan_two_experts"))
def test_forced_reuse_gives_what_each_module_gave_last(name: str, method: str) -> None:
    check(name, FORCED[method], forced(name, method))


@pytest.mark.part(1)
@kinds_only()
def test_forced_reuse_without_guidance(name: str) -> None:
    check(name, FORCED["fora"], forced(name), guidance=False)


@pytest.mark.part(1)
@kinds_only()
def test_forced_reuse_in_a_batch_of_another_size(name: str) -> None:
    check(name, FORCED["fora"], forced(name), batch=2, size="other")


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "ltx", "pixart", "sdxl", "animatediff", "svd"])
def test_kinds_are_reused_each_at_its_own_pace(name: str) -> None:
    """PAB with its window wide open: the n-th step of the run computes."""
    ranges = {"cross_attention": 4, "self_attention": 2, "temporal_attention": 3}
    method = PAB(4, 2, 3, EVERYWHERE, warmup=1, final=0, min_steps=1)
    check(name, method, lambda _, number: [kind for kind, steps in ranges.items() if number % steps])


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "ltx", "pixart", "sana", "sdxl", "animatediff", "svd"])
def test_cross_attention_is_frozen_at_the_gate(name: str) -> None:
    """Gate 6, interval 2, warm-up 1: self-attention is reused in step 3 alone; 4 is a refresh, 5 the gate's."""

    def reused(_: str, number: int) -> tuple[str, ...]:
        if number >= 6:
            return ("cross_attention",)
        return ("self_attention", "temporal_attention") if number == 3 else ()

    check(name, TGate(6, 2, warmup=1, min_steps=1), reused)


@pytest.mark.part(2)
@kinds_only()
def test_tgate_says_where_there_is_no_cross_attention(name: str) -> None:
    output, report = accelerated(name, TGate(4, min_steps=1))
    crossed = any(
        part.modules.get("cross_attention") for part in accel.anatomy.inspect(pipeline(name)).denoisers.values()
    )
    assert report.levers[0].engaged == crossed
    if not crossed:
        assert torch.equal(output, plain(name))
        assert "no cross attention" in report.levers[0].reason and "FixedInterval" in report.levers[0].reason


@pytest.mark.part(1)
@kinds_only(kinds=(*KINDS, "svd"))
def test_restore_leaves_no_trace_and_the_output_bit_identical(name: str) -> None:
    pipe = TINY[name].build()
    run(pipe, TINY[name])
    before = snapshot(pipe)
    session = accel.accelerate(pipe, accel.Recipe(cache=FORCED["fora"]))
    run(pipe, TINY[name])
    assert session.report().levers[0].engaged
    session.restore()
    assert traces(pipe) == []
    after = snapshot(pipe)
    modules = [path for path in before if path.startswith(("transformer", "unet"))]
    assert modules and [path for path in modules if before[path] != after[path]] == []
    assert torch.equal(run(pipe, TINY[name]), plain(name))


@pytest.mark.part(1)
@kinds_only()
def test_every_call_starts_anew(name: str) -> None:
    """Another prompt, another size, another step count, and the first again: each as in a session of its own."""
    method = FORCED["fora"]
    asked: list[dict[str, Any]] = [{}, {"size": "other"}, {"steps": 5, "prompt": 1}, {}]
    fresh = [accelerated(name, method, **options)[0] for options in asked[:-1]]
    with accel.accelerate(pipeline(name), accel.Recipe(cache=method)):
        again = [run(pipeline(name), TINY[name], **options) for options in asked]
    assert all(torch.equal(one, other) for one, other in zip(again, [*fresh, fresh[0]], strict=True))


class Stop(Exception):
    pass


@pytest.mark.part(1)
@kinds_only()
def test_an_exception_inside_of_a_module_leaves_nothing_behind(name: str) -> None:
    pipe, method = TINY[name].build(), FORCED["fora"]
    root = next(iter(denoisers(pipe).values()))
    module = next(child for path, child in root.named_modules() if kind_of(path, name) == "feed_forward")
    before, calls = {path: dict(vars(child)) for path, child in root.named_modules()}, []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Stop

    with accel.accelerate(pipe, accel.Recipe(cache=method)):
        handle = module.register_forward_hook(fail)
        with pytest.raises(Stop):
            run(pipe, TINY[name])
        handle.remove()
        inside = {path: dict(vars(child)) for path, child in root.named_modules() if path}
        assert all(inside[path].keys() == before[path].keys() for path in inside)
        assert torch.equal(run(pipe, TINY[name]), accelerated(name, method)[0])
    assert traces(pipe) == []
    assert torch.equal(run(pipe, TINY[name]), plain(name))


@pytest.mark.part(1)
@kinds_only(kinds=(*KINDS, "wan_two_experts"))
def test_extra_memory_is_one_output_of_every_module_and_stream(name: str) -> None:
    """The largest sum over denoisers: when a second expert starts, the first one's outputs are let go."""
    sizes: dict[str, Counter[Any]] = {}
    with replaying(name, lambda *_: ()) as replay:
        run(twin(name), TINY[name])
    for (stream, _), output in replay.outputs.items():
        sizes.setdefault(stream[0], Counter())["bytes"] += sum(part.numel() * 4 for part in flat(output))
    _, report = accelerated(name, FORCED["fora"])
    assert report.levers[0].extra_bytes == max(size["bytes"] for size in sizes.values())
