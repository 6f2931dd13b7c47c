"""`foldsmith completion`: what a shell completes commands, options and files from."""

import argparse
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import foldsmith

HELP = "print a completion script for bash, zsh or fish"
EXAMPLE = "foldsmith completion bash > ~/.foldsmith.bash"
SCRIPTS = ["train.py", "predict_oof.py", "ensemble_search.py", "ensemble_inference.py", "deploy_kernel.py"]
FOLDERS = {"DIR", "ROOT", "RUN", "A", "B"}  # metavars of arguments that take a folder
FILES = {"config", "source", "script", "output"}  # arguments that take a file, although they are text

# Of an option that takes several values, shtab's bash script would complete files only, and no other option after it.
BASH = """
_foldsmith_path() {
  if [[ $completing_word == -* ]]; then
    compgen -W "${current_option_strings[*]}" -- "$completing_word"
  else
    compgen "$1" -- "$2"
  fi
}
_foldsmith_file() { _foldsmith_path -f "$1"; }
_foldsmith_dir() { _foldsmith_path -d "$1"; }
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="whose script to print")


def run(args: argparse.Namespace) -> None:
    import shtab

    from foldsmith.cli import parser

    parsers = [parser(), *_script_parsers()]
    for each in parsers:
        _name_files(each)
    texts = [shtab.complete(each, args.shell, preamble=BASH if args.shell == "bash" else "") for each in parsers]
    print(_together(texts, [each.prog for each in parsers]) if args.shell == "zsh" else "\n".join(texts))


def _script_parsers() -> Iterator[argparse.ArgumentParser]:
    """The parsers of the top-level scripts of the project's folder: this one, or that of an editable install."""
    folders = [Path.cwd(), Path(foldsmith.__file__).parents[2]]
    folder = next((each for each in folders if all((each / name).is_file() for name in SCRIPTS)), None)
    if folder is None:
        print("without train.py and its like: call it in the project's folder", file=sys.stderr)
        return
    for name in SCRIPTS:
        spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), folder / name)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        parser: argparse.ArgumentParser = module.parser()
        parser.prog, parser.description = name, None
        if name == "deploy_kernel.py":  # takes them without declaring them
            parser.add_argument("words", nargs="*", type=Path, help="of the packed script")
        yield parser


def _name_files(parser: argparse.ArgumentParser) -> None:
    """Say which arguments take files and folders, to shtab."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                _name_files(each)
        elif action.type is Path or action.dest in FILES:
            is_folder = action.metavar in FOLDERS
            ways = shtab.DIRECTORY if is_folder else shtab.FILE
            action.complete = ways | {"bash": "_foldsmith_dir" if is_folder else "_foldsmith_file"}  # type: ignore[attr-defined]


def _together(texts: list[str], names: list[str]) -> str:
    """zsh scripts of several commands as one that may be sourced."""
    functions = [re.sub(r"\A#compdef.*\n", "", re.split(r"(?m)^typeset -A opt_args$", text)[0]) for text in texts]
    calls = [f"compdef _shtab_{name.replace('.', '_')} {name}" for name in names]
    return "\n".join([*functions, *calls])
