"""What goes into a packed file: sources, the ensemble and its configs, or a script's config, folds and tables."""

import importlib.util
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from foldsmith.config import Config, Deploy, dump_yaml, load_config
from foldsmith.ensemble.file import find_ensemble, read_ensemble
from foldsmith.errors import UserError
from foldsmith.files import sha256_file, sha256_lines
from foldsmith.inference.find import SUFFIX, hashes_of, look_for, passphrase_here, proved_weights
from foldsmith.kernel.sources import packed_sources

if TYPE_CHECKING:
    from foldsmith.data.tables import Table
    from foldsmith.training.folder import RunFolder

INFERENCE = ["torch", "timm", "numpy", "opencv-python-headless", "pydantic", "PyYAML", "safetensors", "tqdm"]
TRAINING = [*INFERENCE, "albumentations", "scikit-learn", "iterative-stratification", "scipy", "matplotlib"]
DEADLINE = "8h40m"  # Kaggle ends a kernel after nine hours
TABLES = ("train_csv", "valid_csv", "labels_csv")  # packed where they lie outside of the competition's folder

_RUN_INFERENCE = """\
    from foldsmith.inference.kernel import main

    run(lambda argv: main(argv, FILES, OPTIONS))
"""
_RUN_SCRIPT = """\
    from foldsmith.inference.packages import refuse_missing_basics

    def main(argv):
        refuse_missing_basics(OPTIONS["built_with"])
        from foldsmith.training.kernel import arguments
        from {module} import main as script

        script([*arguments(FILES, OPTIONS, unpack), *sys.argv[1:]])

    run(main)
"""


@dataclass
class Contents:
    """A kernel before it is written."""

    name: str  # of its folder and file
    title: str  # on Kaggle, where the deploy section names none
    writes: str  # what comes out, for people
    files: dict[str, str]  # text by path: sources, configs, tables
    options: dict[str, Any]  # what the code in it is told
    tail: str  # the lines that start it
    deploy: Deploy | None  # of the YAML
    config: Config | None  # whose data it needs; None: not known here
    weights: dict[str, Path] = field(default_factory=dict)  # that are here, by name
    sealed: dict[str, Path] = field(default_factory=dict)  # those that are here as encrypted files only, by name
    not_here: list[str] = field(default_factory=list)  # names of the others


def ensemble_contents(ensemble_file: Path, roots: Sequence[Path]) -> Contents:
    """Of a kernel that predicts the test images.

    Args:
        roots: where weights are searched: they tell the configs, sizes and classes. They need not be there.

    Raises:
        UserError: the ensemble file or the weights that are there are wrong.
    """
    from foldsmith.models.header import config_of

    path = find_ensemble(ensemble_file)
    ensemble = read_ensemble(path)
    unnamed = [member.name for member in ensemble.members if not member.weights]
    if unnamed:
        raise UserError(f"names no weights of {', '.join(unnamed)}", file=path, key="members")
    hashes = hashes_of(ensemble)
    places = look_for(hashes, roots)
    sealed = {name: found[0] for name, found in places.items() if found and found[0].name == name + SUFFIX}
    weights = proved_weights(hashes, {name: found for name, found in places.items() if found and name not in sealed})
    decrypted = proved_weights(hashes, {name: places[name] for name in sealed}) if passphrase_here() else {}
    known = weights | decrypted
    headers = _headers(known)
    files = packed_sources("foldsmith.inference.kernel")
    files[path.name] = path.read_text(encoding="utf-8")
    configs: dict[str, Config] = {}
    for member in ensemble.members:
        seen = next((name for name in member.weights if name in known), None)
        if seen is not None:
            configs[f"configs/{member.name}.yml"] = config_of(headers[seen], known[seen])
    files |= {name: dump_yaml(config.model_dump(mode="json")) for name, config in configs.items()}
    return Contents(
        name=path.stem,
        title=f"{path.stem} inference",
        writes="submission.csv",
        files=files,
        options={
            "ensemble": path.name,
            "weights": _facts(known, hashes),
            "classes": next((len(header["classes"]) for header in headers.values()), None),
            "built_with": _versions(INFERENCE),
        },
        tail=_RUN_INFERENCE,
        deploy=ensemble.deploy,
        config=next(iter(configs.values()), None),
        weights=weights,
        sealed=sealed,
        not_here=sorted(name for name in places if name not in weights and name not in sealed),
    )


def script_contents(script: Path, words: Sequence[str]) -> Contents:
    """Of a kernel that runs a script, such as train.py, with these arguments."""
    words = list(words)
    if script.stem == "train" and "--predict_oof" in words:
        words.remove("--predict_oof")
        script = script.with_name("predict_oof.py")
    if not script.is_file() or not script.stem.isidentifier():
        raise UserError(f"{str(script)!r} can't be packed: it is no Python script here")
    module = _load(script)
    if not hasattr(module, "main"):
        raise UserError("can't be packed: it has no main(argv)", file=script)
    files = packed_sources(script.stem, script.parent) | packed_sources("foldsmith.training.kernel")
    options: dict[str, Any] = {"arguments": words, "config": None, "weights": {}, "built_with": _versions(TRAINING)}
    contents = Contents(
        name=script.stem,
        title=f"{script.stem} script",
        writes="what the script writes",
        files=files,
        options=options,
        tail=_RUN_SCRIPT.format(module=script.stem),
        deploy=None,
        config=None,
    )
    if hasattr(module, "parser"):
        args = module.parser().parse_args(words)
        if getattr(args, "fresh", False):
            raise UserError("means nothing in a kernel, which starts in an empty folder", key="--fresh")
        if {"config", "set", "output"} <= vars(args).keys():
            _add_experiment(contents, vars(args), needs_weights=script.stem == "predict_oof")
    return contents


