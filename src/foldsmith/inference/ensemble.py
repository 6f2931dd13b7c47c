"""An ensemble file to a submission: every member, every fold, every view, one sum, one threshold."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foldsmith.config import Config
from foldsmith.data.images import find_images, geometry_of
from foldsmith.data.tables import class_columns, read_sample
from foldsmith.ensemble.file import Ensemble, Member, blend
from foldsmith.errors import EXIT_UNTRUSTED, UserError
from foldsmith.files import sha256_lines
from foldsmith.inference.decoded import Canvas, DecodedImages
from foldsmith.inference.find import find_weights, locate_data
from foldsmith.inference.predict import pipeline_of, predict
from foldsmith.inference.submission import (
    check_writable,
    label_lists,
    top_labels,
    write_probabilities,
    write_submission,
)
from foldsmith.inference.views import expand_views, margin_of
from foldsmith.metrics import Probabilities, above
from foldsmith.models.weights import config_of, load_model, read_header


def run_ensemble(
    ensemble: Ensemble, *, model_roots: Sequence[Path], data_root: Path | None, output: Path, device: torch.device
) -> None:
    """Predict the test images and write the submission.

    Args:
        model_roots: folders below which weights are searched.
        data_root: the competition's folder; None: where the members' config says, or below the usual input folders.
        output: the csv to write.
    """
    # Everything that can be wrong is found before the first model runs.
    weights = find_weights(ensemble, model_roots)
    headers = {name: read_header(path) for name, path in weights.items()}
    for name, header in headers.items():
        if sha256_lines(header["classes"]) != ensemble.classes_sha256:
            raise UserError("has another class list than the ensemble", file=weights[name], code=EXIT_UNTRUSTED)
    for member in ensemble.members:
        expand_views(member.views)
    first = ensemble.members[0].weights[0]
    config = locate_data(config_of(headers[first], weights[first]), data_root)
    tokens = headers[first]["classes"]
    sample, id_column = read_sample(config)
    columns = class_columns(config, sample, id_column, tokens)
    ids = sample.column(id_column)
    check_writable(output)
    paths = find_images(config.data_path("test_dir"), ids, config.data.image_extension)

    images = DecodedImages(paths, keep=_canvases(ensemble, headers, weights))
    predictions = []
    for number, member in enumerate(ensemble.members, start=1):
        title = f"member {number}/{len(ensemble.members)} {member.name}"
        predictions.append(_predict_member(member, weights, images, device, title))

    probabilities = blend(predictions, [member.weight for member in ensemble.members])
    if columns is not None:
        write_probabilities(output, sample, id_column, columns, probabilities)
        what = f"a probability for each of {len(tokens)} classes"
    elif config.data.task == "multiclass":
        write_submission(output, sample, id_column, top_labels(probabilities, tokens))
        what = "a label an image"
    else:
        predicted = above(probabilities, ensemble.threshold)
        separator = config.data.label_separator or " "
        write_submission(output, sample, id_column, label_lists(predicted, tokens, separator))
        what = f"{np.count_nonzero(predicted) / len(ids):.2f} labels an image"
    print(f"written: {output} ({len(ids)} images, {what})")


def _predict_member(
    member: Member, weights: dict[str, Path], images: DecodedImages, device: torch.device, title: str
) -> Probabilities:
    """Mean probabilities of a member's folds, summed in float32 in the order of the ensemble file."""
    total: Probabilities | None = None
    for number, name in enumerate(member.weights, start=1):
        path = weights[name]
        config: Config = config_of(read_header(path), path)
        model = load_model(path, device)
        description = f"{title}, fold {number}/{len(member.weights)}"
        predicted = predict(model, images, pipeline_of(config, device), member.views, description)
        total = predicted if total is None else total + predicted
    assert total is not None
    return total / np.float32(len(member.weights))


def _canvases(ensemble: Ensemble, headers: dict[str, dict[str, Any]], weights: dict[str, Path]) -> list[Canvas]:
    """What the members need of each image."""
    canvases = []
    for member in ensemble.members:
        geometry = geometry_of(config_of(headers[member.weights[0]], weights[member.weights[0]]))
        canvases.append(Canvas(geometry, margin_of(member.views, geometry.height, geometry.width)))
    return canvases
