"""A batch as one page: every picture and video with the settings that made it, the failed jobs, the times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from accel.rendering.entries import Entry
from accel.rendering.ledger import RenderLedger, Status
from accel.rendering.summary import RenderSummary


def index_lines(ledger: RenderLedger, first: Sequence[str], summary: RenderSummary) -> Iterator[str]:
    """The page as pieces of HTML, read from the ledger's files as it grows; the jobs with the ids `first` come first.

    It names files relative to itself, so that the folder can be moved; nothing else is loaded.
    """
    ids = list(dict.fromkeys((*first, *ledger.entries)))
    statuses: tuple[Status, Status] = "ok", "failed"
    counts = {status: sum(ledger.status(job) == status for job in ids) for status in statuses}
    done, failed = (_cards(ledger, ids, status) for status in statuses)
    name = summary.out.resolve().name
    yield from _template().generate(done=done, failed=failed, counts=counts, left=summary.left, name=name)


@cache
def _template() -> Any:
    """Compiled once in a process: that takes longer than to render a small model's picture."""
    from jinja2 import Environment

    source = files("accel.rendering").joinpath("page.html").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)


_LONGEST = 200


def _cards(ledger: RenderLedger, ids: Sequence[str], status: Status) -> Iterator[dict[str, Any]]:
    for job_id in ids:
        entry = ledger.entry(job_id) if ledger.status(job_id) == status else None
        if entry is not None and entry["status"] == status:
            yield _card(entry)


def _card(entry: Entry) -> dict[str, Any]:
    line = entry.get("line", {})
    recipe = line.get("recipe", "off")
    name = recipe.get("name") or "own recipe" if isinstance(recipe, dict) else recipe
    hidden = ("prompt", "negative_prompt", "recipe", "output", "arguments")
    shown = {key: value for key, value in line.items() if key not in hidden} | line.get("arguments", {})
    settings = [f"{key} {value}"[:_LONGEST] for key, value in shown.items()]
    file = entry.get("file", "")
    return {
        "file": file,
        "link": quote(file),
        "video": file.endswith(".mp4"),
        "sound": file.endswith((".wav", ".flac")),
        "prompt": line.get("prompt", ""),
        "negative_prompt": line.get("negative_prompt", ""),
        "settings": ", ".join([*settings, f"recipe {name}"]),
        "seconds": entry.get("seconds", {}).get("total"),
        "metrics": entry.get("metrics", {}),
        "error": entry.get("error", {}),
        "line": entry.get("from_line"),
    }
