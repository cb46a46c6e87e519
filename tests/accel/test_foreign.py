"""Other people's objects: who may write to them, and that all that is written is put back, whatever fails."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, SchedulerMixin

import accel
from accel import EasyCache, lever
from accel.lever import InactiveLever
from accel.measure.pipeline_runs import without_progress_bars
from accel.method import Method
from accel.patch import CallWrapper, Replacement, Wrapper, replace_attribute, undo_later, wrap_methods
from accel.rendering.memory import use_tiling
from tests.accel.residue import snapshot, traces
from tests.accel.witness import pipeline, plain
from tests.tiny import TINY, run
from tests.tiny.guiders import GUIDERS

ROOT = Path(__file__).parents[2]
ROOMS = ("accel", "caching", "samplers", "attention", "app")
SOURCES = {str(path): path for room in ROOMS for path in ROOT.glob(f"{room}/**/*.py")}

# Who writes to others without accel.patch, and why that is right.
ALLOWED = {
    "accel/patch/": "it is where this is done",
    "accel/update.py: setattr(other, ": "of a copy that it has just made",
    "accel/update.py: delattr(other, ": "of a copy that it has just made",
    "accel/precision/inside.py: alike.": "of a copy that it has just made",
    "samplers/stepper.py: copied.": "of a stepper of its own class that it has just made",
    "accel/rendering/beside.py: vars(other)[name]": "of a copy that it has just made",
    "accel/rendering/stages.py: ": "stages and places are two classes of that file, which one lock is for",
}
OWN = {"self", "cls"}
CONTAINERS = {"pop", "update", "clear", "setdefault", "popitem"}
SPECIAL = {"__class__", "__dict__", "__call__", "forward", "_forward"}
SUSPECT = re.compile(
    r"\b(?:set|del)attr\(|__(?:setattr|delattr|dict|class|call)__|\bvars\(|(?<!\bself)(?<!\bcls)\.(?:_|forward\b)"
)
"""Without any of these in its text a file writes to nobody's objects; to read them all would take most of the time."""


def writes(tree: ast.AST) -> Iterator[str]:
    """What sets, deletes or replaces an attribute of an object that is not the writer's own, past its public face."""
    for node in ast.walk(tree):
        for target in _targets(node):
            if isinstance(target, ast.Subscript) and _is_dict_of(target.value):
                yield ast.unparse(node)
            if isinstance(target, ast.Attribute) and not _is_own(target.value) and _is_private(target.attr):
                yield ast.unparse(node)
        if isinstance(node, ast.Call) and _writes(node):
            yield ast.unparse(node)


def _targets(node: ast.AST) -> list[Any]:
    found: list[Any] = []
    if isinstance(node, (ast.Assign, ast.Delete)):
        found = node.targets
    elif isinstance(node, (ast.AugAssign, ast.AnnAssign)):
        found = [node.target]
    return [item for target in found for item in (target.elts if isinstance(target, ast.Tuple) else [target])]


def _writes(call: ast.Call) -> bool:
    function = call.func
    if isinstance(function, ast.Name) and function.id in ("setattr", "delattr"):
        return not _is_own(call.args[0])
    if not isinstance(function, ast.Attribute):
        return False
    if function.attr in ("__setattr__", "__delattr__"):
        return bool(call.args) and not _is_own(call.args[0])
    return function.attr in CONTAINERS and _is_dict_of(function.value)


def _is_own(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id in OWN


def _is_private(name: str) -> bool:
    return name in SPECIAL or (name.startswith("_") and not name.startswith("__"))


def _is_dict_of(value: ast.expr) -> bool:
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "vars":
        return bool(value.args) and not _is_own(value.args[0])
    return isinstance(value, ast.Attribute) and value.attr == "__dict__" and not _is_own(value.value)


def test_nothing_but_patch_writes_to_other_peoples_objects() -> None:
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in SOURCES.values()}
    found = {
        f"{path}: {text}"
        for path, source in texts.items()
        if SUSPECT.search(source)
        for text in writes(ast.parse(source))
    }
    assert {write for write in found if not write.startswith(tuple(ALLOWED))} == set()
    assert [known for known in ALLOWED if not any(write.startswith(known) for write in found)] == []


@pytest.mark.parametrize(
    "text",
    [
        "setattr(pipe, 'vae', x)", "delattr(pipe, 'vae')", "object.__setattr__(pipe, 'vae', x)",
        "vars(pipe)['vae'] = x", "pipe.__dict__['vae'] = x", "del pipe.__dict__['vae']", "pipe.__dict__.pop('vae')",
        "pipe.__class__ = x", "pipe._config = x", "a, pipe._config = x", "del pipe._config", "self.root._config = x",
        "module.forward = x", "vars(pipe).update(x)",
    ],
)  # fmt: skip
def test_the_search_finds_each_way_to_write(text: str) -> None:
    assert list(writes(ast.parse(text))) and SUSPECT.search(text)


