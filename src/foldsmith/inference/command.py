"""What ensemble_inference.py does with its arguments: run models, or combine what was predicted before."""

import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from foldsmith.ensemble.file import find_ensemble, read_ensemble
from foldsmith.errors import UserError
from foldsmith.inference.budget import Budget, parse_duration, seconds_since_start
from foldsmith.inference.combine import combine, submit_predictions
from foldsmith.inference.ensemble import Elsewhere, Options, run_ensemble
from foldsmith.inference.find import INPUT_ROOTS
from foldsmith.inference.predict import pick_devices


def run_command(
    args: Namespace,
    usage_error: Callable[[str], Any],
    elsewhere: Callable[[int], AbstractContextManager[Elsewhere | None]],
) -> None:
    """Run what the arguments of ensemble_inference.py ask for.

    Args:
        elsewhere: given the number of members, what predicts instead of this machine's devices, as long as its context
            lasts; None: they do.
    """
    ways = [way for way in ("vote", "mean", "geometric") if getattr(args, way)]
    if len(ways) > 1 or (ways and args.from_predictions):
        usage_error("--vote, --mean, --geometric and --from-predictions exclude each other")
    if args.ensemble is None and not ways:
        usage_error("the ensemble file is missing")
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise UserError(f"expected a number in 0..1, got {args.threshold}", key="--threshold")
    if args.threshold is not None and not (args.from_predictions or (ways and ways != ["vote"])):
        usage_error("--threshold goes with --from-predictions, --mean or --geometric")
    if args.threshold is not None and ways and {path.suffix for path in getattr(args, ways[0])} == {".csv"}:
        usage_error("means of csv files are probabilities again: --threshold goes with .npy files")
    if args.deadline is not None and (ways or args.from_predictions):
        usage_error("--deadline is for running models")
    ensemble = None if args.ensemble is None else read_ensemble(find_ensemble(args.ensemble))
    if ways:
        combine(ways[0], getattr(args, ways[0]), args.output, ensemble, args.threshold)
        return
    assert ensemble is not None
    if args.from_predictions:
        submit_predictions(ensemble, args.from_predictions, args.output, args.threshold)
        return
    with elsewhere(len(ensemble.members)) as predictor:
        run_ensemble(ensemble, _options(args, predictor))


def _options(args: Namespace, elsewhere: Elsewhere | None) -> Options:
    return Options(
        model_roots=[*(args.models or [args.ensemble.parent, Path("runs")]), *INPUT_ROOTS],
        data_root=args.data,
        output=args.output,
        devices=pick_devices(args.device),
        budget=budget(args.deadline, args.started_at),
        keep_predictions=args.keep_predictions,
        elsewhere=elsewhere,
    )


def budget(deadline: str | None, started_at: float | None) -> Budget:
    """The time until the deadline, counted from `started_at` (seconds since 1970) or from this process's start."""
    if deadline is None:
        return Budget(None)
    if started_at is not None and not 0 <= started_at <= time.time() + 1:
        raise UserError(f"{started_at} is no time in the past", key="--started-at", hint="seconds since 1970: date +%s")
    elapsed = seconds_since_start() if started_at is None else time.time() - started_at
    return Budget(parse_duration(deadline), started=time.monotonic() - elapsed)
