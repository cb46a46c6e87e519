"""What a comparison found: one row per variant, as data, as a terminal table and as a folder of files."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.measure.by_lever import LeversApart, LeverSaving, lever_savings, levers_table
from accel.measure.clip_store import ClipStore
from accel.measure.contradictions import contradictions
from accel.measure.measurements import BASELINE, CANDIDATES, Sample
from accel.measure.media import Pixels, changed_sizes, save_clip, side_by_side
from accel.measure.metrics import MAX_PSNR
from accel.measure.rows import ResultRow
from accel.measure.sound import Samples, Sound, encode_wav
from accel.terminal import one_line

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA = 1
UNSTEADY = 1.5  # longest over shortest run of one row


@dataclass
class Comparison:
    """The result of :func:`accel.compare`. `rows` starts with the unaccelerated pipeline.

    `timelines` holds, for each label, the denoiser calls of its first run, `levers` and `notes` what its report says of
    them; `clips` the frames (uint8) of the first seed by (label, number of the prompt), of sound alone the spectrogram;
    `sounds` by the same key the samples, float32 (samples, channels) at `settings["sampling_rate"]`. `apart` names the
    rows that show a recipe's levers one by one, where that was asked for; `by_lever()` is what they show.
    """

    rows: list[ResultRow]
    settings: dict[str, Any]
    environment: dict[str, Any]
    timelines: dict[str, list[dict[str, Any]]] = field(default_factory=dict, repr=False)
    levers: dict[str, list[dict[str, Any]]] = field(default_factory=dict, repr=False)
    notes: dict[str, list[str]] = field(default_factory=dict, repr=False)
    recipes: dict[str, Any] = field(default_factory=dict, repr=False)
    samples: list[Sample] = field(default_factory=list, repr=False)
    clips: MutableMapping[tuple[str, int], Pixels] = field(default_factory=ClipStore, repr=False)
    sounds: MutableMapping[tuple[str, int], Samples] = field(default_factory=ClipStore, repr=False)
    apart: LeversApart = field(default_factory=dict, repr=False)

    def row(self, label: str) -> ResultRow:
        """The row called `label`. Raises ValueError, with the labels there are, for any other."""
        for row in self.rows:
            if row.label == label:
                return row
        raise ValueError(f"no row is called {label!r}; there are {', '.join(r.label for r in self.rows)}.")

    def equal_time_row(self, label: str) -> ResultRow | None:
        """The unaccelerated pipeline with fewer steps in the time of `label`, where that was measured."""
        return next((row for row in self.rows if label in row.equal_time_to), None)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the frames, ready for JSON."""
        return {
            "schema": SCHEMA,
            "settings": self.settings,
            "environment": self.environment,
            "rows": [asdict(row) for row in self.rows],
            "by_lever": [asdict(saving) for saving in self.by_lever()],
            "recipes": self.recipes,
            "levers": self.levers,
            "notes": self.notes,
            "timelines": self.timelines,
            "samples": [asdict(sample) for sample in self.samples],
        }

    def idle(self, label: str) -> str:
        """Why no lever of this recipe acted; "" where one did, and where it has none."""
        return self.row(label).idle

    def changes(self) -> list[str]:
        """A sentence for each size that the pipeline made otherwise than it was asked."""
        asked, made = self.settings.get("call_arguments", {}), self.settings
        sizes = {"frames": asked.get("num_frames"), "height": asked.get("height"), "width": asked.get("width")}
        return changed_sizes(sizes, tuple(made.get(name) for name in sizes))

    def cautions(self) -> list[str]:
        """What a reader must know before believing the numbers."""
        worst = max((row.seconds_range[1] / max(row.seconds_range[0], 1e-9) for row in self.rows), default=1.0)
        if worst < UNSTEADY:
            return self.changes()
        return [
            *self.changes(),
            f"The machine was busy: the same work took up to {worst:.1f} times as long from run to run. "
            "Repeat this on an idle machine, or with more repeats, before quoting a speed-up.",
        ]

    def headlines(self) -> list[str]:
        """One sentence for each recipe: how much faster, how close, and what fewer steps give in the same
        time.
        """
        shown = [row for row in self.rows if row.kind in CANDIDATES]
        return [headline(row, self.equal_time_row(row.label), self.idle(row.label)) for row in shown]

    def table(self) -> Table:
        """The rows as a table that fits the terminal; print it with rich."""
        from accel.measure.tables import comparison_table, terminal_width

        return comparison_table(self, terminal_width())

    def phases(self) -> Table:
        """Seconds in text encoders, denoiser and decoder, and what was saved of each."""
        from accel.measure.tables import phases_table, terminal_width

        return phases_table(self, terminal_width())

    def by_lever(self) -> list[LeverSaving]:
        """What each lever saved, of a comparison with `by_lever=True`; nothing of others."""
        return lever_savings(self)

    def measures(self) -> Table:
        """How far the numbers may be off, and what can be said without the unaccelerated output."""
        from accel.measure.tables import measures_table, terminal_width

        return measures_table(self, terminal_width())

    def __str__(self) -> str:
        from accel.measure.tables import WIDTH_OF_TEXT, as_text, comparison_table, measures_table, phases_table

        levers = [levers_table(self)] if self.apart else []
        tables = (comparison_table(self), phases_table(self), *levers, measures_table(self, WIDTH_OF_TEXT))
        return "\n".join([*map(as_text, tables), "", *self.headlines(), *contradictions(self), *self.cautions()])

    def save(self, folder: str | Path) -> Path:
        """Writes comparison.json, page.html, one labelled side-by-side file per prompt and recipe, and sounds as WAV.

        The folder is created where it is missing; files of the same names are replaced. Returns the path of
        the page.
        """
        from accel.measure.page import render_page

        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        (target / "comparison.json").write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False))
        for row in self.rows:
            if row.kind in CANDIDATES:
                self._save_clips(row, target)
        for label, number in self.sounds:
            path = target / f"prompt-{number + 1}-{_file_name(label)}.wav"
            path.write_bytes(encode_wav(self.sound(label, number)))
        page = target / "page.html"
        page.write_text(render_page(self), encoding="utf-8")
        return page

    def sound(self, label: str, number: int) -> Sound:
        """What this variant made of this prompt, of a pipeline that makes sound."""
        return Sound(self.sounds[label, number], self.settings["sampling_rate"])

    def _save_clips(self, row: ResultRow, target: Path) -> None:
        shown = [self.row(BASELINE), row, self.equal_time_row(row.label)]
        for number in range(len(self.settings["prompts"])):
            panels = [r for r in shown if r is not None and (r.label, number) in self.clips]
            if row not in panels:
                continue
            frames = side_by_side([self.clips[r.label, number] for r in panels], [_caption(r) for r in panels])
            save_clip(target / f"prompt-{number + 1}-{_file_name(row.label)}", frames, self.settings["fps"])


