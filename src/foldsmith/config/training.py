"""The sections train, loss and optimizer of an experiment file."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer, model_validator

from foldsmith.config.section import BatchSize, Component, PositiveFloat, PositiveInt, Probability, Section


class Warmup(Section):
    steps: PositiveInt = Field(description="optimizer steps in which the rate rises linearly from 0")
    max_lr: PositiveFloat | None = Field(None, description="rate at its end; default: the schedule's own at each step")
    head_only: bool = Field(False, description="train nothing but the classifier in these steps")


class Loss(Component):
    class_weights: Literal["balanced", "log"] | None = Field(
        None, description="balanced: images / (classes * count); log: log(1 + (largest count / count)^2)"
    )


class Mix(Section):
    alpha: float = Field(
        gt=0,
        le=1000,
        description="of Beta(alpha, alpha), from which the share of the first image is drawn; at most 1000 (all shares "
        "are about a half then)",
    )


class Ema(Section):
    decay: Annotated[float, Field(gt=0, lt=1)] = Field(0.999, description="share of the old average a step keeps")
    warmup: bool = Field(True, description="let the decay rise from 0, so that the first steps are forgotten")


class Swa(Section):
    """Stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407), in the last stage."""

    start: PositiveInt = Field(description="first epoch of the last stage, counted from 1, whose weights are averaged")
    period: PositiveInt = Field(1, description="epochs from one averaged epoch to the next")


class EarlyStopping(Section):
    """Ends a stage; at least one of its keys is named."""

    patience: PositiveInt | None = Field(None, description="epochs without a better score")
    min_lr: PositiveFloat | None = Field(None, description="stop when every rate has fallen to this or below")

    @model_validator(mode="after")
    def _one_named(self) -> "EarlyStopping":
        if self.patience is None and self.min_lr is None:
            raise ValueError("name patience, min_lr, or both")
        return self


LastGroups = Annotated[str, StringConstraints(pattern=r"^last [1-9][0-9]{0,2} groups?$")]
Trainable = Literal["all", "head"] | LastGroups | Annotated[list[str], Field(min_length=1)]
TRAINABLE = (
    "all, head (the classifier), `last N groups` (of timm's layer groups: stem, stages, classifier; N of up to three "
    "digits), or a list of module name prefixes such as [blocks.3, classifier]"
)


Epochs = Annotated[float, Field(gt=0, le=100_000)]


class Optimizer(Component):
    head_lr: PositiveFloat | None = Field(None, description="rate of the classifier; default params.lr")
    group_lrs: dict[str, PositiveFloat] = Field(
        {}, description="rates of modules by name prefix, such as {layer4: 8e-5}; what no prefix names has params.lr"
    )


class Stage(Section):
    """A part of the training. What it leaves out it takes from the experiment; what it names replaces that whole.

    It begins with the weights that the stage before ended with, those of its last epoch.
    """

    num_epochs: Epochs = Field(1.0, description="default: train.num_epochs; 0.5 is half a pass over the images")
    trainable: Trainable = Field("all", description=TRAINABLE)
    optimizer: Optimizer | None = Field(None, description="default: the experiment's")
    scheduler: Component | None = Field(None, description="default: the experiment's, begun anew")
    sampler: Component | None = Field(None, description="default: train.sampler")
    loss: Loss | None = Field(None, description="default: the experiment's")
    mixup: Mix | None = Field(None, description="default: train.mixup")
    sparsity: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="share of each conv and linear weight, the smallest, that is zero while the stage lasts"
    )

    @model_serializer(mode="wrap")
    def _named_only(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A null that was not written would turn off what the experiment has."""
        return {key: value for key, value in handler(self).items() if key in self.model_fields_set}


class Train(Section):
    batch_size: BatchSize = Field(16, description="images whose gradients are computed together; at most 65536")
    batch_size_is: Literal["global", "per_process"] = Field(
        "global", description="where torchrun starts several processes: whether they share a batch, or have one each"
    )
    sync_batch_norm: bool = Field(
        False, description="under torchrun, on GPUs: statistics of the batch of all processes"
    )
    num_epochs: Epochs = Field(
        description="passes over the training images; the last may be a part: 2.5; at most 100000"
    )
    seed: int = Field(0, ge=0, description="weights of the head, order of images, augmentation, dropout")
    trainable: Trainable = Field("all", description=TRAINABLE)
    accum_batches: PositiveInt = Field(1, description="batches whose gradients are averaged into one step")
    max_steps_per_epoch: PositiveInt | None = Field(None, description="optimizer steps after which an epoch is cut")
    amp: Literal["off", "bf16", "fp16"] | None = Field(None, description="default: fp16 on CUDA, off on CPU")
    warmup: Warmup | None = Field(None, description="of the first stage")
    stages: list[Stage] = Field(
        [], max_length=100, description="parts that follow each other, at most 100; none: one, as the experiment says"
    )
    sampler: Component | None = Field(None, description="which images an epoch draws; default: each once")
    swa: Swa | None = Field(None, description="average the weights of some epochs; kept where it scores better")
    early_stopping: EarlyStopping | None = Field(None, description="when a stage ends before its last epoch")
    mixup: Mix | None = Field(None, description="mix whole images and their labels")
    cutmix: Mix | None = Field(None, description="mix a box of another image in, labels by area")
    mix_prob: Probability = Field(1.0, description="probability that a batch is mixed, where mixup or cutmix is named")
    ema: Ema | None = Field(None, description="score and keep the exponential moving average of the weights")
    clip_grad_norm: PositiveFloat | None = Field(None, description="gradients are scaled down to this 2-norm")
    workers: Annotated[int, Field(ge=0, le=512)] | Literal["auto"] = Field(
        "auto",
        description="data loading processes, at most 512; auto: by device and cores; 0: none, batches are made between "
        "steps",
    )
    loggers: list[Literal["tensorboard", "wandb"]] = Field(
        [], description="where scores go beside metrics.csv, which is always written; each is a package of its own"
    )
    worker_timeout: float = Field(
        300.0,
        gt=0,
        le=86_400,
        description="seconds, at most a day, after which a data loading process that gives no batch is taken for dead",
    )
    compile: bool = Field(False, description="torch.compile: minutes at the start, faster steps on CUDA")
