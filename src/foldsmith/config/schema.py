"""Every key that an experiment file may have: names, types, ranges, defaults, meaning.

These models see plain values only. Names of things that live in torch, timm or albumentations (losses, optimizers,
transforms ...) are checked by training/leaves.py, which knows their signatures.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from foldsmith.config.deploy import Deploy
from foldsmith.config.section import (
    BatchSize,
    Component,
    PathText,
    PositiveShare,
    Probability,
    Range,
    Section,
    WeightsFile,
    at_most_one,
    pair,
)
from foldsmith.config.training import Loss, Optimizer, Train


class Data(Section):
    root: PathText = Field(description="folder with train.csv, sample_submission.csv, train/ and test/")
    train_csv: PathText | None = Field(None, description="label table; default <root>/train.csv")
    labels_csv: PathText | None = Field(
        None, description="class list (id, name); default <root>/labels.csv where it exists"
    )
    sample_submission: PathText | None = Field(None, description="default <root>/sample_submission.csv")
    train_dir: PathText | None = Field(None, description="folder of training images; default <root>/train")
    test_dir: PathText | None = Field(None, description="folder of test images; default <root>/test")
    valid_csv: PathText | None = Field(
        None,
        description="original labels, where train_csv holds pseudo labels: folds, validation and OOF go by it, rows "
        "that only train_csv has are trained on in every fold; default: train_csv, or <root>/train.csv where "
        "train_csv has a column `pseudo`",
    )
    task: Literal["multilabel", "multiclass"] = Field(
        "multilabel", description="multilabel: any number of labels an image; multiclass: exactly one"
    )
    id_column: str | None = Field(None, description="default: found among the usual names (id, image, ...)")
    label_column: str | Annotated[list[str], Field(min_length=2)] | None = Field(
        None,
        description="of label lists, or a list of columns, one a class, that hold 0 or 1; default: found among the "
        "usual names, or the only other column, or all others where they hold 0 and 1 alone",
    )
    group_column: str | None = Field(
        None, description="column of a group, such as a patient or a series; no group is in two folds"
    )
    label_separator: str | None = Field(None, min_length=1, description="between labels; default: found by itself")
    image_extension: PathText | None = Field(None, description="such as .jpg; default: found in the image folder")
    on_bad_image: Literal["error", "skip"] = Field(
        "error",
        description="a training image that cannot be read: error stops and names it; skip trains on the next image in "
        "its place. Validation takes it as black then",
    )
    num_folds: int = Field(
        5, ge=2, le=1000, description="parts of the split, each validated by the model trained on the others"
    )
    folds_seed: int = Field(0, ge=0, lt=2**32, description="experiments to be blended share it; apart from train.seed")
    folds: PathText | None = Field(
        None, description="an existing split: csv (id, fold), or .npy of folds in train.csv's order"
    )
    geometry: Literal["squash", "fit", "short_side", "crop"] = Field(
        "squash",
        description="how an image becomes input_size: squash ignores the aspect, fit pads the rest, short_side scales "
        "the short side and crops, crop takes native pixels (padded where the image is smaller)",
    )
    pad: Literal["reflect", "edge", "white", "black"] = Field("reflect", description="what lies beyond the image")
    cache: Literal["auto", "disk", "ram", "off"] = Field(
        "auto",
        description="decoded images, kept for later epochs; auto: on disk where they fit, else "
        "off; ram: of one process alone",
    )


class Model(Section):
    arch: str = Field(description="any timm model name, cbam_resnet50, or a usual name from elsewhere (xception ...)")
    pretrained: bool | WeightsFile = Field(
        True, description="true: timm's weights; false; or a .safetensors / .pth file"
    )
    input_size: Annotated[
        list[Annotated[int, Field(gt=0, le=4096)]],
        Field(min_length=2, max_length=2),
        BeforeValidator(pair, json_schema_input_type=int | list[int]),
    ] = Field(description="pixels: one number, or [height, width]; at most 4096 (an image is 200 MB of float32 then)")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="before the classifier")
    head_layers: list[Annotated[int, Field(gt=0, le=16_384)]] = Field(
        [],
        max_length=8,
        description="widths of fully connected layers, each with batch norm and ReLU, before the classifier; at most "
        "8, of at most 16384 (two such layers have 1 GiB of weights between them)",
    )
    pooling: Literal["avg", "max", "avgmax", "catavgmax"] | None = Field(None, description="default: the model's own")
    mean: Annotated[list[Probability], Field(min_length=3, max_length=3)] | None = Field(
        None, description="of RGB in 0..1; default: timm's data config of the model"
    )
    std: Annotated[list[PositiveShare], Field(min_length=3, max_length=3)] | None = Field(
        None, description="of RGB in 0..1; default: timm's data config of the model"
    )

    @model_validator(mode="after")
    def _both_or_neither(self) -> "Model":
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together: name both or neither")
        return self


class Erase(Section):
    """Random erasing (Zhong et al. 2017, arXiv:1708.04896): a rectangle is filled with the image's mean."""

    prob: Probability = Field(description="of an image")
    area: Annotated[Range, AfterValidator(at_most_one)] = Field(
        [0.02, 0.4], description="share of the image, smallest and largest"
    )
    ratio: Range = Field([0.3, 3.33], description="height / width, smallest and largest")


