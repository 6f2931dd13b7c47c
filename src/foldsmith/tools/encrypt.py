"""`foldsmith encrypt`: weights for public datasets."""

import argparse
from pathlib import Path

from foldsmith.errors import UserError

HELP = "write FILE.enc of each file, for weights in public datasets"
EXAMPLE = "foldsmith encrypt runs/a/a_f0.safetensors runs/a/a_f1.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--decrypt", action="store_true", help="the other way: FILE of each FILE.enc")


def run(args: argparse.Namespace) -> None:
    from foldsmith.crypt import decrypt_file, encrypt_file
    from foldsmith.inference.find import SUFFIX, read_passphrase

    for path in args.files:
        if not path.is_file() or (args.decrypt and path.suffix != SUFFIX):
            raise UserError(f"is no file{f' that ends in {SUFFIX}' if args.decrypt else ''}", file=path)
    passphrase = read_passphrase(args.files[0])
    for path in args.files:
        target = path.with_suffix("") if args.decrypt else path.with_name(path.name + SUFFIX)
        (decrypt_file if args.decrypt else encrypt_file)(path, target, passphrase)
        print(target)
