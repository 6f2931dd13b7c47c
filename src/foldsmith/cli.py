"""`foldsmith <tool>`: what is not one of the top-level scripts. Each tool is a module of foldsmith.tools.

A tool's module has HELP, add_arguments(parser) and run(args); what is slow to import is imported in run.
"""

import argparse
from collections.abc import Sequence

import foldsmith
from foldsmith import errors
from foldsmith.tools import (
    check_data,
    convert_config,
    demo,
    demo_weights,
    doctor,
    encrypt,
    folds,
    lr_find,
    pseudo_label,
    schema,
)

TOOLS = {
    "folds": folds,
    "check-data": check_data,
    "pseudo-label": pseudo_label,
    "lr-find": lr_find,
    "convert-config": convert_config,
    "encrypt": encrypt,
    "schema": schema,
    "doctor": doctor,
    "demo": demo,
    "demo-weights": demo_weights,
}


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    TOOLS[args.tool].run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="foldsmith",
        description="What is not one of the top-level scripts (train.py, predict_oof.py, ensemble_search.py ...).",
    )
    parser.add_argument("--version", action="version", version=f"foldsmith {foldsmith.__version__}")
    tools = parser.add_subparsers(dest="tool", required=True, metavar="TOOL")
    for name, tool in TOOLS.items():
        tool.add_arguments(tools.add_parser(name, help=tool.HELP))
    return parser


def entry() -> None:
    errors.run(main)
