"""`foldsmith new`: an experiment file to edit."""

import argparse

HELP = "write a commented experiment file, begun from another one"
EXAMPLE = "foldsmith new mine --from clipart_lite0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the experiment: writes configs/NAME.yml; or a path")
    parser.add_argument(
        "--from",
        dest="source",
        default="clipart_lite0",
        metavar="CONFIG",
        help="looked for here, then in configs/ (default: clipart_lite0)",
    )
    parser.add_argument("--force", action="store_true", help="replace the file where it exists")


def run(args: argparse.Namespace) -> None:
    from foldsmith.config.starter import new_config_path, train_command, write_starter
    from foldsmith.tools.schema import foldsmith_schema

    path = new_config_path(args.name, args.force)
    write_starter(path, args.source, foldsmith_schema())
    print(f"{path}: written; edit it, then {train_command(path)} --smoke")
