"""What the wheel will hold. A folder or data file that pyproject.toml does not name works in an editable install and is
silently absent from the wheel.
"""

from __future__ import annotations

import ast
import re
import tomllib
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sources import declared

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
FOLDERS: dict[str, str] = SETUPTOOLS["package-dir"]
DATA: dict[str, list[str]] = SETUPTOOLS["package-data"]
# These install below `accel`, so as top-level packages they are either absent or somebody else's.
BELOW_ACCEL = {"app", "attention", "caching", "samplers"}
SCRIPTS = {"benchmarks", "examples", "tests"}  # run from the repository, not installed
NOT_SOURCE = {"build", "dist", "out", "renders"}


def source_files(pattern: str) -> Iterator[Path]:
    """Paths from the repository's root, without what tools put there."""
    for folder in ROOT.iterdir():
        if folder.is_dir() and folder.name not in NOT_SOURCE and not folder.name.startswith("."):
            yield from (path.relative_to(ROOT) for path in folder.rglob(pattern))


def imported(path: Path, packages: set[str]) -> list[str]:
    """The modules of these packages that a file imports, at whatever place in it."""
    line = rf"\b(from|import)\s.*(?<![\w.])({'|'.join(packages)})\b"
    if not re.search(line, (ROOT / path).read_text(encoding="utf-8")):
        return []  # as nearly all of them, and to parse one takes a hundred times as long
    nodes = declared(ROOT / path)
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return [name for name in names if name.partition(".")[0] in packages]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import caching", ["caching"]),
        ("import os, caching.gate as gate", ["caching.gate"]),
        ("def late():\n    from caching.gate import CacheGate", ["caching.gate"]),
        ("try:\n    pass\nfinally:\n    if True: import caching", ["caching"]),
        ("import accel.caching\nfrom accel import caching", []),
        ('"""\nfrom caching import nothing\n"""', []),
    ],
)
def test_such_imports_are_found(text: str, found: list[str], tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(text)
    assert imported(tmp_path / "one.py", BELOW_ACCEL) == found


def test_every_folder_with_modules_is_a_package_in_pyproject() -> None:
    found = {path.parent.as_posix() for path in source_files("__init__.py") if path.parts[0] not in SCRIPTS}
    assert found == set(FOLDERS.values())
    assert set(SETUPTOOLS["packages"]) == set(FOLDERS)


def test_every_folder_with_code_has_an_init() -> None:
    with_code = {path.parent.as_posix() for path in source_files("*.py") if path.parts[0] not in SCRIPTS}
    assert with_code == set(FOLDERS.values())


@pytest.mark.parametrize(("package", "pattern"), [(name, glob) for name, globs in DATA.items() for glob in globs])
def test_package_data_exists(package: str, pattern: str) -> None:
    assert any(path.is_file() for path in (ROOT / FOLDERS[package]).glob(pattern))


def test_every_data_file_is_package_data() -> None:
    named = {path for name, globs in DATA.items() for glob in globs for path in (ROOT / FOLDERS[name]).glob(glob)}
    found = {path for folder in FOLDERS.values() for path in (ROOT / folder).rglob("*") if path.is_file()}
    made = (".py", ".pyc", ".pyi")  # the last by gradio, beside its components
    assert {path for path in found - named if path.suffix not in made} == set()


def test_root_folders_are_imported_below_accel() -> None:
    """`from caching import X` works in the repository's root and makes a second copy of every class."""
    found = {path: imported(path, BELOW_ACCEL) for path in source_files("*.py")}
    assert {str(path): names for path, names in found.items() if names} == {}


def test_test_folders_mirror_the_packages() -> None:
    """tests/caching tests caching/, tests/pocket tests accel/pocket/, and tests/benchmarks/pocket tests
    benchmarks/pocket/. A folder without tests holds their tools.
    """
    packages = {folder.removeprefix("accel/") for folder in FOLDERS.values()}
    laboratory = {path.parent.as_posix() for path in source_files("__init__.py") if path.parts[0] == "benchmarks"}
    folders = {path.parent.as_posix() for path in source_files("test_*.py") if path.parts[0] == "tests"}
    assert {folder.removeprefix("tests/") for folder in folders if folder != "tests"} <= packages | laboratory


def test_the_product_does_not_need_the_laboratory() -> None:
    """The wheel has no `benchmarks`, so nothing that it holds may import them."""
    for path in source_files("*.py"):
        if path.parts[0] not in SCRIPTS:
            assert imported(path, SCRIPTS) == [], path


def test_the_wheel_stays_small() -> None:
    """A wheel is a zip: what its files take compressed, mostly the weights of the pocket models."""
    found = {path for folder in FOLDERS.values() for path in (ROOT / folder).rglob("*") if path.is_file()}
    assert sum(compressed(path) for path in found if path.suffix not in (".pyc", ".pyi")) < 11_940_000


def compressed(path: Path) -> int:
    """Bytes. In weights nothing repeats: not to look for it is half a percent from what a zip has, in a tenth of the
    time.
    """
    packer = zlib.compressobj(
        strategy=zlib.Z_HUFFMAN_ONLY if path.suffix == ".safetensors" else zlib.Z_DEFAULT_STRATEGY
    )
    return len(packer.compress(path.read_bytes()) + packer.flush())
