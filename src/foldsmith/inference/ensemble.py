"""An ensemble file to a submission: every member, every fold, every view, one sum, one threshold; under a clock.

run_ensemble    checks all that can be wrong, then: the prior, and a better submission after every member
"""

import itertools
import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from foldsmith.config import Config
from foldsmith.data.images import find_images
from foldsmith.data.tables import class_columns, read_sample
from foldsmith.ensemble.file import Ensemble, blend
from foldsmith.errors import EXIT_DEADLINE, UserError
from foldsmith.files import code_sha256, sha256_file, sha256_lines
from foldsmith.inference.anytime import BeforeBatch, MemberJob, MembersRun
from foldsmith.inference.budget import Budget
from foldsmith.inference.decoded import DecodedImages
from foldsmith.inference.find import find_weights, locate_data
from foldsmith.inference.lanes import Lane, MemberWeights
from foldsmith.inference.parts import Parts
from foldsmith.inference.predict import amp_of
from foldsmith.inference.predictions import FORM, save_predictions
from foldsmith.inference.submission import Submission, check_writable
from foldsmith.inference.views import expand_views
from foldsmith.metrics import Probabilities, decide


class Elsewhere(Protocol):
    """What predicts on other machines."""

    device: torch.device  # the kind of theirs

    def __call__(
        self, weights: Path, config: Config, paths: Sequence[Path], views: list[str], merge: str
    ) -> tuple[Probabilities, dict[int, str]]:
        """Probabilities of all images, and the rows of those that can't be read with the reasons."""


@dataclass(frozen=True)
class Options:
    """What the command line says beside the ensemble file."""

    model_roots: Sequence[Path]  # folders below which weights are searched
    output: Path  # the csv to write
    devices: Sequence[torch.device]  # members are spread over them
    data_root: Path | None = None  # the competition's folder; None: the config's, or below the usual input folders
    budget: Budget | None = None
    keep_predictions: Path | None = None  # a folder for each member's probabilities
    elsewhere: Elsewhere | None = None  # predicts instead of the devices, without a deadline, all members at once
    weights: dict[str, Path] | None = None  # by name, where they have been found and proved already


def run_ensemble(ensemble: Ensemble, options: Options, stands: Callable[[], None] = lambda: None) -> None:
    """Predict the test images and write the submission.

    The first thing written is a valid submission of the most frequent labels, unless a killed run left a better one; it
    is improved after every member.

    Args:
        stands: called once a valid submission stands.

    Raises:
        UserError: code 5 when the deadline came before all was done; the submission is valid then.
    """
    budget = options.budget or Budget(None)
    check_writable(options.output)
    if options.keep_predictions is not None:
        check_writable(options.keep_predictions / FORM, key="--keep-predictions")
    unnamed = [member.name for member in ensemble.members if not member.weights]
    if unnamed:
        raise UserError(
            f"names no weights of {', '.join(unnamed)}: it was made from predictions of the older layout",
            key="members",
            hint="name weights and their sha256 there, or blend predictions with --mean",
        )
    weights = options.weights or find_weights(ensemble, options.model_roots)
    work = _Work(ensemble, weights, options)
    goes_on = work.parts.folder.is_dir() and any(job.stored for job in work.jobs())
    if not (goes_on and work.submission.stands()):
        started = budget.clock()
        work.submission.write_prior(ensemble.prior)
        budget.reserve = budget.clock() - started  # the first member's submission takes as long
    stands()
    jobs = work.jobs()
    speeds = [member.images_per_second for member in ensemble.members]
    costs = [1 / (speed * len(job.views)) if speed else None for speed, job in zip(speeds, jobs, strict=True)]
    run = MembersRun(
        jobs,
        work.predict_fold,
        work.improve,
        budget,
        len(work.ids),
        costs,
        lanes=len(options.devices) if options.elsewhere is None else len(jobs),
        decoding=work.images.decoding,
    )
    with work.images:
        predictions = run.run()
    work.say_bad_images()
    if options.keep_predictions is not None:
        work.keep(options.keep_predictions, predictions)
    if run.cut:
        raise UserError(
            f"the deadline came: the submission stands on {len(predictions)} of {len(jobs)} members, "
            "or on fewer views or folds than planned",
            file=options.output,
            hint=f"the file is valid; run again without --deadline to go on from {work.parts.folder}",
            code=EXIT_DEADLINE,
        )
    work.parts.remove()


