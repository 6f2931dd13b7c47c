"""The second pass: names and arguments of what lives in torch, timm and albumentations, before anything is built."""

from pathlib import Path
from typing import Any

import pytest
import timm.optim

from foldsmith.config import load_config
from foldsmith.errors import UserError
from foldsmith.losses import LOSSES
from foldsmith.training.leaves import check_leaves
from foldsmith.training.schedules import SCHEDULES

VALID = """\
data:
  root: data
model:
  arch: test_efficientnet
  input_size: 96
train:
  num_epochs: 3
optimizer:
  name: adamw
  params: {lr: 1e-4}
"""


def problems(**values: Any) -> dict[str, str]:
    """All problems of a config that has only these sections, by dotted key (a valid optimizer is added)."""
    values.setdefault("optimizer", {"name": "adamw", "params": {"lr": 1e-3}})
    return {".".join(map(str, problem.path)): problem.message for problem in check_leaves(values)}


def extra(name: str, **params: Any) -> dict[str, str]:
    return problems(augmentations={"extra": [{"name": name, "params": params}]})


@pytest.mark.parametrize("arch", ["resnet18", "resnet18.a1_in1k", "test_efficientnet", "tf_efficientnet_lite0"])
def test_a_timm_name_passes_with_its_tag_and_without(arch: str) -> None:
    assert problems(model={"arch": arch}) == {}


def test_an_unknown_arch_shows_the_nearest_timm_names() -> None:
    nearest = "resnet18, resnet18d, skresnet18, seresnet18, resnetv2_18"
    assert problems(model={"arch": "resnt18"}) == {"model.arch": f"timm has no model 'resnt18'; the nearest: {nearest}"}
    message = problems(model={"arch": "resnet18.a9_in1k"})["model.arch"]
    assert message.startswith("timm has no model 'resnet18.a9_in1k'; the nearest: ")
    assert "resnet18.a1_in1k" in message
    assert problems(model={"arch": "?"})["model.arch"].endswith("the nearest: none (see timm.list_models())")


@pytest.mark.parametrize(
    ("section", "name", "hint"),
    [
        ("loss", "focl", "did you mean 'focal' or 'bce_focal'?"),
        ("loss", "zzz", "valid: " + ", ".join(LOSSES)),
        ("scheduler", "cosin", "did you mean 'cosine'?"),
        ("scheduler", "zzz", "valid: " + ", ".join(SCHEDULES)),
        ("optimizer", "admw", "did you mean 'adamw'"),
        ("optimizer", "Adam", "did you mean 'adam'"),
    ],
)
def test_an_unknown_name_shows_the_nearest_or_all(section: str, name: str, hint: str) -> None:
    found = problems(**{section: {"name": name}})
    assert list(found) == [f"{section}.name"]
    assert found[f"{section}.name"].startswith(f"unknown name {name!r}; {hint}")


def test_every_unknown_view_and_transform_is_named_with_its_place() -> None:
    views = problems(test={"tta": ["identity", "hflp", "rot18"]})
    assert views == {
        "test.tta.1": "unknown view 'hflp'; did you mean 'hflip' or 'vflip'?",
        "test.tta.2": "unknown view 'rot18'; did you mean 'rot180' or 'rot90'?",
    }
    transforms = problems(augmentations={"extra": [{"name": "Blur"}, {"name": "CoarsDropout"}, {"name": "Compose"}]})
    assert list(transforms) == ["augmentations.extra.1.name", "augmentations.extra.2.name"]
    assert transforms["augmentations.extra.1.name"].startswith(
        "unknown name 'CoarsDropout'; did you mean 'CoarseDropout'"
    )


