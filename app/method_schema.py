"""The controls of every method, read off its dataclass: a method added tomorrow has them without an edit here."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from accel.method import Method
from accel.recipe import LEVERS

Kind = Literal["number", "integer", "flag", "choice", "text"]
NONE = "none"
"""The choice of no nested method, where that is allowed."""


@dataclass(frozen=True)
class ParameterSchema:
    """One control. `least` and `most` are inclusive, None for no bound. `help` is a few words.

    Those that are `first` decide about the method; the others (guards, blocks, seeds) are folded away.

    Of a number, an empty (None) value is the default: some defaults are infinite, which no slider can hold.
    """

    name: str
    kind: Kind
    default: Any
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    help: str = ""
    first: bool = False


def levers() -> tuple[str, ...]:
    """The levers that have methods which a page can build."""
    return tuple(lever for lever in LEVERS if methods(lever))


def methods(lever: str) -> Mapping[str, tuple[ParameterSchema, ...]]:
    """The methods of a lever by class name, with their settings.

    Parameters that are no plain values (tables of constants) have no setting and stay at their defaults; a method that
    needs such a table is left out. A nested method is chosen by name. Raises ValueError for an unknown lever.
    """
    import accel  # noqa: F401  (which knows all methods)

    if lever not in LEVERS:
        raise ValueError(f"there is no lever {lever!r}; the levers are {', '.join(LEVERS)}.")
    return _methods(lever, tuple(kind for kinds in Method.registry.values() for kind in kinds.values()))


@lru_cache(maxsize=64)
def _methods(lever: str, known: tuple[type[Method], ...]) -> Mapping[str, tuple[ParameterSchema, ...]]:
    """`known` are all techniques there are: one may be defined at any time, and stand in the settings of others."""
    kinds = Method.registry.get(lever, {})
    found = {name: _knobs(kind) for name, kind in kinds.items()}
    return {
        name: knobs
        for name, knobs in found.items()
        if _made(kinds[name]) is not None or any(setting.kind == "text" for setting in knobs)
    }


def build(lever: str, name: str, values: Mapping[str, Any], like: Method | None = None) -> Method:
    """The method with these values of its settings.

    like: a method to begin from, if it is of the same class: whatever is not among the values stays as it is there,
    also what has no setting, such as a table of constants or the parameters of a nested method. A value of None is the
    default. Raises ValueError, in one sentence, for an unknown method, an unknown setting or a wrong value.
    """
    fits = like is not None and (like.lever, type(like).__name__) == (lever, name)
    known, begun = methods(lever), like if fits else None
    if name not in known and begun is None:
        raise ValueError(f"there is no {lever} method {name!r}; choose one of {', '.join(known)}.")
    kind = Method.registry[lever][name]
    knobs = {setting.name: setting for setting in known.get(name) or _knobs(kind)}
    unknown = [word for word in values if word not in knobs]
    if unknown:
        raise ValueError(f"{name} has no setting {unknown[0]!r}; it has {', '.join(knobs) or 'none'}.")
    parameters = {each.name: each for each in dataclasses.fields(kind)}
    kept = {} if begun is None else {word: getattr(begun, word) for word in parameters}
    given = {word: _value(kind, parameters[word], knobs[word], value, kept) for word, value in values.items()}
    try:
        return kind(**kept | given)
    except (TypeError, ValueError) as error:
        raise ValueError(str(error)) from None


def values(method: Method) -> dict[str, Any]:
    """The settings of a method as they are: `build` makes the same method from them."""
    found: dict[str, Any] = {}
    for setting in methods(method.lever).get(type(method).__name__) or _knobs(type(method)):
        value = getattr(method, setting.name)
        if isinstance(value, Method):
            value = type(value).__name__
        elif value is None:
            value = NONE if setting.kind == "choice" else ""
        elif isinstance(value, float) and not math.isfinite(value):
            value = None
        found[setting.name] = value
    return found


def _knobs(kind: type[Method]) -> tuple[ParameterSchema, ...]:
    found = (_knob(kind, parameter) for parameter in dataclasses.fields(kind))
    return tuple(setting for setting in found if setting is not None)


def _knob(kind: type[Method], parameter: dataclasses.Field[Any]) -> ParameterSchema | None:
    name, default = parameter.name, _default(parameter)
    told = parameter.metadata.get("setting")
    words = (told.help if told is not None else "") or _described(kind, name)
    if told is not None and told.choices:
        return ParameterSchema(name, "choice", default, choices=told.choices, help=words, first=told.dial)
    if told is not None:
        empty = isinstance(default, float) and not math.isfinite(default)
        number: Kind = "integer" if told.integer else "number"
        return ParameterSchema(
            name, number, None if empty else default, told.low, told.high, help=words, first=told.dial
        )
    if "nested" in parameter.metadata:
        options = _nested(kind, parameter)
        return (
            ParameterSchema(name, "choice", _name(default), choices=options, help=words) if len(options) > 1 else None
        )
    if isinstance(default, bool):
        return ParameterSchema(name, "flag", default, help=words)
    text = isinstance(default, str) or (default is None and str(parameter.type).split(" |")[0] == "str")
    return ParameterSchema(name, "text", default or "", help=words) if text else None


def _default(parameter: dataclasses.Field[Any]) -> Any:
    return parameter.default


def _nested(kind: type[Method], parameter: dataclasses.Field[Any]) -> tuple[str, ...]:
    """The names of the methods that may stand in this parameter, at their own defaults."""
    found = [NONE] if _default(parameter) is None else []
    outer = _made(kind)
    for name, inner in Method.registry.get(parameter.metadata["nested"], {}).items():
        method = _made(inner) if inner is not kind else None
        fits = outer is None or (method is not None and _made(kind, **{parameter.name: method}) is not None)
        if method is not None and fits:
            found.append(name)
    return tuple(found)


def _made(kind: type[Method], **given: Any) -> Method | None:
    """The method at its defaults; None where it needs more than that."""
    try:
        return kind(**given)
    except (TypeError, ValueError):
        return None


def _name(method: Method | None) -> str:
    return NONE if method is None else type(method).__name__


def _value(
    kind: type[Method], parameter: dataclasses.Field[Any], setting: ParameterSchema, value: Any, kept: Mapping[str, Any]
) -> Any:
    """What the dataclass takes for what the control holds."""
    where, old = f"{kind.__name__}.{setting.name}", kept.get(setting.name)
    if value is None:
        return old if isinstance(old, float) and not math.isfinite(old) else _default(parameter)
    if setting.kind == "choice":
        if value not in setting.choices:
            raise ValueError(f"{where} must be one of {', '.join(setting.choices)}, not {value!r}.")
        return _chosen(parameter, value, old) if "nested" in parameter.metadata else value
    if setting.kind == "flag" and not isinstance(value, bool):
        raise ValueError(f"{where} must be true or false, not {value!r}.")
    if setting.kind == "text":
        if not isinstance(value, str):
            raise ValueError(f"{where} must be text, not {value!r}.")
        return value.strip() or _default(parameter)
    if setting.kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)  # JavaScript knows one kind of number
    return value


def _chosen(parameter: dataclasses.Field[Any], name: str, old: Any) -> Method | None:
    """The nested method of this name: the one that is there, else the parameter's default, else at its own defaults."""
    for known in (old, _default(parameter)):
        if _name(known) == name:
            found: Method | None = known
            return found
    return Method.registry[parameter.metadata["nested"]][name]()


def _described(kind: type[Method], name: str) -> str:
    """What the docstring says of a parameter: "name: words." """
    for base in kind.__mro__:
        text = " ".join((base.__doc__ or "").split())
        found = re.search(rf"(?:^|[.:;,] |^.* ){re.escape(name)}: (.+?)(?:[.;] |\.?$)", text)
        if found:
            return found.group(1)
    return ""
