"""Every key that an experiment file may have: names, types, ranges, defaults, meaning.

These models see plain values only. Names of things that live in torch, timm or albumentations (losses, optimizers,
transforms ...) are checked by training/leaves.py, which knows their signatures.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

Probability = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


def _pair(value: Any) -> Any:
    """288 -> [288, 288], so that the rest of the program knows one form."""
    return [value, value] if isinstance(value, int) and not isinstance(value, bool) else value


def _area_pair(value: list[float]) -> list[float]:
    if value[0] > value[1]:
        raise ValueError(f"the first number is the smaller one, got {value}")
    return value


def _at_most_one(value: list[float]) -> list[float]:
    if value[1] > 1:
        raise ValueError(f"shares are at most 1, got {value}")
    return value


PositiveShare = Annotated[float, Field(gt=0, le=1)]
Range = Annotated[list[PositiveFloat], Field(min_length=2, max_length=2), AfterValidator(_area_pair)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Component(Section):
    """A thing chosen by name; `params` are bound to its signature before any data is read."""

    name: str
    params: dict[str, Any] = Field(default={}, description="keyword arguments of what `name` chooses")


class Data(Section):
    root: str = Field(description="folder with train.csv, sample_submission.csv, train/ and test/")
    train_csv: str | None = Field(None, description="label table; default <root>/train.csv")
    labels_csv: str | None = Field(None, description="class list (id, name); default <root>/labels.csv where it exists")
    sample_submission: str | None = Field(None, description="default <root>/sample_submission.csv")
    train_dir: str | None = Field(None, description="folder of training images; default <root>/train")
    test_dir: str | None = Field(None, description="folder of test images; default <root>/test")
    task: Literal["multilabel"] = Field("multilabel", description="several labels an image")
    id_column: str | None = Field(None, description="default: found among the usual names (id, image, ...)")
    label_column: str | None = Field(None, description="default: found among the usual names, or the only other column")
    label_separator: str | None = Field(None, min_length=1, description="between labels; default: found by itself")
    image_extension: str | None = Field(None, description="such as .jpg; default: found in the image folder")
    num_folds: int = Field(5, ge=2, description="K")
    folds_seed: int = Field(0, ge=0, lt=2**32, description="experiments to be blended share it; apart from train.seed")
    folds: str | None = Field(
        None, description="an existing split: csv (id, fold), or .npy of folds in train.csv's order"
    )
    geometry: Literal["squash", "fit", "short_side", "crop"] = Field(
        "squash",
        description="how an image becomes input_size: squash ignores the aspect, fit pads the rest, short_side scales "
        "the short side and crops, crop takes native pixels (padded where the image is smaller)",
    )
    pad: Literal["reflect", "edge", "white", "black"] = Field("reflect", description="what lies beyond the image")


class Model(Section):
    arch: str = Field(description="any timm model name")
    pretrained: bool | str = Field(True, description="true: timm's weights; false; or a .safetensors / .pth file")
    input_size: Annotated[
        list[PositiveInt],
        Field(min_length=2, max_length=2),
        BeforeValidator(_pair, json_schema_input_type=int | list[int]),
    ] = Field(description="pixels: one number, or [height, width]")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="before the classifier")
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


class Warmup(Section):
    steps: PositiveInt = Field(description="optimizer steps in which the rate rises linearly from 0 to the schedule's")


class Mix(Section):
    alpha: PositiveFloat = Field(description="of Beta(alpha, alpha), from which the share of the first image is drawn")


class Ema(Section):
    decay: Annotated[float, Field(gt=0, lt=1)] = Field(0.999, description="share of the old average a step keeps")
    warmup: bool = Field(True, description="let the decay rise from 0, so that the first steps are forgotten")


class EarlyStopping(Section):
    patience: PositiveInt = Field(description="epochs without a better score after which training ends")


class Train(Section):
    batch_size: PositiveInt = 16
    num_epochs: PositiveInt
    seed: int = Field(0, ge=0, description="weights of the head, order of images, augmentation, dropout")
    trainable: Literal["all", "head"] | Annotated[list[str], Field(min_length=1)] = Field(
        "all",
        description="all, head (the classifier), or a list of module name prefixes such as [blocks.3, classifier]",
    )
    accum_batches: PositiveInt = Field(1, description="batches whose gradients are averaged into one step")
    max_steps_per_epoch: PositiveInt | None = Field(None, description="optimizer steps after which an epoch is cut")
    amp: Literal["off", "bf16", "fp16"] | None = Field(None, description="default: fp16 on CUDA, off on CPU")
    warmup: Warmup | None = None
    early_stopping: EarlyStopping | None = None
    mixup: Mix | None = Field(None, description="mix whole images and their labels")
    cutmix: Mix | None = Field(None, description="mix a box of another image in, labels by area")
    mix_prob: Probability = Field(1.0, description="probability that a batch is mixed, where mixup or cutmix is named")
    ema: Ema | None = Field(None, description="score and keep the exponential moving average of the weights")
    clip_grad_norm: PositiveFloat | None = Field(None, description="gradients are scaled down to this 2-norm")
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = Field("auto", description="data loading processes")


class Optimizer(Component):
    head_lr: PositiveFloat | None = Field(None, description="rate of the classifier; default params.lr")


class Erase(Section):
    """Random erasing (Zhong et al. 2017, arXiv:1708.04896): a rectangle is filled with the image's mean."""

    prob: Probability
    area: Annotated[Range, AfterValidator(_at_most_one)] = Field(
        [0.02, 0.4], description="share of the image, smallest and largest"
    )
    ratio: Range = Field([0.3, 3.33], description="height / width, smallest and largest")


def _erase(value: Any) -> Any:
    """erase: 0.5 -> erase: {prob: 0.5}"""
    return {"prob": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


class Augmentations(Section):
    crop_jitter: int = Field(
        0, ge=0, description="pixels by which the training crop is larger before it is cut at random"
    )
    hflip: bool = False
    vflip: bool = False
    rotate90: bool = False
    affine: Literal["soft", "medium", "hard"] | None = Field(None, description="shift, scale, rotate")
    blur: Probability = Field(0.0, description="probability of one of three blurs")
    noise: Probability = Field(0.0, description="probability of one of two noises")
    distortion: Probability = Field(0.0, description="probability of one of two lens distortions")
    color: Probability = Field(0.0, description="probability of one of four colour changes")
    erase: Annotated[Erase | None, BeforeValidator(_erase, json_schema_input_type=Probability | Erase | None)] = Field(
        None, description="a probability or a section"
    )
    global_prob: Probability = Field(1.0, description="probability that an image is augmented at all (jitter apart)")
    extra: list[Component] = Field([], description="albumentations transforms by their own names, applied in order")


class Test(Section):
    batch_size: PositiveInt = 32
    tta: Annotated[list[str], Field(min_length=1)] = Field(["identity"], description="views that are averaged")


class Config(Section):
    """One experiment. `name` is the file's stem and names every artefact."""

    data: Data
    model: Model
    train: Train
    loss: Component = Component(name="bce")
    optimizer: Optimizer
    scheduler: Component = Component(name="constant")
    augmentations: Augmentations = Augmentations()
    test: Test = Test()
    metric: Literal["f2"] = Field("f2", description="decides which epoch is best, and what the blend search maximises")

    _name: str = PrivateAttr("")

    @property
    def name(self) -> str:
        return self._name

    def named(self, name: str) -> "Config":
        self._name = name
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
