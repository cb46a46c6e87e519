"""RAU-Net: in the first steps the deep layers of a U-Net see a large picture at the size that they were trained on.

Sizes follow from the layers alone, so every place where features grow again is told the size that its skip connection
has. Convolutions are asked for another stride by a torch function mode while they run, which is what adapters (LoRA)
need too; no module, weight or attribute is changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from accel.attention.unets.high_resolution import HighResolution
from accel.call import DenoiserCall, DenoiserResult, Proceed, rebuilt, tensors
from accel.clock import StepContext
from accel.lever import Lever
from accel.patch import Wrapper, is_graph, reachable, unwrap_methods
from accel.report import CallRecord, LeverReport
from accel.unet_layers import UNetLayers

Size = tuple[int, int]

# T1 and T2 as published, by how many times the size trained on the smaller side is, at least; and T1 with a ControlNet,
# for SDXL below 4 times.
SWITCHES = {4: (0.7, 0.3), 0: (0.4, 0.0)}
CONTROLLED_T1 = 0.5
FROM_AREA = 2.0  # times the area trained on: below, halved features are further from what was trained than whole ones
CONTROL, MIDDLE, ADAPTER = (
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "down_intrablock_additional_residuals",
)
CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class Switches(NamedTuple):
    """Shares of the steps: the first module halves until `first`, the second until `second`; until `early` the second
    does it in place of the first.
    """

    first: float
    second: float
    early: float = 0.0

    def active(self, context: StepContext) -> tuple[bool, bool]:
        """Whether the first and the second module halve in this step."""
        early, first, second = (int(share * context.total + 1e-9) for share in (self.early, self.first, self.second))
        if context.position < early:
            return False, True
        return context.position < first, context.position < second


def switches(unet: HighResolution, size: Size, controlled: bool, first: float, second: float) -> Switches | str:
    """When which module halves on latents of this size, or why none does. first, second: as given, -1 as published."""
    if not unet.native:
        return "the U-Net's configuration does not say which size it was trained on (sample_size)"
    area = size[0] * size[1]
    if area < FROM_AREA * unet.native**2:
        return (
            f"latents of {size[0]} x {size[1]} are less than {FROM_AREA:g} times the area of the"
            f" {unet.native:g} x {unet.native:g} that the U-Net was trained on"
        )
    times = min(size) / unet.native
    published = next(shares for least, shares in SWITCHES.items() if times >= least)
    if not published[1] and unet.few_steps is not None:
        published = unet.few_steps, 0.0
    elif not published[1] and unet.early and controlled:
        published = CONTROLLED_T1, 0.0
    t1, t2 = (own if own >= 0 else known for own, known in zip((first, second), published, strict=True))
    return Switches(t1, t2, 0.0 if second >= 0 or t2 else min(unet.early, t1))


def sizes_of_skips(layers: UNetLayers, size: Size, halved: Iterable[int]) -> list[Size]:
    """Height and width of every skip connection, on latents of this size, where those of these numbers are halved."""
    found, extra = [], set(halved)
    for number, layer in enumerate(layers.skips):
        for _ in range((".downsamplers." in layer[-1]) + (number in extra)):
            size = -(-size[0] // 2), -(-size[1] // 2)
        found.append(size)
    return found


def sized_modules(layers: UNetLayers) -> dict[str, tuple[int, ...]]:
    """The modules whose output meets a skip connection or is one, by path: for each tensor of it, the number of the
    skip connection whose size it must have.

    Whole blocks are among them, because a cache may reuse one's output from a step in which features had other sizes.
    """
    found: dict[str, tuple[int, ...]] = {"mid_block": (len(layers.skips) - 1,)}
    down: dict[str, list[int]] = {}
    for number, layer in enumerate(layers.skips[1:], start=1):
        found[layer[-1]] = (number,)
        down.setdefault(_block(layer[-1]), []).append(number)
    found |= {block: (numbers[-1], *numbers) for block, numbers in down.items()}
    for index, layer in enumerate(layers.ups[:-1]):
        block, following, number = _block(layer[-1]), _block(layers.ups[index + 1][-1]), len(layers.ups) - 2 - index
        found |= dict.fromkeys([layer[-1]] if block == following else [f"{block}.upsamplers.0", block], (number,))
    return found


class Wiring(NamedTuple):
    """What of a U-Net is stood around, by path."""

    layers: UNetLayers
    halved: dict[str, int]  # numbers of the skip connections that these modules make
    sized: dict[str, tuple[int, ...]]


class Halved(NamedTuple):
    """The denoiser call under way."""

    denoiser: str
    halved: frozenset[int]  # numbers of the skip connections from which on features are halved
    sizes: list[Size]  # of all skip connections


class RauNet(Lever):
    """Halves the features of known U-Nets in the first steps.

    Pipelines whose ControlNet or T2I-Adapter adds to the skip connections go on as they are: what is added is averaged
    to the size of the features that it is added to.
    """

    def __init__(self, method: str, unets: Mapping[str, HighResolution], first: float, second: float) -> None:
        self.method, self.unets, self._given = method, unets, (first, second)
        self._wirings = {name: wiring(unet) for name, unet in unets.items()}
        self._wrappers: list[Wrapper] = []
        self._last: Switches | None = None
        self.reset()
        self._open()

    def begin(self, denoisers: dict[str, torch.nn.Module]) -> None:
        self.end()
        self._open()
        for name, parts in self._wirings.items():
            modules = {path: reachable(denoisers[name], path) if name in denoisers else None for path in parts.sized}
            if any(module is None or is_graph(module) for module in modules.values()):
                self._compiled.add(name)
                continue
            for path, module in modules.items():
                self._wrappers.append(Wrapper(module, "forward", partial(self._module, name, path)))

    def reset(self) -> None:
        self._call: Halved | None = None

    def end(self) -> None:
        unwrap_methods(self._wrappers)

    def handle(self, call: DenoiserCall, proceed: Proceed) -> DenoiserResult:
        found = self._switches(call)
        if isinstance(found, str):
            self._idle[found] += 1
            return proceed(call)
        parts, size = self._wirings[call.denoiser], _size(call)
        pairs = zip(parts.halved.values(), found.active(call.context), strict=True)
        halved = frozenset(number for number, active in pairs if active)
        self._call = Halved(call.denoiser, halved, sizes_of_skips(parts.layers, size, halved))
        self._last = found
        self._halved += bool(halved)
        passed = fit_residuals(call, parts.layers, self._call.sizes) if halved else call
        try:
            outcome = proceed(passed)
        finally:
            self._call = None
        call.raw_output = passed.raw_output
        return outcome

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        words = [f"RAU-Net off: {reason}" for reason in self._idle]
        if self._last is not None:
            t1, t2, early = self._last
            stages = f"T1 {t1:g}, T2 {t2:g}" + f", deeper up to {early:g}" * bool(early)
            words.insert(0, f"features halved once more in {self._halved} of {len(calls)} calls ({stages})")
        return LeverReport("attention", self.method, self._halved > 0, "; ".join(words))

    def _open(self) -> None:
        """Starts the account of a pipeline call."""
        self._compiled: set[str] = set()
        self._idle: Counter[str] = Counter()
        self._halved: int = 0  # calls
        self._last = None

    def _switches(self, call: DenoiserCall) -> Switches | str:
        unet = self.unets.get(call.denoiser)
        if unet is None:
            return f"{type(call.module).__name__} is not known"
        if call.denoiser in self._compiled:
            return "its blocks are compiled: compile the transformer blocks within them instead"
        controlled = call.arguments.get(MIDDLE) is not None
        return switches(unet, _size(call), controlled, *self._given)

    def _module(self, name: str, path: str, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stands around a module whose output meets a skip connection or is one."""
        if self._call is None or self._call.denoiser != name:
            return inner(*args, **kwargs)
        parts, halved, sizes = self._wirings[name], self._call.halved, self._call.sizes
        wanted = [sizes[number] for number in parts.sized[path]]
        halving, strided = parts.halved.get(path) in halved, ".downsamplers." in path
        if halved and ".upsamplers." in path:
            args, kwargs = args[:1], kwargs | {"output_size": wanted[0]}
        with Dilated() if halving and strided else nullcontext():
            output = inner(*args, **kwargs)
        if halving and not strided:
            output = rebuilt(output, [F.avg_pool2d(part, 2, ceil_mode=True) for part in tensors(output)])
        found = tensors(output)
        if all(part.shape[-2:] == size for part, size in zip(found, wanted, strict=True)):
            return output
        return rebuilt(output, [_resized(part, size) for part, size in zip(found, wanted, strict=True)])


