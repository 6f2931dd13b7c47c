"""Learning rates against torch's own schedulers; the optimizer's groups."""

import math

import numpy as np
import pytest
import timm
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
)

from foldsmith.config.training import Warmup
from foldsmith.training.optimizers import build_optimizer
from foldsmith.training.schedules import (
    SCHEDULES,
    Cosine,
    CosineRestarts,
    Cyclic,
    MultiStep,
    OneCycle,
    ReduceOnPlateau,
    Schedule,
    set_rates,
)

RATES = (0.1, 0.004)


def sgd():
    """An optimizer with two groups of different rates."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, "initial_lr": lr} for lr in RATES]
    return SGD(groups, lr=1.0)


def rates_of(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


def torch_rates(scheduler, optimizer, steps):
    rates = []
    for step in range(steps):
        if step:
            optimizer.step()
            scheduler.step()
        rates.append(rates_of(optimizer))
    return np.array(rates)


def our_rates(schedule, total):
    return np.array([[schedule.rate(initial, step, total, 1) for initial in RATES] for step in range(total)])


@pytest.mark.parametrize("total", [1, 2, 7, 100])
@pytest.mark.parametrize("min_lr", [0.0, 1e-3])
def test_cosine_is_torchs(total, min_lr):
    optimizer = sgd()
    expected = torch_rates(CosineAnnealingLR(optimizer, T_max=total, eta_min=min_lr), optimizer, total)
    np.testing.assert_allclose(our_rates(Cosine(min_lr), total), expected, rtol=1e-9, atol=1e-15)


def test_cosine_goes_from_the_initial_rate_to_min_lr():
    schedule = Cosine(0.02)
    rates = [schedule.rate(0.1, step, 4, 1) for step in range(5)]
    expected = [0.1, 0.06 + 0.04 / math.sqrt(2), 0.06, 0.06 - 0.04 / math.sqrt(2), 0.02]
    assert rates == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("total", [1, 2, 3, 10, 37, 500])
@pytest.mark.parametrize("options", [{}, {"pct_start": 0.15}, {"pct_start": 0.5001, "div_factor": 10.0}])
def test_one_cycle_is_torchs(total, options):
    optimizer = sgd()
    scheduler = OneCycleLR(optimizer, list(RATES), total_steps=total, cycle_momentum=False, **options)
    expected = torch_rates(scheduler, optimizer, total)
    np.testing.assert_allclose(our_rates(OneCycle(**options), total), expected, rtol=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "triangular", "step_size_up": 4},
        {"mode": "triangular2", "step_size_up": 3, "step_size_down": 5},
        {"mode": "exp_range", "step_size_up": 4, "gamma": 0.9},
    ],
)
def test_cyclic_is_torchs(options):
    optimizer = sgd()
    scheduler = CyclicLR(optimizer, base_lr=[1e-4, 1e-4], max_lr=list(RATES), cycle_momentum=False, **options)
    expected = torch_rates(scheduler, optimizer, 40)
    found = our_rates(Cyclic(base_lr=1e-4, **options), 40)
    assert found[0].tolist() == [1e-4, 1e-4]
    np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-9)  # torch begins at the optimizer's own initial_lr


def test_multi_step_is_torchs_by_epochs():
    optimizer = sgd()
    expected = torch_rates(MultiStepLR(optimizer, [2, 5, 6], gamma=0.3), optimizer, 9)
    schedule = MultiStep([2, 5, 6], gamma=0.3)
    found = [[schedule.rate(initial, epoch * 7 + 6, 63, 7) for initial in RATES] for epoch in range(9)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_cosine_restarts_are_torchs_where_periods_stay_equal():
    optimizer = sgd()
    expected = torch_rates(CosineAnnealingWarmRestarts(optimizer, T_0=5, eta_min=1e-3), optimizer, 17)
    np.testing.assert_allclose(our_rates(CosineRestarts(period=5, min_lr=1e-3), 17), expected, rtol=1e-9)


def test_cosine_restarts_grow_up_to_the_longest_period():
    schedule = CosineRestarts(period=1, period_inc=1, max_period=3)
    rates = [schedule.rate(0.1, step, 100, 2) for step in range(2 * (1 + 2 + 3 + 3) + 1)]
    assert [step for step, rate in enumerate(rates) if rate == pytest.approx(0.1)] == [0, 2, 6, 12, 18]
    assert rates[1] == pytest.approx(0.05) and rates[4] == pytest.approx(0.05) and rates[9] == pytest.approx(0.05)


def test_one_cycle_may_begin_at_its_peak():
    rates = [OneCycle(pct_start=0.25, final_div_factor=100.0).rate(0.1, step, 4, 1) for step in range(4)]
    end = 0.1 / 25 / 100
    middle = [end + (0.1 - end) * (1 + math.cos(math.pi * share)) / 2 for share in (1 / 3, 2 / 3)]
    assert rates == pytest.approx([0.1, *middle, end], rel=1e-12)


def scores(seed, epochs=60):
    """A random walk with plateaus and repeated values."""
    steps = np.random.default_rng(seed).choice([-0.02, 0.0, 0.00003, 0.01], epochs)
    return (0.3 + np.cumsum(steps)).tolist()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "options",
    [
        {"factor": 0.2, "patience": 2, "min_lr": 1e-3},
        {"factor": 0.5, "patience": 0},
        {"factor": 0.5, "patience": 1, "min_lr": 0.01, "threshold": 0.03},  # min_lr above the second group's rate
    ],
)
def test_reduce_on_plateau_is_torchs(seed, options):
    optimizer = sgd()
    scheduler = ReduceLROnPlateau(optimizer, mode="max", threshold_mode="rel", eps=0.0, **options)
    schedule = ReduceOnPlateau(**options)
    for score in scores(seed):
        scheduler.step(score)
        schedule.end_epoch(score)
        assert [schedule.rate(initial, 0, 1, 1) for initial in RATES] == pytest.approx(rates_of(optimizer), rel=1e-9)
    assert schedule.drops > 1


def test_a_restored_plateau_goes_on_identically():
    straight = ReduceOnPlateau(factor=0.5, patience=1)
    history, states = [], []
    for score in scores(7):
        states.append(straight.state())
        straight.end_epoch(score)
        history.append(straight.rate(0.1, 0, 1, 1))
    for start in (0, 1, 25, 40):
        resumed = ReduceOnPlateau(factor=0.5, patience=1)
        resumed.restore(states[start])
        rest = []
        for score in scores(7)[start:]:
            resumed.end_epoch(score)
            rest.append(resumed.rate(0.1, 0, 1, 1))
        assert rest == history[start:]
    assert len(set(history)) > 5


def test_other_schedules_have_no_memory():
    needs = {"cosine_restarts": {"period": 2}, "cyclic": {"base_lr": 0.0}, "multi_step": {"milestones": [2]}}
    for name in set(SCHEDULES) - {"reduce_lr_on_plateau"}:
        schedule = SCHEDULES[name](**needs.get(name, {}))
        before = our_rates(schedule, 10).tolist()
        schedule.end_epoch(0.1)
        assert schedule.state() == {}
        assert our_rates(schedule, 10).tolist() == before
    assert our_rates(Schedule(), 3).tolist() == [list(RATES)] * 3


def test_set_rates_gives_every_group_its_own():
    optimizer = sgd()
    seen = []
    for step in range(4):
        set_rates(optimizer, Cosine(), step, total=4, per_epoch=1, warmup=None)
        seen.append(rates_of(optimizer))
    shares = [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    np.testing.assert_allclose(seen, [[lr * share for lr in RATES] for share in shares], rtol=1e-12)


def test_warmup_rises_linearly_to_the_schedule():
    optimizer = sgd()
    for step, share in [(0, 0.25), (1, 0.5), (2, 0.75), (3, 1.0), (4, 1.0), (9, 1.0)]:
        set_rates(optimizer, Schedule(), step, total=10, per_epoch=1, warmup=Warmup(steps=4))
        assert rates_of(optimizer) == pytest.approx([lr * share for lr in RATES], rel=1e-12)
    set_rates(optimizer, Cosine(), 1, total=10, per_epoch=1, warmup=Warmup(steps=4))
    expected = [0.5 * lr * (1 + math.cos(math.pi / 10)) / 2 for lr in RATES]
    assert rates_of(optimizer) == pytest.approx(expected, rel=1e-12)


def test_warmup_to_a_rate_of_its_own():
    optimizer = sgd()
    for step, rate in [(0, 0.005), (3, 0.02)]:
        set_rates(optimizer, Schedule(), step, total=10, per_epoch=1, warmup=Warmup(steps=4, max_lr=0.02))
        assert rates_of(optimizer) == pytest.approx([rate] * len(RATES), rel=1e-12)
    set_rates(optimizer, Schedule(), 4, total=10, per_epoch=1, warmup=Warmup(steps=4, max_lr=0.02))
    assert rates_of(optimizer) == pytest.approx(list(RATES), rel=1e-12)


def test_cyclic_rates_decay_at_milestones():
    plain = Cyclic(base_lr=0.01, step_size_up=2)
    decaying = Cyclic(base_lr=0.01, step_size_up=2, decay=0.2, decay_milestones=[2, 3])
    for step, share in [(0, 1), (3, 1), (4, 0.2), (5, 0.2), (6, 0.04), (99, 0.04)]:
        expected = share * plain.rate(0.1, step, 100, 2)
        assert decaying.rate(0.1, step, 100, 2) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="decay lies in"):
        Cyclic(base_lr=0.01, decay=2.0)


def test_only_a_falling_rate_asks_for_the_best_weights():
    schedule = ReduceOnPlateau(factor=0.5, patience=1, reload_best=True)
    assert [schedule.end_epoch(score) for score in (0.5, 0.6, 0.6, 0.6, 0.6, 0.6)] == [False] * 3 + [True, False, True]
    assert not any(ReduceOnPlateau(factor=0.5, patience=0).end_epoch(0.1) for _ in range(3))


@pytest.fixture
def model():
    return timm.create_model("test_efficientnet", num_classes=3)


def test_groups_have_their_rates_and_decays(model):
    optimizer = build_optimizer(model, "adamw", {"lr": 1e-3, "weight_decay": 0.05, "betas": [0.8, 0.9]}, head_lr=1e-2)
    found = {
        id(parameter): (group["lr"], group["initial_lr"], group["weight_decay"], tuple(group["betas"]))
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        lr = 1e-2 if name.startswith("classifier.") else 1e-3
        decay = 0.05 if parameter.ndim > 1 else 0.0
        assert found.pop(id(parameter)) == (lr, lr, decay, (0.8, 0.9)), name
    assert not found
    assert len(optimizer.param_groups) == 4
    assert type(optimizer) is torch.optim.AdamW


def test_without_a_head_lr_all_have_one_rate(model):
    optimizer = build_optimizer(model, "sgd", {"lr": 0.3})
    assert {(group["lr"], group["initial_lr"], group["weight_decay"]) for group in optimizer.param_groups} == {
        (0.3, 0.3, 0.0)
    }


def test_decay_shrinks_matrices_only(model):
    optimizer = build_optimizer(model, "adamw", {"lr": 0.5, "weight_decay": 0.1})
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        share = 1 - 0.5 * 0.1 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * share, msg=name)


def test_frozen_parameters_are_absent(model):
    model.conv_stem.requires_grad_(False)
    model.classifier.bias.requires_grad_(False)
    optimizer = build_optimizer(model, "adam", {"lr": 1e-3})
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    absent = {name for name, parameter in model.named_parameters() if id(parameter) not in held}
    assert absent == {"conv_stem.weight", "classifier.bias"}


def test_plateau_of_a_metric_of_which_less_is_better():
    """Scores come negated then; torch is told to minimise."""
    losses = [0.5, 0.4, 0.4, 0.3999, 0.3998, 0.39, 0.39, 0.39, 0.39, 0.41]
    optimizer = sgd()
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", factor=0.5, patience=1, threshold=1e-3)
    ours = ReduceOnPlateau(factor=0.5, patience=1, threshold=1e-3)
    for loss in losses:
        torchs.step(loss)
        ours.end_epoch(-loss)
        expected = [group["lr"] for group in optimizer.param_groups]
        assert [ours.rate(lr, 0, 1, 1) for lr in RATES] == pytest.approx(expected, rel=1e-12)
    assert ours.drops == 3
