"""The documents are true: what they name exists, and the page on caches runs as it is printed."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import diffusers
import pytest
import torch

import accel
from accel import families
from accel.method import RETIRED, Method
from accel.rendering.fields import FIELDS
from tests.tiny import TINY, run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = {name: f"accel.{name}" for name in ("app", "attention", "caching", "samplers")} | {"accel": "accel"}
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code(page: Path) -> str:
    """What stands in code blocks and between backticks."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return "\n".join([*blocks, *re.findall(r"`([^`]+)`", rest)])


@cache
def classes() -> dict[str, str]:
    """The module of every class in the package, by name."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            module = ".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts])
            text = path.read_text(encoding="utf-8")
            found |= dict.fromkeys(re.findall(r"^class (\w+)", text, re.MULTILINE), module)
    return found


def resolved(name: str) -> Any:
    """The module or attribute at a dotted path."""
    parts = name.split(".")
    value = importlib.import_module(parts[0])
    for index, part in enumerate(parts[1:], 2):
        try:
            value = getattr(value, part)
        except AttributeError:
            value = importlib.import_module(".".join(parts[:index]))
    return value


def unknown(text: str) -> Iterator[str]:
    """Names below accel, and classes with their members, that do not exist."""
    for name in set(re.findall(r"(?<![\w./-])accel(?:\.[A-Za-z_]\w*)+", text)):
        try:
            resolved(name)
        except (AttributeError, ImportError):
            yield name
    own = re.findall(r"^class (\w+)", text, re.MULTILINE)
    for name, member in set(re.findall(r"(?<![\w.\"'/-])([A-Z][a-z]+[A-Z]\w*)(?:\.([a-z_]\w*))?", text)):
        if name in classes():
            kind = getattr(importlib.import_module(classes()[name]), name)
            if member and not (hasattr(kind, member) or member in getattr(kind, "__annotations__", {})):
                yield f"{name}.{member}"
        elif not (name in own or name in RETIRED or hasattr(diffusers, name)):
            yield name


@every_page
def test_names_of_the_pages_exist(page: Path) -> None:
    assert list(unknown(code(page))) == []


def test_names_in_docstrings_and_comments_exist() -> None:
    """Those between backticks. Of single words only the classes are looked at."""
    wrong = []
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if any(unknown(quoted(source))):  # perhaps in other strings than docstrings; to tell takes longest
            wrong += [f"{path.relative_to(ROOT)}: {name}" for name in unknown(quoted(prose(source)))]
    assert wrong == []


def quoted(text: str) -> str:
    return "\n".join(re.findall(r"`([\w.]+)", text))


def prose(source: str) -> str:
    """The comments and docstrings of a file."""
    return "\n".join(token.string for token in tokenize.generate_tokens(StringIO(source).readline) if is_prose(token))


def is_prose(token: tokenize.TokenInfo) -> bool:
    return token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.string.startswith('"""'))


def test_prose_is_comments_and_docstrings() -> None:
    source = '"""`One.`"""\nimport os  # `two`\nthird = "`three`"\n'
    assert quoted(prose(source)).split() == ["One.", "two"]


NAMED_FILE = re.compile(r"(?<![\w^:./-])(?:accel|app|attention|benchmarks|caching|docs|samplers|tests)/[\w./-]*")


@every_page
def test_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = NAMED_FILE.findall(text)
    linked = [target for target in re.findall(r"\]\(([^)#]+)", text) if "://" not in target]
    missing = [name for name in named if not (ROOT / name.rstrip(".")).exists()]
    assert missing + [target for target in linked if not (page.parent / target).exists()] == []


