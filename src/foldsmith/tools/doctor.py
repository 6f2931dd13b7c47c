"""`foldsmith doctor`: what a bug report needs."""

import argparse
import json

from foldsmith.errors import EXIT_ENVIRONMENT, UserError

HELP = "what a bug report needs: versions, device, threads, free space, caches, a self-test of seconds"
EXAMPLE = "foldsmith doctor --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="of the self-test; default: cuda where there is one")


def run(args: argparse.Namespace) -> None:
    import contextlib
    import sys

    from foldsmith.doctor import describe, examine
    from foldsmith.inference.predict import pick_device

    with contextlib.redirect_stdout(sys.stderr):  # what the self-test says
        facts = examine(pick_device(args.device))
    print(json.dumps(facts, indent=1) if args.json else describe(facts))
    if not facts["self-test"]["ok"]:
        raise UserError("the self-test failed", hint="its error stands above", code=EXIT_ENVIRONMENT)
