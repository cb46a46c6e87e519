"""The README beside each model, from what the judge says of itself and what was measured."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.judges.judge import Judge

CARD = """# {name}

{pipeline} with a {denoiser} of {weights:.2f} million weights ({megabytes:.1f} MB with all else, float16).
It predicts {predicts}; {calls}.

Data: {data}
Licence of the data: {licence}

Prompts: one word of each of {slots}.{held}
Schedulers: {schedulers}. Guidance scales: {scales}.

Trained by `python -m benchmarks.judges.train {name}`: {updates} updates of {batch} samples in {minutes:.1f} minutes of
processor time on one thread; mean loss at the end {loss:.4f}.
"""


def card(judge: Judge, denoiser: Any, pipeline: str) -> str:
    """The text, once the model is complete."""
    notes = json.loads((judge.folder / "training.json").read_text(encoding="utf-8"))
    size = sum(path.stat().st_size for path in judge.folder.rglob("*.safetensors"))
    held = len(judge.prompts) if len(judge.language.slots) > 1 else 0
    return CARD.format(
        name=judge.name,
        pipeline=pipeline,
        denoiser=type(denoiser).__name__,
        weights=sum(parameter.numel() for parameter in denoiser.parameters()) / 1e6,
        megabytes=size / 1e6,
        predicts=judge.objective.predicts,
        calls=judge.family.calls,
        data=judge.source.data,
        licence=judge.source.licence,
        slots=", ".join("/".join(slot) for slot in judge.language.slots),
        held=f"\n{held} of {len(judge.language.prompts())} combinations were never shown." if held else "",
        schedulers=", ".join(judge.schedulers),
        scales=", ".join(f"{scale:g}" for scale in judge.guidance_scales),
        batch=judge.training.batch,
        **notes,
    )
