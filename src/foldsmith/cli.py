"""`foldsmith <tool>`: what is not one of the top-level scripts."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import foldsmith
from foldsmith.errors import UserError, run


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    TOOLS[args.tool](args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="foldsmith",
        description="What is not one of the top-level scripts (train.py, predict_oof.py, ensemble_search.py ...).",
    )
    parser.add_argument("--version", action="version", version=f"foldsmith {foldsmith.__version__}")
    tools = parser.add_subparsers(dest="tool", required=True, metavar="TOOL")
    folds = tools.add_parser(
        "folds", help="make the split of an experiment: writes csv (id, fold), says how good it is"
    )
    folds.add_argument("--config", required=True, help="experiment file; looked for here, then in configs/")
    folds.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the config")
    folds.add_argument("--output", type=Path, default=Path("folds.csv"), metavar="FILE", help="default: folds.csv")
    folds.add_argument("--report", type=Path, metavar="CSV", help="also write a row a class: images in every fold")
    pseudo = tools.add_parser("pseudo-label", help="write a table for data.train_csv with confident predictions in it")
    pseudo.add_argument("--config", help="experiment file; with --oof it is the one beside the OOF files")
    pseudo.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of --config")
    pseudo.add_argument(
        "--oof", type=Path, nargs="+", default=[], metavar="NPY", help="one OOF file a model: label training images"
    )
    pseudo.add_argument(
        "--test",
        type=Path,
        metavar="FILE",
        help="label test images: .npy of probabilities (rows of sample_submission.csv, classes), or a submission.csv",
    )
    pseudo.add_argument("--threshold", type=float, metavar="P", help="labels of a probability above it are taken")
    pseudo.add_argument("--output", type=Path, default=Path("pseudo.csv"), metavar="CSV", help="default: pseudo.csv")
    tools.add_parser("schema", help="print the JSON Schema of experiment files, for editors")
    weights = tools.add_parser(
        "demo-weights", help="write the demo's ImageNet weights from the package that ships them"
    )
    weights.add_argument("output", type=Path, help="a .safetensors file")
    demo = tools.add_parser("demo", help="the whole chain on data/clipart; `make demo` calls it")
    demo.add_argument("--output", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: runs/demo")
    rates = tools.add_parser("lr-find", help="the loss while the learning rate rises: a PNG and a suggested rate")
    rates.add_argument("--config", required=True, help="experiment file; looked for here, then in configs/")
    rates.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the config")
    rates.add_argument("--output", type=Path, default=Path("lr_find.png"), metavar="PNG", help="default: lr_find.png")
    rates.add_argument("--min-lr", type=float, default=1e-6, help="of optimizer.params.lr (default: 1e-6)")
    rates.add_argument("--max-lr", type=float, default=1.0, help="default: 1")
    rates.add_argument("--steps", type=int, default=100, help="default: 100")
    rates.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    convert = tools.add_parser("convert-config", help="rewrite an experiment file of the 7-model iMet 2019 solution")
    convert.add_argument("old", type=Path, metavar="OLD.yml")
    convert.add_argument("--output", type=Path, required=True, metavar="NEW.yml")
    convert.add_argument("--no-cosine", action="store_true", help="keep the scheduler where there is a cosine section")
    convert.add_argument("--force", action="store_true", help="replace --output where it exists")
    encrypt = tools.add_parser("encrypt", help="write FILE.enc of each file, for weights in public datasets")
    encrypt.add_argument("files", type=Path, nargs="+", metavar="FILE")
    encrypt.add_argument("--decrypt", action="store_true", help="the other way: FILE of each FILE.enc")
    return parser


def _encrypt(args: argparse.Namespace) -> None:
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


def _folds(args: argparse.Namespace) -> None:
    from foldsmith.config import load_config
    from foldsmith.data.fold_quality import describe, fold_quality, write_report
    from foldsmith.data.folds import load_folds, make_folds
    from foldsmith.data.tables import read_table

    if args.report is not None and args.report.resolve() == args.output.resolve():
        raise UserError("is --output too: the report would replace the split", file=args.report, key="--report")
    config = load_config(args.config, args.set)
    table = read_table(config)
    fold_of = make_folds(config, table)
    made = load_folds(config, table, args.output, fold_of)
    if (made.fold_of != fold_of).any():
        raise UserError("exists and is another split", file=args.output, hint="remove it, or name another --output")
    print(f"{args.output}: {config.data.num_folds} folds, sha256 {made.sha256[:12]}")
    quality = fold_quality(table, fold_of, config.data.num_folds)
    print(describe(quality))
    if args.report is not None:
        write_report(args.report, quality)


def _pseudo_label(args: argparse.Namespace) -> None:
    from foldsmith.config import load_config
    from foldsmith.pseudo_label import pseudo_label

    config = load_config(args.config, args.set) if args.config is not None else None
    pseudo_label(config, oof=args.oof, test=args.test, threshold=args.threshold, output=args.output)


def _schema(args: argparse.Namespace) -> None:
    print(json.dumps(foldsmith_schema(), indent=1))


def _demo_weights(args: argparse.Namespace) -> None:
    from foldsmith.demo_weights import convert

    convert(args.output)


def _demo(args: argparse.Namespace) -> None:
    from foldsmith.demo import run_demo

    run_demo(args.output)


def _lr_find(args: argparse.Namespace) -> None:
    from foldsmith.config import load_config
    from foldsmith.inference.predict import pick_device
    from foldsmith.training.leaves import check_leaves
    from foldsmith.training.lr_find import draw_rates, find_rate

    config, device = load_config(args.config, args.set, check_leaves), pick_device(args.device)
    curve = find_rate(config, device, lowest=args.min_lr, highest=args.max_lr, steps=args.steps)
    draw_rates(curve, args.output, config.name)
    print(f"{args.output}: {len(curve.rates)} steps; the loss falls fastest at {curve.suggested:.1e}")


def _convert_config(args: argparse.Namespace) -> None:
    from foldsmith.convert import convert_config

    for note in convert_config(args.old, args.output, cosine=not args.no_cosine, force=args.force):
        print(note)
    print(f"{args.output}: written")


def foldsmith_schema() -> dict[str, object]:
    """The JSON Schema of an experiment file, with `base`, which the loader takes out before validation."""
    from foldsmith.config import Config

    schema = Config.model_json_schema()
    schema["properties"]["base"] = {"type": "string", "description": "a config that this one overrides; relative path"}
    for section in (schema, *schema["$defs"].values()):
        section.pop("required", None)  # a base may hold what is missing here
    return schema


TOOLS = {
    "folds": _folds,
    "pseudo-label": _pseudo_label,
    "lr-find": _lr_find,
    "convert-config": _convert_config,
    "encrypt": _encrypt,
    "schema": _schema,
    "demo": _demo,
    "demo-weights": _demo_weights,
}


def entry() -> None:
    run(main)
