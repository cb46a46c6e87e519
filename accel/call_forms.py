"""Which argument is which in the calls of a pipeline's methods, whose signatures are read once in a pipeline call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature, signature
from typing import Any, NamedTuple


class CallForm(NamedTuple):
    """How calls with so many arguments by position, and others of these names, are read."""

    positional: tuple[str, ...]
    defaults: Mapping[str, Any]  # of all that is not given
    rest: str = ""  # what takes the arguments by position that have no name of their own


class CallForms:
    """The forms of the calls that were seen: reading a signature costs 0.1 ms and binding to it 0.02 ms, in each step.

    Made for one call of the pipeline, so that nothing of it outlives that.
    """

    def __init__(self) -> None:
        # By identity, with what is identified: it must not be freed and its place taken by another.
        self._known: dict[tuple[int, int, tuple[str, ...]], tuple[Any, CallForm | None]] = {}

    def named(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, defaults included; nothing for a call that the method will refuse anyway."""
        form = self._form_of(method, len(args), tuple(kwargs))
        if form is None:
            return {}
        named = {**form.defaults, **dict(zip(form.positional, args, strict=False)), **kwargs}
        if form.rest:
            named[form.rest] = args[len(form.positional) :]
        return named

    def with_argument(
        self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str, value: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with another value for one that is given."""
        form = self._form_of(method, len(args), tuple(kwargs))
        if form is None or name not in form.positional:
            return args, {**kwargs, name: value}
        place = form.positional.index(name)
        return (*args[:place], value, *args[place + 1 :]), dict(kwargs)

    def _form_of(self, method: Callable[..., Any], count: int, names: tuple[str, ...]) -> CallForm | None:
        """None for calls that the method refuses."""
        function = getattr(method, "__func__", method)
        place = id(function), count, names
        if place not in self._known:
            self._known[place] = function, _read_form(signature(method), count, names)
        return self._known[place][1]


def _read_form(accepted: Signature, count: int, names: tuple[str, ...]) -> CallForm | None:
    try:
        bound = accepted.bind(*range(count), **dict.fromkeys(names))
    except TypeError:
        return None
    given, parameters = dict(bound.arguments), accepted.parameters.values()
    bound.apply_defaults()
    collecting = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    plain = [known for known in parameters if known.kind not in collecting]
    by_position = [known.name for known in plain if known.kind is not Parameter.KEYWORD_ONLY]
    rest = next((known.name for known in parameters if known.kind is Parameter.VAR_POSITIONAL), "")
    defaults = {known.name: bound.arguments[known.name] for known in plain if known.name not in given}
    return CallForm(tuple(by_position[:count]), defaults, rest)


def with_arguments(
    method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], changed: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with others in their place, also where the method hands them on (`**options`)."""
    bound = signature(method).bind(*args, **kwargs)
    known = bound.signature.parameters
    rest = next((name for name, parameter in known.items() if parameter.kind is Parameter.VAR_KEYWORD), None)
    bound.arguments |= {name: value for name, value in changed.items() if name in known}
    if rest is not None:
        handed_on = {name: value for name, value in changed.items() if name not in known}
        bound.arguments[rest] = {**bound.arguments.get(rest, {}), **handed_on}
    return bound.args, bound.kwargs


def call_default(pipe: Any, name: str) -> Any:
    """The default of an argument of the pipeline's call, None where it has no such argument or no default."""
    parameter = signature(pipe.__call__).parameters.get(name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def call_with_prompt(pipe: Any, prompt: str, arguments: Mapping[str, Any]) -> Any:
    """Calls the pipeline with this prompt, wherever among its arguments that stands: some take a picture first."""
    return pipe(prompt=prompt, **arguments) if accepts(pipe, "prompt") else pipe(prompt, **arguments)


def accepts(pipe: Any, name: str) -> bool:
    """Whether the pipeline's call takes an argument called `name`."""
    parameters = signature(pipe.__call__).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)
