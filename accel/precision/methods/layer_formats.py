"""A format for each layer by name, as `accel.precision.measure` chose them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from accel.precision.format import Format
from accel.precision.method import ReducedPrecision, known_formats


@dataclass(frozen=True)
class LayerFormats(ReducedPrecision):
    """Each layer in the format that is written here; those that are not stay exact.

    Source: HAWQ-V3 (arXiv 2011.10680). `accel.precision.measure(pipe, call)` makes it for a model and a machine; a
    recipe keeps it, so that the same call gives the same output wherever the recipe is loaded.
    formats_by_layer: "denoiser/path=format" for each layer, such as "transformer/blocks.0.attn1.to_q=int8".
    Memory: of each layer what its format takes. Not for another model than it was measured on.
    """

    formats_by_layer: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        entries = self.formats_by_layer
        if not isinstance(entries, tuple) or not entries:
            raise ValueError("LayerFormats needs a format for each layer: make it with accel.precision.measure.")
        known = known_formats()
        for entry in entries:
            layer, _, name = entry.rpartition("=") if isinstance(entry, str) else ("", "", "")
            if not layer or name not in known:
                raise ValueError(
                    f'LayerFormats.formats_by_layer has "denoiser/path=format" for each layer, with one of the formats '
                    f"{', '.join(known)}, not {str(entry)[:80]!r}."
                )

    def formats(self) -> Mapping[str, Format]:
        known = known_formats()
        pairs = (entry.rpartition("=") for entry in self.formats_by_layer)
        return {layer: known[name] for layer, _, name in pairs}
