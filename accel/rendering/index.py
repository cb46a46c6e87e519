"""A batch as one page: every picture and film with the settings that made it, the failed jobs, the times."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from accel.rendering.ledger import Entry
from accel.rendering.summary import Summary


def render_index(entries: Sequence[Entry], summary: Summary) -> str:
    """The page as HTML. It names files relative to itself, so that the folder can be moved; nothing else is loaded."""
    from jinja2 import Environment

    source = files("accel.rendering").joinpath("index.html").read_text(encoding="utf-8")
    jinja = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    done = [_card(entry) for entry in entries if entry["status"] == "ok"]
    failed = [_card(entry) for entry in entries if entry["status"] == "failed"]
    return jinja.from_string(source).render(done=done, failed=failed, summary=summary)


def _card(entry: Entry) -> dict[str, Any]:
    line = entry.get("line", {})
    recipe = line.get("recipe", "off")
    name = recipe.get("name") or "own recipe" if isinstance(recipe, dict) else recipe
    hidden = ("prompt", "negative_prompt", "recipe", "output", "arguments")
    settings = [f"{key} {value}" for key, value in line.items() if key not in hidden]
    settings += [f"{key} {value}" for key, value in line.get("arguments", {}).items()]
    file = entry.get("file", "")
    return {
        "file": file,
        "link": quote(file),
        "film": file.endswith(".mp4"),
        "prompt": line.get("prompt", ""),
        "negative_prompt": line.get("negative_prompt", ""),
        "settings": ", ".join([*settings, f"recipe {name}"]),
        "seconds": entry.get("seconds", {}).get("total"),
        "metrics": entry.get("metrics", {}),
        "error": entry.get("error", {}),
        "line": entry.get("from_line"),
        "id": entry["id"],
    }
