#!/usr/bin/env python3
"""Pack a script, and all that it needs but weights and data, into one file that runs where this project is not.

./deploy_kernel.py ensemble_inference.py best.yml --check     writes kernels/best/, and runs best.py as Kaggle would
./deploy_kernel.py train.py --config a.yml --fold 0           a kernel that trains: kernels/a_train/
./deploy_kernel.py predict_oof.py --config a.yml              a kernel that validates: kernels/a_predict_oof/

What is not listed below belongs to the script. Most flags can stand in a `deploy:` section instead: docs/deploy.md.
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


def main(argv: Sequence[str] | None = None) -> None:
    args, words = parser().parse_known_args(argv)

    from foldsmith.kernel.command import run_deploy

    run_deploy(args, words)


def parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style, allow_abbrev=False)
    add = parser.add_argument
    add("--version", action="version", version=f"foldsmith {__version__}")
    add("script", help="ensemble_inference.py, train.py, predict_oof.py, or another with a main(argv)")
    add("--output", type=Path, default=Path("kernels"), metavar="DIR", help="default: kernels")
    add("--models", nargs="+", type=Path, metavar="DIR", help="where the ensemble's weights lie (default: runs ...)")
    add("--data", type=Path, metavar="ROOT", help="the competition's folder, for --check (default: the config's)")
    add("--compress", action="store_true", help="for what would be above 1 MB; the sources can't be read then")
    add("--deadline", metavar="TIME", help="of inference, counted from the kernel's start; or none (default: 8h40m)")
    add("--strict-exit", action="store_true", help="code 5 after a deadline, although a valid submission stands")
    add("--check", action="store_true", help="run it as Kaggle would, and compare with the unpacked run")
    add("--stage-weights", type=Path, metavar="DIR", help="gather the needed weights into a folder to upload")
    add("--encrypt", action="store_true", help="with --stage-weights: encrypted (docs/encryption.md)")
    add("--embed-key", action="store_true", help="put the passphrase into the packed file; read the warning")
    add("--push", action="store_true", help="call `kaggle kernels push`")
    add(
        "--deploy",
        type=Path,
        metavar="FILE",
        help="a YAML with a deploy section (default: deploy.yml, if there is one)",
    )
    add("--dataset", action="append", metavar="USER/SLUG", help="an input; may be repeated")
    add("--competition", action="append", metavar="SLUG", help="an input; may be repeated")
    for setting in ("user NAME", "title TITLE", "id USER/SLUG", "weights-dataset USER/SLUG", "machine-shape NAME"):
        name, value = setting.split()
        add(f"--{name}", metavar=value, help=f"{name.replace('-', '_')} of the deploy section")
    add("--public", action="store_true", help="is_private: false")
    add("--no-gpu", action="store_true", help="enable_gpu: false")
    add("--internet", action="store_true", help="enable_internet: true")
    return parser


if __name__ == "__main__":
    run(main)