class _Work:
    """All that the members share, checked: weights, classes, the test images, where the submission goes."""

    def __init__(self, ensemble: Ensemble, weights: dict[str, Path], options: Options) -> None:
        self.ensemble, self.elsewhere = ensemble, options.elsewhere
        self.known = MemberWeights(ensemble, weights)
        self.classes = self.known.classes
        first = ensemble.members[0].weights[0]
        config = locate_data(self.known.config(first), options.data_root)
        sample, id_column = read_sample(config)
        self.ids = sample.column(id_column)
        columns = class_columns(config, sample, id_column, self.classes)
        self.submission = Submission(
            options.output, sample, id_column, columns, self.classes, config.data.label_separator or " "
        )
        paths = find_images(config.data_path("test_dir"), self.ids, config.data.image_extension, missing_ok=True)
        kept = self.known.canvases() if self.elsewhere is None else []
        self.images = DecodedImages(paths, keep=kept, bad_hint=None)
        self.parts = Parts(options.output, (len(self.ids), len(self.classes)))
        self.code_sha256 = code_sha256()
        self.device = options.devices[0] if options.elsewhere is None else options.elsewhere.device
        self.lanes: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        for device in options.devices:
            self.lanes.put(Lane(device))

    def predict_fold(self, member: int, fold: int, before_batch: BeforeBatch) -> Probabilities:
        """Probabilities of a weights file, classes in the ensemble's order; from a killed run's parts if they fit."""
        job = self.ensemble.members[member]
        name, views = job.weights[fold], expand_views(job.views)
        fewest = len(views)

        def counting(images: int) -> int:
            nonlocal fewest
            count = before_batch(images)
            fewest = min(fewest, count)
            return count

        made_from = self._made_from(member, fold)
        known = self.parts.load(made_from)
        if known is not None:
            return known
        if self.elsewhere is None:
            title = f"member {member + 1}/{len(self.ensemble.members)} {job.name}, fold {fold + 1}/{len(job.weights)}"
            lane = self.lanes.get()
            try:
                predicted = lane.predict(self.known, name, self.images, views, title, job.merge, counting)
            finally:
                self.lanes.put(lane)
        else:
            counting(0)
            path, config = self.known.paths[name], self.known.config(name)
            predicted, bad = self.elsewhere(path, config, self.images.paths, views, job.merge)
            self.images.bad |= bad
        predicted = np.ascontiguousarray(predicted[:, self.known.order[name]])
        if fewest == len(views):
            self._save(made_from, predicted)
        return predicted

    @cached_property
    def images_sha256(self) -> str:
        """Hash of the ids and of what their files hold; read once, after there is something to submit."""
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            return sha256_lines(itertools.chain(self.ids, pool.map(_sha256, self.images.paths)))

    def jobs(self) -> list[MemberJob]:
        """The members' work, and what a killed run has done of it."""
        self.images.bad |= self.parts.load_bad(self.images_sha256)
        jobs = []
        for number, member in enumerate(self.ensemble.members):
            folds = range(len(member.weights))
            stored = frozenset(fold for fold in folds if self.parts.has(self._made_from(number, fold)))
            jobs.append(MemberJob(member.name, len(folds), expand_views(member.views), stored))
        return jobs

    def _made_from(self, member: int, fold: int) -> dict[str, Any]:
        """All that a fold's predictions follow from."""
        job = self.ensemble.members[member]
        config = self.known.config(job.weights[fold])
        return {
            "weights": self.known.sha256[job.weights[fold]],
            "classes": self.ensemble.classes_sha256,
            "views": expand_views(job.views),
            "merge": job.merge,
            "images": self.images_sha256,
            "code": self.code_sha256,
            "batch_size": config.test.batch_size,
            "device": self.device.type,
            "amp": amp_of(config, self.device),
        }

    def _save(self, made_from: dict[str, Any], predicted: Probabilities) -> None:
        try:
            self.parts.save_bad(self.images_sha256, self.images.bad)
            self.parts.save(made_from, predicted)
        except UserError as error:  # a full disk: only a resumption would need it
            print(f"a finished fold can't be kept for a resumption: {error}")

    def improve(self, members: list[Probabilities]) -> None:
        """Write the submission of the first members, at the threshold that is best for them."""
        count = len(members)
        ensemble = self.ensemble
        probabilities = blend(members, [member.weight for member in ensemble.members[:count]])
        is_prefix = count < len(ensemble.members) and ensemble.threshold is not None
        threshold = ensemble.prefix_thresholds[count - 1] if is_prefix else ensemble.threshold
        predicted = decide(probabilities, threshold, ensemble.min_labels, ensemble.max_labels)
        what = self.submission.write(probabilities, predicted, ensemble.prior, sorted(self.images.bad))
        members_done = f"{count} of {len(ensemble.members)} members"
        print(f"written: {self.submission.path} ({members_done}, {len(self.ids)} images, {what})")

    def keep(self, folder: Path, predictions: list[Probabilities]) -> None:
        """Save the probabilities of the members that were finished."""
        members = self.ensemble.members[: len(predictions)]
        bad = sorted(self.images.bad)
        save_predictions(folder, self.submission, self.ensemble, predictions, bad)
        print(f"kept: the predictions of {len(members)} of {len(self.ensemble.members)} members, in {folder}")

    def say_bad_images(self) -> None:
        bad = self.images.bad
        if bad:
            print(f"{len(bad)} of {len(self.ids)} images can't be read and get the most frequent labels:")
            for row in sorted(bad):
                print(f"  {self.images.paths[row].name!r}: {bad[row]}")


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path)
    except (OSError, ValueError) as error:  # it is not there, or its name is none
        return type(error).__name__