def headline(row: ResultRow, fewer: ResultRow | None, idle: str = "") -> str:
    """`row` in one sentence, beside the fewer steps that take the same time; or why nothing was accelerated."""
    if idle:
        return f"{one_line(row.label)}: not accelerated: {one_line(idle)}."
    slower = row.speedup < 1.0
    text = (
        f"{one_line(row.label)}: {1 / row.speedup if slower else row.speedup:.2f}x {'slower' if slower else 'faster'}"
    )
    if row.decibels is not None:
        text += " with identical output" if row.decibels >= MAX_PSNR else f" at {row.decibels:.1f} dB"
    if row.adherence is not None:
        text += f", {row.adherence:.0%} of the clips match their prompt"
    if fewer is not None and fewer.decibels is not None:
        text += f"; without it the same time buys {fewer.steps} steps and {fewer.decibels:.1f} dB"
    return text + "."


def _caption(row: ResultRow) -> str:
    if row.kind == "baseline":
        return f"{row.label}, {row.steps} steps\n{row.seconds:.2f} s"
    quality = "" if row.decibels is None else f", {row.decibels:.1f} dB"
    speed = "not accelerated" if row.idle else row.times(row.speedup)
    return f"{row.label}\n{row.seconds:.2f} s, {speed}{quality}"


def _file_name(label: str) -> str:
    return "".join(character if character.isalnum() or character in "-_." else "-" for character in label)