@pytest.mark.parametrize(
    ("section", "name", "params", "expected"),
    [
        ("loss", "bce", {"weight": 1}, {"weight": "bce takes no arguments"}),
        ("loss", "focal", {"gama": 1}, {"gama": "focal takes no 'gama'; did you mean 'gamma'?"}),
        ("loss", "focal", {"zzz": 1}, {"zzz": "focal takes no 'zzz'; valid: gamma, alpha, reduction"}),
        ("loss", "focal", {"gamma": "2"}, {"gamma": "expected a number, got '2'"}),
        ("loss", "focal", {"gamma": None}, {"gamma": "expected a number, got None"}),
        ("loss", "focal", {"gamma": True, "alpha": "x"}, {
            "gamma": "expected a number, got True", "alpha": "expected a number or null, got 'x'"}),
        ("loss", "focal", {"gamma": 2, "alpha": None}, {}),
        ("scheduler", "constant", {"min_lr": 1}, {"min_lr": "constant takes no arguments"}),
        ("scheduler", "cosine", {"min_lr": float("inf")}, {"min_lr": "expected a number, got inf"}),
        ("scheduler", "reduce_lr_on_plateau", {"patience": 2.5}, {"patience": "expected a whole number, got 2.5"}),
        ("scheduler", "reduce_lr_on_plateau", {"patience": 2, "factor": 0.5, "min_lr": 0}, {}),
        ("optimizer", "adamw", {}, {"lr": "required key is missing (it belongs to optimizer.name)"}),
        ("optimizer", "adamw", {"lrr": 1}, {
            "lrr": "adamw takes no 'lrr'; did you mean 'lr'?",
            "lr": "required key is missing (it belongs to optimizer.name)"}),
        ("optimizer", "adamw", {"lr": 0}, {"lr": "expected a number greater than 0, got 0"}),
        ("optimizer", "adamw", {"lr": "1e-4x"}, {"lr": "expected a number, got '1e-4x'"}),
        ("optimizer", "adamw", {"lr": 1, "params": []}, {
            "params": "adamw takes no 'params'; valid: lr, betas, eps, weight_decay, amsgrad, maximize, foreach, "
            "capturable, differentiable, fused"}),
        ("optimizer", "adamw", {"lr": 1, "betas": 0.9, "amsgrad": 1}, {
            "betas": "expected a list of numbers, got 0.9", "amsgrad": "expected true or false, got 1"}),
        ("optimizer", "adamw", {"lr": 1, "betas": [0.9, 0.99], "weight_decay": 0, "foreach": None}, {}),
        ("optimizer", "sgd", {"lr": 1, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}, {}),
        ("optimizer", "adabelief", {"lr": 1, "weight_decay": 0.01, "rectify": "no"}, {
            "rectify": "expected true or false, got 'no'"}),
    ],
)  # fmt: skip
def test_arguments_are_bound_to_the_signature(section: str, name: str, params: dict, expected: dict) -> None:
    found = problems(**{section: {"name": name, "params": params}})
    assert found == {f"{section}.params.{key}": message for key, message in expected.items()}


@pytest.mark.parametrize(
    ("name", "params", "key", "reason"),
    [
        ("adamw", {"betas": [2, 3]}, ".betas", "it: Invalid beta parameter at index 0: 2"),
        ("adamw", {"betas": [0.9], "eps": 1e-8}, ".betas", "it: list index out of range"),
        ("adamw", {"eps": -1}, ".eps", "it: Invalid epsilon value: -1"),
        ("adamw", {"eps": -1, "betas": [2, 3]}, "", "them: Invalid epsilon value: -1"),
        ("sgd", {"nesterov": True, "momentum": 0}, ".momentum", "it: Nesterov momentum requires a momentum and zero "),
    ],
)
def test_values_that_an_optimizer_refuses_are_known_before_it_is_needed(
    name: str, params: dict, key: str, reason: str
) -> None:
    ((where, message),) = problems(optimizer={"name": name, "params": {"lr": 0.1, **params}}).items()
    assert where == f"optimizer.params{key}" and message.startswith(f"{name} refuses {reason}")


def test_the_argument_that_cannot_be_left_out_is_named_too() -> None:
    params = {"base_lr": -1, "step_size_up": 5}
    assert list(problems(scheduler={"name": "cyclic", "params": params})) == ["scheduler.params.base_lr"]


