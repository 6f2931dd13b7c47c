"""Weights on disk: what is saved comes back; what is broken, foreign or hostile is refused."""

import contextlib
import os
import pickle

import pytest
import safetensors.torch
import torch

from foldsmith.config import Config
from foldsmith.errors import UserError
from foldsmith.models.archs import ALIASES
from foldsmith.models.build import build_model, train_mode
from foldsmith.models.header import config_of
from foldsmith.models.weights import load_model, load_pretrained, read_header, save_weights

ARCH = "test_efficientnet"
CPU = torch.device("cpu")


def small(num_classes=3):
    return build_model(ARCH, num_classes=num_classes, input_size=(64, 96))


def config(**model):
    values = {
        "data": {"root": "data"},
        "model": {
            "arch": ARCH,
            "input_size": [64, 96],
            "pretrained": False,
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            **model,
        },
        "train": {"num_epochs": 1},
        "optimizer": {"name": "adam", "params": {"lr": 1e-3}},
    }
    return Config.model_validate(values)


def header(**changed):
    hashes = dict.fromkeys(("config_sha256", "data_sha256", "folds_sha256"), "00")
    values = {"name": "a", "fold": 1, "config": config().model_dump(mode="json"), "classes": ["x", "y", "ü"]}
    return values | hashes | changed


def images(seed=0):
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model():
    return small()


