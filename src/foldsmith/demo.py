"""`make demo`: the commands that a user would type, one after the other, and a table of what came out."""

import csv
import importlib.util
import shlex
import time
from pathlib import Path

import foldsmith
from foldsmith.ensemble.file import Ensemble, read_ensemble
from foldsmith.ensemble.members import load_members
from foldsmith.errors import UserError
from foldsmith.files import write_bytes
from foldsmith.kernel.check import compare, run_packed
from foldsmith.metrics import best_fbeta

EXPERIMENTS = ["clipart_lite0", "clipart_forgiving"]
DATA = Path("data/clipart")


def run_demo(output: Path) -> None:
    """Train, predict, search, infer, pack, and run the packed kernel on its own; all below `output`."""
    started = time.monotonic()
    if not DATA.is_dir():
        raise UserError("not found; the demo runs in the project's folder", file=DATA)
    for name in EXPERIMENTS:
        _run("train.py", "--config", name, "--output", output)
        _run("predict_oof.py", "--config", name, "--output", output)
    # What is newer than all that it is made of is not made again.
    best, submission, kernel = output / "best.yml", output / "submission.csv", output / "kernel" / "best" / "best.py"
    proof = kernel.with_name("submission.csv")
    code = sorted(Path(foldsmith.__file__).parent.rglob("*.py"))
    oof = sorted(path for name in EXPERIMENTS for path in (output / name).glob("*.npy"))
    if not _is_newer(best, [*oof, *code]):
        _run("ensemble_search.py", best, *(output / name / f"{name}_f0.npy" for name in EXPERIMENTS))
    if not _is_newer(submission, [best]):
        _run("ensemble_inference.py", best, "--models", output, "--output", submission)
    if not _is_newer(proof, [submission]):
        _run("deploy_kernel.py", "ensemble_inference.py", best, "--models", output, "--output", output / "kernel")
        _prove_kernel(output, kernel, proof)
    _print_table(output, read_ensemble(output / "best.yml"), time.monotonic() - started)


def _run(script: str, *words: object) -> None:
    """Call a top-level script's main() in this process: importing torch seven times would take a minute."""
    argv = [str(word) for word in words]
    print(f"\n$ ./{script} {shlex.join(argv)}", flush=True)
    spec = importlib.util.spec_from_file_location(Path(script).stem, script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(argv)


def _is_newer(target: Path, sources: list[Path]) -> bool:
    return target.is_file() and all(target.stat().st_mtime_ns > path.stat().st_mtime_ns for path in sources)


def _prove_kernel(output: Path, script: Path, proof: Path) -> None:
    """Run the packed kernel as Kaggle would; its submission is to be ensemble_inference.py's."""
    print(f"\n$ cd an/empty/folder && python {script}", flush=True)
    inputs = {DATA.name: DATA, **{name: output / name for name in EXPERIMENTS}}
    found = run_packed(script, inputs, ["--strict-exit"])
    expected = (output / "submission.csv").read_bytes()
    compare(found, expected, script)
    write_bytes(proof, expected)
    print(f"the kernel's submission.csv is the same, byte for byte; {found}")


def _print_table(output: Path, ensemble: Ensemble, seconds: float) -> None:
    data = load_members([output / name / f"{name}_f0.npy" for name in EXPERIMENTS])
    print(f"\n{'':<20}  OOF F2   training")
    for member in data.members:
        score = best_fbeta(member.probabilities, data.targets).score
        print(f"{member.name:<20}  {score:.4f}   {_training_seconds(output / member.name):5.0f} s")
    print(f"{'best single':<20}  {ensemble.best_single_score:.4f}")
    print(f"{'uniform blend':<20}  {ensemble.uniform_score:.4f}")
    print(f"{'searched blend':<20}  {ensemble.score:.4f}   (nested over folds: {ensemble.nested_score:.4f})")
    print(f"\nall in {seconds:.0f} s. Files in {output}/:")
    print(f"  {', '.join(f'{name}/' for name in EXPERIMENTS)}   weights, OOF predictions, logs, curves")
    print("  best.yml          the blend\n  submission.csv    what the competition gets")
    print("  kernel/best/      the same inference as one file for an offline kernel")


def _training_seconds(run: Path) -> float:
    """Seconds of all epochs, validation included, from every fold's timings.csv."""
    total = 0.0
    for path in run.glob("fold*/timings.csv"):
        with open(path, encoding="utf-8", newline="") as file:
            total += sum(float(row["train_seconds"]) + float(row["valid_seconds"]) for row in csv.DictReader(file))
    return total