def test_every_optimizer_of_timm_passes_or_says_what_it_lacks() -> None:
    found = {name: problems(optimizer={"name": name, "params": {"lr": 0.1}}) for name in timm.optim.list_optimizers()}
    refused = {name: messages for name, messages in found.items() if messages}
    assert len(found) > 50
    assert {name for name in refused if not name.startswith(("fused", "bnb"))} == {"adahessian"}, "second order"
    assert refused.pop("adahessian")["optimizer.name"].startswith("unknown name 'adahessian'")
    for name, messages in refused.items():
        assert messages["optimizer.name"].startswith(f"{name!r} cannot be used here: ")


def test_transform_arguments_are_bound_and_tried() -> None:
    where = "augmentations.extra.0.params"
    assert extra("CoarseDropout", p=0.3, num_holes_range=[1, 3]) == {}
    assert extra("Affine", rotate=[-5, 5], p=1) == {}
    assert extra("RandomCrop") == {f"{where}.height": "RandomCrop needs it", f"{where}.width": "RandomCrop needs it"}
    assert extra("CoarseDropout", max_holes=3) == {
        f"{where}.max_holes": "CoarseDropout takes no 'max_holes'; valid: num_holes_range, hole_height_range, "
        "hole_width_range, fill, fill_mask, p"
    }
    refused = extra("GaussNoise", std_range=[0.5, 0.1])[f"{where}.std_range"]
    assert refused.startswith("GaussNoise refuses it: ")
    assert "First value should be less than the second value" in refused
    assert "less than or equal to 1" in extra("Blur", p=3)[f"{where}.p"]


def test_what_albumentations_only_warns_about_is_an_error() -> None:
    import albumentations

    with pytest.warns(UserWarning, match="max_holes"):
        albumentations.CoarseDropout(max_holes=3)
    assert list(extra("CoarseDropout", max_holes=3)) == ["augmentations.extra.0.params.max_holes"]
    with pytest.warns(UserWarning, match="must be odd"):
        albumentations.Blur(blur_limit=4)
    assert "must be odd" in extra("Blur", blur_limit=4)["augmentations.extra.0.params.blur_limit"]


def test_values_of_any_shape_are_left_to_the_schema() -> None:
    for value in (
        None,
        5,
        "x",
        [],
        ["x"],
        {"name": 5},
        {"extra": {}},
        {"extra": [5, {"name": None}]},
        {"tta": [3, None]},
    ):
        values = dict.fromkeys(("model", "loss", "scheduler", "optimizer", "augmentations", "test"), value)
        assert check_leaves(values) == []


def test_schema_and_leaf_problems_come_in_one_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yml").write_text(VALID)
    Path("a.yml").write_text(
        """\
base: base.yml
train:
  sed: 1
loss:
  name: focl
augmentations:
  extra:
  - name: Blur
    params:
      blur_limit: 3
      q: 1
test:
  tta: [identity, hflp]
"""
    )
    with pytest.raises(UserError) as caught:
        load_config("a.yml", ["optimizer.params.lr=-1", "scheduler.name=cosin"], check_leaves)
    assert str(caught.value).splitlines() == [
        "a.yml: 6 problems",
        "  a.yml:3: train.sed: unknown key; did you mean 'seed'?",
        "  a.yml:5: loss.name: unknown name 'focl'; did you mean 'focal' or 'bce_focal'?",
        "  --set scheduler.name: scheduler.name: unknown name 'cosin'; did you mean 'cosine'?",
        "  --set optimizer.params.lr: optimizer.params.lr: expected a number greater than 0, got -1",
        "  a.yml:11: augmentations.extra[0].params.q: Blur takes no 'q'; valid: blur_limit, p",
        "  a.yml:13: test.tta[1]: unknown view 'hflp'; did you mean 'hflip' or 'vflip'?",
    ]


def test_a_missing_lr_is_looked_for_where_the_optimizer_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yml").write_text(VALID)
    Path("a.yml").write_text("base: base.yml\noptimizer:\n  name: sgd\n")
    with pytest.raises(UserError) as caught:
        load_config("a.yml", [], check_leaves)
    message = "a.yml:2: optimizer.params.lr: required key is missing (it belongs to optimizer.name)"
    assert str(caught.value) == message
