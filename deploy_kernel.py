#!/usr/bin/env python3
"""Pack inference code and an ensemble into one Python file that runs without this project and without a network.

./deploy_kernel.py ensemble_inference.py best.yml       writes kernels/best/best.py and kernel-metadata.json
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from foldsmith import __version__
    from foldsmith.errors import run
except ModuleNotFoundError as missing:
    sys.exit(f"{missing.name} is not installed here: run `make install`, then `. .venv/bin/activate`")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--version", action="version", version=f"foldsmith {__version__}")
    found.add_argument("script", help="what the kernel runs: ensemble_inference.py")
    found.add_argument("ensemble", type=Path, help="what ensemble_search.py wrote")
    found.add_argument("--output", type=Path, default=Path("kernels"), metavar="DIR", help="default: kernels")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)

    from foldsmith.ensemble.file import find_ensemble
    from foldsmith.kernel.pack import deploy

    script = deploy(args.script, find_ensemble(args.ensemble), args.output)
    print(f"written: {script} ({script.stat().st_size / 1024:.0f} KB) and {script.parent / 'kernel-metadata.json'}")


if __name__ == "__main__":
    run(main)
