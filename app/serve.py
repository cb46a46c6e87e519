"""Serving the page: on this machine only, unless asked otherwise."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before gradio is imported: nothing of a run leaves this machine.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr

from accel.app.assets import read
from accel.app.limits import Limits
from accel.app.page import build
from accel.app.studio import Studio

if TYPE_CHECKING:
    from gradio.themes.base import Base

_STYLES = ("style.css", "viewer.css", "recipe_editor.css")
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
_LARGEST_UPLOAD = "200mb"


def launch(
    studio: Studio,
    *,
    model: str = "pocket:video",
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    block: bool = True,
    quiet: bool = False,
    open_browser: bool = False,
) -> tuple[gr.Blocks, str]:
    """Serves the page over this studio; returns it and its address.

    The page reads no files but those of the studio's own folder and what a visitor uploads. host: "0.0.0.0" opens it to
    the network, and share to the internet through gradio's relay: both to everybody who finds it. port: None takes the
    first free one from 7860. block: stays until Ctrl-C.
    """
    blocks = build(studio, model)
    blocks.queue(max_size=4 * studio.limits.queue, default_concurrency_limit=4)
    _, local, shared = blocks.launch(
        server_name=host,
        server_port=port,
        share=share,
        inbrowser=open_browser,
        prevent_thread_lock=True,
        quiet=quiet,
        allowed_paths=[str(studio.folder)],
        max_file_size=_LARGEST_UPLOAD,
        theme=theme(),
        css="\n".join(map(read, _STYLES)),
        footer_links=["api"],
        run_history=False,
        mcp_server=_has_mcp(),
        enable_monitoring=False,
    )
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
    device: str | None = None,
    dtype: str | None = None,
    **arguments: Any,
) -> None:
    """Opens a studio and serves it until Ctrl-C. Further arguments as of `launch`.

    out: folder for votes and tunings. folders: where models may be loaded from, besides `model` itself; hub: whether
    from the Hugging Face hub too, without its code. device, dtype: as in `accel.loading.load_pipeline`.
    """
    roots = (*folders, Path(model)) if Path(model).is_dir() else tuple(folders)
    limits = Limits(roots=roots, hub=hub)
    limits.check_model(model)
    with Studio(limits, out=out, device=device, dtype=dtype) as studio:
        launch(studio, model=model, port=port, **arguments)


def theme() -> Base:
    """Plain, in the fonts of the machine, so that nothing is loaded from elsewhere. Colours are in style.css."""
    return gr.themes.Base(font=_FONTS, font_mono=_MONO, radius_size="md", spacing_size="md")


def _has_mcp() -> bool:
    """Whether the package for the model context protocol is there: pip install "gradio[mcp]"."""
    from importlib.util import find_spec

    return find_spec("mcp") is not None
