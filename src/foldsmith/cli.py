"""`foldsmith <tool>`: what is not one of the top-level scripts. Each tool is a module of foldsmith.tools.

A tool's module has HELP, EXAMPLE (a command line that --help shows), add_arguments(parser) and run(args); what is slow
to import is imported in run.
"""

import argparse
from collections.abc import Sequence

import foldsmith
from foldsmith import errors
from foldsmith.launch.arguments import refuse_torchrun
from foldsmith.tools import (
    check_data,
    compare,
    completion,
    convert_config,
    demo,
    demo_weights,
    doctor,
    encrypt,
    folds,
    label_issues,
    leaderboard,
    lr_find,
    new,
    preview,
    pseudo_label,
    report,
    schema,
)

TOOLS = {
    "new": new,
    "check-data": check_data,
    "preview": preview,
    "folds": folds,
    "pseudo-label": pseudo_label,
    "lr-find": lr_find,
    "convert-config": convert_config,
    "encrypt": encrypt,
    "report": report,
    "leaderboard": leaderboard,
    "compare": compare,
    "label-issues": label_issues,
    "schema": schema,
    "completion": completion,
    "doctor": doctor,
    "demo": demo,
    "demo-weights": demo_weights,
}


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    refuse_torchrun(f"foldsmith {args.tool}")
    TOOLS[args.tool].run(args)


def parser() -> argparse.ArgumentParser:
    """All tools and their options."""
    top = argparse.ArgumentParser(
        prog="foldsmith",
        description="What is not one of the top-level scripts (train.py, predict_oof.py, ensemble_search.py ...).",
        epilog="example: foldsmith new mine --from clipart_lite0; foldsmith TOOL --help says more",
    )
    top.add_argument("--version", action="version", version=f"foldsmith {foldsmith.__version__}")
    tools = top.add_subparsers(dest="tool", required=True, metavar="TOOL")
    for name, tool in TOOLS.items():
        example = f"example: {tool.EXAMPLE}"
        raw = argparse.RawDescriptionHelpFormatter  # an example stays on its line
        tool.add_arguments(
            tools.add_parser(name, help=tool.HELP, description=tool.HELP, epilog=example, formatter_class=raw)
        )
    return top


def entry() -> None:
    errors.run(main)