def test_files_in_docstrings_and_comments_exist() -> None:
    missing = []
    for path in (path for folder in (*FOLDERS, "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if any(absent(source)):  # perhaps in other strings than docstrings; to tell takes longest
            missing += [f"{path.relative_to(ROOT)}: {name}" for name in absent(prose(source))]
    assert missing == []


def absent(text: str) -> Iterator[str]:
    """The files that are named in it and do not exist."""
    named = {name.rstrip(".") for name in NAMED_FILE.findall(text)}  # also at the end of a sentence
    return (name for name in sorted(named) if Path(name).suffix and not (ROOT / name).exists())


@every_page
def test_commands_of_the_repository_exist(page: Path) -> None:
    text, makefile = page.read_text(encoding="utf-8"), (ROOT / "Makefile").read_text(encoding="utf-8")
    for module in re.findall(r"python -m (benchmarks(?:\.[a-z_]+)+)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for target in re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{max(target)}:", makefile, re.MULTILINE), target


@every_page
def test_python_in_the_pages_can_be_read(page: Path) -> None:
    for block in blocks_of(page.read_text(encoding="utf-8")):
        compile(block, page.name, "exec")


def blocks_of(text: str) -> list[str]:
    """The Python in it."""
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_page_on_batches_has_every_field_of_a_manifest() -> None:
    page = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
    table = "".join(re.findall(r"^\| (`.*?) \|", page.partition("## Fields of a manifest")[2], re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", table)) == {*FIELDS, "grid"}


def test_the_navigation_of_the_site_names_pages_that_exist() -> None:
    named = re.findall(r"^ +- ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    made = {"index.md", "contributing.md", "changelog.md"}  # from files beside docs/
    assert {name for name in named if not (ROOT / "docs" / name).exists()} == made


QUICK = {"FLUX": "flux", "SDXL": "sdxl", "Wan": "wan", "LTX": "ltx", "Qwen-Image": "qwen_image"}
QUICK |= {"HunyuanVideo": "hunyuan_video"}


@pytest.mark.part(2)
@pytest.mark.parametrize("family", QUICK)
def test_quick_starts_run(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are printed, on small random weights in the place of those that would be downloaded. Of the call, the
    names of its arguments and the number of steps are the page's; prompt and sizes are the small pipeline's.
    """
    text = (ROOT / "docs" / "quick-starts.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## {family}\n")[2].partition("\n## ")[0]
    tiny = TINY[QUICK[family]]
    pipe = tiny.build()
    kind, reports = type(pipe), []

    class Small:
        """The class that the page names."""

        def __init__(self) -> None:
            self.vae = MagicMock()

        @classmethod
        def from_pretrained(cls, name: str, **_: Any) -> Any:
            return cls()

        def to(self, device: str) -> Any:
            assert device == "cuda"
            return self

        def __call__(self, *args: Any, **given: Any) -> Any:
            inspect.signature(kind.__call__).bind(self, *args, **given)
            steps = given.get("num_inference_steps", 50)
            pipe(**tiny.arguments(pipe), num_inference_steps=steps, output_type="latent")
            return MagicMock()

    def accelerate(_: Any, *args: Any, **levers: Any) -> Any:
        reports.append(attach(pipe, *args, **levers))

    attach = accel.accelerate
    monkeypatch.setattr(accel, "accelerate", accelerate)
    monkeypatch.setattr(diffusers, kind.__name__, Small)
    for part in ("AutoencoderKLWan", "HunyuanVideoTransformer3DModel"):
        monkeypatch.setattr(diffusers, part, Small)
    monkeypatch.setattr(diffusers.utils, "export_to_video", MagicMock())
    exec(blocks_of(section)[0], {})
    report = reports[0].report()
    assert report.steps >= 50 and report.predicted > 0


@pytest.fixture(scope="module")
def page_on_caches() -> Iterator[dict[str, Any]]:
    """What the first block of `docs/add-a-cache.md` defines."""
    known, module = dict(Method.registry["cache"]), ModuleType("calm_cache")
    sys.modules[module.__name__] = module  # dataclasses look their own module up
    exec(python_blocks()[0], vars(module))
    yield vars(module)
    Method.registry["cache"].clear()
    Method.registry["cache"].update(known)
    del sys.modules[module.__name__]


def python_blocks() -> list[str]:
    return blocks_of((ROOT / "docs" / "add-a-cache.md").read_text(encoding="utf-8"))


def test_the_cache_of_the_page_goes_through_a_file_and_is_undone(
    page_on_caches: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pipe = TINY["wan"].build()
    plain = run(pipe, TINY["wan"], steps=16)
    names = page_on_caches | {"pipe": pipe}
    exec(python_blocks()[1], names)
    assert accel.Recipe.load("calm.json") == names["recipe"]
    output, report = run(pipe, TINY["wan"], steps=16), names["session"].report()
    assert report.levers[0].engaged and report.predicted > 0 and not torch.equal(output, plain)
    names["session"].restore()
    assert torch.equal(run(pipe, TINY["wan"], steps=16), plain)


def test_the_family_of_the_page_is_known_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    exec(python_blocks()[3], {})
    assert families.of_denoiser("GlacierTransformer3DModel").prompt_tokens == "last"


@pytest.mark.parametrize("predictor", ["LastOutput", "LastResidual", "Extrapolate"])
def test_it_takes_every_predictor(page_on_caches: dict[str, Any], predictor: str) -> None:
    pipe = TINY["wan"].build()
    cache = page_on_caches["CalmCache"](1e9, predictor=getattr(accel, predictor)())
    with accel.accelerate(pipe, cache=cache) as session:
        run(pipe, TINY["wan"], steps=16)
    assert session.report().predicted > 0


def test_its_threshold_decides(page_on_caches: dict[str, Any]) -> None:
    exec(python_blocks()[2], dict(page_on_caches))
    pipe = TINY["wan"].build()
    with accel.accelerate(pipe, cache=page_on_caches["CalmCache"](0.0)) as session:
        run(pipe, TINY["wan"], steps=16)
    assert session.report().predicted == 0
    assert "raise it to skip" in session.report().levers[0].reason
