"""What every technique is: a frozen dataclass of parameters with checked ranges, written as plain data."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from accel.plain_data import quote

if TYPE_CHECKING:
    from accel.anatomy import Anatomy
    from accel.lever import Lever


RETIRED = {
    "DiffusersCache": "diffusers' own caches are no method of accel any more: leave it out here, switch it on with "
    "pipe.transformer.enable_cache(...), and attach accel's other levers beside it.",
    "TextKeyValueCache": "it saved 1-3 % of the time for up to a gigabyte and is gone: take the cache of its 'then', "
    "or none.",
    "SageAttention.emulate": "it was for tests and is gone: leave it out.",
}
"""Methods and parameters of earlier versions, and what to do now instead."""


@dataclass(frozen=True)
class Setting:
    """Range and meaning of one parameter; the app draws its controls from this and `Method` checks against it.

    dial: whether it is one of the few that decide what the method gives up for speed. The app shows these first, and
    the first of them is what is turned to reach a speed.
    """

    low: float | None
    high: float | None
    help: str
    choices: tuple[str, ...] = ()
    integer: bool = False
    dial: bool = False


def setting(
    default: Any,
    low: float | None = None,
    high: float | None = None,
    help: str = "",
    choices: tuple[str, ...] = (),
    dial: bool = False,
) -> Any:
    """A dataclass field with a checked range (inclusive) or a closed set of choices.

    An `int` default makes the parameter an integer; a `float` default takes any real number in the range.
    """
    integer = isinstance(default, int) and not isinstance(default, bool)
    metadata = {"setting": Setting(low, high, help, choices, integer, dial)}
    return field(default=default, metadata=metadata)


def nested_method(default: Method | None, lever: str) -> Any:
    """A dataclass field that holds another method, of the given lever; or None, if that is the default."""
    return field(default=default, metadata={"nested": lever})


@dataclass(frozen=True)
class Method:
    """Base of all techniques. A subclass names its lever and is thereby known to recipes, presets and the app."""

    lever: ClassVar[str] = ""
    registry: ClassVar[dict[str, dict[str, type[Method]]]] = {}
    data_free: ClassVar[bool] = False
    """Whether its decisions can be told before a run, without a look at what is rendered."""

    @property
    def treats_samples_alike(self) -> bool:
        """Whether a sample comes out of a batch as it would alone."""
        return self.data_free

    def __init_subclass__(cls, *, lever: str | None = None, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if lever is not None:
            cls.lever = lever
        if abstract:
            return
        known = Method.registry.setdefault(cls.lever, {}).setdefault(cls.__name__, cls)
        # The same class anew (a notebook's cell run twice, a reloaded module) takes its own place.
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(
                f"There is a {cls.lever} called {cls.__name__} already, in {known.__module__}: recipes go by names, so "
                f"give yours another."
            )
        Method.registry[cls.lever][cls.__name__] = cls

    def __post_init__(self) -> None:
        for parameter in dataclasses.fields(self):
            value, owner = getattr(self, parameter.name), type(self).__name__
            if "setting" in parameter.metadata:
                _check(owner, parameter.name, value, parameter.metadata["setting"])
            nested = parameter.metadata.get("nested")
            left_out = value is None and parameter.default is None
            if nested and not left_out and not (isinstance(value, Method) and value.lever == nested):
                known = ", ".join(Method.registry.get(nested, {}))
                raise TypeError(f"{owner}.{parameter.name} must be one of {known}, not {value!r}.")

    @classmethod
    def dial(cls) -> str | None:
        """The parameter that is turned to reach a speed: the first that is declared as a dial."""
        return next((parameter.name for parameter in dataclasses.fields(cls) if is_dial(parameter)), None)

    @classmethod
    def for_tuning(cls) -> Sequence[Method]:
        """Settings of it that `accel.tune` chooses from. A technique is left out unless it names some."""
        return ()

    @classmethod
    def for_comparison(cls) -> Sequence[Method]:
        """Settings of it that a comparison of all techniques shows: its defaults, unless it needs arguments."""
        try:
            return (cls(),)
        except (TypeError, ValueError):  # it needs a table of constants, a folder or a model
            return ()

    def build(self, anatomy: Anatomy) -> Lever:
        """What acts on the denoiser's calls of a pipeline with this anatomy: every method of a recipe's lever has it,
        and the parts of methods, such as predictors, do not.
        """
        raise NotImplementedError

    def swapped_components(self, components: Mapping[str, Any]) -> dict[str, Any]:
        """Parts, by name, that are to stand in the pipeline in place of these while it runs
        (`accel.component_swap`)."""
        return {}

    def adjust_anatomy(self, anatomy: Anatomy) -> Anatomy:
        """The anatomy as this method changes it; other levers plan against the result."""
        return anatomy

    def caution(self, anatomy: Anatomy) -> str:
        """What must be said before it runs on this pipeline, in one sentence; "" for nothing."""
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the class name under "method" and every parameter, nested methods included."""
        return {"method": type(self).__name__} | {
            parameter.name: _plain(getattr(self, parameter.name)) for parameter in dataclasses.fields(self)
        }

    def __str__(self) -> str:
        changed = [
            f"{parameter.name}={_short(getattr(self, parameter.name))}"
            for parameter in dataclasses.fields(self)
            if getattr(self, parameter.name) != parameter.default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"


def from_dict(lever: str, data: object, where: str) -> Method:
    """Builds a method from plain data. `where` names the place in the file for the error sentence.

    Raises ValueError, in one sentence, for an unknown method, an unknown parameter or a value out of range.
    """
    known = Method.registry.get(lever, {})
    if not isinstance(data, Mapping) or "method" not in data:
        raise ValueError(f'{where} must be an object with a "method" name ({_names(known)}), not {quote(data)}.')
    name = data["method"]
    if isinstance(name, str) and name in RETIRED and name not in known:
        raise ValueError(f"{where}.method {name}: {RETIRED[name]}")
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{where}.method {quote(name)} is not known; choose one of: {_names(known)}.")
    kind = known[name]
    parameters = {parameter.name: parameter for parameter in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key == "method":
            continue
        if key not in parameters and f"{name}.{key}" in RETIRED:
            if not value:  # off, as it was by default: files hold every parameter
                continue
            raise ValueError(f"{where}.{key}: {RETIRED[f'{name}.{key}']}")
        if key not in parameters:
            word = key[:80]
            raise ValueError(f"{where}.{word} is not a parameter of {name}; {_suggest(word, list(parameters))}.")
        nested = parameters[key].metadata.get("nested")
        if nested and value is not None:
            values[key] = from_dict(nested, value, f"{where}.{key}")
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def is_dial(parameter: dataclasses.Field[Any]) -> bool:
    """Whether a field of a method was declared with `setting(..., dial=True)`."""
    return "setting" in parameter.metadata and bool(parameter.metadata["setting"].dial)


def finite_numbers(value: object) -> bool:
    """Whether this is a tuple of finite numbers."""
    return isinstance(value, tuple) and all(isinstance(item, (int, float)) and math.isfinite(item) for item in value)


def _check(owner: str, name: str, value: Any, limits: Setting) -> None:
    if limits.choices:
        if value not in limits.choices:
            raise ValueError(f"{owner}.{name} must be one of {', '.join(limits.choices)}, not {quote(value)}.")
        return
    wanted = "a whole number" if limits.integer else "a number"
    span = f"from {limits.low:g}" if limits.low is not None else "of any size"
    span += f" to {limits.high:g}" if limits.high is not None else ""
    right_type = isinstance(value, int if limits.integer else (int, float)) and not isinstance(value, bool)
    inside = (
        right_type
        # Infinity is a legal threshold ("skip whenever the guards allow"); NaN never compares and so is never inside.
        and value == value
        and (limits.low is None or value >= limits.low)
        and (limits.high is None or value <= limits.high)
    )
    if not inside:
        raise ValueError(f"{owner}.{name} must be {wanted} {span}, not {quote(value)}.")


def _plain(value: Any) -> Any:
    if isinstance(value, Method):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value


def _short(value: Any) -> str:
    """For labels: tables of constants only by their length."""
    return f"({len(value)} values)" if isinstance(value, tuple) and len(value) > 6 else str(value)


def _names(known: Mapping[str, object]) -> str:
    return ", ".join(known) if known else "none in this version"


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}" if close else f"it takes {', '.join(known)}"
