"""The learning rate finder: what it suggests, and the picture."""

import math

import pytest

from foldsmith import cli
from foldsmith.errors import UserError
from foldsmith.training.lr_find import suggest


def test_the_suggested_rate_is_where_the_loss_falls_fastest():
    rates = [10 ** (-6 + step / 10) for step in range(51)]
    # a sigmoid over the rate's logarithm, steepest at 1e-3, then a rise
    losses = [1 / (1 + math.exp(4 * (math.log10(rate) + 3))) + max(0, math.log10(rate) + 1.5) for rate in rates]
    assert suggest(rates, losses) == pytest.approx(1e-3, rel=0.01)
    with pytest.raises(UserError, match="only rises from the first rate, 3.2e-06"):
        suggest(rates, [1.0 + step for step in range(51)])


def test_it_draws_a_curve_and_keeps_nothing_else(small, tmp_path, capsys):
    picture = tmp_path / "rates.png"
    words = ["lr-find", "--config", "clipart_tiny", "--output", str(picture), "--steps", "20", "--set", *small]
    cli.main(words)
    assert (
        picture.read_bytes().startswith(b"\x89PNG")
        and "20 steps; the loss falls fastest at " in capsys.readouterr().out
    )
    assert [path.name for path in tmp_path.iterdir() if path.name != "train.csv"] == ["rates.png"]
    with pytest.raises(UserError, match="is no range"):
        cli.main([*words[:-1], *small, "--min-lr", "1"])
