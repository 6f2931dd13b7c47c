"""`foldsmith leaderboard`: experiments in a table, the best first."""

import argparse
import json
import shutil
import sys

from foldsmith.tools.report import add_paths

HELP = "a table of experiments and blends, best first: scores with interval, speed, time, config differences"
EXAMPLE = "foldsmith leaderboard runs/ best.yml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_paths(parser)
    parser.add_argument("--json", action="store_true", help="print JSON for scripts instead of the table")


def run(args: argparse.Namespace) -> None:
    from foldsmith.report.collect import judge_runs
    from foldsmith.report.leaderboard import as_json, as_text

    lines, notes = judge_runs(args.paths)
    for note in notes:
        print(note, file=sys.stderr)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(json.dumps(as_json(lines), indent=1) if args.json else as_text(lines, width))
