"""The notebook of the examples runs from its first cell to its last, without a network."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_steps.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_its_code_can_be_read_and_it_is_kept_without_outputs() -> None:
    for cell in (cell for cell in CELLS if cell["cell_type"] == "code"):
        ast.parse("".join(cell["source"]))
        assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
def test_it_runs() -> None:
    if importlib.util.find_spec("nbclient") and importlib.util.find_spec("ipykernel"):
        import nbclient
        import nbformat

        nbclient.execute(nbformat.read(NOTEBOOK, as_version=4))
        return
    names: dict[str, object] = {}
    for cell in CELLS:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), names)
    assert names["found"].output is not None  # type: ignore[attr-defined]
