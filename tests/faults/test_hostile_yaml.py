"""30 hostile YAML files: refused within 2 seconds, by size and depth before a parser sees what it would not survive."""

import pytest

from foldsmith.config import load_config, read_yaml
from foldsmith.ensemble.file import read_ensemble
from foldsmith.errors import UserError
from foldsmith.training.leaves import check_leaves
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


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_in_time(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.yml"
    path.write_text(HOSTILE[name])
    for read in (read_yaml, read_ensemble):
        with bounded(SECONDS, MEGABYTES), pytest.raises(UserError) as caught:
            read(path)
        assert caught.value.code == 2 and str(path) in str(caught.value)
    assert not (tmp_path / "marker").exists()


def test_a_long_scalar_within_the_size_is_only_text(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text("a: " + "x" * 200_000 + "\n")
    assert len(read_yaml(path).values["a"]) == 200_000


@pytest.mark.parametrize("key", ["model.dropout", "optimizer.params.lr"])
def test_a_number_of_many_digits_is_not_finite_and_so_refused(key):
    """Python refuses to turn 5,000 digits into a whole number."""
    with pytest.raises(UserError, match=rf"--set {key}: {key}: .*(finite|inf)"):
        load_config("clipart_tiny", [f"{key}={'9' * 5000}"], check_leaves)
