from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, field_validator

from quantree.errors import ConfigError, nearest
from quantree.schema import (
    Config,
    Document,
    dotted,
    freeze,
    parse_scalar,
    parse_yaml,
    read_yaml,
    undotted,
    validate,
)


class Inner(Config):
    rate: float = 0.1
    on: bool = False


class Outer(Config):
    """Settings of every shape that the library uses."""

    k: int = Field(ge=1)
    inner: Inner = Inner()
    names: tuple[str, ...] = ()
    share: float | dict[str, float] | None = None
    some: tuple[int, ...] = Field((1,), min_length=1)
    pair: tuple[int, ...] = Field((1, 2), min_length=2)
    even: int = 2

    @field_validator("even")
    @classmethod
    def _is_even(cls, value: int) -> int:
        if value % 2:
            raise ValueError(f"{value} is odd")
        return value


def complaint(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(Outer, parse_yaml(text, "c.yaml"))
    return str(caught.value)


# --- YAML -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-2.5E+4", -2.5e4),
        (".5", 0.5),
        ("4", 4),
        ("-0", 0),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("on", "on"),
        ("yes", "yes"),
        ("True", "True"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("12:30:45", "12:30:45"),
        ("2020-01-01", "2020-01-01"),
        ("'4'", "4"),
        ("[1, [2, x]]", (1, (2, "x"))),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_scalars_are_what_they_look_like(text: str, value: Any) -> None:
    read = parse_scalar(text)
    assert read == value and type(read) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_that_python_prints_is_read_back(value: float) -> None:
    assert parse_scalar(repr(value)) == value


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@given(plain)
def test_reads_what_json_writes(value: Any) -> None:
    # PyYAML quotes what YAML 1.1 would misread; double quotes everywhere else keep ambiguous words out of it.
    text = yaml.safe_dump(value, default_style='"') if isinstance(value, str) else yaml.safe_dump(value)
    assert parse_yaml(text).data == freeze(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("k: 1\nk: 2", "c.yaml:2: k: repeated key; first given on line 1"),
        ("inner:\n  rate: 1\n  rate: 2", "c.yaml:3: inner.rate: repeated key; first given on line 2"),
        ("{1: a, 1: b}", "c.yaml:1: [1]: repeated key"),
        ("k: 1\n\tx: 2", "c.yaml:2: not YAML: "),
        ("k: [1,", "c.yaml:1: not YAML: "),
        ("k: 1\n---\nk: 2", "c.yaml:2: not YAML: "),
        ("k: *missing", "c.yaml:1: not YAML: found undefined alias"),
        ("a: &x [*x]", "c.yaml: nested too deeply, or an alias that contains itself"),
        ("[" * 3000, "c.yaml: nested too deeply"),
        ("? [1, 2]\n: 3", "c.yaml:1: a key must be a word or a whole number, not (1, 2)"),
        ("null: 3", "c.yaml:1: a key must be a word or a whole number, not None"),
        ("true: 3", "c.yaml:1: a key must be a word or a whole number, not True"),
        ("k: 1\n1.5: 3", "c.yaml:2: a key must be a word or a whole number, not 1.5"),
        (
            "k: !!python/name:os.system",
            "c.yaml:1: the tag 'tag:yaml.org,2002:python/name:os.system' has no meaning here",
        ),
        ("k: !new {a: 1}", "c.yaml:1: the tag '!new' has no meaning here"),
        ("k: !!timestamp 2020-01-01", "has no meaning here"),
        ("k: !!int abc", "c.yaml:1: 'abc' is no int"),
        ("k: !!bool perhaps", "c.yaml:1: 'perhaps' is no bool"),
        ("k: " + "9" * 5000, "is no int"),
        ("k: \x00", "not YAML"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "c.yaml")
    assert told in str(caught.value)


def test_aliases_of_aliases_end_before_memory_does() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="more than 100,000 values"):
        parse_yaml("\n".join(lines))


def test_an_alias_is_a_copy_and_merge_keys_are_no_keys() -> None:
    assert parse_yaml("a: &x {b: 1}\nc: *x").data == {"a": {"b": 1}, "c": {"b": 1}}
    assert "unknown key '<<'" in complaint("k: 1\n<<: {names: []}")


def test_reading_a_file_that_is_not_there_or_not_text(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml: can't read the config: No such file"):
        read_yaml(tmp_path / "no.yaml")
    with pytest.raises(ConfigError, match="can't read the config"):
        read_yaml(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match="not a UTF-8 text file"):
        read_yaml(tmp_path / "bytes.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml").data is None


# --- Validation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("k: 1\nnmaes: [a]", "c.yaml:2: nmaes: unknown key 'nmaes'; did you mean 'names'?"),
        ("k: 1\nxyz: 3", "c.yaml:2: xyz: unknown key 'xyz'; known: even, inner, k, names, pair, share, some"),
        ("k: 1\ninner:\n\n  rat: 2", "c.yaml:4: inner.rat: unknown key 'rat'; did you mean 'rate'?"),
        ("# none\nnames: []", "c.yaml:1: k: field required"),
        ("k: true", "c.yaml:1: k: input should be a valid integer, not True"),
        ("k: 4.0", "c.yaml:1: k: input should be a valid integer, not 4.0"),
        ("k: '4'", "c.yaml:1: k: input should be a valid integer, not '4'"),
        ("k: 0", "c.yaml:1: k: input should be greater than or equal to 1, not 0"),
        ("k: 1\ninner: {rate: .nan}", "inner.rate: input should be a finite number, not nan"),
        ("k: 1\ninner: {rate: .inf}", "inner.rate: input should be a finite number, not inf"),
        ("k: 1\ninner: {on: yes}", "inner.on: input should be a valid boolean, not 'yes'"),
        ("k: 1\ninner: {on: 1}", "inner.on: input should be a valid boolean, not 1"),
        ("k: 1\nnames: a", "c.yaml:2: names: input should be a list, not 'a'"),
        ("k: 1\nnames:\n  - a\n  - 3", "c.yaml:4: names[1]: input should be a valid string, not 3"),
        ("k: 1\ninner: [1]", "c.yaml:2: inner: "),
        ("k: 1\nshare: x", "c.yaml:2: share: input should be a valid number, not 'x'"),
        ("k: 1\nshare:\n  a: 1\n  b: x", "c.yaml:4: share.b: input should be a valid number, not 'x'"),
        ("k: 1\npair: [1]", "c.yaml:2: pair: needs at least 2"),
        ("k: 1\nsome: []", "c.yaml:2: some: needs at least one"),
        ("k: 1\neven: 3", "c.yaml:2: even: 3 is odd, not 3"),
        ("- 1", "c.yaml:1: input should be a mapping, not (1,)"),
        ("", "c.yaml: input should be a mapping, not None"),
    ],
)
def test_errors_name_file_line_key_and_what_would_be_right(text: str, told: str) -> None:
    assert complaint(text).startswith(told) or told in complaint(text)


def test_an_int_will_do_for_a_float_and_settings_are_frozen() -> None:
    made = validate(Outer, {"k": 1, "inner": {"rate": 1}, "names": ["a"]})
    assert (made.inner.rate, made.names) == (1.0, ("a",))
    with pytest.raises(ValueError, match="frozen"):
        made.k = 2  # pyright: ignore[reportAttributeAccessIssue]


# --- Documents ------------------------------------------------------------------------------------------------------

TEXT = """\
k: 4
inner:
  rate: 0.5
names:
  - a
  - b*
"""


def test_where_tells_the_deepest_line_that_is_known() -> None:
    document = parse_yaml(TEXT, "c.yaml")
    assert document.where(("inner", "rate")) == "c.yaml:3"
    assert document.where(("inner", "no", "such")) == "c.yaml:2"
    assert document.where(("names", 1)) == "c.yaml:6"
    assert document.where(("no",)) == "c.yaml:1"
    assert str(document.error(("names", 1), "wrong")) == "c.yaml:6: names[1]: wrong"
    assert Document({}, "here").where(("a",)) == "here"


def test_a_part_keeps_its_lines() -> None:
    part = parse_yaml(TEXT, "c.yaml").at(("names",))
    assert part.data == ("a", "b*") and part.where((1,)) == "c.yaml:6"


def test_find() -> None:
    document = parse_yaml(TEXT + "empty: null\n", "c.yaml")
    assert document.find("b*") == ("names", 1)
    assert document.find("rate") == ("inner", "rate")
    assert document.find(0.5) == ("inner", "rate")
    assert document.find("nothing") == ()
    assert document.find(None) == ()  # an error that knows of no value must not blame a null


def test_replaced_leaves_the_old_one_and_tells_what_came_from_elsewhere() -> None:
    old = parse_yaml(TEXT, "c.yaml")
    new = old.replaced(("inner", "rate"), 2).replaced(("names", 0), ["x"]).replaced(("new", "deep"), 1)
    assert new.data == {"k": 4, "inner": {"rate": 2}, "names": (("x",), "b*"), "new": {"deep": 1}}
    assert old.data["inner"] == {"rate": 0.5}
    assert new.where(("new",)) == "c.yaml (new set outside the file)"
    assert new.where(("inner", "rate")) == "c.yaml (inner.rate set outside the file)"
    assert new.where(("names", 1)) == "c.yaml:6"
    assert hash(new.data["names"]) is not None
    with pytest.raises(ConfigError, match=r"2 is no index into a list of 2"):
        old.replaced(("names", 2), "c")
    with pytest.raises(ConfigError, match=r"c.yaml:1: k.x: can't set 'x' inside 4"):
        old.replaced(("k", "x"), 1)


@given(st.lists(st.integers(0, 99) | st.from_regex(r"[a-z_]\w*", fullmatch=True), min_size=1))
def test_dotted_and_back(location: list[str | int]) -> None:
    assert undotted(dotted(tuple(location))) == tuple(location)
    assert undotted(".".join(str(key) for key in location)) == tuple(location)


def test_nearest() -> None:
    assert nearest("kmean", ["kmeans", "uniform"]) == "did you mean 'kmeans'?"
    assert nearest("qqq", ["b", "a"]) == "known: a, b"
    assert nearest("qqq", []) == "none is known"
