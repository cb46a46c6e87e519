"""What will engage on a pipeline, before anything runs: the presets that promise something, the methods that fit."""

from __future__ import annotations

from dataclasses import dataclass

from accel import presets
from accel.anatomy import Anatomy
from accel.lever import InactiveLever
from accel.method import Method
from accel.recipe import LEVERS


@dataclass(frozen=True)
class PipelineOutlook:
    """For one pipeline. Some methods say only in a run whether they act, for instance once they see the tokens: what
    is listed as fitting may still be idle then, and the report says so.

    doubts: by preset why it promises nothing here, "" where it does. fitting: by lever the names of the methods that
    find something to act on, at their defaults. idle: by lever and method why it does not.
    """

    doubts: dict[str, str]
    fitting: dict[str, tuple[str, ...]]
    idle: dict[str, dict[str, str]]

    def __str__(self) -> str:
        kept = ", ".join(name for name, why in self.doubts.items() if not why)
        lines = [f"presets that promise something here: {kept or 'none'}"]
        lines += [f"  none, because {why}" for why in dict.fromkeys(filter(None, self.doubts.values()))]
        for lever in self.fitting:
            lines.append(f"{lever}: {', '.join(self.fitting[lever]) or 'nothing fits'}")
            lines += [f"  not {name}: {why}" for name, why in self.idle[lever].items()]
        return "\n".join(lines)


def outlook(anatomy: Anatomy) -> PipelineOutlook:
    """Builds every method at its defaults for a pipeline with this anatomy, and attaches none. Takes milliseconds."""
    doubts = {name: presets.doubt(presets.resolve(name), anatomy) or "" for name in presets.PRESETS}
    fitting: dict[str, tuple[str, ...]] = {}
    idle: dict[str, dict[str, str]] = {}
    for lever in (lever for lever in LEVERS if Method.registry.get(lever)):
        found = {name: _why_idle(kind, anatomy) for name, kind in sorted(Method.registry[lever].items())}
        fitting[lever] = tuple(name for name, why in found.items() if why == "")
        idle[lever] = {name: why for name, why in found.items() if why}
    return PipelineOutlook(doubts, fitting, idle)


def _why_idle(kind: type[Method], anatomy: Anatomy) -> str | None:
    """ "" for a method that can act; None where its defaults are not enough to tell."""
    method = next(iter(kind.for_comparison()), None)
    if method is None:
        return None
    try:
        lever = method.build(method.adjust_anatomy(anatomy))
    except (TypeError, ValueError, ImportError, OSError) as error:
        return str(error)
    return lever.reason if isinstance(lever, InactiveLever) else ""
