"""All that a GPU can say about this repository, in under ten minutes: python -m benchmarks.gpu (`make gpu`).

Each part is a command of its own with a bound on its time. What it prints is kept in OUT as it comes, whether the part
ends, fails or runs out of time, and the next one goes on. Run again, it goes on with the parts that have not ended.
`report.md` has all of it, to be committed. Without a GPU it tries what needs none, says so, and fails if that did.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from accel import cli
from accel.terminal import show
from accel.version import __version__
from benchmarks.command import command_of

PYTHON = (sys.executable, "-m")
NO_GPU = "There is no GPU that torch can use here, so this was the dry run: nothing was measured, and nothing kept."


class Part(NamedTuple):
    """A command, its bound in seconds, and what it shows."""

    name: str
    command: tuple[str, ...]
    bound: int
    title: str


PARTS = (
    Part("tests", (*PYTHON, "pytest", "-q", "tests/accel/test_cuda.py", "tests/attention/test_flex.py"), 120,
         "Tests on the GPU"),
    Part("shapes", (*PYTHON, "benchmarks.real_shapes", "--device", "cuda", "--blocks", "2", "--tokens", "1"), 150,
         "Steps at real shapes"),
    Part("kernels", (*PYTHON, "benchmarks.attention", "--device", "cuda", "--repeats", "3"), 90, "Kernels"),
    Part("presets", (*PYTHON, "accel.cli", "compare", "pocket:video", "--device", "cuda", "--steps", "50"), 60,
         "Presets on the pocket model"),
    Part("frontier", (*PYTHON, "benchmarks.frontier", "--device", "cuda", "--clips", "2", "--repeats", "1"), 120,
         "Caches, fewer steps and rivals on the pocket model"),
)  # fmt: skip
DRY = (
    Part("fake device", (*PYTHON, "pytest", "-q", "tests/accel/test_host_syncs.py"), 300, "The device in Python"),
    Part("small shapes", (*PYTHON, "benchmarks.real_shapes", "--only", "flux", "--tokens", "0.005"), 300,
         "Steps at small shapes"),
)  # fmt: skip


def command(part: Part, out: Path) -> tuple[str, ...]:
    """The command of a part, with the folder that it writes to, if it does."""
    return (*part.command, *(("--out", str(out / part.name)) if part.name in ("presets", "frontier") else ()))


def attempt(part: Part, out: Path) -> str:
    """Runs a part; how it ended. What it printed so far is in OUT."""
    begun, path = time.monotonic(), out / f"{part.name}.txt"
    with path.open("w", encoding="utf-8") as file:
        # A session of its own, so that what the part has started ends with it.
        process = subprocess.Popen(
            command(part, out), stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(part.bound)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"stopped after its {part.bound} s"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return f"ended after {time.monotonic() - begun:.0f} s" if code == 0 else f"failed with exit code {code}"


def ended(name: str, out: Path) -> bool:
    """Whether a part has ended in an earlier run."""
    state = out / f"{name}.state"
    return state.exists() and state.read_text(encoding="utf-8").startswith("ended")


def run_parts(parts: Sequence[Part], out: Path) -> None:
    """Runs what has not ended yet, and keeps how it went."""
    out.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if ended(part.name, out):
            show(f"{part.name}: ended in an earlier run")
            continue
        state = attempt(part, out)
        (out / f"{part.name}.state").write_text(state + "\n", encoding="utf-8")
        show(f"{part.name}: {state}")


def report(parts: Sequence[Part], out: Path, machine: str) -> Path:
    """Everything in one file."""
    lines = [f"# {machine}", "", f"accel {__version__}, torch {torch.__version__}, Python {platform.python_version()}."]
    for part in parts:
        state, printed = (out / f"{part.name}.{kind}" for kind in ("state", "txt"))
        if state.exists():
            command = " ".join(("python", *part.command[1:]))
            lines += ["", f"## {part.title}", "", f"`{command}` {state.read_text(encoding='utf-8').strip()}.", ""]
            text = printed.read_text(encoding="utf-8", errors="replace").strip()
            lines += [text if text.startswith(("|", machine)) else f"```text\n{text}\n```"]
    path = out / "report.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def rehearse(out: Path) -> None:
    """Runs what needs no GPU, every time anew. Raises ValueError, in one sentence, if something of it fails."""
    shutil.rmtree(out, ignore_errors=True)
    run_parts(DRY, out)
    failed = [part.name for part in DRY if not ended(part.name, out)]
    if failed:
        raise ValueError(f"The dry run failed ({', '.join(failed)}): {out} has what was printed.")
    show(NO_GPU)


def measure(options: argparse.Namespace) -> None:
    """Run the tests and measurements that need a GPU, each within its time, and keep what they say."""
    if not torch.cuda.is_available():
        rehearse(options.out / "dry-run")
        return
    machine = torch.cuda.get_device_name()
    out = options.out / machine.lower().replace(" ", "-").replace("/", "-")
    run_parts(PARTS, out)
    show(f"Commit {report(PARTS, out, machine)}.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = command_of("benchmarks.gpu", measure)
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder for what the parts say (out/gpu)")
    return cli.run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
