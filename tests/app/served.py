"""The app on a port of this machine, with a pocket model whose denoiser calls are counted and can be slowed down."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from accel.app.limits import Limits
from accel.app.models import Loader
from accel.app.serve import launch
from accel.app.studio import Studio
from tests import shallow

# Settings of a run that takes a second.
SMALL: dict[str, Any] = {
    "prompt": "a red circle moves left on a dark background",
    "steps": 10,
    "width": 32,
    "height": 32,
    "frames": 5,
    "recipe": {"cache": {"method": "OptimalSchedule", "compute": 0.6}},
}


class Served:
    """A studio and the address of its page."""

    def __init__(self, limits: Limits | None = None, model: str = "pocket:video", load: Loader | None = None) -> None:
        self.calls, self.pause = 0, 0.0
        self.studio = Studio(limits or Limits(hub=False), load=load or self._load)
        # gradio asks its server for the page, and takes three seconds without it for a machine without a network.
        with patch("gradio.networking.url_ok", return_value=True):
            self.blocks, self.url = launch(self.studio, model=model, block=False, quiet=True)

    @contextmanager
    def slowly(self, seconds: float) -> Iterator[None]:
        """Every computed denoiser call takes so much longer."""
        self.pause = seconds
        try:
            yield
        finally:
            self.pause = 0.0

    def at_rest(self) -> int:
        """The number of calls, once no more come."""
        before = -1
        while before != self.calls:
            before = self.calls
            time.sleep(0.3 + self.pause)
        return before

    def close(self) -> None:
        self.blocks.close(verbose=False)
        self.studio.close()

    def _load(self, model: str, **_: Any) -> Any:
        pipe = shallow.load(model.removeprefix("pocket:"))
        pipe.transformer.blocks[0].register_forward_hook(self._count)
        return pipe

    def _count(self, *_: Any) -> None:
        self.calls += 1
        time.sleep(self.pause)
