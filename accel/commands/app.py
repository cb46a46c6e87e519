"""`accel app`: the comparison app."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from accel.commands.options import add_calibration, add_command, add_machine


def add_app(commands: Any) -> None:
    command = add_command(
        commands,
        "app",
        "compare in a browser: both clips frame by frame, sweeps, blind votes",
        "app --open",
        "app --model ./wan --port 8000",
    )
    command.add_argument("--model", default="pocket:video", help="chosen at first: a pocket model, a folder or an id")
    add_calibration(command)
    command.add_argument("--port", type=int, help="of the server (the first free one from 7860)")
    command.add_argument("--host", default="127.0.0.1", help="0.0.0.0 opens it to the network (this machine only)")
    command.add_argument("--share", action="store_true", help="open it to everybody through gradio's relay")
    command.add_argument("--open", action="store_true", help="open a browser")
    command.add_argument("--out", type=Path, help="folder to keep votes in (none: gone at the end)")
    command.add_argument(
        "--allow", type=Path, nargs="+", default=[], metavar="FOLDER", help="folders that models may be loaded from"
    )
    command.add_argument("--no-hub", action="store_true", help="load no models of the Hugging Face hub")
    command.add_argument(
        "--allow-hub", nargs="+", default=[], metavar="ID", help="load these models of the hub, and no others"
    )
    command.add_argument(
        "--allow-host", nargs="+", default=[], metavar="NAME", help="further names that this server is reached by"
    )
    command.add_argument("--mcp", action="store_true", help="serve the endpoints to agents too (needs gradio[mcp])")
    command.add_argument("--max-seconds", type=float, help="refuse and stop runs that take longer (900)")
    command.add_argument("--max-voxels", type=int, help="width x height x frames of the largest video (67108864)")
    add_machine(command)
    command.set_defaults(command=serve_app)


def serve_app(options: argparse.Namespace) -> None:
    """The comparison app, in a browser."""
    try:
        from accel.app.serve import serve
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ImportError('the app needs gradio: pip install "diffusers-accel[app]".') from None
    serve(
        options.port,
        model=options.model,
        host=options.host,
        names=options.allow_host,
        mcp=options.mcp,
        share=options.share,
        open_browser=options.open,
        out=options.out,
        folders=options.allow,
        hub=not options.no_hub,
        hub_models=options.allow_hub,
        seconds=options.max_seconds,
        voxels=options.max_voxels,
        device=options.device,
        dtype=options.dtype,
        calibration=options.calibration,
    )
