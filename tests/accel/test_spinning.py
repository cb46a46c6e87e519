"""Torch's threads wait actively for a bounded time in accel's own processes, and as ever in those of users."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from accel.spinning import DECIDED_BY_USER, SPINS, VARIABLE, bounded_in_new_processes, is_own_command

ROOT = Path(__file__).parents[2]
SHOW = f"import os; print([os.environ.get(name) for name in {DECIDED_BY_USER}])"
# Shows it when torch is about to be loaded, whose threads read it then and never again, and ends there: that is early.
WATCH = f"""import sys
class Watch:
    def find_spec(self, name, *rest):
        if name == "torch":
            {SHOW}
            sys.stdout.flush()
            os._exit(0)
sys.meta_path.insert(0, Watch())
"""


def environment_of(*command: str, **given: str) -> str:
    """What a fresh interpreter prints, in an environment that says nothing of spins but what is given."""
    neutral = {name: value for name, value in os.environ.items() if name not in DECIDED_BY_USER}
    done = subprocess.run(
        [sys.executable, *command], env=neutral | given, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The command as it is installed: it imports accel, and torch with it."""
    path = tmp_path_factory.mktemp("bin") / "accel"
    path.write_text(f"{WATCH}import accel.cli\n")
    return str(path)


def test_the_command_bounds_them(script: str) -> None:
    assert environment_of(script) == f"['{SPINS}', None]"


def test_what_the_user_has_set_stands(script: str) -> None:
    assert environment_of(script, OMP_WAIT_POLICY="passive") == "[None, 'passive']"
    assert environment_of(script, GOMP_SPINCOUNT="7") == "['7', None]"


@pytest.mark.slow  # test_imports.py looks at the same in its own program
def test_a_script_that_imports_accel_is_left_as_it_is() -> None:
    """When torch is loaded; tests/test_imports.py looks once more after it."""
    assert environment_of("-c", f"{WATCH}import accel") == "[None, None]"


def test_commands_of_the_laboratory_bound_them_too() -> None:
    named = "sys.orig_argv = ['python', '-m', 'benchmarks.tuning']"
    assert environment_of("-c", f"{WATCH}{named}\nimport benchmarks") == f"['{SPINS}', None]"


@pytest.mark.parametrize(
    ("command", "own"),
    [
        ("python bin/accel demo", True),
        ("python.exe Scripts/accel.exe app", True),
        ("python -X dev -m benchmarks.tuning --out x", True),
        ("python my_script.py accel", False),
        ("python -m pytest -m slow", False),
        ("python", False),
    ],
)
def test_own_commands(command: str, own: bool) -> None:
    assert is_own_command(command.split()) is own


def test_workers_are_own_processes_whoever_starts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DECIDED_BY_USER:
        monkeypatch.delenv(name, raising=False)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as outside:
        assert outside.apply(os.getenv, (VARIABLE,)) is None
    with bounded_in_new_processes():
        inside = context.Pool(1)
    with inside:
        assert inside.apply(os.getenv, (VARIABLE,)) == SPINS
    assert VARIABLE not in os.environ
