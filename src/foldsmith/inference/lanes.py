"""The weights of an ensemble's members, proved to be of it, and the devices that they are loaded into."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from foldsmith.config import Config
from foldsmith.data.images import geometry_of
from foldsmith.ensemble.file import Ensemble
from foldsmith.errors import EXIT_UNTRUSTED, UserError
from foldsmith.files import sha256_file, sha256_lines
from foldsmith.inference.anytime import BeforeBatch
from foldsmith.inference.decoded import Canvas, DecodedImages
from foldsmith.inference.find import hashes_of
from foldsmith.inference.predict import Fits, NotFinite, pipeline_of, predict
from foldsmith.inference.views import expand_views, margin_of
from foldsmith.metrics import Probabilities
from foldsmith.models.header import config_of
from foldsmith.models.weights import load_model, read_header, reload_model


class MemberWeights:
    """What the weights files of an ensemble say of themselves.

    Args:
        paths: of every weights name.

    Raises:
        UserError: code 4 where a file is of another task or of other classes than the ensemble.
    """

    def __init__(self, ensemble: Ensemble, paths: dict[str, Path]) -> None:
        self.ensemble, self.paths = ensemble, paths
        self.headers = {name: read_header(path) for name, path in paths.items()}
        self.sha256 = {name: known or sha256_file(paths[name]) for name, known in hashes_of(ensemble).items()}
        self.classes = _classes(ensemble, self.headers)  # tokens, in the ensemble's order
        if isinstance(ensemble.threshold, list) and len(ensemble.threshold) != len(self.classes):
            raise UserError(
                f"{len(ensemble.threshold)} thresholds do not fit {len(self.classes)} classes", key="threshold"
            )
        for name, path in paths.items():
            if self.config(name).data.task != ensemble.task:
                message = f"is of task {self.config(name).data.task}, the ensemble of {ensemble.task}"
                raise UserError(message, file=path, code=EXIT_UNTRUSTED)
        unknown = [label for label in ensemble.prior if label not in self.classes]
        if unknown:
            raise UserError(f"holds labels that are no classes: {', '.join(unknown[:5])}", key="prior")
        self.order = {name: _order(header, self.classes, paths[name]) for name, header in self.headers.items()}

    def config(self, name: str) -> Config:
        """The resolved config of a weights file."""
        return config_of(self.headers[name], self.paths[name])

    def canvases(self) -> list[Canvas]:
        """What the members need of each image."""
        canvases = []
        for member in self.ensemble.members:
            for name in member.weights:
                geometry = geometry_of(self.config(name))
                margin = margin_of(expand_views(member.views), geometry.height, geometry.width)
                canvases.append(Canvas(geometry, margin))
        return canvases


class Lane:
    """A device and the network that it holds."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.shape: Any = None
        self.network: nn.Module = nn.Identity()
        self.fits: Fits | None = None

    def predict(
        self,
        weights: MemberWeights,
        name: str,
        images: DecodedImages,
        views: list[str],
        title: str,
        merge: str,
        before_batch: BeforeBatch,
    ) -> Probabilities:
        """Probabilities by a weights file, classes in its own order; in float32 where half precision overflows."""
        pipeline = pipeline_of(weights.config(name), self.device)
        self._load(weights, name, pipeline.batch_size)
        options: dict[str, Any] = {"merge": merge, "before_batch": before_batch, "fits": self.fits}
        try:
            return predict(self.network, images, pipeline, views, title, **options)
        except NotFinite as error:
            if pipeline.amp is None:
                raise
            print(f"{error.message}; again in float32")
            exact = dataclasses.replace(pipeline, amp=None)
            return predict(self.network, images, exact, views, title, **options)

    def _load(self, weights: MemberWeights, name: str, batch_size: int) -> None:
        """Put weights into the network; build another one where more than the weights differs."""
        shape = (weights.config(name).model, weights.headers[name]["classes"])
        if self.shape == shape:
            reload_model(self.network, weights.paths[name])
            return
        self.shape, self.network, self.fits = None, nn.Identity(), Fits(batch_size)  # the old one makes room first
        self.network = load_model(weights.paths[name], self.device)
        self.shape = shape


def _classes(ensemble: Ensemble, headers: dict[str, dict[str, Any]]) -> list[str]:
    """The ensemble's class list: that of the weights whose hash is the ensemble's."""
    for header in headers.values():
        if sha256_lines(header["classes"]) == ensemble.classes_sha256:
            return list(header["classes"])
    first = next(iter(headers.values()))
    hashes = f"{ensemble.classes_sha256[:12]} there, {sha256_lines(first['classes'])[:12]} here"
    raise UserError(
        f"has another class list than all of its weights: {hashes}", key="classes_sha256", code=EXIT_UNTRUSTED
    )


def _order(header: dict[str, Any], classes: list[str], path: Path) -> NDArray[np.int64]:
    """Where each of the ensemble's classes stands in a weights file; another set of classes is refused."""
    own = {token: index for index, token in enumerate(header["classes"])}
    if len(own) != len(classes) or own.keys() != set(classes):
        strange = sorted(own.keys() ^ set(classes))[:5]
        raise UserError(
            f"has other classes than the ensemble: {len(own)} instead of {len(classes)}; {', '.join(strange)} differ",
            file=path,
            code=EXIT_UNTRUSTED,
        )
    return np.array([own[token] for token in classes], dtype=np.int64)
