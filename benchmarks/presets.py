"""Where the presets' numbers come from: what the tuner finds for their promises on every setting of the pocket models.

`python -m benchmarks.presets` (`make presets`) writes the table. A preset needs no constants of a model and must hold
on models that nobody has measured, so it takes the most careful of what was found, for its promise and a reserve: large
models are harder to forecast than these small ones. Its share is that at 50 steps, and what was found for shorter runs
is the least number of steps that it computes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accel import pocket
from accel.caching import OptimalSchedule
from accel.files import write_whole
from accel.loading import load_pipeline
from accel.tuning.api import GoalNotMet, tune

# PSNR that each preset promises, and what is added to it before tuning.
PROMISES = {"lossless": 40.0, "balanced": 30.0, "fast": 24.0}
RESERVE = 10.0
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
class Derived:
    """What was found for one preset on one setting: the share of computed steps, and what it was verified with."""

    preset: str
    setting: str
    compute: float
    speedup: float
    psnr: float
    worst: float


def measure(settings: Sequence[Setting], out: Path, minutes: float) -> list[Derived]:
    """Tunes the one method that presets are made of, for every promise on every setting."""
    found = []
    for setting in settings:
        pipe = load_pipeline(setting.model)
        for preset, promise in PROMISES.items():
            try:
                recipe = tune(
                    pipe, pocket.prompts(PROMPTS, seed=17), min_psnr=promise + RESERVE, steps=setting.steps,
                    minutes=minutes, levers=("cache",), generic=True, call_arguments=setting.arguments,
                    journal=out / setting.slug,
                )  # fmt: skip
            except GoalNotMet as error:
                print(f"{preset} on {setting.label}: {error}", flush=True)
                continue
            psnr, cache = recipe.evidence["quality"]["psnr"], recipe.cache
            if isinstance(cache, OptimalSchedule):
                speedup = recipe.evidence["speedup"]
                found.append(Derived(preset, setting.label, cache.compute, speedup, psnr["mean"], psnr["worst"]))
                print(found[-1], flush=True)
    return found


def text_of(found: Sequence[Derived]) -> str:
    """The table, and the most careful share for each preset."""
    lines = [f"{'preset':<10}{'setting':<20}{'compute':>8}{'speed-up':>10}{'PSNR':>7}{'worst':>7}"]
    for one in sorted(found, key=lambda one: (list(PROMISES).index(one.preset), one.setting)):
        lines.append(
            f"{one.preset:<10}{one.setting:<20}{one.compute:>8.2f}{one.speedup:>9.2f}x{one.psnr:>7.1f}{one.worst:>7.1f}"
        )
    shares = {name: [one.compute for one in found if one.preset == name] for name in PROMISES}
    careful = ", ".join(f"{name} {max(values):.2f}" for name, values in shares.items() if values)
    return "\n".join([*lines, "", f"The most careful of each: {careful}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/presets"))
    parser.add_argument("--minutes", type=float, default=4.0, help="for each tuning")
    options = parser.parse_args()
    text = text_of(measure(SETTINGS, options.out, options.minutes))
    print(text)
    write_whole(options.out / "presets.txt", text + "\n")


if __name__ == "__main__":
    main()