def copy_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_state(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_weights_come_back_bit_by_bit(tmp_path, model):
    train_mode(model)
    model(images())  # statistics and num_batches_tracked of their own
    for name in ("a", "b"):
        save_weights(tmp_path / name, copy_of(model), header())
    save_weights(tmp_path / "c", model.state_dict(), dict(reversed(header().items())))
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert written.keys() == {"a", "b", "c"}
    assert written["a"] == written["b"] == written["c"]
    assert read_header(tmp_path / "a") == header()
    assert config_of(header(), tmp_path / "a") == config().named("a")
    loaded = load_model(tmp_path / "a", CPU)
    assert same_state(loaded.state_dict(), model.state_dict())
    assert torch.equal(loaded.eval()(images()), model.eval()(images()))
    assert loaded.conv_stem.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", ["safetensors", "pth", "state_dict", "model", "no_head"])
def test_pretrained_weights_of_another_head(tmp_path, kind):
    source, target = small(num_classes=7), small()
    state, own = source.state_dict(), copy_of(target)
    match kind:
        case "safetensors":
            path = tmp_path / "a.safetensors"
            safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
        case "pth":
            torch.save(state, path := tmp_path / "a.pth")
        case "no_head":
            torch.save({name: state[name] for name in state if "classifier" not in name}, path := tmp_path / "a.pth")
        case _:
            torch.save(
                {kind: {"module." + name: state[name] for name in state}, "epoch": 3}, path := tmp_path / "a.pth"
            )
    load_pretrained(path, target)
    expected = {name: own[name] if name.startswith("classifier.") else state[name] for name in own}
    assert same_state(target.state_dict(), expected)


def test_pretrained_weights_of_the_same_head_bring_it(tmp_path, model):
    source = small()
    torch.save(source.state_dict(), tmp_path / "a.pth")
    load_pretrained(tmp_path / "a.pth", model)
    assert same_state(model.state_dict(), source.state_dict())


def test_weights_beside_the_name_of_their_network(tmp_path, monkeypatch):
    """[arch, state_dict], as published solutions saved them beside their pickled models."""
    monkeypatch.setitem(ALIASES, "tiny", "test_resnet")
    source, path = build_model("tiny", num_classes=2, input_size=(64, 64)), tmp_path / "a.pth"
    state = source.state_dict()
    for content in (["tiny", state], ("test_resnet.r160_in1k", {"state_dict": state})):
        torch.save(content, path)
        target = build_model("test_resnet", num_classes=5, input_size=(64, 64))
        load_pretrained(path, target)
        assert torch.equal(target.layer4[0].conv1.weight, state["layer4.0.conv1.weight"])
        with pytest.raises(UserError) as caught:
            load_pretrained(path, small())
        expected = f"model.pretrained: holds weights of {content[0]!r}, but model.arch is 'test_efficientnet'"
        assert str(caught.value).split(" (timm's")[0] == f"{path}: {expected}"
    torch.save([1, state], path)
    refused(lambda path: load_pretrained(path, target), path, "does not hold a state dict")


def test_hidden_layers_that_a_deeper_head_replaces_are_left_out(tmp_path, model):
    state = {name: torch.full_like(tensor, 2) for name, tensor in model.state_dict().items()}
    state["pre_logits.fc1.weight"] = torch.zeros(4, 2)
    torch.save(state, path := tmp_path / "a.pth")
    refused(lambda path: load_pretrained(path, model), path, r"pre_logits.fc1.weight \(4, 2\): the model has none")
    model.pre_logits = torch.nn.Identity()  # what VGG has then
    load_pretrained(path, model)
    assert set(model.conv_stem.weight.flatten().tolist()) == {2.0}


def test_a_model_comes_back_with_its_head_pooling_and_dropout(tmp_path):
    options = {"dropout": 0.25, "pooling": "catavgmax", "head_layers": [6, 5]}
    source = build_model(ARCH, num_classes=3, input_size=(64, 96), **options)
    train_mode(source)
    source(images())
    described = header(config=config(**options).model_dump(mode="json"))
    save_weights(tmp_path / "a.safetensors", source.state_dict(), described)
    loaded = load_model(tmp_path / "a.safetensors", CPU)
    assert same_state(loaded.state_dict(), source.state_dict())
    assert (loaded.drop_rate, [layer.p for layer in loaded.classifier.layers[3::4]]) == (0.25, [0.25, 0.25])
    assert torch.equal(loaded.eval()(images()), source.eval()(images()))


def refused(load, path, message):
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert (caught.value.code, caught.value.file) == (4, path)


class Evil:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("kind", ["zip", "legacy", "raw"])
def test_a_pickle_that_runs_code_is_refused(tmp_path, model, kind):
    marker, path, before = tmp_path / "marker", tmp_path / "a.pth", copy_of(model)
    if kind == "raw":
        path.write_bytes(pickle.dumps(Evil(marker), protocol=2))
    else:
        torch.save({"a": Evil(marker)}, path, _use_new_zipfile_serialization=kind == "zip")
    renamed = path.with_suffix(".safetensors")
    renamed.write_bytes(path.read_bytes())
    refused(lambda path: load_pretrained(path, model), path, "refused, because it holds more than tensors: .*mkdir")
    for load in (lambda path: load_pretrained(path, model), read_header, lambda path: load_model(path, CPU)):
        refused(load, renamed, "is not a safetensors file")
    assert not marker.exists()
    assert same_state(model.state_dict(), before)
    with contextlib.suppress(RuntimeError):
        torch.load(path, weights_only=False)
    assert marker.exists()  # the trap was a real one


def spoil(state, how):
    name = "blocks.0.0.conv.weight"
    match how:
        case "shape":
            state[name] = state[name][:1].clone()
        case "missing":
            del state[name]
        case "extra":
            state["more"] = torch.zeros(2)
        case "nan":
            state[name][0, 0, 0, 0] = float("nan")
        case "infinite":
            state["bn1.running_var"][0] = float("inf")
        case "integer":
            state[name] = state[name].to(torch.int32)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("shape", r"conv.weight \(1, .*\): the model's is \(.*\)$"),
        ("missing", "conv.weight is missing$"),
        ("extra", r"more \(2,\): the model has none of that name$"),
        ("nan", "conv.weight holds values that are not finite$"),
        ("infinite", "bn1.running_var holds values that are not finite$"),
        ("integer", "conv.weight is torch.int32, the model's torch.float32$"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(tmp_path, model, how, message):
    state, before = copy_of(small()), copy_of(model)
    spoil(state, how)
    save_weights(path := tmp_path / "a.safetensors", state, header())
    refused(lambda path: load_model(path, CPU), path, "does not fit the model: [^;]*" + message)
    refused(lambda path: load_pretrained(path, model), path, message)
    torch.save(state, tmp_path / "a.pth")
    refused(lambda path: load_pretrained(path, model), tmp_path / "a.pth", message)
    assert same_state(model.state_dict(), before)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_truncated_files_are_refused(tmp_path, model, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        torch.save(model.state_dict(), path)
    else:
        save_weights(path, model.state_dict(), header())
    content = path.read_bytes()
    for size in (0, 1, 7, 100, 5000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        refused(lambda path: load_pretrained(path, model), path, "is not a|refused, because")
        refused(lambda path: load_model(path, CPU), path, "is not a|refused, because")


def test_a_corrupt_legacy_file_is_refused(tmp_path, model):
    torch.save({"a": torch.ones(2)}, path := tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        refused(lambda path: load_pretrained(path, model), path, "does not|is not a weights file|refused, because")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "../../a"}, "a header whose name is not valid: expected a file name, got '../../a'"),
        ({"name": 5}, "a header whose name is not valid: expected text, got 5"),
        ({"classes": "xyz"}, "classes is not valid: expected a list of texts, got 'xyz'"),
        ({"fold": "0"}, "fold is not valid: expected a whole number, got '0'"),
        ({"config": None}, "a header whose config is not valid"),
        ({"fold": 7}, "a fold that its config does not have"),
        ({"config": config(mean=None, std=None).model_dump(mode="json")}, "without model.mean"),
        ({"config": config(arch="hf-hub:someone/else").model_dump(mode="json")}, "timm does not know: 'hf-hub:"),
    ],
)
def test_headers_that_nobody_wrote_are_refused(tmp_path, model, changed, message):
    save_weights(path := tmp_path / "a.safetensors", model.state_dict(), header(**changed))
    refused(lambda path: load_model(path, CPU), path, message)


def test_other_safetensors_have_no_header(tmp_path, model):
    path = tmp_path / "a.safetensors"
    save_weights(path, model.state_dict(), {"name": "a", "fold": 0, "classes": []})
    refused(
        read_header,
        path,
        "has a foldsmith header without classes, config, config_sha256, data_sha256, fold, folds_sha256, name",
    )
    for metadata in (None, {"format": "pt"}, {"foldsmith": "{"}, {"foldsmith": "[" * 100_000}):
        safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata=metadata)
        refused(read_header, path, "has no foldsmith header")
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata={"foldsmith": "[]"})
    refused(read_header, path, "has a foldsmith header without")


def test_missing_files_are_no_crime(tmp_path, model):
    for load in (read_header, lambda path: load_pretrained(path, model)):
        with pytest.raises(UserError, match="not found") as caught:
            load(tmp_path / "none.pth")
        assert caught.value.code == 2
