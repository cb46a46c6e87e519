"""Small trained models that differ in data, architecture and parametrisation, to judge by.

`JUDGES["waves"].load()` returns a stock diffusers pipeline that takes prompts as text. Nothing in the library may be
tuned on the judge that it is reported on.
"""

from __future__ import annotations

from benchmarks.judges.judge import Judge
from benchmarks.judges.roster import JUDGES

__all__ = ["JUDGES", "Judge"]
