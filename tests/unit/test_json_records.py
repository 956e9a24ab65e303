"""Records to JSON objects and back: order of keys, absent keys, records inside records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from alphagrpo.errors import ConfigError
from alphagrpo.json_records import INLINE, LEFT_OUT, from_json, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    x: float
    y: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    name: str
    centre: Point = field(metadata=INLINE)
    corners: tuple[Point, ...] = ()
    named: Mapping[str, Point] | None = None
    span: tuple[float, float] | None = field(default=None, metadata=LEFT_OUT)
    is_closed: bool = True


SHAPE = Shape(
    name="line",
    centre=Point(x=0.5, y=1),
    corners=(Point(x=0.0), Point(x=1.0, y=2.0)),
    named={"first": Point(x=0.0)},
    span=(0.0, 1.0),
)
DOCUMENT = (
    '{"name": "line", "x": 0.5, "y": 1, "corners": [{"x": 0.0, "y": null}, {"x": 1.0, "y": 2.0}], '
    '"named": {"first": {"x": 0.0, "y": null}}, "span": [0.0, 1.0], "is_closed": true}'
)


def test_keys_stand_in_the_order_of_fields_with_inline_records_among_them() -> None:
    assert json.dumps(to_json(SHAPE)) == DOCUMENT


def test_what_is_written_is_read_again_as_the_same_types() -> None:
    shape = from_json(Shape, json.loads(DOCUMENT))
    assert shape == SHAPE
    assert json.dumps(to_json(shape)) == DOCUMENT
    assert isinstance(shape.centre.y, int), "scalars stay as they are"


def test_absent_keys_take_defaults_unknown_ones_are_passed_over_and_absent_fields_left_out() -> (
    None
):
    shape = from_json(Shape, {"name": "dot", "x": 1.0, "colour": "red"})
    assert shape == Shape(name="dot", centre=Point(x=1.0))
    assert list(to_json(shape)) == ["name", "x", "y", "corners", "named", "is_closed"]


def test_a_missing_key_without_a_default_is_named() -> None:
    with pytest.raises(ConfigError, match=r"a Shape needs the key 'name', got \['x'\]; add it"):
        from_json(Shape, {"x": 1.0})
    with pytest.raises(ConfigError, match="a Point needs the key 'x'"):
        from_json(Shape, {"name": "dot", "x": 1.0, "corners": [{"y": 0.0}]})


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"name": "dot", "x": "1.0"}, "Point.x must be a number, got '1.0'"),
        ({"name": "dot", "x": None}, "Point.x must be a number, got None"),
        ({"name": "dot", "x": True}, "Point.x must be a number, got True"),
        ({"name": 3, "x": 1.0}, "Shape.name must be text, got 3"),
        ({"name": None, "x": 1.0}, "Shape.name must be text, got None"),
        ({"name": "dot", "x": 1.0, "is_closed": 1}, "Shape.is_closed must be true or false, got 1"),
        ({"name": "dot", "x": 1.0, "corners": 3}, "Shape.corners must be a list, got 3"),
        ({"name": "dot", "x": 1.0, "corners": [3]}, "Point must be an object, got 3"),
        ({"name": "dot", "x": 1.0, "corners": None}, "Shape.corners must be a list, got None"),
        ({"name": "dot", "x": 1.0, "named": ["a"]}, "Shape.named must be an object"),
        ({"name": "dot", "x": 1.0, "span": ["a", "b"]}, "Shape.span must be a number, got 'a'"),
        (["name"], r"Shape must be an object, got \['name'\]"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_field(document: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        from_json(Shape, document)
