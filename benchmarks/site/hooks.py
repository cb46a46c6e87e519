"""What mkdocs asks for while it builds: pages that do not lie in `docs/`, the navigation, and links between them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from benchmarks.site.method_pages import navigation, pages

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "accel/pocket/video/README.md": "models/video.md",
    "accel/pocket/image/README.md": "models/image.md",
}
"""Pages of the repository by their address in the site."""
_LINK = re.compile(r"(?P<image>!?)\[(?P<words>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)]*)?\)")


def on_config(config: Any) -> Any:
    """Adds the methods, and whatever page the navigation in mkdocs.yml forgets."""
    named = set(re.findall(r"'([\w./-]+\.md)'", repr(config.nav)))
    forgotten = [path.name for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in named]
    for section in config.nav:
        if "Methods" in section:
            section["Methods"] += navigation()
    config.nav += [{"More": forgotten}] if forgotten else []
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made here, and those that lie elsewhere in the repository."""
    made = pages() | {address: (ROOT / path).read_text(encoding="utf-8") for path, address in OUTSIDE.items()}
    for address, text in made.items():
        files.append(File.generated(config, address, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as the repository has them become links of the site."""
    address = page.file.src_uri
    origin = next((path for path, other in OUTSIDE.items() if other == address), f"docs/{address}")
    return markdown if address.startswith("methods/") else relinked(markdown, origin, address)


def relinked(markdown: str, origin: str, address: str) -> str:
    """origin: where the page lies in the repository, from which its links lead. address: where it is in the site."""

    def replaced(found: re.Match[str]) -> str:
        target = found["target"]
        if "://" in target or target.startswith("mailto:"):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        inside = OUTSIDE.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if inside is None:  # a file of the repository, which the site does not show
            return f"{found['words']} (`{path}`)" if (ROOT / path).exists() else found[0]
        way = posixpath.relpath(inside, posixpath.dirname(address) or ".")
        return f"{found['image']}[{found['words']}]({way}{found['anchor'] or ''})"

    return _LINK.sub(replaced, markdown)
