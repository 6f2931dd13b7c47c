"""`foldsmith doctor`: what a bug report needs."""

import argparse
import json

from foldsmith.errors import EXIT_ENVIRONMENT, UserError

HELP = "what a bug report needs: versions, device, threads, free space, caches, a self-test of 10 seconds"
EXAMPLE = "foldsmith doctor --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="of the self-test; default: cuda where there is one")


def run(args: argparse.Namespace) -> None:
    import contextlib
    import sys
    from typing import Any

    from foldsmith.doctor import describe, examine, self_test

    out, facts = sys.stdout, examine()

    def finish(result: dict[str, Any]) -> None:
        """The self-test's lines: of JSON the last group and the end."""
        of_json = f',\n "self-test": {json.dumps(result)}\n}}'
        print(of_json if args.json else describe({"self-test": result}), file=out, flush=True)

    # Before the self-test: whatever it does, the facts are there.
    text = json.dumps(facts, indent=1).removesuffix("\n}") if args.json else describe(facts)
    print(text, end="" if args.json else "\n", flush=True)
    with contextlib.redirect_stdout(sys.stderr):  # what the self-test says
        result = self_test(args.device, give_up=finish)
    finish(result)
    if not result["ok"]:
        raise UserError("the self-test failed", hint="its error stands above", code=EXIT_ENVIRONMENT)
