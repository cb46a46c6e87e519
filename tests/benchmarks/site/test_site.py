"""The documentation as a site: links lead where they led in the repository, and a strict build has no complaint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the site needs mkdocs")

from benchmarks.site.hooks import relinked

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("link", "inside"),
    [
        ("[levers](docs/levers.md#attention)", "[levers](levers.md#attention)"),
        ("![The app](docs/app.png)", "![The app](app.png)"),
        ("[changes](CHANGELOG.md)", "[changes](changelog.md)"),
        ("[judges](benchmarks/judges/)", "judges (`benchmarks/judges`)"),
        ("[elsewhere](https://example.org/x.md)", "[elsewhere](https://example.org/x.md)"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(link: str, inside: str) -> None:
    assert relinked(link, "README.md", "index.md") == inside


def test_pages_in_folders_find_the_way_back() -> None:
    assert relinked("[batch](../../../docs/batch.md)", "accel/pocket/video/README.md", "models/video.md") == (
        "[batch](../batch.md)"
    )


def test_a_link_that_leads_nowhere_stays_for_the_build_to_refuse() -> None:
    assert relinked("[gone](docs/../gone.md)", "README.md", "index.md") == "[gone](docs/../gone.md)"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING  -" not in done.stderr
    assert (tmp_path / "site" / "methods" / "cache" / "EasyCache.html").exists()
