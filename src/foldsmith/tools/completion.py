"""`foldsmith completion`: what a shell completes commands and options from."""

import argparse

HELP = "print a completion script for bash, zsh or fish"
EXAMPLE = "foldsmith completion bash > ~/.local/share/bash-completion/completions/foldsmith"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh", "fish"])


def run(args: argparse.Namespace) -> None:
    import shtab

    from foldsmith.cli import parser

    print(shtab.complete(parser(), args.shell))
