"""Makes the comparison that the app shows before anything has run: `python -m benchmarks.shipped_pair`.

To be run again where the pocket model's pixels have changed. On an idle machine, because the times are shown.
"""

from __future__ import annotations

import argparse

from accel.app.settings import StudioSettings
from accel.app.shipped import FOLDER, MODEL, ship
from accel.app.studio import Studio
from accel.presets import resolve


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", default="a magenta triangle moves right on a striped background")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", default="balanced")
    options = parser.parse_args(arguments)
    settings = StudioSettings(MODEL, options.prompt, seed=options.seed, recipe=resolve(options.preset))
    with Studio() as studio:
        for update in studio.run(settings):
            if update.pair is not None:
                ship(update.pair)
                print(f"{options.prompt!r}, {options.preset}: {update.pair.metrics}. Wrote {FOLDER}.")


if __name__ == "__main__":
    main()
