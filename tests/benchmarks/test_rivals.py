"""Other libraries' caches attach, change the output, and come off without a trace."""

from __future__ import annotations

import pytest
import torch

from benchmarks.rivals import rivals
from tests.tiny import TINY, run

WAN = TINY["wan"]


@pytest.mark.slow
def test_each_rival_attaches_skips_something_and_comes_off_exactly():
    pipe = WAN.build()
    before = run(pipe, WAN, steps=16)
    found = rivals(pipe)
    assert {"diffusers FirstBlockCache", "diffusers SeaCache"} <= {label.split(":")[0] for label, _ in found}
    changed = set()
    for label, attach in found:
        undo = attach(pipe)
        if not torch.equal(run(pipe, WAN, steps=16), before):
            changed.add(label.split(":")[0])
        undo()
        assert torch.equal(run(pipe, WAN, steps=16), before), label
    assert {"diffusers FirstBlockCache", "diffusers SeaCache"} <= changed


def test_rivals_that_do_not_know_a_pipeline_are_left_out_and_named(capsys):
    assert {label.split(":")[0] for label, _ in rivals(TINY["sdxl"].build())} <= {"DeepCache"}, "which is for U-Nets"
    assert "left out, because they do not attach to StableDiffusionXLPipeline: diffusers" in capsys.readouterr().out
