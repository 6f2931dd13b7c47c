"""Memory that runs out: training goes on with half the batch at a time, inference too, with equal results."""

import json
import re

import numpy as np
import pytest
import torch

from foldsmith.inference import predict as predict_module
from foldsmith.inference.decoded import DecodedImages
from foldsmith.inference.predict import pipeline_of, predict
from foldsmith.models.header import config_of
from foldsmith.models.weights import load_model, read_header
from tests.faults.test_killed import Run


def test_training_halves_the_batch_doubles_accumulation_and_goes_on(warm, mini, tmp_path):
    """Memory runs out in the second epoch: it starts over in halves, and so does the third."""
    run = Run(warm, mini, tmp_path / "runs")
    ended = run.train(fail="train.forward:5:oom")
    assert ended.code == 0, ended.err
    said = "out of memory: from here on 4 images at a time go through the network, with the gradients of 2 such batches"
    assert ended.out.count(said) == 1 and "(train.batch_size 4, accum_batches 2)" in ended.out
    assert re.findall(r"epoch (\d)/3", ended.out) == ["1", "2", "3"] and "goes on after epoch 1" in ended.out
    log = (run.output / "mini" / "fold0" / "train.log").read_text()
    assert said in log
    assert read_header(run.output / "mini" / "mini_f0.safetensors")["pieces"] in (1, 2)
    assert json.loads((run.output / "mini" / "fold0" / "memory.json").read_text()) == {"pieces": 2}


def test_a_resumed_run_keeps_the_halves(warm, mini, tmp_path):
    """Killed after memory had run out, it ends in the bits of the run that was not killed."""
    whole, killed = (Run(warm, mini, tmp_path / name / "runs") for name in ("whole", "killed"))
    assert whole.train(fail="train.forward:2:oom").code == 0
    assert killed.train(fail="train.forward:2:oom,epoch.scored:2:kill").code == -9
    assert killed.train().code == 0
    assert whole.predict().code == killed.predict().code == 0
    assert whole.files() == killed.files()


def test_it_halves_down_to_one_image_and_then_says_so(warm, mini, tmp_path):
    ended = Run(warm, mini, tmp_path / "runs").train(fail="train.forward:*:oom")
    assert ended.code == 3
    assert [int(each) for each in re.findall(r"from here on (\d+) images", ended.out)] == [4, 2, 1]
    assert ended.err.startswith("error: memory ran out on a single image: can't allocate memory: a failpoint\n")


def test_pieces_give_the_gradients_of_the_whole_batch(small, tmp_path):
    """Without batch norm, which sees smaller batches, an epoch in pieces is the epoch: test_vit has none."""
    from tests.test_training import fold0, tensors

    sets = ["model.arch=test_vit", "train.num_epochs=1", "train.max_steps_per_epoch=2"]
    sets += ["optimizer.name=momentum", "optimizer.params={lr: 0.1, momentum: 0.0}", "scheduler.name=constant"]
    whole = tensors(fold0(small, tmp_path / "whole", *sets))
    with pytest.MonkeyPatch.context() as patch:
        from foldsmith import failpoints

        failpoints.forget()
        patch.setenv("FOLDSMITH_FAIL", "train.forward:1:oom,train.forward:2:oom")
        pieces = tensors(fold0(small, tmp_path / "pieces", *sets))
    assert (tmp_path / "pieces" / "clipart_tiny" / "fold0" / "memory.json").read_text().split() == [
        "{",
        '"pieces":',
        "4",
        "}",
    ]
    for name, tensor in whole.items():
        torch.testing.assert_close(pieces[name], tensor, atol=1e-5, rtol=1e-4)
    assert any(not torch.equal(pieces[name], whole[name]) for name in whole)


@pytest.mark.parametrize("limit", [5, 1])
def test_inference_in_smaller_batches_gives_the_same(chain, few, monkeypatch, limit):
    """A device that holds `limit` images at a time."""
    paths = sorted((few / "test").iterdir())[:23]
    path = chain.weights("a")
    model = load_model(path, torch.device("cpu"))
    pipeline = pipeline_of(config_of(read_header(path), path), torch.device("cpu"))
    views = ["identity", "hflip"]
    whole = predict(model, DecodedImages(paths), pipeline, views, "whole")
    real, sizes = predict_module.to_input, []

    def full(images, *args):
        if len(images) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        sizes.append(len(images))
        return real(images, *args)

    monkeypatch.setattr(predict_module, "to_input", full)
    parts = predict(model, DecodedImages(paths), pipeline, views, "parts")
    assert sum(sizes) == 23 and max(sizes) == min(limit, max(sizes))
    assert np.abs(parts - whole).max() <= 1e-5


def test_memory_that_ends_before_the_first_epoch_is_exit_3(warm, mini, tmp_path):
    """Not a training batch: nothing can be halved."""
    ended = warm.run("predict_oof.py", "--config", mini, "--output", tmp_path)
    assert ended.code == 2  # nothing is there yet
    run = Run(warm, mini, tmp_path)
    assert run.train().code == 0
    ended = run.predict(fail="predict.forward:*:oom")
    assert ended.code == 3 and "can't allocate memory" in ended.err and "Traceback" not in ended.err
