"""`foldsmith encrypt`: weights for public datasets."""

import argparse
from pathlib import Path

from foldsmith.errors import UserError

HELP = "write FILE.enc of each file, for weights in public datasets"
EXAMPLE = "foldsmith encrypt runs/a/a_f0.safetensors runs/a/a_f1.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="weights; with --decrypt FILE.enc")
    parser.add_argument("--decrypt", action="store_true", help="the other way: FILE of each FILE.enc")
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def run(args: argparse.Namespace) -> None:
    from foldsmith.crypt import decrypt_file, encrypt_file
    from foldsmith.inference.find import CANT_ENCRYPT, SUFFIX, read_passphrase

    targets: dict[Path, Path] = {}
    for path in args.files:
        if not path.is_file() or (args.decrypt and path.suffix != SUFFIX):
            raise UserError(f"is no file{f' that ends in {SUFFIX}' if args.decrypt else ''}", file=path)
        if not args.decrypt and path.suffix == SUFFIX:
            raise UserError("is encrypted already, by its name", file=path, hint="--decrypt goes the other way")
        targets[path] = path.with_suffix("") if args.decrypt else path.with_name(path.name + SUFFIX)
    standing = [str(target) for target in targets.values() if target.exists()]
    if standing and not args.force:
        raise UserError(f"nothing is written: {', '.join(standing)} would be replaced", hint="--force replaces")
    why = "is encrypted, and" if args.decrypt else CANT_ENCRYPT
    passphrase = read_passphrase(args.files[0], why)
    for path, target in targets.items():
        (decrypt_file if args.decrypt else encrypt_file)(path, target, passphrase)
        print(target)