@pytest.mark.parametrize("text", ["self._config = x", "object.__setattr__(self, 'a', x)", "vars(pipe)['vae']"])
def test_the_search_passes_what_is_no_write_to_others(text: str) -> None:
    assert not list(writes(ast.parse(text)))


@contextmanager
def noted_writes() -> Iterator[set[str]]:
    """Which of our files set attributes, whatever their names, of pipelines, schedulers and modules that exist
    already. What an object sets on itself, or diffusers and torch set, is theirs.
    """
    found: set[str] = set()

    def noting(original: Any) -> Any:
        def write(owner: Any, name: str, value: Any) -> None:
            frame = sys._getframe(1)
            path = SOURCES.get(frame.f_code.co_filename)
            if path is not None and frame.f_locals.get("self") is not owner:
                found.add(f"{path.relative_to(ROOT).as_posix()}: {name}")
            original(owner, name, value)

        return write

    with pytest.MonkeyPatch.context() as patched:
        for kind in (DiffusionPipeline, SchedulerMixin, torch.nn.Module):
            patched.setattr(kind, "__setattr__", noting(kind.__setattr__))
        yield found


# Methods that want a file, a table or another model; they have tests of their own that nothing is left behind.
WANTING = {"StaticSchedule", "LinearAG", "ModelSwitch", "ReDi", "LCM", "TCD", "TDD"}


def recipes() -> list[accel.Recipe]:
    """Every method once, with its default settings, in as few recipes as do."""
    levers = ("cache", "attention", "guidance", "sampler")
    kinds = [[kind for name, kind in Method.registry[lever].items() if name not in WANTING] for lever in levers]
    return [
        accel.Recipe(**{lever: kind() for lever, kind in zip(levers, row, strict=True) if kind is not None})
        for row in zip_longest(*kinds)
    ]


@pytest.mark.part(1)
@pytest.mark.parametrize("name", ["wan", "sd"])
@pytest.mark.filterwarnings("ignore")
def test_no_method_sets_an_attribute_of_a_part_of_the_pipeline(name: str) -> None:
    pipe, active = pipeline(name), set()
    for recipe in recipes():
        with noted_writes() as found, accel.accelerate(pipe, recipe) as session:
            run(pipe, TINY[name], steps=2)
            active |= {type(each) for each in session._levers} - {InactiveLever}
        assert {write for write in found if not write.startswith("accel/patch/")} == set(), recipe
    assert lever.__file__ in SOURCES and len(active) >= 5  # else nobody has looked


@pytest.mark.part(1)
@pytest.mark.parametrize("part", ["pipe", "pipe.scheduler", "pipe.transformer", "pipe.transformer.blocks[0].attn1"])
def test_a_write_from_one_of_our_files_would_be_noted(part: str) -> None:
    code = compile(f"{part}.mine = 1", str(ROOT / "caching" / "gate.py"), "exec")
    with noted_writes() as found:
        exec(code, {"pipe": TINY["wan"].build()})
    assert found == {"caching/gate.py: mine"}


# The helper


class Odd:
    """Attributes of every kind."""

    shared = "of the class"

    def __init__(self) -> None:
        self.own = "its own"
        self._hidden = "behind the property"

    @property
    def through(self) -> str:
        return self._hidden

    @through.setter
    def through(self, value: str) -> None:
        self._hidden = value


class Noting(torch.nn.Module):
    """Notes whatever is set, as diffusers' pipelines do."""

    def __init__(self) -> None:
        super().__init__()
        self.child = torch.nn.Identity()
        self.__dict__["noted"] = []

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__.setdefault("noted", []).append(name)
        super().__setattr__(name, value)


