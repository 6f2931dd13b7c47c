"""What deploy_kernel.py does with its arguments: pack, write, gather weights, check, push."""

import argparse
import base64
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foldsmith.config import Deploy
from foldsmith.errors import UserError
from foldsmith.files import write_text
from foldsmith.inference.budget import parse_duration
from foldsmith.inference.find import INPUT_ROOTS, PASSPHRASE, locate_data, passphrase_here
from foldsmith.kernel.contents import DEADLINE, Contents, ensemble_contents, script_contents
from foldsmith.kernel.metadata import NOBODY, check_network, kernel_metadata, manifest_json, readme, settings
from foldsmith.kernel.pack import render

INFERENCE = "ensemble_inference.py"
_FLAGS = ("user", "title", "id", "machine_shape", "weights_dataset", "deadline")


def run_deploy(args: argparse.Namespace, words: Sequence[str]) -> Path:
    """Write a kernel's folder, and do what else was asked for. Returns the packed file's path.

    Args:
        args: of deploy_kernel.py.
        words: the script's own arguments.
    """
    contents, deploy = _gather(args, words)
    dataset = _dataset_of(args, contents, deploy)
    if dataset is not None:
        deploy = deploy.model_copy(update={"weights_dataset": dataset})
    metadata = kernel_metadata(contents.name, contents.title, deploy)
    if args.push:
        from foldsmith.kernel.upload import refuse_nobody

        refuse_nobody(metadata)
    folder = args.output / contents.name
    outputs = {
        f"{contents.name}.py": render(contents, args.compress),
        "kernel-metadata.json": _json(metadata),
        "manifest.json": _json(manifest_json(contents, f"{contents.name}.py")),
        "README.md": readme(folder, metadata, contents),
    }
    refuse_secrets(outputs, contents, args.embed_key)
    for name, text in outputs.items():
        write_text(folder / name, text)
    script: Path = folder / f"{contents.name}.py"
    others = ", ".join(sorted(outputs.keys() - {script.name}))
    print(f"written: {script} ({script.stat().st_size / 1000:.0f} KB), {others}")
    _say_unseen(contents)
    if args.stage_weights is not None:
        from foldsmith.kernel.upload import stage_weights

        assert dataset is not None
        staged = stage_weights(contents, deploy, dataset, args.stage_weights, args.encrypt)
        print(
            f"{len(staged)} files gathered: `kaggle datasets create -p {args.stage_weights}` uploads them as {dataset}"
        )
    if args.check:
        _check(args, words, script, contents, deploy)
    if args.push:
        from foldsmith.kernel.upload import push

        print(push(folder, metadata))
    return script


def _gather(args: argparse.Namespace, words: Sequence[str]) -> tuple[Contents, Deploy]:
    """What is packed, and the deploy section that holds."""
    script = Path(args.script)
    flags = {key: getattr(args, key) for key in _FLAGS if getattr(args, key) is not None}
    flags |= {"is_private": False} if args.public else {}
    flags |= {"enable_gpu": False} if args.no_gpu else {}
    flags |= {"enable_internet": True} if args.internet else {}
    flags |= {"strict_exit": True} if args.strict_exit else {}
    flags |= {"dataset_sources": args.dataset} if args.dataset else {}
    flags |= {"competition_sources": args.competition} if args.competition else {}
    if args.encrypt and args.stage_weights is None:
        raise UserError("goes with --stage-weights", key="--encrypt")
    if args.check and not script.is_file():
        raise UserError("is not here, and --check runs it", file=script, hint="give its path")
    if script.name == INFERENCE:
        if len(words) != 1 or words[0].startswith("-"):
            raise UserError(
                f"expected one ensemble file, got {' '.join(words)!r}", hint=f"./deploy_kernel.py {INFERENCE} best.yml"
            )
        ensemble_file = Path(words[0])
        contents = ensemble_contents(ensemble_file, args.models or [ensemble_file.parent, Path("runs"), *INPUT_ROOTS])
        deploy = settings(args.deploy, contents.deploy, flags)
        deadline = deploy.deadline or DEADLINE
        if deadline != "none":
            parse_duration(deadline)
        contents.options |= {"deadline": deadline, "strict_exit": deploy.strict_exit}
    else:
        for key in ("deadline", "strict_exit"):
            if key in flags:
                raise UserError("is for inference: other scripts know no deadline", key="--" + key.replace("_", "-"))
        contents = script_contents(script, words)
        deploy = settings(args.deploy, contents.deploy, flags)
        check_network(deploy, None if contents.options.get("needs_weights") else contents.config)
    contents.options["competitions"] = deploy.competition_sources
    if args.embed_key:
        contents.options["passphrase"] = _embedded(deploy)
    return contents, deploy


