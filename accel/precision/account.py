"""What a pipeline call's products were computed in, and why the others were not, in a sentence for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from accel.precision.format import Format
from accel.precision.layers import FoundLayers
from accel.precision.shelf import Shelf
from accel.rounding import COARSE

MOST_REASONS = 4


class PrecisionAccount:
    """The products of one pipeline call, by the format or by the reason for none.

    found: what there is in the model, of which the layers themselves are not kept: a session holds no weights.
    layers: how many of these have a format.
    """

    def __init__(self, found: FoundLayers, layers: int = 0) -> None:
        self._compiled, self._foreign, self._layers = found.compiled, found.foreign, layers
        self.computed: Counter[str] = Counter()
        self.exact: Counter[str] = Counter()

    @property
    def engaged(self) -> bool:
        """Whether any product was made in fewer bits."""
        return self.computed.total() > 0

    def sentence(self, formats: Iterable[Format], shelf: Shelf | None) -> str:
        total = self.computed.total() + self.exact.total()
        done = ", ".join(f"{count} in {name}" for name, count in self.computed.items()) or "none in fewer bits"
        parts = [f"of {total} products of {self._layers} layers {done}" if self._layers else "no layer is computed"]
        if self.exact:
            reasons = [f"{count} {reason}" for reason, count in self.exact.most_common(MOST_REASONS)]
            parts.append("exact: " + ", ".join(reasons))
        coarse = {format.name: format.rounding for format in formats if format.rounding > COARSE}
        for name in sorted(coarse.keys() & self.computed.keys()):
            parts.append(
                f"{name} rounds activations (products are off by about {coarse[name]:.1%}), so runs that differ in the "
                f"last bit end as far apart as this one is from the exact one"
            )
        if shelf is not None:
            parts.append(f"{shelf.bytes / 2**20:.0f} MiB of the model's own weights were in files meanwhile")
        if self._foreign:
            kinds = ", ".join(sorted(self._foreign))
            parts.append(f"layers that are quantised or another library's already are left as they are ({kinds})")
        if self._compiled:
            parts.append(
                f"{self._compiled} parts are inside compiled blocks and stay out of reach: leave them uncompiled"
            )
        return "; ".join(parts)