def _erase(value: Any) -> Any:
    """erase: 0.5 -> erase: {prob: 0.5}"""
    return {"prob": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class RectCrop(Section):
    """A rectangle of native pixels: its longer side is the input's divided by a random ratio."""

    min_ratio: Annotated[float, Field(ge=0.001, le=1)] = Field(
        0.3, description="smallest share of the rectangle that the input is, at least 0.001"
    )
    max_ratio: PositiveShare = Field(1.0, description="largest; 1 cuts as many pixels as the network sees")
    scale_both_dims: bool = Field(False, description="each side has a ratio of its own")

    @model_validator(mode="after")
    def _in_order(self) -> "RectCrop":
        if self.min_ratio > self.max_ratio:
            raise ValueError(f"min_ratio is at most max_ratio, got {self.min_ratio} and {self.max_ratio}")
        return self


class Affine(Section):
    shift: Probability = Field(0.0, description="largest, as a share of the image's side")
    scale: Range = Field([1.0, 1.0], description="smallest and largest; below 1 the image shrinks")
    rotate: float = Field(0.0, ge=0, le=180, description="largest, in degrees")
    prob: Probability = Field(1.0, description="of an image")


class Augmentations(Section):
    crop_jitter: int = Field(
        0,
        ge=0,
        le=4096,
        description="pixels by which the training crop is larger before it is cut at random; at most 4096, as of "
        "model.input_size",
    )
    hflip: bool = Field(False, description="mirror every other image left to right")
    vflip: bool = Field(False, description="mirror every other image top to bottom")
    rotate90: bool = Field(False, description="turn by 0, 90, 180 or 270 degrees; needs a square input")
    rect_crop: RectCrop | None = Field(None, description="cut a rectangle of native pixels and squeeze it")
    affine: Literal["soft", "medium", "hard"] | Affine | None = Field(
        None, description="shift, scale, rotate: a preset or a section; data.pad says what lies beyond the image"
    )
    blur: Probability = Field(0.0, description="probability of one of three blurs")
    noise: Probability = Field(0.0, description="probability of one of two noises")
    distortion: Probability = Field(0.0, description="probability of one of two lens distortions")
    color: Probability = Field(0.0, description="probability of one of four colour changes")
    erase: Annotated[Erase | None, BeforeValidator(_erase, json_schema_input_type=Probability | Erase | None)] = Field(
        None, description="a probability or a section"
    )
    global_prob: Probability = Field(1.0, description="probability that an image is augmented at all (jitter apart)")
    extra: list[Component] = Field(
        [], max_length=100, description="albumentations transforms by their own names, applied in order; at most 100"
    )


class Test(Section):
    batch_size: BatchSize = Field(32, description="images that are predicted together; at most 65536")
    tta: Annotated[list[str], Field(min_length=1, max_length=100)] = Field(
        ["identity"], description="views of each image; at most 100 words"
    )
    merge: Literal["mean", "logits", "max", "geometric"] = Field(
        "mean", description="how the views' probabilities become one; logits: the probability of the mean logit"
    )


class Config(Section):
    """One experiment. `name` is the file's stem and names every artefact."""

    data: Data = Field(description="the competition's files, and how they are split and cut")
    model: Model = Field(description="the network and what it sees")
    train: Train = Field(description="how long and in which parts it is trained")
    loss: Loss = Field(
        Loss(name="bce"),
        description="what training minimises; default: bce, or cross_entropy where data.task is multiclass",
    )
    optimizer: Optimizer = Field(description="any optimizer of timm, and its learning rates")
    scheduler: Component = Field(Component(name="constant"), description="how the learning rate changes")
    augmentations: Augmentations = Field(Augmentations(), description="what happens to images while training")
    test: Test = Field(Test(), description="out-of-fold prediction and inference")
    metric: str = Field(
        "f2",
        description="decides which epoch is best, and what the blend search maximises; default: f2, or accuracy where "
        "data.task is multiclass",
    )

    deploy: Deploy | None = Field(None, exclude=True, description="of kernels that train or validate it")

    _name: str = PrivateAttr("")
    _words: str = PrivateAttr("")

    @property
    def name(self) -> str:
        return self._name

    @property
    def words(self) -> str:
        """The command line's words that lead to this experiment: --config and --set, as they can be typed."""
        return self._words or f"--config {self._name or 'NAME'}"

    def named(self, name: str, words: str = "") -> "Config":
        self._name, self._words = name, words
        return self

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_task(cls, values: Any) -> Any:
        data = values.get("data") if isinstance(values, dict) else None
        if isinstance(data, dict) and data.get("task") == "multiclass":
            return {"loss": {"name": "cross_entropy"}, "metric": "accuracy"} | values
        return values

    @model_validator(mode="after")
    def _one_crop(self) -> "Config":
        if self.augmentations.rect_crop is not None and self.augmentations.crop_jitter:
            raise ValueError("augmentations.rect_crop takes the place of augmentations.crop_jitter: name one of them")
        return self

    @model_validator(mode="after")
    def _square_when_turned(self) -> "Config":
        if self.augmentations.rotate90 and self.model.input_size[0] != self.model.input_size[1]:
            raise ValueError("augmentations.rotate90 needs a square model.input_size")
        return self

    def data_path(self, key: str) -> Path:
        """Path of a file or folder of the data section: the one named, else its usual place under data.root."""
        usual = {
            "train_csv": "train.csv",
            "labels_csv": "labels.csv",
            "sample_submission": "sample_submission.csv",
            "train_dir": "train",
            "test_dir": "test",
        }
        return Path(getattr(self.data, key) or Path(self.data.root) / usual[key])
