"""docs/pipelines.md is what its command writes."""

from __future__ import annotations

import pytest

from benchmarks.pipelines import COLUMNS, PAGE, RAISES, README, Row, page_of, rows_of, sentence, tried
from tests.tiny.zoo.inventory import denoising_classes

SAMPLE = ("DDIMPipeline", "FluxPipeline", "LongCatAudioDiTPipeline", "StableAudioPipeline")


def page() -> dict[str, str]:
    return rows_of(PAGE.read_text())


def test_the_page_lists_every_denoising_class_and_no_other() -> None:
    assert list(page()) == list(denoising_classes())


def test_the_page_is_made_of_its_rows() -> None:
    assert page_of(page().values()) == PAGE.read_text()


def test_the_readme_says_which_models_as_the_page_does() -> None:
    told = README.read_text(encoding="utf-8").partition("## Which models\n")[2]
    assert sentence(page().values()) in told


def test_no_lever_raises_and_every_no_has_its_reason() -> None:
    for row in page().values():
        *cells, why = (cell.strip() for cell in row.split("|")[2:-1])
        assert RAISES not in cells
        assert len(cells) == len(COLUMNS) - 2
        assert why or "no" not in cells


@pytest.mark.part(1)
@pytest.mark.parametrize("name", SAMPLE)
def test_a_row_is_what_a_run_gives(name: str) -> None:
    assert page()[name] == str(tried(name))


@pytest.mark.slow
def test_every_row_is_what_a_run_gives() -> None:
    assert [name for name, row in page().items() if row != str(tried(name))] == []


def test_rows_survive_being_written_and_read() -> None:
    cells = ("yes", "no", "no", "no", "yes")
    rows = [str(Row("FirstPipeline", cells, "one | two\nthree")), str(Row("SecondRefiner", cells))]
    assert list(rows_of(page_of(rows)).values()) == rows
