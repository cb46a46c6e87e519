"""DeepCache: between full evaluations of a U-Net only its shallow layers run, on the deep feature of the last one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple

import torch

from accel.anatomy import Anatomy
from accel.caching.cache_method import Cache, NotApplicable
from accel.caching.conditions import StreamConditions
from accel.caching.kept_feature import KeptFeature
from accel.caching.policy import Decision, EveryNth, guard
from accel.call import DenoiserCall, DenoiserResult, Proceed, rebuilt, tensors
from accel.components import submodule
from accel.lever import InactiveLever, Lever
from accel.method import setting
from accel.patch import Wrapper, forward_of, reachable, unwrap_methods
from accel.reasons import Code
from accel.report import CallRecord, LeverReport
from accel.unet_layers import UNetLayers

NO_FEATURE = Decision(False, "no deep feature yet", Code.NO_HISTORY)
CUT_THROUGH = (
    "the U-Net, or a block of which a part is left out, was compiled as a whole: compile the blocks within it instead "
    "(compile_repeated_blocks)"
)


@dataclass(frozen=True)
class DeepCache(Cache):
    """Runs the whole U-Net in every `interval`-th step and only its shallow layers in the others.

    Source: DeepCache (CVPR 2024, arXiv 2312.00858), section 3.3, uniform schedule. The hidden state that enters the
    first of the last `branch` + 1 up layers is kept from the last full step; a skipped step runs the input convolution
    and the `branch` down layers whose skip connections those up layers receive, then the up layers themselves. branch
    0 is the cheapest (the paper's default); 2 keeps the whole outermost level of Stable Diffusion.
    A skipped step whose latents, timestep and prompt are those of the full one gives its output bit for bit. ControlNet
    and T2I-Adapter residuals of the layers that run are this step's own (the ControlNet itself runs in every step);
    those of the layers that do not run are part of the kept feature. FreeU and IP-Adapters need nothing.

    line: the paper holds the feature until the next full step. Here it can go on along a straight line through the last
    two, as far as the one before should have gone and at most so much of the way: on the judge of U-Nets, with every
    fourth step in full, 0.8 is 6 dB better than 0 (40.4 and 34.4 dB, mean of eight prompts), at no cost but memory.

    For SD, SDXL, AnimateDiff and Stable Video Diffusion; not for distilled models of a few steps (see `min_steps`), and
    not for a U-Net that was compiled as a whole.
    Memory: one hidden state per stream, three with a line, (B, C, H, W) at the place of the cut: 20 MiB each for SDXL
    at 1024 x 1024 in half precision with guidance in one batch.
    """

    interval: int = setting(3, 1, 1000, "run the whole U-Net in every n-th step; 1 never skips", dial=True)
    branch: int = setting(0, 0, 100, "down layers that run in skipped steps; 0 is cheapest")
    _: KW_ONLY
    warmup: int = setting(1, 1, 1000, "first steps that run in full")
    final: int = setting(0, 0, 1000, "last steps that run in full")
    min_steps: int = setting(10, 1, 1000, "runs with fewer steps are left alone")
    line: float = setting(0.0, 0.0, 1.0, "the most of the way along a line that the feature goes; 0 holds it")

    def build(self, anatomy: Anatomy) -> Lever:
        """The working cache, or an inactive lever that says why there is none."""
        try:
            cuts = {name: cut_unet(denoiser.unet, self.branch) for name, denoiser in anatomy.denoisers.items()}
        except NotApplicable as reason:
            return InactiveLever(self, str(reason))
        return ShallowGate(self, cuts)


class UNetCut(NamedTuple):
    """Where a U-Net is cut: the module whose output is kept, and all modules that a skipped step leaves out."""

    feature: str
    skipped: tuple[str, ...]


def cut_unet(unet: UNetLayers | None, branch: int) -> UNetCut:
    """Keeps the first `branch` + 1 skip connections and the up layers that receive them.

    A block of which nothing is kept is left out as a whole, because that also saves what it does between its layers.
    Raises NotApplicable for what is not a known U-Net and for a branch that keeps everything.
    """
    if unet is None:
        raise NotApplicable(
            "DeepCache needs the skip connections of a U-Net that accel knows (SD, SDXL, AnimateDiff, SVD): "
            "take SeaCache or FixedInterval here."
        )
    most = len(unet.ups) - 2
    if branch > most:
        raise NotApplicable(f"branch={branch} leaves nothing out of this U-Net: give at most {most}.")
    kept = {path for layer in (*unet.skips[: branch + 1], *unet.ups[-branch - 1 :]) for path in layer}
    opened = {_block(path) for path in kept}

    def whole(path: str) -> str:
        return path if _block(path) in opened else _block(path)

    every = [path for layer in (*unet.skips, unet.middle, *unet.ups) for path in layer]
    skipped = dict.fromkeys(whole(path) for path in every if path not in kept)
    return UNetCut(whole(unet.ups[-branch - 2][-1]), tuple(skipped))


def _block(path: str) -> str:
    return ".".join(path.split(".")[:2])


@dataclass
class ShallowState:
    """One stream of one denoiser in this run: the kept feature, and what the modules left out would have returned."""

    key: tuple[object, ...]
    policy: EveryNth
    feature: KeptFeature
    templates: dict[str, Any] = field(default_factory=dict)  # structures of tensors without memory
    layout: tuple[object, ...] = ()  # of the latents as they were last evaluated
    time: float = 0.0  # of this step


class ShallowGate(Lever):
    """Puts a layer over every module that skipped steps leave out, for the duration of a pipeline call.

    In a full step the layers note what shape comes out, and one of them keeps it. In a skipped step that one returns
    what was kept and the others uninitialised memory, which nothing reads that reaches the output.
    """

    def __init__(self, method: DeepCache, cuts: Mapping[str, UNetCut]) -> None:
        self.method, self.cuts = method, cuts
        self._wrappers: list[Wrapper] = []
        self._compiled: set[str] = set()
        self._stream: ShallowState | None = None  # whose denoiser call is under way
        self._skipping = False
        self._conditions = StreamConditions()
        self._peak = 0
        self.reset()

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        self._conditions.arguments(given)
        return {}

    def begin(self, denoisers: dict[str, torch.nn.Module]) -> None:
        for name, denoiser in denoisers.items():
            modules = {path: submodule(denoiser, path) for path in self.cuts[name].skipped}
            if any(module is not None and reachable(denoiser, path) is None for path, module in modules.items()):
                self._compiled.add(name)
                continue
            for path, module in modules.items():
                if module is not None:
                    around = functools.partial(self._around, path, path == self.cuts[name].feature)
                    self._wrappers.append(Wrapper(module, forward_of(module), around))

    def end(self) -> None:
        unwrap_methods(self._wrappers)
        self._compiled.clear()

    def reset(self) -> None:
        self._conditions.reset()
        self._streams: dict[tuple[str, str], ShallowState] = {}
        self._decisions: dict[str, Decision] = {}

    def handle(self, call: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        stream = self._known(call)
        decision = self._decide(call, stream)
        self._stream, self._skipping = stream, decision.skip
        try:
            outcome = proceed(call)
        finally:
            self._stream = None
        if not decision.skip or not self._skipping:
            self._peak = max(self._peak, self._held_bytes())
            return DenoiserResult(outcome.output, outcome.action, decision.reason, decision.code)
        return DenoiserResult(outcome.output, "predicted", f"shallow layers only, {decision.reason}")

    def before_evaluation(self, call: DenoiserCall) -> None:
        """A lever below may have changed the size, of which a kept feature of another says nothing."""
        if self._stream is not None:
            self._skipping &= self._stream.layout == call.layout
            self._stream.layout = call.layout

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        shallow = sum(call.action == "predicted" for call in calls)
        reason = f"{shallow} of {len(calls)} calls ran the shallow layers only"
        if not shallow and calls:
            reason += f" ({calls[-1].reason})"
        peak, self._peak = self._peak, 0
        return LeverReport("cache", str(self.method), shallow > 0, reason, peak)

    def _known(self, call: DenoiserCall) -> ShallowState:
        key = (call.layout, self._conditions.key(call))
        name = (call.denoiser, call.stream)
        stream = self._streams.get(name)
        if stream is None or stream.key != key:
            feature = KeptFeature(self.method.line)
            stream = self._streams[name] = ShallowState(key, EveryNth(self.method.interval), feature)
        stream.time = call.context.time
        return stream

    def _decide(self, call: DenoiserCall, stream: ShallowState) -> Decision:
        """The first stream of a step decides and the others follow, because guidance multiplies differences."""
        if not call.leader:
            decision = self._decisions.get(call.denoiser, Decision(False, "no decision"))
        else:
            decision = self._scheduled(call, stream)
            self._decisions[call.denoiser] = decision
        if decision.skip and not stream.feature.known:
            return NO_FEATURE
        if call.leader and not decision.skip:
            stream.policy.after_compute()
        return decision

    def _scheduled(self, call: DenoiserCall, stream: ShallowState) -> Decision:
        method, context = self.method, call.context
        if call.denoiser in self._compiled:
            return Decision(False, CUT_THROUGH, Code.UNREACHABLE)
        forced = guard(
            step=context.step, steps=context.steps, left=context.left, skipped=0,
            warmup=method.warmup, final=method.final, max_skips=1, min_steps=method.min_steps,
        ) or (None if stream.feature.known else NO_FEATURE)  # fmt: skip
        return forced or stream.policy.decide(None, context.position, context.total)

    def _around(self, path: str, keeps: bool, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        stream = self._stream
        if stream is None:
            return inner(*args, **kwargs)
        if self._skipping:
            answer = stream.templates[path]
            # New tensors, because FreeU scales the channels of what it is given in place.
            values = stream.feature.at(stream.time) if keeps else _memory(answer, stream)
            return rebuilt(answer, values)
        output = inner(*args, **kwargs)
        outputs = tensors(output)
        stream.templates[path] = rebuilt(output, [torch.empty_like(tensor, device="meta") for tensor in outputs])
        if keeps:
            stream.feature.keep(stream.time, outputs)
        return output

    def _held_bytes(self) -> int:
        held = [tensor for stream in self._streams.values() for tensor in stream.feature.tensors]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


def _memory(answer: Any, stream: ShallowState) -> list[torch.Tensor]:
    return [torch.empty_like(tensor, device=stream.feature.tensors[0].device) for tensor in tensors(answer)]
