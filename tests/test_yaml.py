"""YAML text to values and back: what is refused, what a scalar means, and that nothing changes on the way."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldsmith.config import dotted, dump_yaml, parse_yaml, read_yaml
from foldsmith.errors import UserError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "a.yml:1: must hold `key: value` sections"),
        (b"# nothing\n", "a.yml:1: must hold `key: value` sections"),
        (b"- a\n", "a.yml:1: must hold `key: value` sections"),
        (b"train:\n  seed: 1\n  seed: 2\n", "a.yml:3: train.seed: duplicate key, first set on line 2"),
        (b"a: 1\n'a': 2\n", "a.yml:2: a: duplicate key, first set on line 1"),
        (b"a: {b: 1,\n b: 2}\n", "a.yml:2: a.b: duplicate key, first set on line 1"),
        (b"a: &x 1\nb: *x\n", "a.yml:2: b: YAML aliases (*name) are not supported\n  hint: use `base:`"),
        (b"a:\n  !!python/object/apply:os.system [ls]\n", "a.yml:2: a: YAML tags (!!python/object/apply:os.system) "),
        (b"a: 1\nb: !!bool yes\n", "a.yml:2: b: YAML tags (!!bool) are not supported"),
        (b"a: 1\nb: !env HOME\n", "a.yml:2: b: YAML tags (!env) are not supported"),
        (b"a: 1\nb: " + b"[" * 40 + b"]" * 40, "a.yml:2: is nested deeper than 32 levels"),
        (b"a: 1\nb: " + b"{c: " * 100_000, "a.yml: 400008 bytes are too many for a config (at most 262144)"),
        (b"a: 1\nb: " + b"{c: " * 50_000, "a.yml:2: is nested deeper than 32 levels"),
        (b"---\na: 1\n---\nb: 1\n", "a.yml:3: holds more than one YAML document (---)"),
        (b"a: 1\nb: \xe9t\xe9\n", "a.yml:2: is not UTF-8 text (byte 8)"),
        (b"a: 1\nb: \x07\n", "a.yml:2: is not valid YAML: special characters are not allowed"),
        (b"a: 1\n\tb: 2\n", "a.yml:2: b: is not valid YAML: "),
        (b"a: b: c\n", "a.yml:1: a: two colons are in one line\n  hint: a text that holds a colon stands in quotes; "),
        (b"a:\n  b:\t1\n", "a.yml:2: a.b: is not valid YAML: found character '\\t' that cannot start any token\n"),
        (b"a: 1\n2: b\n", "a.yml:2: keys are plain text (quote this one)"),
        (b"a:\n  ? [b]\n  : c\n", "a.yml:2: a: keys are plain text (quote this one)"),
    ],
)
def test_text_that_no_config_needs_is_refused_with_file_and_line(
    text: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yml").write_bytes(text)
    with pytest.raises(UserError) as caught:
        read_yaml(Path("a.yml"))
    assert str(caught.value).startswith(message)


NO_COLON, NO_SPACE = "a colon is missing\n  hint: ", "a space after the colon is missing\n  hint: "
INDENT = "3: d: is not valid YAML: mapping values are not allowed here\n  hint: is it indented as its neighbours are?"
NOT_EQUALS = "a colon is missing: `=` does not take its place\n  hint: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c 2\n  d: 3\n", f"3: b.c: {NO_COLON}write `c: 2`"),
        ("a: 1\nb:\n  d: 3\n  c 2\n", f"4: b.c: {NO_COLON}write `c: 2`"),
        ("a: 1\nb:\n  c:2\n  d: 3\n", f"3: b.c: {NO_SPACE}write `c: 2`"),
        ("a: 1\nb:\n  c = 2\n  d: 3\n", f"3: b.c: {NOT_EQUALS}write `c: 2`"),
        ("a: 1\nb\n  c: 2\n", f"2: b: {NO_COLON}write `b:`"),
        ("a: 1\nb\nc: 2\n", f"2: b: {NO_COLON}write `b:`"),
        ("a: 1\nb  # why\n\n# and\n  c: 2\n", f"2: b: {NO_COLON}write `b:`"),
        ("a 1  # why\n\nb 2\nc: 3\n", f"1: a: {NO_COLON}write `a: 1`"),
        ("a 1\n", f"1: a: {NO_COLON}write `a: 1`"),
        ("- x\na 1\nb: 2\n", f"2: a: {NO_COLON}write `a: 1`"),
        ("a: |\n  b 1\n  c: 2\nd 3\ne: 4\n", f"4: d: {NO_COLON}write `d: 3`"),
        ("a: [b,\n  c d, 'e # f',  # ]\n  g]\nh 3\ni: 4\n", f"4: h: {NO_COLON}write `h: 3`"),
        ("a: 'it''s\n  b 1'\nc 2\nd: 3\n", f"3: c: {NO_COLON}write `c: 2`"),
        ('a: "x\\"\n  b 1"\nc 2\nd: 3\n', f"3: c: {NO_COLON}write `c: 2`"),
        ("a:\n- b: 1\n- b 2\n  c: 3\n", f"3: a[1].b: {NO_COLON}write `b: 2`"),
        ("a:\n  - - b: 1\n    - b: 2\n      c 3\n", f"4: a[0][1].c: {NO_COLON}write `c: 3`"),
        ("a:\n  b {c: 1}\n", f"2: a.b: {NO_COLON}write `b: {{...`"),
        ("a:\n  b [c: 1]\n", f"2: a.b: {NO_COLON}write `b: [...`"),
        ("a:\n  b:{c: 1, d: 2}\n", f"2: a.b: {NO_SPACE}write `b: {{c: 1, d: 2}}`"),
        ("a: {b: 1,\n  c 2}\n", f"2: a.c: {NO_COLON}write `c: 2`"),
        ("a: {b:1}\n", f"1: a.b: {NO_SPACE}write `b: 1`"),
        ("a: {b=1}\n", f"1: a.b: {NOT_EQUALS}write `b: 1`"),
        ('a:\n  b: "x\nc:\n  d: "y"\n', "2: a.b: the quote is not closed where the value ends"),
        (f"a {'x' * 900}\nb: 1\n", f"1: a: {NO_COLON}write `a: {'x' * 77}...`"),
        # Not slips: a text over two lines, words in a list, and what is badly indented below them.
        (
            "a: b\n  c\n d: e\n",
            INDENT,
        ),
        (
            "a:\n  - b c\n   d: e\n",
            INDENT,
        ),
    ],
)
def test_a_missing_colon_or_quote_is_named_where_it_is_missing(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "a.yml")
    assert str(caught.value) == f"a.yml:{message}"


def test_texts_that_only_look_like_keys_are_read() -> None:
    text = "a: b\n  c 1\n  d:2\ne:\n  f 3\ng:\n- crops:5\n- h i\n- {j: k:l, m}\n'n {o': 4\n"
    values = {"a": "b c 1 d:2", "e": "f 3", "g": ["crops:5", "h i", {"j": "k:l", "m": None}], "n {o": 4}
    assert parse_yaml(text, "a.yml").values == values
    assert parse_yaml(dump_yaml(values), "a.yml").values == values


def test_scalars_are_those_of_yaml_1_2() -> None:
    values = parse_yaml("a: [1e-4, 3E7, .5, 5., -0.1, 12, +3, -0, 0]\nb: [true, FALSE, null, ~, ]\nc:\n", "x").values
    assert values == {"a": [0.0001, 3e7, 0.5, 5.0, -0.1, 12, 3, 0, 0], "b": [True, False, None, None], "c": None}
    assert [type(value) for value in values["a"]] == [float] * 5 + [int] * 4
    text = "no, yes, on, off, 010, 0x1f, 0o7, 1_000, 9:00, 2020-01-01, .inf, 1e, '1', \"\""
    expected = ["no", "yes", "on", "off", "010", "0x1f", "0o7", "1_000", "9:00", "2020-01-01", ".inf", "1e", "1", ""]
    assert parse_yaml(f"a: [{text}]", "x").values == {"a": expected}


SCALARS = (
    st.none() | st.booleans() | st.integers(1 - 10**18, 10**18 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
AWKWARD = st.text("01.eE+-_:~#'\"{}[],&*!|>%@` \n\t\r\x85\u2028nNyYof=<?é", max_size=12)
VALUES = st.recursive(
    SCALARS | st.text() | AWKWARD,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(AWKWARD, values, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.dictionaries(st.text() | AWKWARD, VALUES, max_size=3))
def test_what_dump_yaml_writes_is_read_back_equal(values: dict) -> None:
    text = dump_yaml(values).encode("utf-8").decode("utf-8")
    assert repr(parse_yaml(text, "dumped").values) == repr(values)


def test_dump_yaml_keeps_the_order_and_quotes_what_older_readers_take_for_something_else() -> None:
    values = {"b": "no", "a": ["010", 1e-5, True, None, "1e5"], "é": {"on": "12:30"}}
    assert dump_yaml(values) == "b: 'no'\na:\n- '010'\n- 1.0e-05\n- true\n- null\n- '1e5'\né:\n  'on': '12:30'\n"
    assert dump_yaml({"a": "x\x85y"}) == 'a: "x\\Ny"\n'


def test_every_key_has_its_line() -> None:
    document = parse_yaml("a: 1\nb:\n  c: {d: 1,\n   e: 2}\n  f:\n  - g: 1\n    h: 2\n", "x.yml")
    expected = {("a",): 1, ("b",): 2, ("b", "c"): 3, ("b", "c", "e"): 4, ("b", "f", 0): 6, ("b", "f", 0, "h"): 7}
    assert {path: document.mark(path)[1] for path in expected} == expected
    assert document.mark(("b", "c", "missing", "deep")) == ("x.yml", 3)
    assert dotted(("b", "f", 0, "h")) == "b.f[0].h"