def _load(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(script.resolve().parent))  # scripts may import each other
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.path[0]
    return module


def _add_experiment(contents: Contents, args: Mapping[str, Any], needs_weights: bool) -> None:
    """The resolved config that the arguments name, its folds, the tables that lie elsewhere, the weights it needs."""
    from foldsmith.data.tables import read_table
    from foldsmith.models.header import config_of
    from foldsmith.models.weights import read_header
    from foldsmith.training.folder import RunFolder
    from foldsmith.training.leaves import check_leaves

    given = args.get("weights") or []
    if len(args["config"]) > 1:
        raise UserError("a kernel runs one experiment", key="--config")
    _by_name(given)  # before the first is opened
    if args["config"]:
        config = load_config(args["config"][0], args["set"], check_leaves)
    elif given:
        config = config_of(read_header(given[0]), given[0])
    else:
        raise UserError("name an experiment", key="--config")
    run = RunFolder(args["output"], config.name)
    contents.name = f"{config.name}_{contents.name}"
    contents.title = f"{config.name} {'validation' if needs_weights else 'training'}"
    contents.deploy, contents.config, contents.writes = config.deploy, config, f"{run.path}/"
    path = f"configs/{config.name}.yml"
    contents.files[path] = dump_yaml(config.model_dump(mode="json"))
    table = read_table(config)
    contents.files["folds.txt"] = _folds_text(config, table, run)
    tables = {}
    for key in TABLES:
        value = getattr(config.data, key)
        if value is not None and Path(value).is_file() and not Path(value).is_relative_to(config.data.root):
            tables[key] = f"tables/{key}/{Path(value).name}"
            contents.files[tables[key]] = Path(value).read_text(encoding="utf-8")
    pretrained = config.model.pretrained
    if needs_weights:
        found = given or [run.weights(fold) for fold in range(config.data.num_folds) if run.weights(fold).is_file()]
        if not found:
            raise UserError(
                "holds no weights to predict with", file=run.path, hint="./train.py writes them; or --weights"
            )
        contents.weights = _by_name(found)
    elif isinstance(pretrained, str) and Path(pretrained).is_file():
        contents.weights = {Path(pretrained).name: Path(pretrained)}
    elif isinstance(pretrained, str):
        contents.not_here = [Path(pretrained).name]
    contents.options |= {
        "arguments": _without(contents.options["arguments"], "--config", "--set", "--weights"),
        "config": path,
        "ids_sha256": sha256_lines(table.ids),
        "tables": tables,
        "weights": _facts(contents.weights, {}) | {name: (None, None) for name in contents.not_here},
        "needs_weights": needs_weights,
        "output": str(args["output"]),
    }


def _by_name(found: Sequence[Path]) -> dict[str, Path]:
    """Weights files by the name that a kernel finds them by."""
    named: dict[str, Path] = {}
    for path in found:
        if not path.is_file():
            raise UserError("is no file", file=path, key="--weights")
        other = named.setdefault(path.name, path)
        if other.resolve() != path.resolve():
            hint = "a kernel finds weights by their names: rename one, or pack a kernel each"
            raise UserError(f"two weights files are called {path.name}: {other} and {path}", key="--weights", hint=hint)
    return named


def _folds_text(config: Config, table: "Table", run: "RunFolder") -> str:
    """The fold of every row of the label table; ids would take a megabyte for a hundred thousand images."""
    from foldsmith.data.folds import load_folds, make_folds

    fold_of = load_folds(config, table, run.folds).fold_of if run.folds.is_file() else make_folds(config, table)
    numbers = [str(fold) for fold in fold_of.tolist()]
    return "".join(" ".join(numbers[row : row + 50]) + "\n" for row in range(0, len(numbers), 50))


def _without(words: Sequence[str], *flags: str) -> list[str]:
    """Command line words without some flags, which may be abbreviated, and their values."""
    kept, skipping = [], False
    for word in words:
        if word.startswith("-"):
            name = word.partition("=")[0]
            skipping = len(name) > 2 and any(flag.startswith(name) for flag in flags)
        if not skipping:
            kept.append(word)
    return kept


def _headers(weights: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    if not weights:
        return {}
    from foldsmith.models.weights import read_header

    return {name: read_header(path) for name, path in weights.items()}


def _facts(weights: Mapping[str, Path], hashes: Mapping[str, str | None]) -> dict[str, tuple[int, str]]:
    """Bytes and sha256 by name. Where a .pth stands for a name, nothing is known of the file of that name itself.

    Args:
        hashes: those that have been computed already.
    """
    return {
        name: (path.stat().st_size, hashes.get(name) or sha256_file(path))
        for name, path in weights.items()
        if path.name == name
    }


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}
