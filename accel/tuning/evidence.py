"""What stands behind a tuned recipe: plain data that travels with it, a sentence, and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

from accel.measure.measurements import BASELINE
from accel.measure.pareto import FEWER_STEPS, ParetoPoint, pareto_svg
from accel.measure.results import Comparison
from accel.recipe import Recipe
from accel.tuning.clip_split import Scope
from accel.tuning.goal import TuningGoal

SCHEMA = 1
TUNED = "tuned"
SEARCH = "tried"  # the series of the candidates
JUDGED = ("psnr", "ssim", "snr", "si_sdr", "stft_distance")
_SETTINGS = ("steps", "guidance", "frames", "height", "width", "seconds", "sampling_rate")
WORTH_KEEPING = 0.1  # share of a call from which text encoders are worth a word
NO_OTHERS = "Nothing is promised of other prompts: give six or more, and some are put aside to judge on."


def evidence_of(
    goal: TuningGoal,
    comparison: Comparison,
    met: bool,
    candidate: str,
    trials: Sequence[Mapping[str, Any]],
    model: Mapping[str, Any],
    search: Mapping[str, Any],
    scope: Scope = "prompts",
) -> dict[str, Any]:
    """The evidence of a recipe that was verified, as plain data: measured on prompts or seeds that the search has not
    seen, and `scope` says which. `trials` are the candidates of the search."""
    row = comparison.row(TUNED)
    fewer = next((other for other in comparison.rows if other.kind == "fewer_steps"), None)
    quality = {name: _spread(values) for name, values in qualities(comparison).items()}
    return {
        "schema": SCHEMA,
        "goal": goal.to_dict() | {"text": str(goal)},
        "met": met,
        "speedup": row.speedup,
        "speedup_range": list(row.speedup_range),
        "denoise_speedup": row.denoise_speedup,
        "cpu_speedup": row.cpu_speedup,
        "seconds": {"unaccelerated": comparison.row(BASELINE).seconds, TUNED: row.seconds},
        "phases": {"unaccelerated": comparison.row(BASELINE).phases, TUNED: row.phases},
        "quality": quality,
        "adherence": {"unaccelerated": comparison.row(BASELINE).adherence, TUNED: row.adherence},
        "leading": goal.leading,
        "fewer_steps": None
        if fewer is None
        else {"steps": fewer.steps, "speedup": fewer.speedup, goal.leading: fewer.decibels},
        "candidate": candidate,
        "held_out": {name: comparison.settings[name] for name in ("prompts", "seeds")} | {"scope": scope},
        "settings": {name: comparison.settings[name] for name in _SETTINGS if name in comparison.settings},
        "model": dict(model),
        "environment": comparison.environment,
        "search": dict(search),
        "trials": [dict(trial) for trial in trials],
    }


def qualities(comparison: Comparison) -> dict[str, list[float]]:
    """By metric the value of every held-out clip of the tuned recipe."""
    found: dict[str, list[float]] = {}
    for sample in comparison.samples:
        if sample.label != TUNED or sample.quality is None:
            continue
        values = {name: getattr(sample.quality, name) for name in JUDGED} | sample.quality.others
        for name, value in values.items():
            if value is not None:
                found.setdefault(name, []).append(value)
    return found


def sentence(evidence: Mapping[str, Any]) -> str:
    """One sentence: what was promised and what was measured."""
    clips = len(evidence["held_out"]["prompts"]) * len(evidence["held_out"]["seeds"])
    text = f"{evidence['goal']['text']}: {'met' if evidence['met'] else 'NOT met'} with {evidence['speedup']:.2f}x"
    for name, values in evidence["quality"].items():
        if name in (leading(evidence), *(bound["metric"] for bound in evidence["goal"]["bounds"])):
            unit = " dB" if name in ("psnr", "snr") else ""
            text += f", {name.upper()} {values['mean']:.4g}{unit} (worst {values['worst']:.4g})"
    text += f" on {judged_on(clips, evidence['held_out'].get('scope', 'prompts'))}"
    if (fewer := evidence["fewer_steps"]) is not None:
        text += f"; {fewer['steps']} steps give {fewer[leading(evidence)]:.1f} dB at {fewer['speedup']:.2f}x"
    return f"{text}. {NO_OTHERS}" if evidence["held_out"].get("scope") == "seeds" else f"{text}."


def hint(evidence: Mapping[str, Any]) -> str:
    """What saves more and is no matter of a recipe; "" where nothing is worth a word, or phases are not known."""
    phases = evidence.get("phases", {}).get(TUNED, {})
    share = phases.get("text", 0.0) / max(sum(phases.values()), 1e-9)
    if share < WORTH_KEEPING:
        return ""
    return (
        f"Text encoders take {share:.0%} of what is left to wait for: where the same words come with several seeds, "
        f"session.keep_texts() encodes them once, with the same bits."
    )


def leading(evidence: Mapping[str, Any]) -> str:
    """The metric in decibels that the search predicted by; of recipes that know of none, PSNR."""
    return str(evidence.get("leading", "psnr"))


def judged_on(clips: int, scope: Scope) -> str:
    """The clips that a promise is judged on."""
    which = "of the same prompts with other seeds" if scope == "seeds" else "that the search has not seen"
    return f"{clips} clips {which}"


def promised_for(coverage: float, scope: Scope) -> str:
    """What a promise is about."""
    return f"{100 * coverage:g} % of {'the seeds of these prompts' if scope == 'seeds' else 'prompts'}"


def points(evidence: Mapping[str, Any]) -> list[ParetoPoint]:
    """The picture's points: the candidates of the search, the verified recipe, and fewer steps."""
    metric = leading(evidence)
    found = [
        ParetoPoint(
            trial["candidate"], SEARCH, trial["speedup"], trial[metric], f"{trial['clips']} clips of the search"
        )
        for trial in evidence["trials"]
    ]
    found.append(
        ParetoPoint("verified", TUNED, evidence["speedup"], evidence["quality"][metric]["mean"], evidence["candidate"])
    )
    if (fewer := evidence["fewer_steps"]) is not None:
        found.append(ParetoPoint(f"{fewer['steps']} steps", FEWER_STEPS, fewer["speedup"], fewer[metric]))
    return found


def save(recipe: Recipe, comparison: Comparison, folder: Path) -> Path:
    """Writes recipe.json (with the evidence), the comparison's own page with the videos, and evidence.html, which is
    returned."""
    from jinja2 import Environment

    folder.mkdir(parents=True, exist_ok=True)
    recipe.save(folder / "recipe.json")
    videos = comparison.save(folder / "held-out")
    source = files("accel.tuning").joinpath("evidence.html").read_text(encoding="utf-8")
    evidence = recipe.evidence
    scope: Scope = evidence["held_out"].get("scope", "prompts")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source).render(
        e=evidence,
        leading=leading(evidence),
        recipe=recipe,
        sentence=f"{sentence(evidence)} {hint(evidence)}",
        promised=promised_for(evidence["goal"]["coverage"], scope),
        judged=judged_on(len(evidence["held_out"]["prompts"]) * len(evidence["held_out"]["seeds"]), scope),
        picture=pareto_svg(points(evidence), title="What was tried, and what was verified",
            quality_name=f"{leading(evidence).upper()} (dB)", loose=(SEARCH,)),
        videos=videos.relative_to(folder).as_posix(),
        trials=sorted(evidence["trials"], key=lambda trial: -trial["speedup"]),
    )  # fmt: skip
    path = folder / "evidence.html"
    path.write_text(page, encoding="utf-8")
    return path


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": fmean(values), "worst": min(values), "best": max(values), "values": list(values)}
