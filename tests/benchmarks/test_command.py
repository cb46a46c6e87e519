"""Whichever command asks judges says the same of a name that is none."""

from __future__ import annotations

from argparse import ArgumentParser
from importlib import import_module

import pytest

from benchmarks.command import add_judges


@pytest.mark.parametrize("module", ["holds", "presets", "pruning", "judges.steps", "judges.train", "calibrated"])
def test_an_unknown_judge_is_one_sentence_with_the_known_ones(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    option = ["--judges"] if module == "calibrated" else []
    with pytest.raises(SystemExit):
        import_module(f"benchmarks.{module}").main([*option, "waves", "wavs"])
    assert "there is no judge 'wavs'; name some of: " in (told := capsys.readouterr().err) and "waves, " in told


def test_all_judges_are_meant_where_none_is_named() -> None:
    parser = ArgumentParser()
    add_judges(parser, {"waves": 1, "cells": 2})
    assert parser.parse_args([]).names == ["waves", "cells"] and parser.parse_args(["cells"]).names == ["cells"]
