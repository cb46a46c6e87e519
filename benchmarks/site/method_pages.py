"""A page for every method, made from its class: docstring, settings, and where it was measured."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator

from accel.method import Method
from accel.recipe import LEVERS
from benchmarks.site.measured import measured

PARTS = ("predictor", "sigmas")
"""What stands in a parameter of a method and has a page as well: how a cache forecasts, and noise levels."""
_INTRODUCTIONS = {
    "cache": "In which steps the denoiser is evaluated, and what stands in for its output in the others.",
    "predictor": "What stands in for the output of a skipped step: the `predictor` of every cache at the boundary.",
    "attention": "Which pairs of tokens self-attention computes, and in how many bits.",
    "guidance": "In which steps the unconditional pass is evaluated, and what stands in for it.",
    "sampler": "How a step follows from the outputs, so that fewer of them arrive at the same place.",
    "sigmas": "The noise levels of a run: the `sigmas` of every sampler.",
    "precision": "In how many bits the layers of the denoiser's blocks are computed.",
    "resolution": "At which size the denoiser is evaluated.",
}
_ADVICE = re.compile(r"(Not (?!published)|Do not|Prefer |Worth it|Pays|For |Meant for|Only |Take |Good )")
_PAPER = re.compile(r"arXiv (\d{4}\.\d{5})")
_SOURCE = re.compile(r"Source: ([^.;]*)")
_PACKAGES = ("accel.caching", "accel.attention", "accel.samplers", "accel.precision", "accel.resolution")


def kinds(lever: str) -> dict[str, type[Method]]:
    """accel's own methods of a lever, by name in the order of the alphabet."""
    for package in _PACKAGES:
        importlib.import_module(package)
    known = Method.registry.get(lever, {})
    return {name: known[name] for name in sorted(known, key=str.lower) if known[name].__module__.startswith("accel.")}


def pages() -> dict[str, str]:
    """The text of every page by its address in the site."""
    found = {}
    for lever in (*LEVERS, *PARTS):
        found[f"methods/{lever}/index.md"] = _overview(lever)
        found |= {f"methods/{lever}/{name}.md": method_page(kind) for name, kind in kinds(lever).items()}
    return found


def navigation() -> list[dict[str, list[str | dict[str, str]]]]:
    """What mkdocs is to show in the margin: a section for each lever."""
    return [
        {lever.capitalize(): [f"methods/{lever}/index.md", *({n: f"methods/{lever}/{n}.md"} for n in kinds(lever))]}
        for lever in (*LEVERS, *PARTS)
    ]


def method_page(kind: type[Method]) -> str:
    """Everything there is to say about one method."""
    name, lever = kind.__name__, kind.lever
    when = "".join(f"\n    - {sentence}" for sentence in advice(kind))
    parts = [f"# {name}\n", _use(kind), "\n".join(_prose(kind)), f"**Comes from**: {', '.join(sources(kind))}."]
    parts += [f'!!! note "When to use it, and when not"\n{when}' if when else "", _settings(kind)]
    numbers = measured(name, "../..")
    parts += [f"## Measured\n\n{numbers}"] if numbers else []
    parts += [
        f"Where it acts, and why not elsewhere: [every pipeline class](../../pipelines.md). All of [{lever}](index.md)."
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def advice(kind: type[Method]) -> list[str]:
    """The sentences of its docstring that say when to use it, and when not."""
    text = " ".join((inspect.getdoc(kind) or "").split())
    return [sentence for sentence in re.split(r"(?<=[.)]) (?=[A-Z])", text) if _ADVICE.match(sentence)]


def sources(kind: type[Method]) -> list[str]:
    """Where it comes from, as its docstring says: links to papers, another library, or that it was not published."""
    text = " ".join((inspect.getdoc(kind) or "").split())
    papers = [f"[arXiv {number}](https://arxiv.org/abs/{number})" for number in dict.fromkeys(_PAPER.findall(text))]
    own = ["this project; not published"] if "Not published" in text else []
    return papers or own or [found[1] for found in [_SOURCE.search(text)] if found]


def _overview(lever: str) -> str:
    rows = [f"| [{name}]({name}.md) | {_first_sentence(kind)} |" for name, kind in kinds(lever).items()]
    table = "\n".join([f"| {lever} | |", "| --- | --- |", *rows])
    title = f"# {lever.capitalize()}\n\n{_INTRODUCTIONS[lever]}"
    return f"{title} Which to take first: [the levers](../../levers.md).\n\n{table}\n"


def _first_sentence(kind: type[Method]) -> str:
    text = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.:]) (?=[A-Z])", text)[0].replace("|", "\\|")


def _use(kind: type[Method]) -> str:
    """How it is switched on, where its defaults can be."""
    name = kind.__name__
    if kind.lever not in LEVERS:
        return ""
    argument = f"accel.{name}()" if kind.for_comparison() else f"accel.{name}(...)"
    others = "" if kind.lever == "cache" else ", cache=None"
    return f"```python\naccel.accelerate(pipe, {kind.lever}={argument}{others})\n```"


def _prose(kind: type[Method]) -> Iterator[str]:
    """The docstring, each parameter and each of the questions that it answers in a paragraph of its own."""
    words = [field.name for field in dataclasses.fields(kind)]
    parameter = re.compile(rf"^((?:{'|'.join(map(re.escape, words)) or '$^'})(?:, \w+)*)( \([^)]*\))?: ")
    heading = re.compile(r"^(Sources?|Memory|Cost|Published|Measured[^:]*|Raises \w+)(:| )")
    for line in (inspect.getdoc(kind) or "").splitlines():
        if found := parameter.match(line):
            yield f"\n**`{found[1]}`**{found[2] or ''}: {line[found.end() :]}"
        elif heading.match(line):
            yield "\n" + heading.sub(r"**\1**\2", line)
        else:
            yield line


def _settings(kind: type[Method]) -> str:
    rows = [_setting(field) for field in dataclasses.fields(kind) if "setting" in field.metadata]
    if not rows:
        return ""
    return "\n".join(["## Settings\n", "| setting | default | range | |", "| --- | --- | --- | --- |", *rows])


def _setting(field: dataclasses.Field[Method]) -> str:
    told = field.metadata["setting"]
    least, most = ("" if bound is None else f"{bound:g}" for bound in (told.low, told.high))
    span = ", ".join(told.choices) or (f"{least} to {most}" if most else f"from {least}" if least else "any")
    return f"| `{field.name}` | {field.default} | {span} | {told.help.replace('|', '/')} |"
