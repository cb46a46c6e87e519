"""The lever of all precision methods: computes the layers of a denoiser call in the formats that the method chose.

It stands around the layers' `forward` for the duration of one pipeline call and acts only within a denoiser call. The
model's own weights stay where they are, or go to a `Shelf` meanwhile; those in fewer bits are kept as long as the
session is.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch

from accel.anatomy import Anatomy
from accel.call import DenoiserCall
from accel.clock import StepContext
from accel.lever import Lever
from accel.method import Method
from accel.patch import Wrapper
from accel.precision.format import Format
from accel.precision.layers import FoundLayers, Layer, find_layers, is_plain
from accel.precision.shelf import Shelf
from accel.precision.weights import ConvertedWeights
from accel.report import CallRecord, LeverReport
from accel.rounding import COARSE

WARMUP = "in the first steps (warmup)"
FINAL = "in the last steps (final)"
SHORT = "of few tokens (min_tokens)"
SMALL = "too small to gain (min_tokens)"
FEW = 16  # tokens of a sample; what modulates receives one
GRADIENTS = "because gradients are wanted"
UNUSUAL = "called in an unusual way"
AUTOCAST = "under autocast, which chooses data types itself"
MIXED = "of another data type than their weights"
MOST_REASONS = 4


@dataclass(frozen=True)
class Sparing:
    """Where a model stays in its own precision: shares of the first and last steps, and layers of few tokens."""

    warmup: float
    final: float
    min_tokens: int

    def why(self, context: StepContext) -> str:
        """Why this step is spared; "" if it is not."""
        if context.position < round(self.warmup * context.total, 6):
            return WARMUP
        return FINAL if context.total - 1 - context.position < round(self.final * context.total, 6) else ""

    def why_small(self, tokens: int, samples: int, format: Format, layer: Layer) -> str:
        """Why a product of so many tokens for each sample is left alone; "" if it is not."""
        if tokens < (FEW if self.min_tokens < 0 else self.min_tokens):
            return SHORT
        work = tokens * samples * layer.weight.numel()
        pays = self.min_tokens >= 0 or layer.weight.device.type != "cpu" or work >= format.pays_from
        return "" if pays else SMALL


class _Place(NamedTuple):
    """A layer with its format; the data type that it passes on to the last layer of its feed-forward, if it is the
    first; and whether it is the last.
    """

    denoiser: str
    format: Format
    layer: weakref.ref[Layer]
    passes_on: torch.dtype | None
    receives: bool


class _SharedActivations(NamedTuple):
    """The last activations that were made, for the next layers that receive the same tensor (q, k and v)."""

    x: weakref.ref[torch.Tensor]
    version: int
    format: Format
    activations: Any


class PrecisionLever(Lever):
    """Computes layers in the formats of `formats`: by "denoiser/path", or under "" for all that are not named."""

    def __init__(
        self,
        method: Method,
        formats: Mapping[str, Format],
        sparing: Sparing,
        anatomy: Anatomy,
        *,
        replaces: bool = False,
    ) -> None:
        self.method, self.anatomy = method, anatomy
        self._formats, self._sparing = formats, sparing
        self._kept = ConvertedWeights(Shelf() if replaces else None)
        self._layers: list[Wrapper] = []
        self._open(FoundLayers())
        self.reset()

    def begin(self, denoisers: dict[str, torch.nn.Module]) -> None:
        self.end()
        convolutions = any(each.convolutions for each in self._formats.values())
        found = find_layers(denoisers, self.anatomy, convolutions=convolutions)
        self._open(found)
        self._kept.begin(found.layers.values())
        for (name, path), layer in found.layers.items():
            format = self._format((name, path))
            if format is None or (isinstance(layer, torch.nn.Conv2d) and not format.convolutions):
                continue
            place = _Place(name, format, weakref.ref(layer), *self._inside(found, (name, path), format))
            self._layers.append(Wrapper(layer, "forward", partial(self._layer, place)))

    def _inside(self, found: FoundLayers, layer: tuple[str, str], format: Format) -> tuple[torch.dtype | None, bool]:
        """What this layer passes on within a feed-forward, and whether it receives what another passes on."""
        after = found.pairs.get(layer)
        both = after in found.layers and self._format(after) is format if after else False
        return format.inner_dtype if both else None, layer in found.pairs.values()

    def _format(self, layer: tuple[str, str]) -> Format | None:
        return self._formats.get("/".join(layer), self._formats.get(""))

    def reset(self) -> None:
        self._call: DenoiserCall | None = None
        self._spared = ""
        self._shared: _SharedActivations | None = None

    def end(self) -> None:
        for layer in reversed(self._layers):
            layer.detach()
        self._layers = []
        self._kept.end()
        self.reset()

    def before_evaluation(self, call: DenoiserCall) -> None:
        self._call, self._spared, self._shared = call, self._sparing.why(call.context), None

    def report(self, calls: Sequence[CallRecord]) -> LeverReport:
        self._shared = None
        engaged = sum(self._computed.values()) > 0
        return LeverReport("precision", str(self.method), engaged, self._account(), self._kept.bytes)

    def _open(self, found: FoundLayers) -> None:
        """Starts the account of a pipeline call. The layers themselves are not kept: a session holds no weights."""
        self._found = replace(found, layers={}, pairs={})
        self._computed: Counter[str] = Counter()
        self._exact: Counter[str] = Counter()

    def _layer(self, place: _Place, inner: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Stands in place of a layer's forward."""
        call, layer, format = self._call, place.layer(), place.format
        if call is None or layer is None or call.denoiser != place.denoiser:
            return inner(*args, **kwargs)
        reason = self._spared or self._why_exact(call, place, layer, args, kwargs)
        if reason:
            self._exact[reason] += 1
            if place.receives and args and args[0].dtype == format.inner_dtype:  # from a first layer that was computed
                args = (args[0].to(layer.weight.dtype),)
            return inner(*args, **kwargs)
        (x,) = args
        weights = self._kept.of(layer, format)
        self._computed[format.name] += 1
        return format.product(self._activations(format, x), weights, layer, x, place.passes_on or layer.weight.dtype)

    def _why_exact(
        self, call: DenoiserCall, place: _Place, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        if kwargs or len(args) != 1 or not isinstance(args[0], torch.Tensor) or not is_plain(layer):
            return UNUSUAL
        (x,) = args
        if torch.is_autocast_enabled(x.device.type):
            return AUTOCAST
        inside = place.receives and x.dtype == place.format.inner_dtype
        if not (inside or x.dtype == layer.weight.dtype) or x.device != layer.weight.device:
            return MIXED
        if torch.is_grad_enabled() and (x.requires_grad or layer.weight.requires_grad):
            return GRADIENTS
        tokens = x.numel() // x.shape[1 if isinstance(layer, torch.nn.Conv2d) else -1] // max(call.rows, 1)
        return self._sparing.why_small(tokens, call.rows, place.format, layer) or place.format.why_not(layer)

    def _activations(self, format: Format, x: torch.Tensor) -> Any:
        """Made once for all layers that receive the very same tensor, as long as nobody has changed it."""
        if x.is_inference():  # which has no version, so that nobody can tell whether it was changed
            return format.activations(x)
        shared = self._shared
        same = shared is not None and shared.x() is x and shared.version == x._version and shared.format is format
        if shared is None or not same:
            self._shared = None  # frees the memory first
            self._shared = shared = _SharedActivations(weakref.ref(x), x._version, format, format.activations(x))
        return shared.activations

    def _account(self) -> str:
        """What happened, in a sentence."""
        total = sum(self._computed.values()) + sum(self._exact.values())
        done = ", ".join(f"{count} in {name}" for name, count in self._computed.items()) or "none in fewer bits"
        parts = [
            f"of {total} products of {len(self._layers)} layers {done}" if self._layers else "no layer is computed"
        ]
        if self._exact:
            reasons = [f"{count} {reason}" for reason, count in self._exact.most_common(MOST_REASONS)]
            parts.append("exact: " + ", ".join(reasons))
        coarse = {format.name: format.rounding for format in self._formats.values() if format.rounding > COARSE}
        for name in sorted(coarse.keys() & self._computed.keys()):
            parts.append(
                f"{name} rounds activations (products are off by about {coarse[name]:.1%}), so runs that differ in the "
                f"last bit end as far apart as this one is from the exact one"
            )
        if (shelf := self._kept.shelf) is not None:
            parts.append(f"{shelf.bytes / 2**20:.0f} MiB of the model's own weights were in files meanwhile")
        if self._found.foreign:
            kinds = ", ".join(sorted(self._found.foreign))
            parts.append(f"layers that are quantised or another library's already are left as they are ({kinds})")
        if self._found.compiled:
            parts.append(
                f"{self._found.compiled} parts are inside compiled blocks and stay out of reach: leave them uncompiled"
            )
        return "; ".join(parts)
