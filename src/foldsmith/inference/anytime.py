"""Members one after the other under a clock: after each there is something better to submit than before."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from foldsmith.inference.budget import (
    RESERVE,
    Budget,
    DeadlineReached,
    Remaining,
    Stopwatch,
    plan_views,
)
from foldsmith.metrics import Probabilities

BeforeBatch = Callable[[int], int]


@dataclass(frozen=True)
class MemberJob:
    """A member's work: so many folds, these views."""

    name: str
    folds: int
    views: list[str]
    stored: frozenset[int] = frozenset()  # folds that cost nothing: a killed run has predicted them


class MembersRun:
    """The members of an ensemble, predicted in order until all are done or the time is over.

    Args:
        jobs: in the order of the ensemble file.
        predict_fold: (member, fold, before_batch) to probabilities (images, classes); calls before_batch with the
            number of images done before every batch, and takes as many of the member's views as it says.
        finished: told the probabilities of the members so far whenever a member is finished.
        guesses: relative costs of the members that are known from elsewhere.
        lanes: members that are predicted at the same time, each on a device of its own.
        decoding: seconds that were waited for the first decoding of images, and that are still to be waited: the next
            pass over them has no such wait.
    """

    def __init__(
        self,
        jobs: Sequence[MemberJob],
        predict_fold: Callable[[int, int, BeforeBatch], Probabilities],
        finished: Callable[[list[Probabilities]], None],
        budget: Budget,
        images: int,
        guesses: Sequence[float | None] = (),
        lanes: int = 1,
        say: Callable[[str], None] = print,
        decoding: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0),
    ) -> None:
        self.jobs, self.predict_fold, self.finished = list(jobs), predict_fold, finished
        self.budget, self.lanes, self.say = budget, max(1, min(lanes, len(jobs))), say
        self.watch, self.decoding = Stopwatch(images, guesses or [None] * len(jobs)), decoding
        self.folds_left: list[float] = [job.folds - len(job.stored) for job in jobs]  # 2.5: half of one is done
        self.lead = 0.0  # seconds from the beginning of a fold to its first batch: the weights are loaded
        self.cut = False  # something was left out
        self.stopped = False  # no lane begins another batch

    def run(self) -> list[Probabilities]:
        """Probabilities of the members that were finished; a member may stand on some of its folds alone."""
        done: list[Probabilities] = []
        for member, (total, folds) in enumerate(self._results()):
            if total is None:
                self._leave_out(member)
                break
            done.append(total / np.float32(folds))
            started = self.budget.clock()
            self.finished(done)
            self.budget.reserve = self.budget.clock() - started  # the next one takes as long
        return done

    def _results(self) -> Iterator[tuple[Probabilities | None, int]]:
        """`_predict_member` of every member, in order."""
        if self.lanes == 1:
            yield from map(self._predict_member, range(len(self.jobs)))
            return
        with ThreadPoolExecutor(self.lanes, thread_name_prefix="member") as pool:
            try:
                yield from pool.map(self._predict_member, range(len(self.jobs)))
            finally:
                self.stopped = True  # else the pool waits until running members are done

    def _predict_member(self, member: int) -> tuple[Probabilities | None, int]:
        """The sum over the folds that could be finished, in float32 in their order, and their number."""
        job = self.jobs[member]
        total: Probabilities | None = None
        if self._planned(member) == 0:
            return None, 0
        for fold in range(job.folds):
            try:
                if fold not in job.stored and self.budget.left <= self.lead:
                    raise DeadlineReached
                predicted = self.predict_fold(member, fold, self._guard(member, fold))
            except DeadlineReached:
                if not self.stopped:
                    self.say(f"the deadline ends {job.name} after {fold} of {job.folds} folds")
                self.cut = True
                self.folds_left[member] = 0
                return total, fold
            self.folds_left[member] = self._after(member, fold)
            total = predicted if total is None else total + predicted
        return total, job.folds

    def _after(self, member: int, fold: int) -> int:
        """How many folds behind this one are to be predicted."""
        return len(set(range(fold + 1, self.jobs[member].folds)) - self.jobs[member].stored)

    def _guard(self, member: int, fold: int) -> BeforeBatch:
        """Says before every batch how many views it may have, from the time left and the speed so far."""
        job, began_fold = self.jobs[member], self.budget.clock()
        batches: list[tuple[float, float, int, int]] = []  # when each began, waits so far, images before it, its views

        def before_batch(images: int) -> int:
            now, waited = self.budget.clock(), self.decoding()[0]
            if not batches:
                self.lead = now - began_fold
            longest = now - batches[-1][0] if batches else 0.0
            if self.stopped or self.budget.left < longest or self.budget.left <= 0:
                raise DeadlineReached
            if len(batches) > 1:  # the first batch warms up
                (began, before_wait, before, _), views = batches[1], [views for *_, views in batches[1:]]
                spent = max(0.0, now - began - (waited - before_wait))
                self.watch.note(member, images - before, sum(views) / len(views), spent)
            self.folds_left[member] = self._after(member, fold) + 1 - images / self.watch.images
            views_now = max(1, self._planned(member))
            if views_now < len(job.views) and not self.cut:
                self.say(f"short of time: {job.name} goes on with {views_now} of {len(job.views)} views")
            self.cut = self.cut or views_now < len(job.views)
            batches.append((now, waited, images, views_now))
            return views_now

        return before_batch

    def _planned(self, member: int) -> int:
        """Views that a member can afford beside all others that are not finished; 0: none."""
        job = self.jobs[member]
        if not self.folds_left[member]:
            return len(job.views)
        unfinished = [number for number, folds in enumerate(self.folds_left) if folds > 0]
        rest = [
            Remaining(self.folds_left[number], len(self.jobs[number].views), self.watch.seconds(number))
            for number in unfinished
        ]
        own = rest[unfinished.index(member)]
        one_view, left = own.folds * own.seconds * RESERVE, self.budget.left - self.decoding()[1]
        begins = own.folds == job.folds
        if member > 0 and begins and one_view > left and self.watch.knows(member):
            return 0  # not even one view: what has been found is better than half a member
        views = max(1, plan_views(left * min(self.lanes, len(rest)), rest)[unfinished.index(member)])
        while views > 1 and views * one_view > left:
            views -= 1  # a member runs on one lane
        return views

    def _leave_out(self, member: int) -> None:
        names = [job.name for job in self.jobs[member:]]
        if names:
            self.cut = True
            self.say(f"short of time: {', '.join(names)} {'is' if len(names) == 1 else 'are'} left out")
