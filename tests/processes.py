"""Programs that start at once: forked from the tests' own process, which has imported what takes them seconds."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@dataclass
class Program:
    """A script that was started."""

    process: BaseProcess
    folder: Path

    def end(self, seconds: float) -> tuple[int | None, str, str]:
        """Its exit code, and what it has printed and complained; None if it is still at it after so many seconds."""
        self.process.join(seconds)
        code = self.process.exitcode
        self.process.kill()
        return code, (self.folder / "stdout").read_text(), (self.folder / "stderr").read_text()


def start(script: Path, arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> Program:
    """Runs a script beside the tests; its output goes into this folder, which is made."""
    folder.mkdir()
    given = (str(script), list(arguments), dict(environment), folder)
    process = multiprocessing.get_context("fork").Process(target=_run, args=given)
    process.start()
    return Program(process, folder)


def _run(script: str, arguments: list[str], environment: dict[str, str], folder: Path) -> None:
    os.environ.update(environment)
    sys.stdout, sys.stderr = (open(folder / name, "w") for name in ("stdout", "stderr"))  # noqa: SIM115 - until its end
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
