"""`foldsmith schema`: what editors complete experiment files from, and the reference of their keys."""

import argparse
import json
from pathlib import Path
from typing import Any

HELP = "print the JSON Schema of experiment files, for editors; or the reference of their keys"
EXAMPLE = "foldsmith schema --markdown --output docs/config.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--markdown", action="store_true", help="the reference for people, docs/config.md")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there instead of printing")


def run(args: argparse.Namespace) -> None:
    from foldsmith.config.describe import markdown
    from foldsmith.files import write_text

    schema = foldsmith_schema()
    text = markdown(schema) if args.markdown else json.dumps(schema, indent=1) + "\n"
    if args.output is None:
        print(text, end="")
    else:
        write_text(args.output, text)


def foldsmith_schema() -> dict[str, Any]:
    """The JSON Schema with the names that losses, schedules and samplers have."""
    from foldsmith.config.describe import json_schema
    from foldsmith.data.sampling import SAMPLERS
    from foldsmith.losses import LOSSES
    from foldsmith.training.schedules import SCHEDULES

    return json_schema({"loss": list(LOSSES), "scheduler": list(SCHEDULES), "sampler": list(SAMPLERS)})
