"""Views: each is undone exactly by its inverse, crops lie where their names say, words stand for many."""

import pytest
import torch

from foldsmith.config import load_config
from foldsmith.errors import UserError
from foldsmith.inference.predict import MERGES
from foldsmith.inference.views import DIHEDRAL, PLACES, expand_views, make_view, margin_of
from foldsmith.models.build import with_image_stats
from foldsmith.training.setup import build_network

IMAGES = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).view(2, 3, 4, 4)
INVERSES = {name: name for name in DIHEDRAL} | {"rot90": "rot270", "rot270": "rot90"}


@pytest.mark.parametrize("name", DIHEDRAL)
def test_each_view_has_an_exact_inverse(name):
    view = make_view(name, IMAGES, 4, 4)
    assert torch.equal(make_view(INVERSES[name], view, 4, 4), IMAGES)
    if name != "identity":
        assert not torch.equal(view, IMAGES)


def test_the_eight_are_all_symmetries_of_the_square():
    corners = {tuple(make_view(name, IMAGES, 4, 4)[0, 0, [0, 0, 3, 3], [0, 3, 0, 3]].tolist()) for name in DIHEDRAL}
    assert len(corners) == 8


def test_views_by_hand():
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    expected = {
        "hflip": [[2, 1], [4, 3]],
        "vflip": [[3, 4], [1, 2]],
        "rot180": [[4, 3], [2, 1]],
        "transpose": [[1, 3], [2, 4]],
        "rot90": [[2, 4], [1, 3]],
        "rot270": [[3, 1], [4, 2]],
        "antitranspose": [[4, 2], [3, 1]],
        "rot90+hflip": [[4, 2], [3, 1]],
    }
    for name, values in expected.items():
        assert make_view(name, image, 2, 2)[0, 0].tolist() == values, name


def test_turns_are_numpys():
    for name, turns in [("rot90", 1), ("rot180", 2), ("rot270", 3)]:
        assert torch.equal(make_view(name, IMAGES, 4, 4), torch.rot90(IMAGES, turns, (2, 3)))


def test_crops_lie_where_their_names_say():
    canvas = torch.arange(36.0).view(1, 1, 6, 6)
    corners = {place: float(make_view(f"crop:{place}", canvas, 4, 4)[0, 0, 0, 0]) for place in PLACES}
    assert corners == {"center": 7, "top_left": 0, "top_right": 2, "bottom_left": 12, "bottom_right": 14}
    assert torch.equal(make_view("identity", canvas, 4, 4), make_view("crop:center", canvas, 4, 4))
    assert torch.equal(make_view("crop:top_left+hflip", canvas, 4, 4), canvas[:, :, :4, :4].flip(3))
    first = make_view("crop:random3", canvas, 4, 4)
    assert first.shape == (1, 1, 4, 4) and torch.equal(first, make_view("crop:random3", canvas, 4, 4))


@pytest.mark.parametrize("views", [["five"], ["crops:7"]])
def test_crops_put_back_where_they_came_from_change_nothing(views):
    canvas = torch.arange(2 * 3 * 10 * 12, dtype=torch.float32).view(2, 3, 10, 12)  # every number once
    for name in expand_views(views):
        view = make_view(name, canvas, 6, 8)
        top, left = divmod(int(view[0, 0, 0, 0]), 12)
        restored = canvas.clone()
        restored[:, :, top : top + 6, left : left + 8] = view
        assert view.shape == (2, 3, 6, 8) and torch.equal(restored, canvas), name


def test_a_scaled_ramp_is_undone_by_the_inverse_scale():
    ramp = torch.arange(64.0).expand(1, 3, 64, 64)
    back = make_view("scale:0.5", make_view("scale:2", ramp, 64, 64), 128, 128)
    assert back.shape == ramp.shape
    torch.testing.assert_close(back[..., 2:-2], ramp[..., 2:-2], atol=1e-4, rtol=0)


def test_scales_keep_constant_images_constant():
    view = make_view("scale:1.5", torch.full((1, 3, 64, 128), 0.25), 64, 128)
    assert view.shape == (1, 3, 96, 192) and torch.allclose(view, torch.tensor(0.25))
    assert make_view("scale:1.1", torch.zeros(1, 3, 64, 64), 64, 64).shape[2:] == (64, 64)


def test_words_stand_for_views():
    assert expand_views(["identity", "d4"]) == list(DIHEDRAL)
    assert expand_views(["five", "crops:2"])[-3:] == ["crop:bottom_right", "crop:random0", "crop:random1"]
    assert expand_views(["five+hflip"])[0] == "crop:center+hflip"
    assert margin_of(["identity", "hflip"], 96, 96) == 0 and margin_of(["crop:center"], 96, 80) == 12


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hflop", "unknown view 'hflop'; did you mean 'hflip'"),
        ("hflip+crop:center", "in 'hflip+crop:center' the crop comes first"),
        ("crops:0", "unknown view 'crops:0'"),
        ("scale:9", "unknown view 'scale:9'"),
        ("crop:middle", "unknown view 'crop:middle'"),
        ("", "unknown view ''"),
    ],
)
def test_unknown_views_are_named(name, message):
    with pytest.raises(UserError) as caught:
        expand_views([name])
    assert message in f"{caught.value.message}; {caught.value.hint}" and caught.value.key == "test.tta"


def test_merges_by_hand():
    logits = [torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, -1.0]])]
    p = [torch.sigmoid(each) for each in logits]
    expected = {
        "mean": (p[0] + p[1]) / 2,
        "max": torch.tensor([[p[1][0, 0], p[0][0, 1]]]),
        "geometric": (p[0] * p[1]).sqrt(),
        "logits": torch.sigmoid(torch.tensor([[0.5, 0.5]])),
    }
    assert expected.keys() == MERGES.keys()
    for name, values in expected.items():
        torch.testing.assert_close(MERGES[name](logits, "multilabel"), values)
    for name in ("mean", "logits", "geometric"):
        torch.testing.assert_close(MERGES[name](logits, "multiclass").sum(), torch.tensor(1.0))


def test_views_of_sizes_that_a_network_does_not_take_are_refused_before_training():
    words = ["model.arch=vit_tiny_patch16_224", "model.input_size=64", "model.pretrained=false"]
    config = with_image_stats(load_config("clipart_tiny", [*words, "test.tta=[identity, scale:1.5]"]))
    with pytest.raises(UserError, match=r"does not take 96 x 96 images of the view 'scale:1.5'") as caught:
        build_network(config, 5, torch.device("cpu"))
    assert caught.value.key == "test.tta"
