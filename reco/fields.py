"""Fields of dataclasses with a type and a check of the value.

``num_queries: Annotated[int, at_least(1)] = 256`` takes whole numbers of at least 1. The same check
reads configuration files, ``--set`` and options given in Python. It takes a value of the type and
returns it, or raises ``ValueError`` with what was expected.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True)
class Check:
    """A check of values, for ``Annotated``."""

    holds: Callable[[Any], bool]
    expected: str

    def __call__(self, value: Value) -> Value:
        """``value``; ``ValueError`` if it does not hold."""
        if not self.holds(value):
            raise ValueError(self.expected)
        return value


def at_least(lowest: int) -> Check:
    """The check of a whole number."""
    return Check(lambda value: value >= lowest, f"at least {lowest}")


Count = Annotated[int, at_least(1)]
WholeNumber = Annotated[int, at_least(0)]
Positive = Annotated[float, Check(lambda value: 0 < value < math.inf, "a number > 0")]
NotNegative = Annotated[float, Check(lambda value: 0 <= value < math.inf, "a number >= 0")]
Probability = Annotated[float, Check(lambda value: 0 <= value <= 1, "a probability in [0, 1]")]


def field_types(section: type[Any]) -> dict[str, Any]:
    """Type and checks of each field of a dataclass."""
    return typing.get_type_hints(section, include_extras=True)


def read_value(value: Any, hint: Any) -> Any:
    """``value`` as type ``hint``, checked; ``ValueError`` with what was expected if it isn't that.

    YAML reads ``1e-3`` as a string and ``1`` as an integer: both are fine where a float is meant.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        value = read_value(value, arguments[0])
        for checked in arguments[1:]:
            value = checked(value)
        return value
    if origin is Literal:
        if any(value == option and type(value) is type(option) for option in arguments):
            return value
        raise ValueError("one of " + ", ".join(map(str, arguments)))
    if origin in (typing.Union, types.UnionType):
        expected = []
        for option in arguments:
            try:
                return read_value(value, option)
            except ValueError as error:
                expected.append(str(error))
        raise ValueError(" or ".join(expected))
    if origin is tuple:
        return _read_sequence(value, arguments)
    if origin is dict:
        return _read_mapping(value, *arguments)
    if hint is types.NoneType:
        if value is None:
            return None
        raise ValueError("null")
    if hint is float and not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            return float(value)
        except ValueError:
            raise ValueError("a number") from None
    if type(value) is hint:
        return value
    raise ValueError(
        {
            int: "a whole number",
            float: "a number",
            bool: "true or false",
            str: "text",
        }[hint]
    )


def check_fields(options: Any, name: str) -> None:
    """Read the fields of a frozen dataclass that was made in Python, in its ``__post_init__``.

    Args:
        options: the dataclass.
        name: what the message of an error calls it.

    Raises:
        ValueError: a field that is not of its type, or not what its check expects.
    """
    for key, hint in field_types(type(options)).items():
        value = getattr(options, key)
        try:
            object.__setattr__(options, key, read_value(value, hint))
        except ValueError as error:
            raise ValueError(f"{name}: {key} = {value!r}: expected {error}") from error


def takes_text(hint: Any) -> bool:
    """Whether text is of type ``hint``, perhaps beside other things."""
    return str in _kinds(hint)


def is_text(hint: Any) -> bool:
    """Whether text alone, or nothing, is of type ``hint``."""
    return _kinds(hint) - {types.NoneType} == {str}


def _kinds(hint: Any) -> set[Any]:
    """The types that a value of type ``hint`` may have."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _kinds(arguments[0])
    if origin is Literal:
        return {type(option) for option in arguments}
    if origin in (typing.Union, types.UnionType):
        return {kind for option in arguments for kind in _kinds(option)}
    return {origin or hint}


def advice(value: Any, hint: Any) -> str:
    """What may have been meant by a ``value`` that is not of type ``hint``; empty if unknown."""
    if isinstance(value, str):
        return nearest(value, _words(hint))
    quotes = value is not None and is_text(hint)
    return " (in quotes where YAML takes it for something else)" if quotes else ""


def needs_quotes(colour: str = "#804080") -> str:
    """What to do about a colour that YAML takes for a comment."""
    return f'a colour needs quotes, "{colour}", since # begins a comment in YAML'


def holds_nothing(value: Any) -> bool:
    """Whether ``value`` is nothing, or a list with nothing in it where a comment begins."""
    return None in (value if isinstance(value, list | tuple) else [value])


def nearest(word: str, options: Sequence[str] | Mapping[str, str]) -> str:
    """`` (did you mean 'x'?)`` where ``word`` is close to one of ``options``.

    The keys of a mapping are compared, and the value of the nearest one is named.
    """
    named = options if isinstance(options, Mapping) else {option: option for option in options}
    matches = difflib.get_close_matches(word, named, n=1, cutoff=0.6)
    return f" (did you mean {named[matches[0]]!r}?)" if matches else ""


def _words(hint: Any) -> list[str]:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return [option for option in arguments if isinstance(option, str)]
    return [word for argument in arguments for word in _words(argument)]


def _read_sequence(value: Any, kinds: Sequence[Any]) -> tuple[Any, ...]:
    item = typing.get_args(kinds[0])[0] if typing.get_origin(kinds[0]) is Annotated else kinds[0]
    examples = {int: "[512, 1024]", float: "[0.5, 1.5]", str: "[road, car]"}
    example = examples.get(item, "[1, 2]")
    if not isinstance(value, list | tuple):
        raise ValueError(f"a list such as {example}")
    if kinds[-1] is Ellipsis:
        if item is str and not all(isinstance(text, str) for text in value):
            raise ValueError(
                f"a list such as {example}, with quotes round what YAML takes for something else "
                "(yes, no, on, off, null, numbers)"
            )
        return tuple(read_value(item, kinds[0]) for item in value)
    if len(value) != len(kinds):
        raise ValueError(f"{len(kinds)} values such as {example}")
    return tuple(read_value(item, kind) for item, kind in zip(value, kinds, strict=True))


def _read_mapping(value: Any, key_type: Any, item_type: Any) -> dict[Any, Any]:
    names = key_type is str
    if not isinstance(value, Mapping):
        raise ValueError(
            'names with values or colours, such as {background: 0, crack: 255} or {road: "#804080"}'
            if names
            else "a mapping such as {0: 0, 255: 1}"
        )
    turned = {v: k for k, v in value.items() if isinstance(v, str) and type(k) is int}
    if names and value and len(turned) == len(value):
        line = ", ".join(f"{name}: {number}" for name, number in turned.items())
        raise ValueError(f"names first: {{{line}}}")
    for key, item in value.items():
        if names and (isinstance(key, bool) or not isinstance(key, str | int)):
            raise ValueError(
                f"names; YAML takes yes, no, on, off, null and numbers for others, here {key}, "
                "unless in quotes"
            )
        if names and holds_nothing(item):
            raise ValueError(f"something behind {key} ({needs_quotes()})")
    return {
        read_value(str(k) if names and type(k) is int else k, key_type): read_value(v, item_type)
        for k, v in value.items()
    }