def _embedded(deploy: Deploy) -> str:
    """The passphrase that goes into the packed file, with a warning."""
    passphrase = passphrase_here()
    if not passphrase:
        raise UserError(f"needs the passphrase in {PASSPHRASE}", key="--embed-key")
    if not deploy.is_private:
        raise UserError("would publish the passphrase: the kernel is not private", key="--embed-key")
    print(
        "WARNING: the passphrase is in the packed file as readable text. Whoever can read the kernel or a copy "
        "of it can decrypt the weights, and everything else that has this passphrase. Keep the kernel private, also "
        "after the competition; use a passphrase of its own.",
        file=sys.stderr,
    )
    return passphrase


def refuse_secrets(outputs: dict[str, str], contents: Contents, embed: bool) -> None:
    """Fail before anything is written where the passphrase would be in it, as it is or in base64."""
    passphrase = passphrase_here()
    if not passphrase:
        return
    forms = [passphrase, repr(passphrase)[1:-1], base64.b64encode(passphrase.encode()).decode().rstrip("=")]
    texts = {**contents.files, **outputs}
    for name, text in texts.items():
        if embed and name == f"{contents.name}.py":
            continue
        if any(form in text for form in forms):
            raise UserError(
                f"{name} would hold the passphrase of {PASSPHRASE}; nothing is written",
                hint="take it out there; choose a longer one where it is a usual word; --embed-key embeds it",
            )


def _dataset_of(args: argparse.Namespace, contents: Contents, deploy: Deploy) -> str | None:
    """The id of the dataset that --stage-weights gathers."""
    if args.stage_weights is None or deploy.weights_dataset is not None:
        return deploy.weights_dataset
    owner, _, slug = kernel_metadata(contents.name, contents.title, deploy)["id"].partition("/")
    if owner == NOBODY:
        raise UserError("whose dataset is it?", key="deploy.user", hint="--user NAME, or --weights-dataset user/slug")
    return f"{owner}/{slug}-weights"


def _say_unseen(contents: Contents) -> None:
    if contents.not_here:
        print(f"not here, so neither their sizes nor their configs are known: {', '.join(contents.not_here)}")
    if contents.sealed and contents.config is None:
        print(f"encrypted, so their configs are not known: {', '.join(sorted(contents.sealed))}")


def _check(args: argparse.Namespace, words: Sequence[str], script: Path, contents: Contents, deploy: Deploy) -> None:
    from foldsmith.kernel.check import compare, run_packed, run_unpacked

    if contents.not_here:
        raise UserError(f"weights that are not here can't be run: {', '.join(contents.not_here)}", key="--check")
    inputs = {f"weights/{path.name}": path for path in [*contents.weights.values(), *contents.sealed.values()]}
    is_inference = Path(args.script).name == INFERENCE
    inputs |= _data_input(contents, args.data, is_inference)
    words_there = ["--strict-exit"] if is_inference else []
    proof = run_packed(script, inputs, words_there, network=deploy.enable_internet, passphrase=not args.embed_key)
    if is_inference:
        roots = sorted({str(path.parent) for path in [*contents.weights.values(), *contents.sealed.values()]})
        same = [*words, "--models", *roots, *(["--data", str(args.data)] if args.data else [])]
        same += [] if contents.options["deadline"] == "none" else ["--deadline", contents.options["deadline"]]
        compare(proof, run_unpacked(Path(args.script), same), script)
    what = "submission.csv is the unpacked run's, byte for byte" if is_inference else "it ran to its end"
    print(f"checked: {what}; {proof}")


def _data_input(contents: Contents, root: Path | None, is_inference: bool) -> dict[str, Path]:
    """The competition's folder, under the name that it has on Kaggle; of inference without the training images."""
    if contents.config is None:
        return {}
    name = [*contents.options["competitions"], Path(contents.config.data.root).name][0]
    config = locate_data(contents.config, root)
    data = config.data
    if not is_inference:
        return {name: Path(data.root)}
    paths = [config.data_path(key) for key in ("sample_submission", "test_dir", "labels_csv")]
    inside = [path.relative_to(data.root) for path in paths if path.is_relative_to(data.root)]
    if Path(".") in inside:  # the images lie in the folder itself
        return {name: Path(data.root)}
    return {f"{name}/{path}": Path(data.root, path) for path in inside if Path(data.root, path).exists()}


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
