"""Weights whose headers ask for more than the file holds, or hold what nobody writes: code 4, in time and memory."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import predict_oof
from foldsmith.errors import UserError
from foldsmith.models import weights
from foldsmith.models.build import build_model
from foldsmith.models.header import MAX_HEADER, config_of
from foldsmith.models.weights import load_model, load_pretrained, read_header, save_weights
from tests.faults.bounds import bounded
from tests.faults.hostile import CPU, MEGABYTES, SECONDS
from tests.test_weights import ARCH, config, copy_of, header, small

pytestmark = pytest.mark.timeout(60, func_only=True)  # what hangs is a failure


def refuse(load: Callable[[Path], object], path: Path) -> str:
    """Code 4, in time and memory, and the file named; the rest of the message."""
    with bounded(SECONDS, MEGABYTES), pytest.raises(UserError) as caught:
        load(path)
    assert (caught.value.code, caught.value.file) == (4, path), caught.value
    return caught.value.message


def load_on_cpu(path: Path) -> None:
    load_model(path, CPU)


LARGE = {
    "a giant": {"arch": "eva_giant_patch14_224"},
    "the widest convolutions": {"arch": "resnetv2_152x4_bit"},
    "a deep head": {"head_layers": [16384] * 8},
    "tables of relative positions": {"arch": "levit_384_s8", "input_size": [4096, 4096]},  # 2 TB, in no file
}


@pytest.mark.parametrize("name", LARGE)
def test_a_network_that_the_file_is_too_small_for(tmp_path, name):
    found = header(config=config(**LARGE[name]).model_dump(mode="json"))
    save_weights(path := tmp_path / "a.safetensors", small().state_dict(), found)
    size = path.stat().st_size
    assert size < 2e6
    said = refuse(load_on_cpu, path)
    assert said.startswith("has a header whose network takes ") and said.endswith(f" bytes, the file is of {size:,}")
    assert int(said.split()[6].replace(",", "")) > 1e9


def test_a_pth_whose_tensors_are_views_of_one_number(tmp_path):
    """Their names and shapes are those of the network, which the file has no numbers for."""
    found = header(config=config(head_layers=[16384] * 4).model_dump(mode="json"))
    with torch.device("meta"):
        wide = build_model(ARCH, num_classes=3, input_size=(64, 96), head_layers=[16384] * 4)
    state = {key: torch.zeros((), dtype=each.dtype).expand(each.shape) for key, each in wide.state_dict().items()}
    torch.save({"foldsmith": json.dumps(found), "state_dict": state}, path := tmp_path / "a.pth")
    assert path.stat().st_size < 1e6
    assert "has a header whose network takes 3," in refuse(load_on_cpu, path)


def test_more_classes_than_the_tensors_have(tmp_path):
    classes = [f"class {number}" for number in range(100_000)]
    save_weights(path := tmp_path / "a.safetensors", small().state_dict(), header(classes=classes))
    assert read_header(path)["classes"] == classes
    said = refuse(load_on_cpu, path)
    assert "network takes" in said or "classifier.weight (3, " in said


@pytest.mark.parametrize(
    "model",
    [
        {"arch": "vit_tiny_patch16_224", "input_size": [32, 32], "pooling": "catavgmax"},
        {"arch": "inception_v4", "head_layers": [4], "pooling": "max", "input_size": [8, 8]},
        {"arch": "lambda_resnet26t"},
    ],
)
def test_options_that_do_not_go_together(tmp_path, model):
    found = header(config=config(**model).model_dump(mode="json"))
    save_weights(path := tmp_path / "a.safetensors", small().state_dict(), found)
    said = refuse(load_on_cpu, path)
    assert "has a header whose network " in said or "does not fit the model" in said


def described(tensors: str, metadata: str = "") -> bytes:
    head = ("{" + metadata + tensors + "}").encode()
    return struct.pack("<Q", len(head)) + head


EMPTY = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'


def crowded() -> dict[str, tuple[str, Callable[[], bytes]]]:
    """Descriptions that would take long to parse, and what is said of them."""

    def tensors(count: int) -> str:
        return ",".join(f'"{number:x}":{EMPTY}' for number in range(count))

    def text(value: str) -> bytes:
        return described(f'"a":{EMPTY}', f'"__metadata__":{{"foldsmith":{json.dumps(value)}}},')

    def ours(**changed: Any) -> bytes:
        return text(json.dumps(header(**changed)))

    many = ",".join(f'"{number:x}":""' for number in range(750_000))
    return {
        "a million tensors": ("its header is longer than 10,000,000 bytes", lambda: described(tensors(10**6))),
        "100,000 tensors": ("it has more than 50,000 tensors", lambda: described(tensors(100_000))),
        "10 MB of texts": (
            "has no foldsmith header",
            lambda: described(f'"a":{EMPTY}', f'"__metadata__":{{{many}}},'),
        ),
        "10 MB of lists": (
            "more than 200,000 lists and sections",
            lambda: text("[" + ",".join(["[[]]"] * 1_900_000) + "]"),
        ),
        "10 MB of wrong classes": ("expected a list of texts", lambda: ours(classes=[0] * 3_000_000)),
        "a long config": ("config is longer than 1,000,000 bytes", lambda: ours(config={"x" * 1_000_001: 0})),
        "a config of wrong keys": (
            "config is not valid: 0: unknown key",
            lambda: ours(config=header()["config"] | {str(number): 0 for number in range(60_000)}),
        ),
    }


@pytest.mark.parametrize("name", crowded())
def test_a_description_that_takes_long_to_parse(tmp_path, name):
    path, model = tmp_path / "a.safetensors", small()
    said, make = crowded()[name]
    path.write_bytes(make())
    assert said in refuse(lambda path: config_of(read_header(path), path), path)
    if "tensors" in name:
        assert said in refuse(lambda path: load_pretrained(path, model), path)


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    path, state = tmp_path / "a.safetensors", small().state_dict()
    save_weights(path, state, header())
    before = path.read_bytes()
    with pytest.raises(UserError, match="its header is longer than") as caught:
        save_weights(path, state, header(classes=["x" * MAX_HEADER]))
    assert caught.value.code == 4
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


HALF = "\ud800"  # of a surrogate, which JSON can write and nothing else
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"name": ".."}, "name is not valid: expected a file name, got '..'"),
    "long name": ({"name": "x" * 241}, "name is not valid: expected a file name of at most 240 bytes"),
    "fold": ({"fold": -1}, "fold is not valid: expected greater than or equal to 0, got -1"),
    "fold true": ({"fold": True}, "fold is not valid: expected a whole number, got True"),
    "config": ({"config": [1]}, "config is not valid: expected a section"),
    "classes": ({"classes": []}, "classes is not valid: expected a list of texts, got []"),
    "classes twice": ({"classes": ["x", "y", "x"]}, "classes is not valid: expected each class once"),
    "data_sha256": ({"data_sha256": 3}, "data_sha256 is not valid: expected text, got 3"),
    "folds_sha256": ({"folds_sha256": None}, "folds_sha256 is not valid: expected text, got None"),
    "config_sha256": ({"config_sha256": [1]}, "config_sha256 is not valid: expected text, got [1]"),
    "images_sha256": ({"images_sha256": {}}, "images_sha256 is not valid: expected text, got {}"),
    "code_sha256": ({"code_sha256": 1.5}, "code_sha256 is not valid: expected text, got 1.5"),
    "epoch": ({"epoch": [1]}, "epoch is not valid: expected a whole number, got [1]"),
    "stages": ({"stages": "x"}, "stages is not valid: expected a list, got 'x'"),
    "metric": ({"metric": 2}, "metric is not valid: expected text, got 2"),
    "score": ({"score": "x"}, "score is not valid: expected a number, got 'x'"),
    "score infinite": ({"score": float("inf")}, "score is not valid: expected a finite number, got inf"),
    "threshold": ({"threshold": "x"}, "threshold is not valid: expected a number, got 'x'"),
    "threshold NaN": ({"threshold": float("nan")}, "threshold is not valid: expected a finite number, got nan"),
    "pieces": ({"pieces": 0}, "pieces is not valid: expected greater than or equal to 1, got 0"),
    "half": ({"metric": HALF}, "has no foldsmith header"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_header_with_a_value_that_nobody_writes(tmp_path, name):
    changed, said = WRONG[name]
    path = tmp_path / "a.safetensors"
    metadata = {"foldsmith": json.dumps(header(**changed))}
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata=metadata)
    message = refuse(read_header, path)
    assert message.startswith("has ") and said in message


def test_a_header_of_an_earlier_version_is_read(tmp_path):
    """Without the keys that came later; keys that come later still are left alone."""
    found = header(later={"key": 1})
    save_weights(path := tmp_path / "a.safetensors", small().state_dict(), found)
    assert read_header(path) == found
    assert copy_of(load_model(path, CPU)).keys() == copy_of(small()).keys()


EXPERIMENTS: dict[str, tuple[Callable[[dict], Any], str]] = {
    "folds_sha256": (lambda found: found.update(folds_sha256=None), "folds_sha256 is not valid"),
    "metric": (lambda found: found["config"].update(metric="zz"), "config is not valid: metric: unknown metric 'zz'"),
    "views": (lambda found: found["config"]["test"].update(tta=["../x"]), "test.tta: unknown view '../x'"),
    "loss": (lambda found: found["config"].update(loss={"name": "nope"}), "loss.name: unknown name 'nope'"),
    "scheduler": (lambda found: found["config"]["scheduler"].update(name="no"), "scheduler.name: unknown name 'no'"),
    "classes": (lambda found: found["classes"].reverse(), "has another class list than the label table"),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_oof_prediction_by_a_header_that_is_wrong(chain, tmp_path, name):
    change, said = EXPERIMENTS[name]
    path = tmp_path / "a_f0.safetensors"
    found = read_header(chain.weights("a"))
    change(found)
    save_weights(path, safetensors.torch.load_file(chain.weights("a")), found)
    with pytest.raises(UserError) as caught:
        predict_oof.main(["--weights", str(path), "--output", str(tmp_path / "runs")])
    assert (caught.value.code, caught.value.file) == (4, path) and said in caught.value.message
    assert list(tmp_path.glob("runs/*/*.npy")) == []


def test_another_experiment_or_label_table_of_the_user_s_own_is_no_crime(chain, tmp_path):
    path = tmp_path / "a_f0.safetensors"
    found = read_header(chain.weights("a"))
    found |= {"classes": found["classes"][::-1], "data_sha256": "0" * 64}  # the table was another one then
    save_weights(path, safetensors.torch.load_file(chain.weights("a")), found)
    with pytest.raises(UserError, match="has another class list than the label table") as caught:
        predict_oof.main(["--weights", str(path), "--output", str(tmp_path / "runs")])
    assert caught.value.code == 2
    shutil.copy(chain.weights("b"), path)
    with pytest.raises(UserError, match="belongs to another config") as caught:
        predict_oof.main(
            ["--config", str(chain.runs / "a" / "a.yml"), "--weights", str(path), "--output", str(tmp_path / "runs")]
        )
    assert caught.value.code == 2


def test_what_can_t_be_opened_is_no_weights_file(tmp_path):
    """A folder here; a file that nobody may read ends alike."""
    path = tmp_path / "a.safetensors"
    path.mkdir()
    for read in (weights._read_tensors, weights._metadata):
        with pytest.raises(UserError, match="a.safetensors: is not a safetensors file: ") as caught:
            read(path)
        assert caught.value.code == 4
