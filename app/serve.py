"""Serving the page: on this machine only, unless asked otherwise."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before gradio is imported: nothing of a run leaves this machine.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from starlette.types import ASGIApp

from accel.app.gatekeeper import LOOPBACK, Gatekeeper, GuardedApp, Names
from accel.app.limits import Limits
from accel.app.page import build
from accel.app.studio import Studio
from accel.app.ui.assets import read
from accel.app.ui.first_look import first_look
from accel.app.visitors import Listeners
from accel.caching.calibration.fitting import calibrations
from accel.loading import POCKET

if TYPE_CHECKING:
    from gradio.themes.base import Base

_STYLES = ("style.css", "recipe_editor.css")
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def launch(
    studio: Studio,
    *,
    model: str = "pocket:video",
    host: str = "127.0.0.1",
    names: Sequence[str] = (),
    port: int | None = None,
    share: bool = False,
    mcp: bool = False,
    block: bool = True,
    quiet: bool = False,
    open_browser: bool = False,
) -> tuple[gr.Blocks, str]:
    """Serves the page over this studio; returns it and its address.

    The page reads no files but those of the studio's own folder and what a visitor uploads; which models may be loaded
    is up to the studio's limits, which `serve` makes strict where strangers come in. host: "0.0.0.0" opens it to
    the network, and share to the internet through gradio's relay: both to everybody who finds it. names: further ones
    that it is reached by. port: None takes the first free one from 7860. mcp: the endpoints as tools for agents too.
    block: stays until Ctrl-C. docs/security.md tells what holds in each case. Raises ValueError for mcp where its
    package is missing, and for a host or port that cannot be served.
    """
    check_address(host, port)
    if mcp and not _has_mcp():
        raise ValueError('serving agents needs another package: pip install "gradio[mcp]".')
    os.environ["GRADIO_TEMP_DIR"] = str(studio.files)  # read as the page is built, and with every upload
    listeners, known = Listeners(), Names(host, names)
    blocks = build(studio, model, listeners)
    blocks.queue(max_size=4 * studio.limits.queue, default_concurrency_limit=4, api_open=False)

    def guard(app: ASGIApp) -> Gatekeeper:
        return Gatekeeper(app, known, listeners, studio.limits.upload_bytes, studio.make_room)

    _, local, shared = blocks.launch(
        _app=GuardedApp(guard, first_look(example) if (example := studio.example(model)) else ""),
        server_name=host,
        server_port=port,
        share=share,
        inbrowser=open_browser,
        prevent_thread_lock=True,
        quiet=quiet,
        allowed_paths=[str(studio.clips)],
        max_file_size=studio.limits.upload_bytes,
        theme=theme(),
        css="\n".join(map(read, _STYLES)),
        footer_links=["api"],
        run_history=False,
        mcp_server=mcp,
        enable_monitoring=False,
        ssr_mode=False,  # which would put another server in front of the gatekeeper,
        num_workers=0,  # and these some beside it
    )
    if shared:
        known.add(shared)
    if block:
        blocks.block_thread()
    return blocks, shared or local


def serve(
    port: int | None = None,
    *,
    model: str = "pocket:video",
    out: Path | None = None,
    folders: Sequence[Path] = (),
    hub: bool = True,
    hub_models: Sequence[str] = (),
    seconds: float | None = None,
    voxels: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    calibration: Sequence[Path] = (),
    **arguments: Any,
) -> None:
    """Opens a studio and serves it until Ctrl-C or SIGTERM. Further arguments as of `launch`.

    out: folder for votes. folders: where models may be loaded from, besides `model` itself; hub: whether
    from the Hugging Face hub too, without its code: any model where this machine alone is served, else only
    `hub_models`. seconds: most time of a run; voxels: width x height x frames of the largest video. device, dtype: as
    in `accel.loading.load_pipeline`. calibration: files for the model, of which every recipe takes what it can.
    """
    measured = calibrations(calibration)
    roots = (*folders, Path(model)) if Path(model).is_dir() else tuple(folders)
    given: dict[str, Any] = {"seconds": seconds, "voxels": voxels}
    if seconds is not None:
        given["minutes"] = max(Limits.minutes, seconds / 60.0)
    alone = arguments.get("host", LOOPBACK[0]) in LOOPBACK and not arguments.get("share")
    own = (model,) if not roots and not model.startswith(POCKET) else ()
    limits = Limits(
        roots=roots,
        hub=hub and (alone or bool(hub_models or own)),
        hub_models=() if alone and not hub_models else (*hub_models, *own),
        **{name: value for name, value in given.items() if value is not None},
    )
    limits.check_model(model)
    with ending_on_sigterm(), Studio(limits, out=out, device=device, dtype=dtype, calibrations=measured) as studio:
        launch(studio, model=model, port=port, **arguments)


def check_address(host: str, port: int | None) -> None:
    """Raises ValueError, in one sentence, for an address that cannot be served here. port: None takes a free one."""
    if port is not None and not 0 < port < 2**16:
        raise ValueError(f"the port must be a whole number from 1 to 65535, not {port}.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except PermissionError:
        raise ValueError(f"port {port} needs rights that this user does not have; take one from 1024.") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} is in use; leave --port out to take the first free one.") from None
        raise ValueError(f"the host {host!r} is no address of this machine.") from None


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """In the block SIGTERM ends the program as Ctrl-C does, so that it can clean up."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def theme() -> Base:
    """Plain, in the fonts of the machine, so that nothing is loaded from elsewhere. Colours are in style.css."""
    return gr.themes.Base(font=_FONTS, font_mono=_MONO, radius_size="md", spacing_size="md")


def _has_mcp() -> bool:
    """Whether the package for the model context protocol is there: pip install "gradio[mcp]"."""
    from importlib.util import find_spec

    return find_spec("mcp") is not None
