"""30 hostile YAML files: refused within 2 seconds, by size and depth before a parser sees what it would not survive."""

import pytest

from foldsmith.config import load_config, read_yaml
from foldsmith.ensemble.file import read_ensemble
from foldsmith.errors import UserError
from foldsmith.training.leaves import check_leaves
from tests.conftest import ROOT
from tests.faults.bounds import bounded

SECONDS, MEGABYTES = 2.0, 200
LAUGHS = "a0: &a0 [x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
DEEP = 10**6
BIG = 10_000_000
TAGS = [
    "!!python/object/apply:os.system ['touch marker']",
    "!!python/object/new:os.system ['touch marker']",
    "!!python/object:os.system {}",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/tuple [1, 2]",
    "!!python/object/apply:builtins.eval ['1']",
    "!!binary aGVsbG8=",
    "!!set {a, b}",
    "!!timestamp 2020-01-01",
    "!include /etc/passwd",
    "!<tag:yaml.org,2002:python/name:os.system> x",
]
HOSTILE = {
    "alias bomb": LAUGHS,
    "alias of itself": "a: &a [*a]\n",
    "alias in a key": "? &a b\n: *a\n",
    "merge bomb": "a: &a {x: 1}\nb: {<<: *a}\n",
    "anchor chain": "".join(f"k{n}: &k{n} {n}\n" for n in range(1000)) + "z: *k1\n",
    **{f"tag {tag.split()[0]}": f"a: {tag}\n" for tag in TAGS},
    "lists in lists": "a: " + "[" * DEEP,
    "lists in lists, closed": "a: " + "[" * (DEEP // 2) + "]" * (DEEP // 2),
    "maps in maps": "a: " + "{b: " * DEEP,
    "dashes": "- " * DEEP,
    "deep within the size": "a: " + "[" * 100_000,
    "keys in keys": "? " * 100_000,
    "indented maps": "".join(" " * n + "a:\n" for n in range(500)),
    "a scalar of 10 MB": "a: " + "x" * BIG,
    "a quoted scalar of 10 MB": 'a: "' + "x" * BIG + '"',
    "10 MB of comments": "a: 1\n" + "#" * BIG,
    "10 MB of keys": "".join(f"k{n}: 1\n" for n in range(BIG // 10)),
    "10 MB of documents": "---\n" * (BIG // 4),
    "NUL": "a: \0\n",
}


def test_there_are_thirty():
    assert len(HOSTILE) == 30


def load(path):
    return load_config(path, leaf_check=check_leaves)


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_in_time(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.yml"
    path.write_text(HOSTILE[name])
    for read in (read_yaml, read_ensemble, load):
        with bounded(SECONDS, MEGABYTES), pytest.raises(UserError) as caught:
            read(path)
        assert caught.value.code == 2 and str(path) in str(caught.value)
    assert not (tmp_path / "marker").exists()


BASE = f"base: {ROOT}/configs/clipart_tiny.yml\n"
KEYS = 9_990  # with their values almost as many as a file may hold
# Within the limits of size, depth and number: it is the checks after the parser that must not take long.
WITHIN = {
    "unknown keys": "".join(f"k{n}: 1\n" for n in range(KEYS)),
    "more keys than a file may hold": "".join(f"k{n}: 1\n" for n in range(12_000)),
    "keys that are almost right": "model:\n" + "".join(f"  head_layers{n}: 1\n" for n in range(KEYS)),
    "arguments": "optimizer:\n  params: {" + ", ".join(f"k{n}: 1" for n in range(KEYS)) + "}\n",
    "arguments below the limit": "train:\n  stages:\n"
    + "".join(
        "  - loss: {name: focal, params: {" + ", ".join(f"gama{n}: 1" for n in range(90)) + "}}\n" for _ in range(99)
    ),
    "module rates": "optimizer:\n  group_lrs: {" + ", ".join(f"k{n}: x" for n in range(KEYS)) + "}\n",
    "a list": "test:\n  tta: [" + "hflp, " * 2 * KEYS + "]\n",
    "views": "test:\n  tta: [" + "hflp, " * 100 + "]\n",
    "transforms": "augmentations:\n  extra: [" + "{name: Blurr}, " * 100 + "]\n",
    "stages": "train:\n  stages: [" + "{optimizer: {name: adamww, params: {lr: 1}}}, " * 100 + "]\n",
    "many stages": "train:\n  stages: [" + "{optimizer: {name: adamw, params: {lr: 1}}}, " * 1_400 + "]\n",
    "members": "members:\n" + "- {name: 1}\n" * 6_000,
    "a text of many lines": "metric: x\n" + "  x\n" * 60_000,
    "a key of 200,000 letters": "? " + "x" * 200_000 + "\n: 1\n",
    "a list where text is wanted": "metric: [" + "1, " * KEYS + "]\n",
}


@pytest.mark.parametrize(
    "name",
    [name if number % 3 == 0 else pytest.param(name, marks=pytest.mark.slow) for number, name in enumerate(WITHIN)],
)
def test_what_passes_the_parser_is_refused_in_time(name, tmp_path):
    path = tmp_path / "a.yml"
    for read, text in ((load, BASE + WITHIN[name]), (read_ensemble, WITHIN[name])):
        path.write_text(text)
        with bounded(SECONDS, MEGABYTES), pytest.raises(UserError) as caught:
            read(path)
        with bounded(SECONDS, MEGABYTES):
            message = str(caught.value)
        assert caught.value.code == 2 and message.startswith(str(path))
        assert len(message) < 6_000 and len(message.splitlines()) <= 23


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "!" * 250_000,
        "a: !<" + "%41" * 80_000 + "> x",
        "a: *" + "x" * 250_000,
        "%TAG !" + "y" * 250_000,
        "a: !" + "x" * 100_000 + "!y z",
        "base: " + "x" * 250_000,
        "a " + "x" * 250_000 + "\nb: 1\n",
        "a:\n  b" + "x" * 100_000 + " 1\n  c: 2\n",
        "base: x\n" + "y" * 100_000 + ": 1: 2\n",
    ],
    ids=range(9),
)
def test_one_problem_is_said_in_less_than_1000_characters(text, tmp_path):
    path = tmp_path / "a.yml"
    path.write_text(text)
    for read in (load, read_ensemble):
        with bounded(SECONDS, MEGABYTES), pytest.raises(UserError) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(str(path)) and len(message) < (6000 if " problems\n" in message else 1000)


def test_many_problems_are_said_in_less_than_6000_characters(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text(BASE + "".join(f"{n}{'x' * 900}: 1\n" for n in range(250)))
    with pytest.raises(UserError) as caught:
        load(path)
    first, *lines = str(caught.value).splitlines()
    listed = len(lines) - 1
    assert first.endswith("250 problems") and lines[-1] == f"  ... and {250 - listed} more" and 10 <= listed < 20
    assert 4000 < len(str(caught.value)) < 6000


def test_a_threshold_for_each_of_15_000_classes_is_not_too_many(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text("threshold:\n" + "- 0.12345\n" * 15_000)
    assert len(read_yaml(path).values["threshold"]) == 15_000


def test_a_chain_of_bases_ends(tmp_path):
    for number in range(100):
        (tmp_path / f"{number}.yml").write_text(f"base: {number + 1}.yml\n")
    with (
        bounded(SECONDS, MEGABYTES),
        pytest.raises(UserError, match="base of more than 32 configs, one after the other"),
    ):
        load(tmp_path / "0.yml")


def test_a_long_scalar_within_the_size_is_only_text(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text("a: " + "x" * 200_000 + "\n")
    assert len(read_yaml(path).values["a"]) == 200_000


@pytest.mark.parametrize("key", ["model.dropout", "optimizer.params.lr"])
def test_a_number_of_many_digits_is_not_finite_and_so_refused(key):
    """Python refuses to turn 5,000 digits into a whole number."""
    with pytest.raises(UserError, match=rf"--set {key}: {key}: .*(finite|inf)"):
        load_config("clipart_tiny", [f"{key}={'9' * 5000}"], check_leaves)
