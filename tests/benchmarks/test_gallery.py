"""The gallery: every small model has a row, with what each preset computes and how near it comes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accel import pocket
from accel.presets import PRESETS
from benchmarks import gallery
from benchmarks.judges import JUDGES


def test_every_model_that_takes_steps_is_shown() -> None:
    names = [exhibit.name for exhibit in gallery.exhibits()]
    assert names == ["pocket:video", "pocket:small", "pocket:image", *(f"judge:{name}" for name in JUDGES)]


@pytest.mark.slow
def test_the_page_has_a_picture_and_a_number_for_every_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = gallery.Exhibit("pocket:image", "pictures", lambda: pocket.load("image"), pocket.prompts(1, 0)[0])
    monkeypatch.setattr(gallery, "exhibits", lambda: [one])
    assert gallery.main(["--out", str(tmp_path), "--steps", "14"]) == 0
    told = json.loads((tmp_path / "pocket-image.json").read_text())
    page = (tmp_path / "index.html").read_text()
    assert list(told) == ["unaccelerated", *PRESETS]
    for name, words in told.items():
        assert (tmp_path / f"pocket-image-{name}.webp").stat().st_size > 100
        assert words in page and f"pocket-image-{name}.webp" in page
    before = (tmp_path / "pocket-image-fast.webp").stat().st_mtime_ns
    gallery.main(["--out", str(tmp_path), "--steps", "14"])
    assert (tmp_path / "pocket-image-fast.webp").stat().st_mtime_ns == before
