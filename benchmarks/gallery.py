"""Every small model at every preset on one page: `python -m benchmarks.gallery` (`make gallery`).

One prompt of each model, unaccelerated and with each preset from the same noise, with the share of the evaluations that
was computed and the PSNR. Pictures are there as they are made; what is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import accel
from accel.cli import run
from accel.measure.media import to_pixels
from accel.measure.metrics import Clip, psnr, to_frames
from accel.presets import PRESETS
from benchmarks.command import command_of
from benchmarks.judges import JUDGES

PLAIN = "unaccelerated"
FPS = 8
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 32px auto; max-width: 1180px; padding: 0 16px; }
p { max-width: 76ch; opacity: .8; }
.scroll { overflow-x: auto; }
table { border-collapse: separate; border-spacing: 10px; }
th { text-align: left; font-weight: 600; vertical-align: top; }
th small { display: block; font-weight: 400; opacity: .7; }
tbody th { width: 150px; } img { display: block; width: 168px; image-rendering: auto; border-radius: 8px; }
td small { display: block; opacity: .8; font-variant-numeric: tabular-nums; }
"""


@dataclass(frozen=True)
class Exhibit:
    """A model and what it is asked for."""

    name: str
    told: str
    load: Callable[[], Any]
    prompt: str
    seed: int = 0


def exhibits() -> list[Exhibit]:
    """The pocket models, then the judges."""
    from accel import pocket

    pockets = [
        Exhibit(f"pocket:{name}", "a model that ships with accel", partial(pocket.load, name), prompt)
        for name, prompt in zip(pocket.MODELS, pocket.prompts(len(pocket.MODELS), 7), strict=True)
        if name != "few"  # 4 steps, of which nothing can be left out
    ]
    judges = [
        Exhibit(f"judge:{name}", judge.source.data, judge.load, judge.prompts[0]) for name, judge in JUDGES.items()
    ]
    return [*pockets, *judges]


def gallery(options: argparse.Namespace) -> None:
    """Renders the small models' clips at each preset as one page."""
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    wanted = exhibits()
    for exhibit in wanted:
        notes = out / f"{_file(exhibit.name)}.json"
        if not notes.exists():
            made = dict(pictures(exhibit, out, options.steps))
            notes.write_text(json.dumps(made), encoding="utf-8")
        (out / "index.html").write_text(page(wanted, out, options.steps), encoding="utf-8")
        print(f"{exhibit.name}: {notes.read_text(encoding='utf-8')}", flush=True)
    print(f"Wrote {out / 'index.html'}.")


def pictures(exhibit: Exhibit, out: Path, steps: int) -> Iterator[tuple[str, str]]:
    """Makes the clips; yields what is to be said of each."""
    pipe = exhibit.load()
    pipe.set_progress_bar_config(disable=True)

    def made() -> Clip:
        noise = torch.Generator().manual_seed(exhibit.seed)
        return to_frames(pipe(exhibit.prompt, num_inference_steps=steps, generator=noise, output_type="np"))

    plain = made()
    _save(plain, out / f"{_file(exhibit.name)}-{PLAIN}.webp")
    yield PLAIN, "all computed"
    for name in PRESETS:
        with accel.accelerate(pipe, name) as session:
            clip = made()
        report = session.report()
        _save(clip, out / f"{_file(exhibit.name)}-{name}.webp")
        share = report.computed / max(1, report.computed + report.predicted + report.dropped)
        yield name, f"{100 * share:.0f} % computed, {psnr(clip, plain):.1f} dB"


def page(wanted: list[Exhibit], out: Path, steps: int) -> str:
    """The page, with whatever is there."""
    heads = "".join(
        f"<th>{name}<small>{escape(PRESETS[name].promise) if name in PRESETS else ''}</small></th>"
        for name in (PLAIN, *PRESETS)
    )
    rows = "".join(_row(exhibit, out) for exhibit in wanted if (out / f"{_file(exhibit.name)}.json").exists())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>accel: the small models at every preset</title><style>{_STYLE}</style><h1>The small models at every "
        f"preset</h1><p>{steps} steps, one prompt each, every row from the same noise. PSNR is against the "
        f"unaccelerated clip on the left. No setting was chosen on these prompts.</p>"
        f'<div class="scroll"><table><thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table></div></html>'
    )


def _row(exhibit: Exhibit, out: Path) -> str:
    told = json.loads((out / f"{_file(exhibit.name)}.json").read_text(encoding="utf-8"))
    cells = "".join(
        f'<td><img loading="lazy" alt="{escape(exhibit.prompt)}, {name}" src="{_file(exhibit.name)}-{name}.webp">'
        f"<small>{escape(words)}</small></td>"
        for name, words in told.items()
    )
    about = f"<small>{escape(exhibit.told)}</small><small>“{escape(exhibit.prompt)}”</small>"
    return f"<tr><th>{escape(exhibit.name)}{about}</th>{cells}</tr>"


def _save(clip: Clip, path: Path) -> None:
    frames = [Image.fromarray(frame) for frame in to_pixels(clip)]
    more: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": 1000 // FPS, "loop": 0}
    frames[0].save(path, quality=90, **(more if len(frames) > 1 else {}))


def _file(name: str) -> str:
    return name.replace(":", "-")


def main(arguments: list[str] | None = None) -> int:
    parser = command_of("benchmarks.gallery", gallery)
    parser.add_argument("--out", type=Path, default=Path("out/gallery"))
    parser.add_argument("--steps", type=int, default=50)
    return run(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
