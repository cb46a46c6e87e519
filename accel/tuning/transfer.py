"""Whether earlier tunings help: one goal on several settings, begun cold and begun with what the others found.

`python -m accel.tuning.transfer` (`make transfer`) measures it on pocket models and writes the tunings as a history.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accel import pocket
from accel.files import write_whole
from accel.loading import load_pipeline
from accel.recipe import Recipe
from accel.tuning.front import NotMet, tune

PROMPTS = 24


@dataclass(frozen=True)
class Setting:
    """A model and how it is called."""

    label: str
    model: str
    steps: int
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def slug(self) -> str:
        """The label as the name of a file."""
        return self.label.replace(", ", "-").replace(" ", "-")


SETTINGS = (
    Setting("video, 50 steps", "pocket:video", 50),
    Setting("video, 28 steps", "pocket:video", 28),
    Setting("video, guidance 3", "pocket:video", 50, {"guidance_scale": 3.0}),
    Setting("image, 50 steps", "pocket:image", 50),
)


@dataclass(frozen=True)
class Trip:
    """One tuning: real runs of candidates until it was done, verifications of 8 clips, and what came of it."""

    setting: str
    start: str
    runs: int
    verifications: int
    speedup: float
    psnr: float
    worst: float

    @classmethod
    def of(cls, setting: Setting, start: str, recipe: Recipe) -> Trip:
        proof = recipe.evidence
        psnr, search = proof["quality"]["psnr"], proof["search"]
        return cls(
            setting.label,
            start,
            search["asked"],
            search["verifications"],
            proof["speedup"],
            psnr["mean"],
            psnr["worst"],
        )


def measure(settings: Sequence[Setting], out: Path, *, quality: float, minutes: float) -> list[Trip]:
    """Tunes every setting cold, then each again with the history of all others (its own left out).

    The second time runs that were made before are read from the journal, and counted as if they had been made.
    """
    trips, files = [], {}
    for setting in settings:
        files[setting.label] = out / f"history-{setting.slug}.jsonl"
        files[setting.label].unlink(missing_ok=True)
        recipe = _tuned(setting, out, quality, minutes, files[setting.label])
        if recipe is not None:
            trips.append(Trip.of(setting, "cold", recipe))
            print(trips[-1], flush=True)
    for setting in settings:
        known = out / "others.jsonl"
        others = [path.read_text() for label, path in files.items() if label != setting.label and path.exists()]
        write_whole(known, "".join(others))
        recipe = _tuned(setting, out, quality, minutes, known)
        if recipe is not None:
            trips.append(Trip.of(setting, "with history", recipe))
            print(trips[-1], flush=True)
    write_whole(out / "history.jsonl", "".join(path.read_text() for path in files.values() if path.exists()))
    return trips


def text_of(trips: Sequence[Trip]) -> str:
    """The table."""
    lines = [f"{'setting':<22}{'start':<16}{'runs':>6}{'verified':>10}{'speed-up':>10}{'PSNR':>8}{'worst':>8}"]
    for trip in sorted(trips, key=lambda trip: trip.setting):
        lines.append(
            f"{trip.setting:<22}{trip.start:<16}{trip.runs:>6}{trip.verifications:>10}{trip.speedup:>9.2f}x"
            f"{trip.psnr:>8.1f}{trip.worst:>8.1f}"
        )
    return "\n".join(lines)


def _tuned(setting: Setting, out: Path, quality: float, minutes: float, known: Path) -> Recipe | None:
    try:
        return tune(
            load_pipeline(setting.model), pocket.prompts(PROMPTS, seed=17), min_psnr=quality, steps=setting.steps,
            minutes=minutes, call_arguments=setting.arguments, journal=out / setting.slug, known=known,
        )  # fmt: skip
    except NotMet as error:
        print(f"{setting.label}: {error}", flush=True)
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/transfer"))
    parser.add_argument("--quality", type=float, default=30.0, help="PSNR to tune for")
    parser.add_argument("--minutes", type=float, default=6.0, help="for each tuning")
    options = parser.parse_args()
    trips = measure(SETTINGS, options.out, quality=options.quality, minutes=options.minutes)
    print(text_of(trips))
    write_whole(options.out / "transfer.txt", text_of(trips) + "\n")
    write_whole(options.out / "transfer.json", json.dumps([vars(trip) for trip in trips], indent=1))


if __name__ == "__main__":
    main()
