"""Comparison results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from accel.measure.energy import NONE
from accel.measure.intervals import Interval
from accel.measure.measurements import INDENTED
from accel.terminal import one_line, plain

if TYPE_CHECKING:
    from accel.measure.results import Comparison
    from accel.measure.rows import ResultRow

WIDTH_OF_TEXT = 140
_STYLES = {"baseline": "bold", "recipe": "green", "other": "yellow", "fewer_steps": "dim", "part": "dim"}


class Column(NamedTuple):
    """One column. The higher `sacrifice`, the earlier it is left out where the terminal is narrow."""

    title: str
    read: Callable[[ResultRow], str]
    sacrifice: int = 0


def comparison_table(comparison: Comparison, width: int = WIDTH_OF_TEXT) -> Table:
    """One line per row of the comparison, at most `width` characters wide.

    Columns that no row fills (adherence without a verifier, flicker of images) are left out.
    """
    settings = comparison.settings
    return _table(
        comparison.rows,
        _COLUMNS,
        width,
        f"{settings['pipeline']}, {settings['steps']} steps, {_workload(settings)}",
        "wall-clock medians; quality is against the unaccelerated output, in dB where nothing else is said",
    )


def measures_table(comparison: Comparison, width: int = WIDTH_OF_TEXT) -> Table:
    """Intervals, and measures without a reference, of the same rows."""
    caption = "in brackets 95 % intervals for other prompts and seeds; flicker, warping error, diversity: 0 to 1"
    if comparison.environment.get("energy") is False:
        caption += f". {NONE}"
    return _table(comparison.rows, _MEASURES, width, "How far off, and by other measures", caption)


def phases_table(comparison: Comparison, width: int = WIDTH_OF_TEXT) -> Table:
    """Where the seconds of each row go, and what its levers saved of those of the unaccelerated pipeline."""
    base = comparison.rows[0].phases

    def column(phase: str) -> Column:
        def read(row: ResultRow) -> str:
            saved = "" if row.kind == "baseline" else f" ({with_sign(row.phases[phase] - base[phase], 2)})"
            return f"{row.phases[phase]:.2f}{saved}"

        return Column(phase, read)

    def acted(row: ResultRow) -> str:
        return ", ".join(lever["lever"] for lever in comparison.levers.get(row.label, []) if lever["engaged"])

    columns = [*map(column, base), Column("levers that acted", acted, sacrifice=1)]
    caption = "medians; in brackets the change from the unaccelerated pipeline's seconds"
    return _table(comparison.rows, columns, width, "Seconds by phase", caption)


def measures(rows: list[ResultRow]) -> list[Column]:
    """The columns of that table that any row fills."""
    return [column for column in _MEASURES if any(column.read(row) for row in rows)]


def _table(rows: list[ResultRow], available: list[Column], width: int, title: str, caption: str) -> Table:
    names = [("  " if row.kind in INDENTED else "") + one_line(row.label) for row in rows]
    columns = [column for column in available if any(column.read(row) for row in rows)]
    while _width(columns, rows, names) > width and any(column.sacrifice for column in columns):
        columns.remove(max(columns, key=lambda column: column.sacrifice))
    table = empty_table(title, caption)
    table.add_column("")
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    for name, row in zip(names, rows, strict=True):
        table.add_row(plain(name), *(plain(column.read(row)) for column in columns), style=_STYLES[row.kind])
    return table


def empty_table(title: str, caption: str) -> Table:
    """In the form that all of a comparison have."""
    return Table(
        title=plain(title),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        caption=caption,
        caption_justify="left",
    )


def as_text(table: Table) -> str:
    """The table as plain text."""
    console = Console(width=WIDTH_OF_TEXT, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def terminal_width() -> int:
    """Of the terminal; wide enough for everything where the output goes to a file."""
    console = Console()
    return console.width if console.is_terminal else WIDTH_OF_TEXT


def megabytes(count: int | None) -> str:
    """Bytes as "1.3 MB", nothing for none."""
    return f"{count / 1e6:.1f} MB" if count else ""


def with_sign(value: float | None, decimals: int = 4) -> str:
    """So many decimals with a sign, nothing for None; never a negative zero."""
    return "" if value is None else f"{round(value, decimals) + 0.0:+.{decimals}f}"


def _width(columns: list[Column], rows: list[ResultRow], names: list[str]) -> int:
    """What the table takes with two blanks between columns."""
    widths = [max(len(column.title), *(len(column.read(row)) for row in rows)) + 2 for column in columns]
    return max(len(name) for name in names) + sum(widths)


def _workload(settings: dict[str, Any]) -> str:
    count = len(settings["prompts"]) * len(settings["seeds"])
    frames = f"x{settings['frames']}" if settings["frames"] > 1 else ""
    sizes = [f"{settings['width']}x{settings['height']}{frames}"] if settings["frames"] else []
    sizes += [f"{settings['seconds']:.3g} s of sound"] if "seconds" in settings else []
    repeats = f", {settings['repeats']} runs each" if settings["repeats"] > 1 else ""
    return f"{', '.join(sizes)}, {count} clip{'s' if count > 1 else ''}{repeats}"


def _number(value: float | None, pattern: str) -> str:
    return "" if value is None else format(value, pattern)


def _calls(row: ResultRow) -> str:
    """Nothing for another library, whose savings inside the denoiser our records cannot see."""
    counts = {
        "baseline": [row.computed],
        "fewer_steps": [row.computed],
        "other": [],
    }
    ours = [row.computed, row.predicted, *([row.dropped] if row.dropped else [])]
    return "+".join(f"{count:.0f}" for count in counts.get(row.kind, ours))


def _range(row: ResultRow) -> str:
    return f"{row.seconds_range[0]:.2f}-{row.seconds_range[1]:.2f}" if row.runs > 1 else ""


_COLUMNS = [
    Column("seconds", lambda row: f"{row.seconds:.2f}"),
    Column("least-most", _range, sacrifice=3),
    Column("speed-up", lambda row: row.times(row.speedup)),
    Column("denoise", lambda row: row.times(row.denoise_speedup), sacrifice=2),
    Column("cpu", lambda row: row.times(row.cpu_speedup or None), sacrifice=8),
    Column("PSNR", lambda row: _number(row.psnr, ".1f")),
    Column("worst", lambda row: _number(row.psnr_worst, ".1f"), sacrifice=4),
    Column("SSIM", lambda row: _number(row.ssim, ".3f")),
    Column("flicker", lambda row: with_sign(row.flicker_difference), sacrifice=5),
    Column("SNR", lambda row: _number(row.snr, ".1f")),
    Column("SNR worst", lambda row: _number(row.snr_worst, ".1f"), sacrifice=4),
    Column("SI-SDR", lambda row: _number(row.si_sdr, ".1f"), sacrifice=5),
    Column("STFT", lambda row: _number(row.stft_distance, ".2f"), sacrifice=5),
    Column("prompt", lambda row: _number(row.adherence, ".0%")),
    Column("calls", _calls, sacrifice=1),
    Column("memory", lambda row: megabytes(row.extra_bytes), sacrifice=6),
    Column("peak", lambda row: megabytes(row.peak_bytes), sacrifice=7),
]


def _interval(value: float | None, found: Interval | None, pattern: str, scale: float = 1.0) -> str:
    """For example "3.4 [3.1, 3.6]"."""
    if value is None:
        return ""
    said = format(scale * value, pattern)
    return said if found is None else f"{said} [{', '.join(format(scale * end, pattern) for end in found)}]"


_MEASURES = [
    Column("speed-up", lambda row: "–" if row.idle else _interval(row.speedup, row.speedup_interval, ".2f")),
    Column("PSNR", lambda row: _interval(row.psnr, row.psnr_interval, ".1f")),
    Column("prompt %", lambda row: _interval(row.adherence, row.adherence_range, ".0f", 100.0)),
    Column("s per correct clip", lambda row: _number(row.seconds_per_correct, ".2f")),
    Column("flicker", lambda row: _number(row.flicker, ".4f"), sacrifice=4),
    Column("warping error", lambda row: _number(row.warping_error, ".4f"), sacrifice=3),
    Column("diversity", lambda row: _number(row.diversity, ".3f"), sacrifice=2),
    Column("LPIPS", lambda row: _number(row.lpips, ".3f"), sacrifice=1),
    Column("TFLOP", lambda row: _number(row.teraflops, ".4g"), sacrifice=5),
    Column("joules", lambda row: _number(row.joules, ".3g"), sacrifice=5),
]
