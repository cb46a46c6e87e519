"""Sentences are for people: no line of the package decides anything by what a sentence says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import accel
from accel import EasyCache, FixedInterval, Recipe
from accel.reasons import Code
from tests.accel.witness import pipeline
from tests.tiny import TINY, run

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path for folder in ("accel", "app", "attention", "caching", "samplers") for path in (ROOT / folder).rglob("*.py")
)

# What holds sentences: the reasons of calls, decisions and levers, and the anatomy's description of guidance.
SENTENCES = ("reason", "reasons")
DESCRIBED = ("anatomy", "guidance")
SEARCHES = ("startswith", "endswith", "find", "index", "count", "split", "partition", "removeprefix", "removesuffix")
MENTIONED = re.compile(rf"\b({'|'.join(SENTENCES)})\b|\b{DESCRIBED[0]}\s*\.\s*{DESCRIBED[1]}\b")
"""Without these in its text a file has no sentence to look at."""
MATCHES = ("search", "match", "fullmatch", "findall")


def is_sentence(node: ast.AST) -> bool:
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        return node.slice.value in SENTENCES
    if isinstance(node, ast.Attribute) and node.attr == DESCRIBED[1]:
        owner = node.value
        return getattr(owner, "id", getattr(owner, "attr", "")) == DESCRIBED[0]
    return getattr(node, "attr", getattr(node, "id", None)) in SENTENCES


def read_by_programs(tree: ast.AST) -> Iterator[int]:
    """Lines on which a sentence is compared, searched or matched; whether there is one at all may be asked."""
    for node in ast.walk(tree):
        sides: list[ast.AST] = []
        if isinstance(node, ast.Compare) and not all(isinstance(kind, (ast.Is, ast.IsNot)) for kind in node.ops):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in SEARCHES:
                sides = [node.func.value]
            elif node.func.attr in MATCHES:
                sides = list(node.args)
        elif isinstance(node, ast.Match):
            sides = [node.subject]
        if any(is_sentence(side) for side in sides):
            yield node.lineno


def test_no_program_reads_a_sentence() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in FILES}
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path, text in texts.items()
        if MENTIONED.search(text)  # to read the others would take most of the time
        for line in read_by_programs(ast.parse(text))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        'over = sum("≥" in call.reason for call in calls)',
        "refined = [call for call in calls if call.reason == REFINED]",
        "advice if NOTHING in reasons else reasons",
        'if anatomy.guidance.startswith("embedded"): pass',
        'if self.anatomy.guidance.startswith("one batched call"): pass',
        're.search("threshold", report.reason)',
        'if call["reason"] != "warm-up": pass',
    ],
)
def test_such_lines_are_found(line: str) -> None:
    assert list(read_by_programs(ast.parse(line))) == [1]
    assert MENTIONED.search(line)


@pytest.mark.parametrize("line", ["if reason is not None: pass", "said = reason or why", "Counter(call.reason)"])
def test_lines_that_only_pass_a_sentence_on_are_not(line: str) -> None:
    assert list(read_by_programs(ast.parse(line))) == []


def test_the_report_keeps_the_codes_of_all_calls() -> None:
    method = FixedInterval(2, warmup=2, final=1, min_steps=1)
    with accel.accelerate(pipeline("sdxl"), Recipe(cache=method)) as session:
        run(pipeline("sdxl"), TINY["sdxl"])
    written = [call["code"] for call in session.report().to_dict()["calls"]]
    assert written == ["warm-up"] * 2 + ["decided"] * 5 + ["last steps"]


def test_without_a_lever_every_call_is_plainly_computed() -> None:
    with accel.accelerate(pipeline("sdxl"), Recipe()) as session:
        run(pipeline("sdxl"), TINY["sdxl"])
    assert {call.code for call in session.report().calls} == {Code.COMPUTED}


def test_a_distance_over_the_threshold_is_a_code_and_the_advice_goes_by_it() -> None:
    with accel.accelerate(pipeline("sdxl"), Recipe(cache=EasyCache(1e-9, warmup=1, final=1, min_steps=1))) as session:
        run(pipeline("sdxl"), TINY["sdxl"])
    over = sum(call.code == Code.OVER_THRESHOLD for call in session.report().calls)
    assert over > 0 and f"the threshold in {over} of them: raise it" in session.report().levers[0].reason
