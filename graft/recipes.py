"""Recipes as a person writes them: KEY=VALUE. The standard library only."""

import ast
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from graft.errors import near_miss, raise_all
from graft.records import Recipe

_CONSTANTS = {"true": True, "false": False, "none": None}


def parse_recipe(settings: Sequence[str]) -> Recipe:
    """The default recipe with these settings, written as `parse_settings` takes them."""
    return replace(Recipe(), **parse_settings(settings))


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Field of Recipe -> value. settings: "KEY=VALUE" each, KEY a field; the last of a KEY holds.

    VALUE: a number, a list of numbers in brackets, true, false, none, or a word.
    Raises GraftError that lists every unknown KEY, with the near miss, and every VALUE of another type. Ranges are checked by `train`.
    """
    hints = get_type_hints(Recipe)
    types = {field.name: hints[field.name] for field in fields(Recipe)}
    problems, given = [], {}
    for setting in settings:
        name, sign, text = (part.strip() for part in setting.partition("="))
        if not sign:
            problems.append(f"setting {setting!r} has no '=', expected KEY=VALUE, e.g. mixup=0.2.")
            continue
        if name not in types:
            problems.append(f"setting {setting!r}: unknown key {name!r}, expected one of {', '.join(types)}.{near_miss(name, types)}")
            continue
        value, allowed = _value(text), _allowed(types[name])
        if not _fits(value, types[name]):
            problems.append(f"setting {setting!r}: expected {' or '.join(allowed)}.{near_miss(text, allowed)}")
        given[name] = value
    raise_all(problems)
    return given


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """The fields in which a recipe differs from the default, as plain values."""
    values = {field.name: getattr(recipe, field.name) for field in fields(Recipe) if getattr(recipe, field.name) != field.default}
    return {
        name: [float(one) for one in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
        for name, value in values.items()
    }


def _value(text: str) -> Any:
    if text.lower() in _CONSTANTS:
        return _CONSTANTS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type: a plain one, a Literal, a union of such, or a sequence of numbers."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is Sequence:
        return isinstance(value, list | tuple) and all(_fits(one, float) for one in value)
    if get_args(hint):
        return any(_fits(value, part) for part in get_args(hint))
    # True is a whole number to Python, and no number to a reader.
    return isinstance(value, (int, float) if hint is float else hint) and (hint is bool or not isinstance(value, bool))


def _allowed(hint: Any) -> list[str]:
    """What fits, in words."""
    if get_origin(hint) is Literal:
        return [str(value) for value in get_args(hint)]
    if get_origin(hint) is Sequence:
        return ["numbers in brackets"]
    if get_args(hint):
        return [word for part in get_args(hint) for word in _allowed(part)]
    return {bool: ["true", "false"], int: ["a whole number"], float: ["a number"], str: ["a word"]}.get(hint, ["none"])
