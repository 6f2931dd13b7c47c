"""Under a clock: a run never takes longer than it may, and what it leaves out is views first, then the last members."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foldsmith.data.sheets import Sheet, read_csv
from foldsmith.errors import UserError
from foldsmith.inference.anytime import MemberJob, MembersRun
from foldsmith.inference.budget import Budget, Remaining, Stopwatch, parse_duration, plan_views, seconds_since_start
from foldsmith.inference.submission import Submission

IMAGES, BATCH = 100, 10


class FakeRun:
    """Members whose batches take made-up times on a clock of its own."""

    def __init__(self, costs, views, folds, seconds, guesses=(), loading=0.0, decode=0.0, writing=0.0, stored=()):
        self.now, self.costs, self.loading, self.writing = 0.0, costs, loading, writing
        self.decode, self.decoded, self.stored = decode, 0, stored  # seconds a batch, batches decoded, (member, fold)
        self.batches: list[float] = []  # seconds of each
        self.written: list[tuple[int, float]] = []  # members, when
        names = [f"view{view}" for view in range(views)]
        jobs = [
            MemberJob(str(number), folds, names, frozenset(fold for member, fold in stored if member == number))
            for number in range(len(costs))
        ]
        budget = Budget(seconds, clock=lambda: self.now)
        self.run = MembersRun(
            jobs,
            self.predict,
            self.finished,
            budget,
            IMAGES,
            guesses,
            say=lambda text: None,
            decoding=lambda: (decode * self.decoded, decode * (IMAGES // BATCH - self.decoded)),
        )
        self.used: list[tuple[int, int, float]] = []  # member, fold, mean views of finished folds

    def predict(self, member, fold, before_batch):
        if (member, fold) in self.stored:
            return np.full((IMAGES, 2), member + fold / 10, dtype=np.float32)
        self.now += self.loading
        views = []
        for done in range(0, IMAGES, BATCH):
            if self.decoded == done // BATCH:
                self.now += self.decode
                self.decoded += 1
            views.append(before_batch(done))
            self.batches.append(self.costs[member] * views[-1])
            self.now += self.batches[-1]
        self.used.append((member, fold, sum(views) / len(views)))
        return np.full((IMAGES, 2), member + fold / 10, dtype=np.float32)

    def finished(self, members):
        self.now += self.writing
        self.written.append((len(members), self.now))


def test_without_a_deadline_all_is_done():
    fake = FakeRun([1.0, 2.0], views=2, folds=3, seconds=None)
    members = fake.run.run()
    assert not fake.run.cut and len(fake.used) == 6 and all(views == 2 for _, _, views in fake.used)
    np.testing.assert_allclose([member[0, 0] for member in members], [0.1, 1.1], rtol=1e-6)
    assert [count for count, _ in fake.written] == [1, 2]


def test_views_go_first():
    # 2 members x 2 folds x 2 views x 10 batches of 1 s are 80 s; with one view for the second member 60 s
    fake = FakeRun([1.0, 1.0], views=2, folds=2, seconds=64)
    fake.run.run()
    assert fake.run.cut and fake.now <= 64
    assert [(member, fold) for member, fold, _ in fake.used] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [views for member, _, views in fake.used if member == 0] == [2, 2], "the last members lose theirs first"
    assert [views for member, _, views in fake.used if member == 1] == [1, 1.3], "at the end there is time for some"


def test_then_members():
    fake = FakeRun([1.0, 1.0, 1.0], views=2, folds=2, seconds=45)
    members = fake.run.run()
    assert len(members) == 2 and fake.now <= 45
    assert fake.used[0][2] == 1.2 and {views for _, _, views in fake.used[1:]} == {1}, "two batches to see the speed"


def test_a_member_may_stand_on_some_of_its_folds():
    fake = FakeRun([1.0], views=1, folds=3, seconds=25)
    (only,) = fake.run.run()
    np.testing.assert_allclose(only[0, 0], (0.0 + 0.1) / 2, rtol=1e-6)
    assert fake.run.cut and fake.written == [(1, pytest.approx(24, abs=1.5))]


def test_a_deadline_before_the_first_fold_leaves_the_prior():
    fake = FakeRun([10.0], views=1, folds=1, seconds=25)
    assert fake.run.run() == [] and fake.run.cut and fake.now <= 25 and fake.written == []


@pytest.fixture(scope="module")
def submission(tmp_path_factory) -> Submission:
    path = tmp_path_factory.mktemp("clock") / "s.csv"
    ids = [f"{number:04d}" for number in range(IMAGES)]
    sheet = Sheet(path, ["id", "tags"], [[name, ""] for name in ids], range(2, IMAGES + 2))
    return Submission(path, sheet, "id", None, ["0", "1"], " ")


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    costs=st.lists(st.floats(0.01, 5.0), min_size=1, max_size=7),
    views=st.integers(1, 8),
    folds=st.integers(1, 5),
    share=st.floats(0.001, 1.5),
    known=st.booleans(),
    loading=st.floats(0, 2),
    decode=st.floats(0, 5),
    writing=st.floats(0, 3),
)
def test_no_run_is_late_by_more_than_a_batch(submission, costs, views, folds, share, known, loading, decode, writing):
    """50 cost profiles. A batch is what is decoded, loaded for and predicted between two looks at the clock."""
    whole = sum(costs) * views * folds * IMAGES / BATCH + decode * IMAGES / BATCH
    fake = FakeRun(costs, views, folds, share * whole, costs if known else (), loading, decode, writing)
    fake.run.budget.reserve = writing  # as after the prior submission
    submission.write_prior(["0"])

    def written(members):
        fake.now += writing
        fake.written.append((len(members), fake.now))
        values = np.mean(members, axis=0)
        submission.write(values, values > 0.5, ["0"], [])

    fake.run.finished = written
    members = fake.run.run()
    sheet = read_csv(submission.path)
    assert sheet.column("id") == submission.sample.column("id"), "a valid file, whatever the costs"
    longest = max([0.0, *fake.batches]) + decode + loading
    assert fake.now <= share * whole + longest + writing + 1e-6
    assert len(members) == len(fake.written)
    loading += writing
    if not fake.run.cut:
        assert len(fake.used) == len(costs) * folds
    if (
        loading == 0 and share >= 1.2 and (known or len(costs) == 1)
    ):  # else the rest is taken to be as slow as the first
        assert not fake.run.cut, "all of it fits"


@given(
    left=st.floats(0, 1000),
    members=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 8), st.floats(0.1, 50)), min_size=1, max_size=6),
)
def test_plans_fit_and_take_from_the_end(left, members):
    jobs = [Remaining(*member) for member in members]
    views = plan_views(left, jobs)
    cost = sum(job.folds * count * job.seconds for job, count in zip(jobs, views, strict=True)) * 1.05
    assert cost <= left * (1 + 1e-9) or views == [1] + [0] * (len(jobs) - 1)
    full = [job.views for job in jobs]
    assert all(count <= most for count, most in zip(views, full, strict=True)) and views[0] >= 1
    for number in range(1, len(jobs)):
        if views[number] > 1:
            assert views[:number] == full[:number]
        if views[number] == 1:
            assert min(views[:number]) >= 1


def test_speeds_of_others_are_guessed_from_their_relative_costs():
    watch = Stopwatch(100, [2.0, 3.0, None])
    assert watch.seconds(0) == 0
    watch.note(0, images=50, views=2, seconds=40)
    assert [watch.seconds(member) for member in range(3)] == [40, 60, 40]


@pytest.mark.parametrize(
    ("text", "seconds"), [("8h40m", 31200), ("45m", 2700), ("12s", 12), ("1h30m10s", 5410), ("90", 90), ("0.5h", 1800)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "8x", "-5m", "0s", "5m8h", "soon"])
def test_what_is_no_duration(text):
    with pytest.raises(UserError, match="is no time"):
        parse_duration(text)


def test_the_process_knows_when_it_started():
    import subprocess
    import sys

    code = "import time; time.sleep(0.5); from foldsmith.inference.budget import *; print(seconds_since_start())"
    seconds = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0.5 <= seconds < 60 and seconds_since_start() > 0


def test_a_member_of_unknown_cost_is_tried_before_it_is_left_out():
    # 30 s for the first; the second would take as long, for all that is known, but takes 10 s
    fake = FakeRun([3.0, 1.0], views=1, folds=1, seconds=45)
    assert len(fake.run.run()) == 2 and not fake.run.cut
    known = FakeRun([3.0, 3.0], views=1, folds=1, seconds=45, guesses=[3.0, 3.0])
    assert len(known.run.run()) == 1 and known.now == 30


def test_members_that_run_on_other_devices_are_counted():
    jobs = [MemberJob(name, 2, ["identity", "hflip"]) for name in ("a", "b", "c")]
    run = MembersRun(jobs, None, None, Budget(100, clock=lambda: 0.0), IMAGES, [1.0, 1.0, 1.0], lanes=2)
    run.watch.note(0, IMAGES, 1, 10.0)  # a fold and view takes 10 s
    run.folds_left = [1.5, 2.0, 2.0]  # 30 + 40 + 40 s, and 200 s on two lanes
    assert [run._planned(member) for member in range(3)] == [2, 2, 2]
    run.budget.end = 50.0  # 100 s: the last loses a view; the second would take 40 s on its lane
    assert [run._planned(member) for member in range(3)] == [2, 2, 1]
    run.folds_left = [0.0, 2.0, 2.0]
    assert [run._planned(member) for member in range(3)][1:] == [2, 2], "what is finished does not count"


def test_decoding_is_not_taken_for_the_speed_of_the_models():
    # 100 s of decoding once, then 2 members x 2 folds x 2 views x 10 batches of 1 s: 180 s
    fake = FakeRun([1.0, 1.0], views=2, folds=2, seconds=195, guesses=[1.0, 1.0], decode=10.0)
    assert len(fake.run.run()) == 2 and not fake.run.cut and fake.now == pytest.approx(180)


def test_what_a_killed_run_has_done_costs_nothing():
    stored = [(0, 0), (0, 1), (1, 0)]
    fake = FakeRun([1.0, 1.0], views=2, folds=2, seconds=22, guesses=[1.0, 1.0], stored=stored)
    assert len(fake.run.run()) == 2 and not fake.run.cut and fake.now == 20 and fake.used == [(1, 1, 2.0)]
    late = FakeRun([1.0, 1.0], views=2, folds=2, seconds=0, stored=stored)
    late.now = 5.0
    members = late.run.run()
    assert len(members) == 2 and late.run.cut and late.used == [], "what is stored is used, even too late"


def test_nothing_is_loaded_when_the_time_is_over():
    fake = FakeRun([1.0], views=1, folds=2, seconds=14, loading=3.0)
    assert len(fake.run.run()) == 1 and fake.now == 13, "the second fold would be loaded until 16"
