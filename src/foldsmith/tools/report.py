"""`foldsmith report`: experiments as one HTML file."""

import argparse
from pathlib import Path

HELP = "one HTML page of experiments: scores, curves, classes, members, mistakes"
EXAMPLE = "foldsmith report runs/ best.yml --output report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_paths(parser)
    parser.add_argument(
        "--output", type=Path, default=Path("report.html"), metavar="HTML", help="file to write (default: report.html)"
    )


def add_paths(parser: argparse.ArgumentParser) -> None:
    """What is judged."""
    what = "run folders, folders of runs, ensemble files (default: runs, with the ensemble files in it)"
    parser.add_argument("paths", type=Path, nargs="*", default=[Path("runs")], metavar="PATH", help=what)


def run(args: argparse.Namespace) -> None:
    from foldsmith.inference.submission import check_writable
    from foldsmith.report.collect import collect
    from foldsmith.report.page import write_page

    check_writable(args.output)
    content = collect(args.paths)
    for note in content["notes"]:
        print(note)
    write_page(args.output, content)
    print(f"{args.output}: {len(content['leaderboard'])} models, {args.output.stat().st_size / 1e6:.1f} MB")