class Dilated(TorchFunctionMode):
    """Convolutions of stride 2 within the block take every fourth place, of pixels twice as far apart."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.conv2d:
            named = dict(zip(CONVOLUTION, args, strict=False)) | (kwargs or {})
            if named.get("stride") in (2, (2, 2)):
                return func(**(named | {"stride": 4, "padding": 2, "dilation": 2}))
        return func(*args, **(kwargs or {}))


def wiring(unet: HighResolution) -> Wiring:
    """Where a U-Net is stood around."""
    numbers = {layer[-1]: number for number, layer in enumerate(unet.layers.skips)}
    return Wiring(unet.layers, {path: numbers[path] for path in unet.halved}, sized_modules(unet.layers))


def fit_residuals(call: DenoiserCall, layers: UNetLayers, sizes: Sequence[Size]) -> DenoiserCall:
    """The call with what ControlNets and adapters add averaged to these sizes of the skip connections."""
    given = call.arguments
    changed: dict[str, Any] = {}
    control, middle, adapter = given.get(CONTROL), given.get(MIDDLE), given.get(ADAPTER)
    if control is not None and middle is None and adapter is None:  # the old way to pass an adapter's
        changed[CONTROL] = _averaged(control, [sizes[number] for number in _adapted(layers)])
    elif control is not None:
        changed[CONTROL] = tuple(_averaged(control, sizes))
    if middle is not None:
        changed[MIDDLE] = F.adaptive_avg_pool2d(middle, sizes[-1])
    if adapter is not None:
        changed[ADAPTER] = _averaged(adapter, [sizes[number] for number in _adapted(layers)])
    if not changed:
        return call
    arguments = {**given, **changed}
    return replace(call, args=(), kwargs=arguments, arguments=arguments)


def _averaged(residuals: Sequence[torch.Tensor], sizes: Sequence[Size]) -> list[torch.Tensor]:
    pairs = zip(residuals, sizes, strict=False)
    return [F.adaptive_avg_pool2d(residual, size) for residual, size in pairs]


def _adapted(layers: UNetLayers) -> list[int]:
    """The skip connections whose size an adapter's residuals have: of each block's last layer in front of the
    downsampler, or behind it where there is no attention, and of the middle.
    """
    last: dict[str, int] = {}
    attentive: dict[str, int] = {}
    for number, layer in enumerate(layers.skips[1:], start=1):
        last[_block(layer[-1])] = number
        if ".attentions." in layer[-1]:
            attentive[_block(layer[-1])] = number
    return [*(attentive.get(block, number) for block, number in last.items()), len(layers.skips) - 1]


def _resized(features: torch.Tensor, size: Size) -> torch.Tensor:
    return features if features.shape[-2:] == size else F.interpolate(features, size=size, mode="bicubic")


def _size(call: DenoiserCall) -> Size:
    height, width = call.latents[0].shape[-2:]
    return height, width


def _block(path: str) -> str:
    return ".".join(path.split(".")[:2])
