"""The sketch task's recipe: data, teacher, student, stages, what is deployed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from compressor.recipe import RecipeConfig, Section
from compressor.tasks.sketch.selector.config import SelectorConfig, check_selector


class DataConfig(Section):
    """`source`: a data source's name or a folder of your own pairs.

    `by`: "concept" keeps all variants of a concept ("cook", "man cook", "woman cook") in one part, so that they meet in
    one gallery. "item" deals pairs one by one into the parts, and leaves out of the training part every pair whose
    concept is in another part: what is tested is unseen either way, but a gallery with few variants is easier.
    """

    source: str = "openmoji"
    by: Literal["item", "concept"] = "item"
    fold: int = Field(default=0, ge=0, description="the test part")
    validation_share: float = Field(default=0.125, gt=0, lt=1, description="of the other folds")
    gallery_vendor: str | None = Field(default=None, description="whose photos are searched; null: the first vendor's")
    drawings: bool = Field(default=True, description="also distil on the source's sketches that have no photo")
    more_drawings: tuple[str, ...] = Field(
        default=(), description="sources of further sketches, without those that share a held-out label's words"
    )


class TeacherConfig(Section):
    """`weights`: a data source of weights; "timm": those that timm publishes for the network, from its cache or hub; or
    a .safetensors file of the bare network, or of a teacher that was trained before (with stages.teacher.steps=0 it
    stays as it is); null: fresh ones."""

    network: str = "timm:tf_efficientnet_lite0"
    weights: str | None = "efficientnet-lite0"
    embedding_dim: int = Field(default=256, ge=1)
    canvas_px: int = Field(default=96, ge=16)
    flip_average: bool = Field(
        default=True, description="a photo's embedding is the mean of its own and its mirror image's"
    )


class StudentConfig(Section):
    """`network`: tiny-sketch, tiny-sketch-16, timm:NAME, or pruned-teacher (the trained teacher, carved to
    `macs_ratio`)."""

    network: str = "tiny-sketch"
    weights: str | None = Field(
        default=None,
        description="a .safetensors file of a student trained before, such as a bundle's weights/encoder.safetensors; "
        "with stages.distill.steps=0 it stays as it is",
    )
    width: float = Field(default=1.0, gt=0)
    in_channels: Literal[1, 3] = 1
    macs_ratio: float | None = Field(default=None, gt=0, lt=1, description="of the teacher's, for pruned-teacher")

    @model_validator(mode="after")
    def _ratio_is_the_pruned_teacher_s(self) -> StudentConfig:
        if (self.network == "pruned-teacher") != (self.macs_ratio is not None):
            raise ValueError("macs_ratio goes with network: pruned-teacher, and only with it")
        if self.weights is not None and self.network == "pruned-teacher":
            raise ValueError("a pruned teacher's weights are the teacher's: no student.weights")
        return self


class OptimizerConfig(Section):
    """AdamW with a linear warm-up and a cosine to zero."""

    lr: float = Field(..., gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_steps: int = Field(default=20, ge=0)


class TeacherStageConfig(Section):
    """Fine-tuning on sketches and photos: InfoNCE, or the triplet loss of the paper's teacher over every other photo
    of the batch."""

    steps: int = Field(..., ge=0)
    batch: int = Field(default=64, ge=2, description="pairs per process")
    canvas_px: int | None = Field(
        default=None, ge=16, description="while training; null: teacher.canvas_px. A smaller one saves time"
    )
    optimizer: OptimizerConfig
    head_lr_factor: float = Field(default=4.0, gt=0)
    loss: Literal["info_nce", "triplet"] = "info_nce"
    temperature: float = Field(default=0.07, gt=0, description="of info_nce")
    margin: float = Field(default=0.2, ge=0, description="of triplet")
    gallery_share: float = Field(default=0.5, ge=0, le=1, description="how often the photo is the gallery vendor's")
    sketch_strength: float = Field(default=1.0, ge=0, description="of the sketches' augmentation")
    photo_strength: float = Field(default=0.6, ge=0)
    frozen_stages: int = Field(default=0, ge=0, description="the first stages of the network that stay as they are")


class TargetsStageConfig(Section):
    """What the teacher says about `views` variations of every drawing; the student sees the same ones."""

    views: int = Field(default=8, ge=1)
    drawing_views: int | None = Field(default=None, ge=1, description="of a sketch without a photo; null: as many")
    strength: float = Field(default=1.0, ge=0)
    seed: int | None = Field(default=None, description="of the variations; null: the recipe's")


class LossConfig(Section):
    """L = relational (lambda_ triplet + (1 - lambda_) RKD) + the other terms, averaged over the canvases.

    Needs the teacher's view of a sketch: RKD, cosine, prototype_kl, and feature: mean squared error between the
    teacher's standardised pooled features and a linear projection of the student's, which is thrown away. Task losses:
    triplet, info_nce (both sides through the student) and prototype_ce (against the teacher's photo embeddings, where
    the teacher embeds the gallery).
    """

    relational: float = Field(default=1.0, ge=0)
    lambda_: float = Field(default=0.5, ge=0, le=1)
    margin: float = Field(default=0.2, ge=0)
    info_nce: float = Field(default=0.0, ge=0)
    cosine: float = Field(default=0.0, ge=0)
    prototype_ce: float = Field(default=0.0, ge=0)
    prototype_kl: float = Field(default=0.0, ge=0)
    feature: float = Field(default=0.0, ge=0)
    temperature: float = Field(default=0.07, gt=0)


class DistillStageConfig(Section):
    steps: int = Field(..., ge=0)
    batch: int = Field(default=256, ge=2, description="sketches per process")
    canvases: tuple[int, ...] = (32,)
    canvases_per_step: int | None = Field(default=None, ge=1, description="drawn at random; null: all of them")
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="decay of the weights' moving average, which is kept; 0: none"
    )
    signal: Literal["teacher", "none"] = Field(
        default="teacher", description="none: the task losses only, nothing distilled"
    )
    drawings_share: float = Field(default=0.3, ge=0, lt=1, description="of the batch; sketches without a photo")
    jitter: float = Field(
        default=0.0, ge=0, description="strength of a further variation that the teacher has not seen"
    )
    photo_strength: float = Field(default=0.6, ge=0, description="only where the student embeds the gallery")
    optimizer: OptimizerConfig
    loss: LossConfig = LossConfig()


class QuantiseStageConfig(Section):
    """Quantisation-aware fine-tuning of the student after `distill`, with its data and loss. 0 steps: no such stage.

    For a student that loses too much in int8 (`compressor bench` says so): a few hundred steps. The float student
    changes a little, and may lose a little.
    """

    steps: int = Field(default=0, ge=0)
    optimizer: OptimizerConfig = OptimizerConfig(lr=5e-4)
    weight_bits: int = Field(default=8, ge=2, le=8)
    input_bits: int = Field(default=8, ge=2, le=8)
    exclude: tuple[str, ...] = Field(default=(), description="layers that stay float, such as student.head")
    moving_share: float = Field(
        default=0.5, gt=0, le=1, description="of the steps, in which the inputs' ranges move; then they are fixed"
    )


class StagesConfig(Section):
    teacher: TeacherStageConfig
    targets: TargetsStageConfig = TargetsStageConfig()
    distill: DistillStageConfig
    quantise: QuantiseStageConfig = QuantiseStageConfig()


class DeployConfig(Section):
    canvases: tuple[int, ...] = (32,)
    canvas_px: int = Field(default=32, description="of the canvases, the one that every query is drawn on")
    index: Literal["float32", "int8"] = Field(default="float32", description="how galleries are stored and searched")
    golden: int = Field(default=32, ge=1)
    calibration: int = Field(default=256, ge=1)


class SketchConfig(RecipeConfig):
    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    gallery: Literal["teacher", "student"] = Field(
        default="teacher",
        description="teacher: it embeds the photos once, off the device; student: both sides are the student's",
    )
    stages: StagesConfig
    selector: SelectorConfig = SelectorConfig()
    deploy: DeployConfig = DeployConfig()

    @model_validator(mode="after")
    def _parts_fit(self) -> SketchConfig:
        distill, deploy = self.stages.distill, self.deploy
        if self.gallery == "student" and self.student.in_channels == 1:
            raise ValueError("gallery: student needs student.in_channels=3 (it embeds photos)")
        if unknown := sorted(set(deploy.canvases) - set(distill.canvases)):
            raise ValueError(f"deploy.canvases has {unknown[0]} px, which stages.distill.canvases does not train")
        if deploy.canvas_px not in deploy.canvases:
            raise ValueError(f"deploy.canvas_px {deploy.canvas_px} is none of deploy.canvases")
        check_selector(self.selector, deploy.canvases)
        if self.student.network.startswith("tiny-sketch") and any(px % 8 for px in distill.canvases):
            raise ValueError("tiny-sketch takes canvases whose side is a multiple of 8 px")
        if self.gallery == "student" and distill.loss.feature:
            raise ValueError("loss.feature is for gallery: teacher")
        if self.gallery == "teacher" and distill.loss.info_nce:
            raise ValueError("loss.info_nce is for gallery: student; prototype_ce is its like for gallery: teacher")
        return self
