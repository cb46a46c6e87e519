"""Diffusers' own tests of its pipelines, without accel and with a session attached whose levers are all off.

    python -m benchmarks.upstream_tests ../diffusers wan flux dit     these folders of its tests/pipelines
    python -m benchmarks.upstream_tests ../diffusers                  all of them: hours

Needs the source of diffusers, at the version that is installed. What passes without accel must pass with it; whatever
does not is named, and the exit status is 1. Tests that want a model of the hub fail both ways where there is none, and
prove nothing; `--stand-ins` gives them small tokenizers and a small T5 in its place.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from accel.cli import run as run_command
from benchmarks.command import command_of

ROOT = Path(__file__).parent.parent


def outcomes(source: Path, folders: list[str], plugins: list[str]) -> dict[str, str]:
    """By test: "passed", "failed", "error" or "skipped"."""
    if not source.is_dir():
        raise ValueError(f"there is no folder {source}.")
    places = [f"tests/pipelines/{folder}" for folder in folders] or ["tests/pipelines"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    loaded = [word for plugin in plugins for word in ("-p", plugin)]
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.xml"
        # Alone, because diffusers has a folder `benchmarks` too, which would hide this one.
        (Path(folder) / "tests").symlink_to(source.resolve() / "tests")
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={found}", *loaded, *places]
        subprocess.run(command, cwd=folder, env=environment, check=False, stdout=subprocess.DEVNULL)
        if not found.exists():
            raise ValueError(f"pytest could not run {' '.join(places)} in {source}; is this the source of diffusers?")
        cases = ElementTree.parse(found).iter("testcase")
        return {f"{case.get('classname')}.{case.get('name')}": _outcome(case) for case in cases}


def _outcome(case: ElementTree.Element) -> str:
    told = {"failure": "failed", "error": "error", "skipped": "skipped"}
    return next((told[child.tag] for child in case if child.tag in told), "passed")


def table(without: dict[str, str], with_accel: dict[str, str]) -> list[str]:
    """A line of Markdown for each folder: how many of its tests pass, and how many fail or are skipped both ways."""
    lines = ["| folder | passed without | passed with levers off | not passed without |", "| --- | --- | --- | --- |"]
    for folder in sorted({_folder(test) for test in without}):
        its = [test for test in without if _folder(test) == folder]
        passed = [sum(found.get(test) == "passed" for test in its) for found in (without, with_accel)]
        others = Counter(without[test] for test in its if without[test] != "passed")
        told = ", ".join(f"{count} {word}" for word, count in sorted(others.items())) or "none"
        lines.append(f"| {folder} | {passed[0]} | {passed[1]} | {told} |")
    return lines


def _folder(test: str) -> str:
    """Of a test's name, whose class is `tests.pipelines.FOLDER.FILE.CLASS`."""
    return test.partition("tests.pipelines.")[2].partition(".")[0]


def measure(options: argparse.Namespace) -> None:
    """Runs diffusers' own tests without accel and with its levers off, and names what is different."""
    stand_ins = ["benchmarks.upstream_stand_ins"] if options.stand_ins else []
    without = outcomes(options.source, options.folders, stand_ins)
    with_accel = outcomes(options.source, options.folders, [*stand_ins, "benchmarks.levers_off"])
    print("\n".join(table(without, with_accel)))
    if "passed" not in without.values():
        raise ValueError(
            "no test of diffusers passes without accel either: run pytest there to see why; they need the packages "
            "parameterized and requests_mock, and tiny models of the hub."
        )
    lost = [test for test, told in without.items() if told == "passed" and with_accel.get(test) != "passed"]
    for test in lost:
        print(f"passes without accel alone: {test}")
    if lost:
        raise ValueError(f"{len(lost)} tests of diffusers pass without accel and not with it.")


def main(arguments: list[str] | None = None) -> int:
    parser = command_of("benchmarks.upstream_tests", measure)
    parser.add_argument("source", type=Path, help="the folder of diffusers' source")
    parser.add_argument("folders", nargs="*", help="folders of its tests/pipelines (all)")
    parser.add_argument("--stand-ins", action="store_true", help="do without the hub")
    return run_command(parser.parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
