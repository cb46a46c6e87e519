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
from torch.nn import Conv2d

from accel import conventions
from accel.anatomy import Anatomy
from accel.call import Arguments, DenoiserCall
from accel.clock import StepContext
from accel.lever import Lever
from accel.method import Method
from accel.patch import Wrapper, reachable, unwrap_methods
from accel.precision.format import Format
from accel.precision.inside import as_ever, cast, computing_in, gelu_behind
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
ELSEWHERE = "in another denoiser call"
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
    """A layer with its format."""

    denoiser: str
    format: Format
    layer: weakref.ref[Layer]


class _Part(NamedTuple):
    """An attention or feed-forward that is computed in `dtype` throughout, if its first layer is."""

    first: _Place
    dtype: torch.dtype
    names: Arguments


class _SharedActivations(NamedTuple):
    """The last activations that were made, for the next layers that receive the same tensor (q, k and v)."""

    x: weakref.ref[torch.Tensor]
    version: int
    format: Format
    activations: Any


class PrecisionLever(Lever):
    """Computes layers in the formats of `formats`: by "denoiser/path", or under "" for all that are not named.

    throughout: what attentions compute between their layers is in 16 bits too; of feed-forwards it always is.
    """

    def __init__(
        self,
        method: Method,
        formats: Mapping[str, Format],
        sparing: Sparing,
        anatomy: Anatomy,
        *,
        throughout: bool = True,
        replaces: bool = False,
    ) -> None:
        self.method, self.anatomy, self._throughout = method, anatomy, throughout
        self._formats, self._sparing = formats, sparing
        self._kept = ConvertedWeights(Shelf() if replaces else None)
        self._wrappers: list[Wrapper] = []
        self._open(FoundLayers())
        self.reset()

    def begin(self, denoisers: dict[str, torch.nn.Module]) -> None:
        self.end()
        convolutions = any(each.convolutions for each in self._formats.values())
        found = find_layers(denoisers, self.anatomy, convolutions=convolutions)
        self._open(found)
        self._kept.begin(found.layers.values())
        places = {
            where: _Place(where[0], format, weakref.ref(layer))
            for where, layer in found.layers.items()
            if (format := self._format(where)) is not None and (format.convolutions or not isinstance(layer, Conv2d))
        }
        for where, place in places.items():
            self._wrappers.append(Wrapper(found.layers[where], "forward", partial(self._layer, place)))
        for (name, path), part in found.parts.items():
            if self._throughout or not part.is_attention:
                inside = [places[name, each] for each in part.layers if (name, each) in places]
                self._surround(denoisers[name], path, inside)
        self._products = len(places)

    def _surround(self, denoiser: torch.nn.Module, path: str, places: Sequence[_Place]) -> None:
        """Puts a layer around an attention or feed-forward with such layers in it."""
        module = reachable(denoiser, path)
        dtypes = {dtype for place in places if (dtype := place.format.inner_dtype) is not None}
        if module is None or not dtypes:
            return
        (dtype,) = dtypes
        self._wrappers.append(
            Wrapper(module, "forward", partial(self._part, _Part(places[0], dtype, Arguments(module))))
        )
        for parent in module.modules():
            child = parent._modules.get("proj")
            place = next((each for each in places if each.layer() is child), None)
            if place is not None and (how := gelu_behind(parent, "proj")):
                self._wrappers.append(Wrapper(parent, "forward", partial(self._gelu, place, how)))

    def _format(self, layer: tuple[str, str]) -> Format | None:
        return self._formats.get("/".join(layer), self._formats.get(""))

    def reset(self) -> None:
        self._call: DenoiserCall | None = None
        self._spared = ""
        self._shared: _SharedActivations | None = None
        self._inside: torch.dtype | None = None  # what the attention or feed-forward in progress is computed in

    def end(self) -> None:
        unwrap_methods(self._wrappers)
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
        self._found, self._products = replace(found, layers={}, parts={}), 0
        self._computed: Counter[str] = Counter()
        self._exact: Counter[str] = Counter()

    def _part(self, part: _Part, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stands in place of the forward of an attention or feed-forward."""
        x = Arguments.pick(part.names.bind(args, kwargs), conventions.IMAGE_TOKENS) if self._inside is None else None
        if not isinstance(x, torch.Tensor) or self._why_not_here(part.first, (x,), {}):
            return inner(*args, **kwargs)
        self._inside = part.dtype
        try:
            with computing_in(part.dtype, x.device.type):
                return cast(inner(*args, **kwargs), part.dtype, x.dtype)
        finally:
            self._inside = None

    def _gelu(self, place: _Place, how: str, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stands in place of a layer with GELU behind it."""
        layer, format = place.layer(), place.format
        if layer is None or self._inside is None or self._why_not_here(place, args, kwargs):
            return inner(*args, **kwargs)
        output = format.gelu(self._activations(format, args[0]), self._kept.of(layer, format), how)
        if output is None:
            return inner(*args, **kwargs)
        self._computed[format.name] += 1
        return output

    def _layer(self, place: _Place, inner: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Stands in place of a layer's forward."""
        call, layer, format = self._call, place.layer(), place.format
        if call is None or layer is None or call.denoiser != place.denoiser:
            return inner(*args, **kwargs)
        if reason := self._why_not_here(place, args, kwargs):
            self._exact[reason] += 1
            return self._exactly(layer, inner, *args, **kwargs)
        (x,) = args
        weights = self._kept.of(layer, format)
        self._computed[format.name] += 1
        return format.product(self._activations(format, x), weights, layer, x, self._inside or layer.weight.dtype)

    def _exactly(self, layer: Layer, inner: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """The layer's own output, in its own data type whatever surrounds it."""
        if self._inside is None:
            return inner(*args, **kwargs)
        with as_ever(layer.weight.device.type):
            return inner(*(cast(each, self._inside, layer.weight.dtype) for each in args), **kwargs)

    def _why_not_here(self, place: _Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Why a layer is computed as ever, now; "" if it is not."""
        call, layer = self._call, place.layer()
        if call is None or layer is None or call.denoiser != place.denoiser:
            return ELSEWHERE
        return self._spared or self._why_exact(call, place, layer, args, kwargs)

    def _why_exact(
        self, call: DenoiserCall, place: _Place, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        if kwargs or len(args) != 1 or not isinstance(args[0], torch.Tensor) or not is_plain(layer):
            return UNUSUAL
        (x,) = args
        if self._inside is None and torch.is_autocast_enabled(x.device.type):
            return AUTOCAST
        if x.dtype not in (layer.weight.dtype, self._inside) or x.device != layer.weight.device:
            return MIXED
        if torch.is_grad_enabled() and (x.requires_grad or layer.weight.requires_grad):
            return GRADIENTS
        channels = x.shape[1 if isinstance(layer, Conv2d) else -1]
        tokens = x.numel() // max(channels, 1) // max(call.rows, 1)
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
        parts = [f"of {total} products of {self._products} layers {done}" if self._wrappers else "no layer is computed"]
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
