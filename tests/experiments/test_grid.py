import pytest

from experiments.grid import expand, forbid
from quantree.errors import ConfigError
from quantree.schema import Document, parse_yaml

TWO = """\
a: {x: {grid: [1, 2]}, y: 3}
b:
  - z: {grid: [{k: 4}, 5, 6]}
"""


def points(text: str) -> list[object]:
    return [choice.document.data for choice in expand(parse_yaml(text, "c.yaml"), ())]


def test_the_product_is_taken_with_the_last_grid_running_fastest() -> None:
    assert points(TWO) == [{"a": {"x": x, "y": 3}, "b": ({"z": z},)} for x in (1, 2) for z in ({"k": 4}, 5, 6)]


def test_without_a_grid_there_is_one_point_with_nothing_chosen() -> None:
    (choice,) = expand(parse_yaml("a: [1, {b: 2}]"), ())
    assert choice.document.data == {"a": (1, {"b": 2})}
    assert choice.chosen == {}


def test_only_grids_below_the_place_are_expanded() -> None:
    first = expand(parse_yaml(TWO), ("a",))
    assert [choice.chosen for choice in first] == [{("a", "x"): 1}, {("a", "x"): 2}]
    assert first[0].document.data["b"] == ({"z": {"grid": ({"k": 4}, 5, 6)}},)


def test_a_chosen_value_keeps_its_line() -> None:
    document = parse_yaml("a:\n  grid:\n  - {k: 1}\n  - k: 2\n    l: 3\n", "c.yaml")
    assert expand(document, ())[1].document.where(("a", "l")) == "c.yaml:5"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a:\n  b: {grid: []}", "c.yaml:2: a.b.grid: an empty grid"),
        ("a: {grid: 3}", "c.yaml:1: a.grid: expected a list of values, not 3"),
        ("a: {grid: [1], k: 2}", "c.yaml:1: a: `grid` stands in place of a whole value; it can't have 'k' beside it"),
        ("a: {grid: [1, 2, 1]}", r"c.yaml:1: a.grid\[2\]: the grid repeats 1"),
        ("a:\n  grid:\n  - {grid: [1, 2]}", r"c.yaml:3: a.grid\[0\]: a grid inside of a grid"),
        ("a:\n  grid:\n  - 1\n  - b: [{grid: [1, 2]}]", r"c.yaml:4: a.grid\[1\].b\[0\]: a grid inside of a grid"),
    ],
)
def test_a_grid_that_makes_no_sense_is_told_with_its_line(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=f"^{told}"):
        points(text)


def test_a_grid_where_none_can_stand_is_told_with_its_line() -> None:
    document: Document = parse_yaml("name: n\nseeds:\n  - {grid: [1, 2]}", "c.yaml")
    forbid(document, ("name",), "no reason")
    with pytest.raises(ConfigError, match=r"^c.yaml:3: seeds\[0\]: no grid can stand here: it is a list already"):
        forbid(document, ("seeds",), "it is a list already")
