"""The house in numbers: `python -m benchmarks.house`, or `--root FOLDER` for another checkout.

Files and lines of source, laboratory and tests; lengths of functions; class names that the package has twice; names
that `accel` exports; what `import accel` costs, and the size of the wheel. Only files that git knows count. The wheel
is built from a copy of them, and the import measured from the wheel, so that a checkout need not be installed.
"""

from __future__ import annotations

import argparse
import ast
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
LABORATORY, TESTS = "benchmarks", "tests"

IMPORT = """
import json, resource, time
def now():
    return time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
start = now()
import torch
torch_alone = now()
import accel
end = now()
print(json.dumps([end[0] - start[0], end[0] - torch_alone[0], end[1], end[1] - torch_alone[1]]))
"""


@dataclass(frozen=True)
class Folder:
    """The Python files below one folder."""

    name: str
    files: int
    lines: int


@dataclass(frozen=True)
class ImportCost:
    """Seconds of processor time and MiB (of the process's peak) of `import accel`: with torch, and on top of torch."""

    seconds: float
    own_seconds: float
    memory: float
    own_memory: float


def tracked(root: Path) -> list[Path]:
    """The files that git knows, relative to the root, without those that were deleted since."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True, check=True)
    return [Path(name) for name in listed.stdout.split("\0") if name and (root / name).is_file()]


def packages(root: Path) -> list[str]:
    """The folders that the wheel is made of."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return sorted(project["tool"]["setuptools"]["package-dir"].values())


def folders(root: Path, files: Iterable[Path]) -> list[Folder]:
    """One row for each folder of the package, and one each for all of the laboratory and all tests."""
    source = set(packages(root))
    lines: dict[str, list[int]] = {}
    for path in python(files):
        name = path.parent.as_posix() if path.parent.as_posix() in source else path.parts[0]
        if name in source | {LABORATORY, TESTS}:
            lines.setdefault(name, []).append(len((root / path).read_text(encoding="utf-8").splitlines()))
    return [Folder(name, len(counts), sum(counts)) for name, counts in sorted(lines.items())]


def python(files: Iterable[Path]) -> list[Path]:
    return [path for path in files if path.suffix == ".py"]


def trees(root: Path, files: Iterable[Path]) -> list[ast.Module]:
    """The parsed files of the package."""
    source = set(packages(root))
    own = [path for path in python(files) if path.parent.as_posix() in source]
    return [ast.parse((root / path).read_text(encoding="utf-8")) for path in own]


def function_lengths(parsed: Iterable[ast.AST]) -> list[int]:
    """The lines of every function and method, docstring and signature included, decorators not; sorted."""
    nodes = (node for tree in parsed for node in ast.walk(tree))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return sorted((node.end_lineno or 0) - node.lineno + 1 for node in nodes if isinstance(node, kinds))


def class_names_used_twice(parsed: Iterable[ast.AST]) -> dict[str, int]:
    """How often each name of a class is defined, where that is more than once."""
    nodes = (node for tree in parsed for node in ast.walk(tree))
    counted = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
    return {name: count for name, count in sorted(counted.items()) if count > 1}


def exported(root: Path) -> list[str]:
    """`accel.__all__`, read off its file."""
    for node in ast.parse((root / "accel" / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise ValueError("accel/__init__.py has no literal __all__.")


def build_wheel(root: Path, files: Iterable[Path], folder: Path) -> Path:
    """Builds the wheel from a copy of the tracked files, with the setuptools of this Python."""
    copy = folder / "copy"
    for path in files:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, copy / path)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "--wheel-dir", str(folder), str(copy)], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"the wheel cannot be built; is setuptools older than 77?\n{done.stderr}")
    return next(folder.glob("*.whl"))


def import_cost(wheel: Path, folder: Path, times: int) -> ImportCost:
    """Medians over fresh processes, after one that warms the file cache and writes the byte code."""
    installed = folder / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    code = f"import sys; sys.path.insert(0, {str(installed)!r})\n{IMPORT}"
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(times + 1)
    ]
    return ImportCost(*(median(values) for values in zip(*runs[1:], strict=True)))


def measure(root: Path, times: int) -> dict[str, Any]:
    """All numbers, as they are printed."""
    files = tracked(root)
    found, parsed = folders(root, files), trees(root, files)
    lengths, twice = function_lengths(parsed), class_names_used_twice(parsed)
    outside = {LABORATORY, TESTS}
    source = [folder for folder in found if folder.name not in outside]
    numbers: dict[str, Any] = {"folder": "files   lines", "source": _sum(source)}
    for title, shown in (("  ", source), ("", [folder for folder in found if folder.name in outside])):
        numbers |= {f"{title}{folder.name}": _sum([folder]) for folder in shown}
    numbers["functions"] = f"{len(lengths)}: median {median(lengths):g}, p90 {quantiles(lengths, n=10)[-1]:g}"
    numbers["longest function"] = f"{lengths[-1]} lines"
    numbers["class names used twice"] = f"{len(twice)}: {', '.join(twice) or 'none'}"
    numbers["names exported by accel"] = len(exported(root))
    with TemporaryDirectory() as given:
        wheel = build_wheel(root, files, Path(given))
        numbers["wheel"] = f"{wheel.stat().st_size / 1e6:.1f} MB"
        cost = import_cost(wheel, Path(given), times)
    numbers["import accel"] = f"{cost.seconds:.2f} s of processor time, {cost.memory:.0f} MiB, torch included"
    numbers["  beyond torch"] = f"{cost.own_seconds:.2f} s of processor time, {cost.own_memory:.0f} MiB"
    return numbers


def _sum(some: Sequence[Folder]) -> str:
    return f"{sum(folder.files for folder in some):5d} {sum(folder.lines for folder in some):7,d}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.house", description="The house in numbers.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to measure (this one)")
    parser.add_argument("--imports", type=int, default=5, help="fresh processes to import in (5)")
    options = parser.parse_args()
    for name, value in measure(options.root, options.imports).items():
        print(f"{name:26s}{value}")


if __name__ == "__main__":
    main()
