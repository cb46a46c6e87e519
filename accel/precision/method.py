"""What the methods of this lever have in common: where they act, and where they leave a model as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

from accel.anatomy import Anatomy
from accel.lever import InactiveLever, Lever
from accel.method import Method, setting
from accel.precision.format import Format
from accel.precision.layers import has_layers
from accel.precision.lever import PrecisionLever
from accel.precision.sparing import Sparing


@dataclass(frozen=True)
class ReducedPrecision(Method, lever="precision", abstract=True):
    """Base of the methods that compute a denoiser's layers in fewer bits.

    The layers are those of attentions and feed-forwards, and those that stand in a repeated block by themselves. What
    embeds, modulates, normalises and makes the output stays as it is. Errors are small and everywhere, and the first
    and last steps can be spared of them: `warmup` and `final` are shares of the steps that stay exact.
    min_tokens: tokens of a sample from which a layer is computed in fewer bits. -1 is where it is faster on a CPU, by
    the multiplications of a product, and 16 elsewhere.
    attention: what attentions compute between their layers. "16 bits" is two to four times as fast as torch's float32,
    where a format has such; "own" is the model's own data type, and more exact.
    memory: "beside" keeps the weights in fewer bits beside the model's own. "replace" moves the model's own, where they
    are in main memory, to temporary files for the time of each pipeline call (`Shelf`): less memory, some time.
    """

    _: KW_ONLY
    warmup: float = setting(0.0, 0.0, 1.0, "share of the steps, from the first, that stay exact", dial=True)
    final: float = setting(0.0, 0.0, 1.0, "share of the steps, up to the last, that stay exact")
    min_tokens: int = setting(-1, -1, None, "tokens from which fewer bits are used; -1: where it pays")
    attention: str = setting("16 bits", help="what attentions compute between layers", choices=("16 bits", "own"))
    memory: str = setting("beside", help="where the model's own weights are meanwhile", choices=("beside", "replace"))

    def formats(self) -> Mapping[str, Format]:
        """The format of each layer: by "denoiser/path", or under "" for all that are not named."""
        raise NotImplementedError

    def build(self, anatomy: Anatomy) -> Lever:
        if not has_layers(anatomy):
            kinds = ", ".join(dict.fromkeys(part.kind for part in anatomy.denoisers.values()))
            return InactiveLever(
                self, f"no attention or feed-forward is known in {kinds}, whose layers could be computed in fewer bits"
            )
        sparing = Sparing(self.warmup, self.final, self.min_tokens)
        throughout, replaces = self.attention == "16 bits", self.memory == "replace"
        return PrecisionLever(self, self.formats(), sparing, anatomy, throughout=throughout, replaces=replaces)


def known_formats() -> dict[str, Format]:
    """By name, the format of every method that has one for all layers."""
    found: dict[str, Format] = {}
    for kind in tuple(Method.registry.get("precision", {}).values()):
        for method in kind.for_comparison():
            if isinstance(method, ReducedPrecision) and (format := method.formats().get("")) is not None:
                found[format.name] = format
    return found
