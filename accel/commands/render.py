"""`accel render`: every line of a manifest."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.commands.options import SOME_FAILED, add_calibration, add_command, add_machine
from accel.terminal import show

if TYPE_CHECKING:
    from accel.rendering.engine import Engine


def add_render(commands: Any) -> None:
    command = add_command(
        commands,
        "render",
        "render every line of a manifest; run it again after a crash, and it goes on where it stopped",
        "render jobs.jsonl --model ./wan --recipe balanced --out renders",
        "render jobs.csv --model pocket:video --grid seed=1,2 --dry-run",
        "render jobs.jsonl --set draft=true --set repeat=16 --out drafts",
        "render drafts/00003-*.mp4 drafts/00011-*.mp4 --set draft=false --out chosen",
    )
    command.add_argument(
        "manifest", metavar="MANIFEST", type=Path, nargs="+", help=".jsonl or .csv; or files that were rendered earlier"
    )
    command.add_argument("--out", type=Path, default=Path("renders"), help="folder for the results (renders)")
    command.add_argument("--model", help="for lines that name none: pocket:video, a diffusers folder, or a model id")
    command.add_argument("--recipe", help="preset, recipe file or off, for lines that name none (balanced)")
    add_calibration(command)
    command.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field for all lines")
    command.add_argument(
        "--grid", action="append", default=[], metavar="FIELD=A,B", help="every line with each of these values"
    )
    command.add_argument("--output", metavar="TEMPLATE", help="file names, such as {slug}-{seed}-{steps}")
    command.add_argument("--shard", metavar="I/N", help="only part I of N; the parts may run at once, on one disk")
    command.add_argument("--workers", type=int, help="processes, each with its own GPU if there are any (1)")
    command.add_argument("--engine", choices=["local", "ray"], default="local", help="this machine, or a Ray cluster")
    command.add_argument("--address", help="of the cluster: auto, host:6379, ray://host:10001 (a new one, here)")
    command.add_argument("--retry-failed", action="store_true", help="try jobs again that failed in an earlier run")
    command.add_argument(
        "--batch",
        type=_batch,
        default=1,
        help="jobs per call, or auto for small ones; above 1 last bits may differ (1)",
    )
    command.add_argument("--overlap", action="store_true", help="decode a job while the next is denoised (on the CPU)")
    command.add_argument(
        "--verifier", metavar="MODULE:FUNCTION", help="judges for lines with best_of: function(frames, prompt) -> score"
    )
    command.add_argument("--metrics", action="store_true", help="compare each job with its unaccelerated self")
    command.add_argument("--no-embed", dest="embed", action="store_false", help="no settings inside the files")
    command.add_argument("--dry-run", action="store_true", help="check everything and say what would be rendered")
    add_machine(command)
    command.set_defaults(command=render_manifest)


def render_manifest(options: argparse.Namespace) -> int:
    """Every line of a manifest, as files."""
    from accel.rendering import plan_for, render
    from accel.rendering.manifest import parse_settings
    from accel.rendering.summary import overview

    planned: dict[str, Any] = {
        "recipe": options.recipe,
        "overrides": parse_settings(options.set),
        "grid": parse_settings(options.grid, several=True),
        "dtype": options.dtype,
        "calibration": options.calibration,
        "verifier": None if options.verifier is None else _function(options.verifier),
    }
    manifest = options.manifest if len(options.manifest) > 1 else options.manifest[0]
    if options.output is not None:
        planned["output"] = options.output
    if options.dry_run:
        plan = plan_for(options.model, manifest, **planned)
        show(overview(plan, options.out, options.shard))
        return 0
    summary = render(
        options.model,
        manifest,
        options.out,
        **planned,
        shard=options.shard,
        retry_failed=options.retry_failed,
        embed=options.embed,
        batch=options.batch,
        overlap=options.overlap,
        metrics=options.metrics,
        device=options.device,
        engine=_engine(options),
    )
    show(summary, f"Page:   {summary.page}", f"Ledger: {options.out}")
    return 0 if summary.complete else SOME_FAILED


def _batch(text: str) -> Any:
    """A number, or what `render` says to anything else."""
    return int(text) if text.isdecimal() else text


def _engine(options: argparse.Namespace) -> Engine | None:
    """Who renders; None is this process."""
    from accel.rendering import Processes, Ray

    if options.engine == "ray":
        return Ray(options.address, options.workers)
    if options.address is not None:
        raise ValueError("--address is of a Ray cluster; add --engine ray.")
    return None if options.workers in (None, 1) else Processes(options.workers)


def _function(text: str) -> Any:
    """The function that is named, of a module that Python finds from here."""
    name, _, function = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(name), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--verifier is like mymodule:score, and {text!r} cannot be imported: {error}.") from None
    finally:
        sys.path.pop(0)
