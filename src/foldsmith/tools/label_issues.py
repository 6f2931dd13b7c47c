"""`foldsmith label-issues`: labels that are likely missing or wrong."""

import argparse
from pathlib import Path

from foldsmith.errors import UserError

HELP = "rank labels that are likely missing or wrong, by what models say of images that they did not see"
EXAMPLE = "foldsmith label-issues runs/a runs/b --output label_issues.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folders such as runs/a; of several, the mean of their predictions counts",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("label_issues.csv"),
        metavar="CSV",
        help="file to write (default: label_issues.csv)",
    )
    parser.add_argument(
        "--most", type=int, default=1000, metavar="N", help="list at most N missing and N wrong labels (default: 1000)"
    )


def run(args: argparse.Namespace) -> None:
    from foldsmith.data.tables import read_table
    from foldsmith.inference.submission import check_writable
    from foldsmith.report.judge import blend_of, equal_weights, oof_data
    from foldsmith.report.noise import KINDS, label_issues, write_issues
    from foldsmith.report.runs import read_run

    if args.most < 1:
        raise UserError(f"expected a whole number above 0, got {args.most}", key="--most")
    check_writable(args.output)
    runs = [read_run(folder) for folder in args.runs]
    data = oof_data(runs)
    probabilities = blend_of(data, equal_weights(len(data.members)))
    issues = label_issues(probabilities, data.targets, data.task, args.most)
    write_issues(args.output, issues, read_table(runs[0].config).ids, data)
    for kind in KINDS:
        of_kind = [issue for issue in issues if issue.kind == kind]
        names = ", ".join(dict.fromkeys(data.names[issue.column] for issue in of_kind[:20]))
        print(f"likely {kind}: {len(of_kind)}{f'; the likeliest are of {names}' if names else ''}")
    print(f"{args.output}: {len(issues)} rows, the likeliest of each kind first; look at them before you change any")