@pytest.mark.parametrize("name", ["own", "shared", "through", "absent"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_replaced_attribute_is_put_back_exactly(name: str, fails: bool) -> None:
    odd = Odd()
    before, value = dict(vars(odd)), object()
    try:
        with replace_attribute(odd, name, value):
            assert getattr(odd, name) is value
            assert not fails or {}["failing"]
    except KeyError:
        assert fails
    assert vars(odd) == before
    assert hasattr(odd, "absent") is False and odd.shared == "of the class"


def test_a_modules_child_is_replaced_as_a_child() -> None:
    module, other = Noting(), torch.nn.Linear(1, 1)
    own = module.child
    with replace_attribute(module, "child", other):
        assert dict(module.named_children()) == {"child": other}
    assert dict(module.named_children()) == {"child": own} and "child" not in vars(module)


def test_replacing_passes_by_what_objects_do_when_an_attribute_is_set() -> None:
    module = Noting()
    module.noted.clear()
    with replace_attribute(module, "_step", 3):
        assert module._step == 3
    assert module.noted == [] and not hasattr(module, "_step")


@pytest.mark.parametrize("name", ["own", "through", "absent"])
def test_what_somebody_sets_in_the_block_stays(name: str) -> None:
    odd, theirs = Odd(), object()
    with replace_attribute(odd, name, object()):
        setattr(odd, name, theirs)
    assert getattr(odd, name) is theirs


def test_what_an_action_changes_is_undone_and_nothing_else() -> None:
    odd = Odd()
    del odd._hidden

    def act() -> None:
        odd.own, odd.new, odd.other = "changed", "new", "new"  # type: ignore[attr-defined]

    with undo_later(odd, act):
        assert (odd.own, odd.new) == ("changed", "new")  # type: ignore[attr-defined]
        odd.other = odd.theirs = "theirs"  # type: ignore[attr-defined]
    assert vars(odd) == {"own": "its own", "other": "theirs", "theirs": "theirs"}


def test_an_action_that_fails_half_way_is_undone() -> None:
    odd = Odd()
    before = dict(vars(odd))

    def act() -> None:
        odd.own = "changed"
        raise KeyError

    with pytest.raises(KeyError), undo_later(odd, act):
        pass
    assert vars(odd) == before


def test_kept_tells_what_is_there_and_what_is_not() -> None:
    odd = Odd()
    kept = Replacement(odd, "own")
    kept.put("other")
    assert kept.now == odd.own == "other"
    kept.put_back()
    assert kept.now == odd.own == "its own"


# Those who use it


def test_tiles_are_used_in_the_block_only_and_leave_nothing() -> None:
    pipe = TINY["wan"].build()
    assert isinstance(pipe.vae, AutoencoderKLWan)
    before = dict(vars(pipe.vae))
    with use_tiling(pipe):
        assert pipe.vae.use_tiling
    assert vars(pipe.vae) == before and not pipe.vae.use_tiling


@pytest.mark.parametrize("own", [None, {"desc": "mine"}])
def test_the_progress_bar_is_off_in_the_block_only(own: dict[str, Any] | None) -> None:
    pipe = TINY["wan"].build()
    del pipe._progress_bar_config
    if own is not None:
        pipe.set_progress_bar_config(**own)
    before = dict(vars(pipe))
    with without_progress_bars(pipe):
        assert pipe._progress_bar_config == {"disable": True}
    assert vars(pipe) == before


@pytest.mark.part(1)
@pytest.mark.parametrize("name", GUIDERS)
def test_a_call_that_fails_before_its_first_step_leaves_the_guider_as_it_was(name: str) -> None:
    pipe = GUIDERS[name].build()
    run(pipe, GUIDERS[name])
    before = dict(vars(pipe.guider))
    with accel.accelerate(pipe, accel.Recipe()), pytest.raises(TypeError):
        pipe(no_such_argument=1)
    assert vars(pipe.guider) == before


# All or nothing


def test_layers_go_over_all_methods_or_none() -> None:
    pipe = TINY["wan"].build()
    before = snapshot(pipe)
    plan = [(pipe.scheduler, "step", print), (pipe.transformer, "forward", print), (object(), "step", print)]
    with pytest.raises(TypeError):
        wrap_methods(plan)
    assert snapshot(pipe) == before


def failing_at(number: int) -> Callable[..., None]:
    original, left = Wrapper.__init__, [number]

    def init(self: Wrapper, *args: Any, **options: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise InterruptedError
        original(self, *args, **options)

    return init


@pytest.mark.part(1)
@pytest.mark.parametrize("name", TINY)
def test_a_layer_that_fails_leaves_no_other_behind(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, layers, failed = pipeline(name), 0, True
    before = snapshot(pipe)
    while failed:
        layers += 1
        with monkeypatch.context() as broken:
            broken.setattr(Wrapper, "__init__", failing_at(layers))
            try:
                accel.accelerate(pipe, accel.Recipe()).restore()
                failed = False
            except InterruptedError:
                pass
        assert snapshot(pipe) == before
    assert layers > 3


def test_a_pipeline_whose_class_cannot_be_replaced_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def sealed(*_: Any) -> None:
        raise TypeError("sealed")

    pipe = TINY["wan"].build()
    before = snapshot(pipe)
    monkeypatch.setattr(CallWrapper, "__init__", sealed)
    with pytest.raises(TypeError, match="sealed"):
        accel.accelerate(pipe, cache=EasyCache())
    assert snapshot(pipe) == before and traces(pipe) == []


def test_a_pipeline_that_cannot_be_attached_to_anew_stays_unaccelerated_and_comes_back() -> None:
    pipe = TINY["wan"].build()
    session = accel.accelerate(pipe, cache=EasyCache())
    own, pipe.scheduler = pipe.scheduler, None
    with pytest.raises(ValueError, match="no scheduler"):
        run(pipe, TINY["wan"])
    pipe.scheduler = own
    run(pipe, TINY["wan"])
    assert session.report().calls
    session.restore()
    assert traces(pipe) == [] and torch.equal(run(pipe, TINY["wan"]), plain("wan"))
