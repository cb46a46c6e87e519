"""The house in numbers: how they are counted, and those that must stay."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from benchmarks.house import (
    ROOT,
    class_names_used_twice,
    exported,
    folders,
    function_lengths,
    packages,
    tracked,
    trees,
)

PROJECT = '[tool.setuptools.package-dir]\n"accel" = "accel"\n"accel.deep" = "accel/deep"\n"accel.app" = "app"\n'
FILES = {
    "pyproject.toml": PROJECT,
    "accel/__init__.py": '__all__ = ["one", "two"]\n',
    "accel/deep/thing.py": "class Thing:\n    def speak(self):\n        return 1\n",
    "app/thing.py": "class Thing:\n    pass\n\n\nclass Other:\n    pass\n",
    "benchmarks/judges/one.py": "class Thing:\n    pass\n",
    "tests/app/test_thing.py": "pass\n",
    "examples/shown.py": "pass\n",
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository of a few files, and one that git does not know."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run(["git", "-C", str(tmp_path), "add", "."], check=True)
    (tmp_path / "accel" / "unknown.py").write_text("pass\n")
    return tmp_path


def test_files_and_lines_are_counted_by_folder(small: Path) -> None:
    counted = {folder.name: (folder.files, folder.lines) for folder in folders(small, tracked(small))}
    assert counted == {"accel": (1, 1), "accel/deep": (1, 3), "app": (1, 6), "benchmarks": (1, 2), "tests": (1, 1)}


def test_names_that_the_package_has_twice_and_what_it_exports(small: Path) -> None:
    assert class_names_used_twice(trees(small, tracked(small))) == {"Thing": 2}, "the laboratory's does not count"
    assert exported(small) == ["one", "two"]


def test_a_function_is_as_long_as_its_lines() -> None:
    text = "@cache\ndef one(\n    given,\n):\n    return given\n\n\nclass A:\n    async def two(self): ...\n"
    assert function_lengths([ast.parse(text)]) == [1, 4]


def test_functions_stay_short_and_the_face_small() -> None:
    lengths = function_lengths(trees(ROOT, tracked(ROOT)))
    assert lengths[len(lengths) * 9 // 10] <= 17
    assert lengths[-1] <= 80  # most of it signature and docstring
    assert len(exported(ROOT)) <= 25
    assert not any(folder.startswith("benchmarks") for folder in packages(ROOT))
