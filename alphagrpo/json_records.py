"""Frozen dataclasses to JSON objects and back: the one encoder of what a run writes down.

A field is a key of the same name, and keys stand in the order of the fields. Two marks change
that: a field marked :data:`LEFT_OUT` has no key while it is absent, and the fields of a record
marked :data:`INLINE` stand among those of the record that holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from alphagrpo.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SCALARS: Mapping[Any, tuple[Any, str]] = {
    int: (int, "a whole number"),
    float: (int | float, "a number"),
    str: (str, "text"),
    bool: (bool, "true or false"),
}
"""What a field of a type may hold in JSON, and how an error says so."""

Record = TypeVar("Record", bound="DataclassInstance")

INLINE: Mapping[str, Any] = {"inline": True}
"""Metadata of a field whose record's keys stand among those of the record around it."""
LEFT_OUT: Mapping[str, Any] = {"left_out": True}
"""Metadata of a field that has no key in the JSON object while it equals its default."""


def to_json(value: Any) -> Any:
    """``value`` in JSON values: records and mappings as dicts, tuples as lists.

    The order of keys is that of the fields.
    """
    if is_dataclass(value) and not isinstance(value, type):
        document: dict[str, Any] = {}
        for part in fields(value):
            held = getattr(value, part.name)
            if part.metadata.get("inline"):
                document |= to_json(held)
            elif not (part.metadata.get("left_out") and held == part.default):
                document[part.name] = to_json(held)
        return document
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_json(item) for item in value]
    return value


def from_json(record: type[Record], document: Mapping[str, Any]) -> Record:
    """The record that :func:`to_json` wrote as ``document``, or an older version of it did.

    Keys that ``document`` lacks take the field's default, keys that are no field are passed over.
    Raises ConfigError where a key without a default is missing, or a value is of another type than
    its field.
    """
    if not isinstance(document, Mapping):
        raise _wrong(record.__name__, "an object", document)
    values: dict[str, Any] = {}
    for part, hint in _typed_fields(record):
        if part.metadata.get("inline"):
            values[part.name] = from_json(hint, document)
        elif part.name in document:
            values[part.name] = _value(hint, document[part.name], f"{record.__name__}.{part.name}")
        elif part.default is MISSING and part.default_factory is MISSING:
            raise ConfigError(
                f"a {record.__name__} needs the key {part.name!r}, got {sorted(document)}; "
                "add it, or write the file again with this version"
            )
    return record(**values)


@cache
def _typed_fields(record: type[DataclassInstance]) -> tuple[tuple[Field[Any], Any], ...]:
    hints = get_type_hints(record)
    return tuple((part, hints[part.name]) for part in fields(record))


def _value(hint: Any, value: Any, name: str) -> Any:
    """A JSON value as the type ``hint`` says; scalars stay as they are. ``name`` is its own."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in args:
            return None
        return _value(next(arg for arg in args if arg is not NoneType), value, name)
    if origin is tuple:
        return tuple(_value(args[0], item, name) for item in _a(list, "a list", value, name))
    if origin is Mapping:
        items = _a(dict, "an object", value, name).items()
        return {_value(args[0], key, name): _value(args[1], item, name) for key, item in items}
    if origin is Literal:
        if value not in args:
            raise _wrong(name, f"one of {', '.join(map(repr, args))}", value)
        return value
    if isinstance(hint, type) and is_dataclass(hint):
        return from_json(hint, value)
    if hint in SCALARS:
        types, rule = SCALARS[hint]
        if isinstance(value, bool) and hint is not bool:
            raise _wrong(name, rule, value)
        return _a(types, rule, value, name)
    return value


def _a(types: Any, rule: str, value: Any, name: str) -> Any:
    if not isinstance(value, types):
        raise _wrong(name, rule, value)
    return value


def _wrong(name: str, rule: str, value: Any) -> ConfigError:
    return ConfigError(
        f"{name} must be {rule}, got {value!r:.80}; put it right, or write the file again with "
        "this version"
    )
