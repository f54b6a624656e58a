"""The imu task's recipe: paired video and signals, teacher, student, stages, what is deployed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from compressor.data.imu_windows import GRAVITY
from compressor.recipe import RecipeConfig, Section


class DataConfig(Section):
    """`pairs`: "mocap", or a folder in the layout of Ego4D, EgoExo4D or UESTC-MMEA-CL, which has labels and split files
    of its own. `labelled`: beside mocap, the set that is recognised in the end; its people are dealt out whole."""

    pairs: str = "mocap"
    simulation: dict[str, Any] = Field(default={}, description="of pairs: mocap, what differs from its defaults")
    held_out_clips: tuple[str, ...] = Field(
        default=(), description="clips that neither teacher nor student learn from; retrieval is validated on them"
    )
    frames: int = Field(default=16, ge=3, description="of a window's video, where pairs is a folder")
    side_px: int = Field(default=224, ge=16, description="of a frame, where pairs is a folder")
    labelled: Literal["hapt"] = "hapt"
    validation_people: tuple[str, ...] = ("1", "15", "22", "28")
    test_people: tuple[str, ...] = ("2", "4", "9", "10", "12", "13", "18", "20", "24")
    spectral_match: bool = Field(
        default=True,
        description="filter the virtual signals so that their mean spectrum is that of the training people's; "
        "no labels are read",
    )
    scale: tuple[float, float] = Field(
        default=(GRAVITY, 2.0), description="the accelerometer's m/s2 and the gyroscope's rad/s that become 1"
    )


class TeacherConfig(Section):
    """`network`: "clip-net", our small one, or "transformers:PATH", a VideoMAE or TimeSformer of transformers."""

    network: str = "clip-net"
    embedding_dim: int = Field(default=128, ge=1, description="of clip-net")
    weights: str | None = Field(
        default=None,
        description="a .safetensors file of clip-net, trained before; with stages.teacher.steps=0 it stays",
    )
    frozen_random: bool = Field(default=False, description="a control: the teacher is not trained")


class StudentConfig(Section):
    network: str = "tiny-imu"
    multi_scale: bool = True
    weights: str | None = Field(default=None, description="a .safetensors file of an encoder that was trained before")


class AugmentConfig(Section):
    """How signals are varied. Angles in rad, the rest are standard deviations."""

    yaw: float = Field(default=0.0, ge=0, description="turned by up to so much about the vertical axis (x)")
    tilt: float = Field(default=0.12, ge=0, description="turned about a random axis")
    amplitude: float = Field(default=0.1, ge=0, description="of the log of both sensors' gain")
    channel_gain: float = Field(default=0.0, ge=0, description="of the log of each channel's gain, around its mean")
    noise: float = Field(default=0.05, ge=0, description="of the scaled signal")
    bias: float = Field(default=0.02, ge=0, description="of the scaled signal")
    shift: int = Field(default=0, ge=0, description="samples, rolled")


class OptimizerConfig(Section):
    """AdamW with a linear warm-up and a cosine to zero."""

    lr: float = Field(..., gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup_share: float = Field(default=0.1, ge=0, lt=1, description="of the steps")

    def over(self, steps: int) -> dict[str, Any]:
        """What `compressor.stage.adamw` wants to know."""
        warmup_steps = max(0, round(self.warmup_share * steps) - 1)
        return {"lr": self.lr, "weight_decay": self.weight_decay, "warmup_steps": warmup_steps, "steps": steps}


class TeacherStageConfig(Section):
    """The teacher learns which clip a window is of, and to tell its moment from others: two views of the same window
    (shifted, scaled, mirrored alike) against all others of the batch."""

    steps: int = Field(..., ge=0)
    batch: int = Field(default=64, ge=2)
    identity: float = Field(default=1.0, ge=0, description="weight of the cross-entropy over clips")
    contrast: float = Field(default=1.0, ge=0, description="weight of the time contrast, InfoNCE between two views")
    temperature: float = Field(default=0.1, gt=0)
    optimizer: OptimizerConfig = OptimizerConfig(lr=2e-3)


class DistillStageConfig(Section):
    """Video teaches the student. `loss`: "queue" is COMODO's; "info_nce" and "l2" are the paper's baselines."""

    steps: int = Field(..., ge=0)
    batch: int = Field(default=128, ge=2, description="pairs per process")
    epochs: int | None = Field(default=None, ge=1, description="over the pairs, in place of steps")
    loss: Literal["queue", "info_nce", "l2"] = "queue"
    queue_length: int = Field(default=4096, ge=1)
    student_temperature: float = Field(default=0.05, gt=0, description="of the queue loss")
    teacher_temperature: float = Field(default=0.1, gt=0, description="of the queue loss")
    info_nce_temperature: float = Field(default=0.07, gt=0)
    centre: bool = Field(default=False, description="the teacher's embeddings without their mean, unit length again")
    simclr: float = Field(default=0.0, ge=0, description="weight of SimCLR on unlabelled windows beside it")
    hidden: int = Field(default=256, ge=1, description="of the projector")
    dim: int | None = Field(
        default=None,
        ge=1,
        description="to which the teacher's embeddings are reduced (principal directions); null: not",
    )
    optimizer: OptimizerConfig = OptimizerConfig(lr=3e-3)
    augment: AugmentConfig = AugmentConfig(yaw=3.1416, channel_gain=0.2)


class SimclrStageConfig(Section):
    """Two variations of a window against all others of the batch, no teacher and no labels. 0 steps: no such stage.

    Source: Chen et al. 2020, eq. 1 (NT-Xent).
    """

    steps: int = Field(default=0, ge=0)
    batch: int = Field(default=128, ge=2, description="windows per process")
    windows: Literal["labelled", "pairs"] = Field(
        default="labelled", description="the training people's of the labelled set, without labels; or the pairs'"
    )
    temperature: float = Field(default=0.1, gt=0)
    hidden: int = Field(default=256, ge=1)
    dim: int = Field(default=64, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig(lr=2e-3)
    augment: AugmentConfig = AugmentConfig(yaw=0.3, tilt=0.3, amplitude=0.2, channel_gain=0.2, noise=0.1, bias=0.05)


class ClassifyStageConfig(Section):
    """The class head: a linear probe of the frozen features, then fine-tuning from there (0 steps: the probe is it)."""

    steps: int = Field(..., ge=0)
    batch: int = Field(default=64, ge=2)
    label_share: float = Field(default=1.0, gt=0, le=1, description="of the training people's windows of each class")
    label_draw: int = Field(default=0, ge=0, description="which windows those are")
    probe_penalty: float = Field(default=1e-2, gt=0, description="of the probe's squared weights")
    start_from_probe: bool = True
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3)
    augment: AugmentConfig = AugmentConfig()


class StagesConfig(Section):
    teacher: TeacherStageConfig
    distill: DistillStageConfig
    simclr: SimclrStageConfig = SimclrStageConfig()
    classify: ClassifyStageConfig


class DeployConfig(Section):
    """The streaming case."""

    hop: int = Field(default=50, ge=1, description="samples between two decisions")
    smoothing: float = Field(default=0.5, gt=0, le=1, description="the newest window's part in what is decided")
    calibration: int = Field(default=256, ge=1)


class ImuConfig(RecipeConfig):
    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    stages: StagesConfig
    deploy: DeployConfig = DeployConfig()

    @model_validator(mode="after")
    def _parts_fit(self) -> ImuConfig:
        if both := sorted(set(self.data.validation_people) & set(self.data.test_people)):
            raise ValueError(f"person {both[0]} is in data.validation_people and in data.test_people")
        if self.data.pairs != "mocap" and (
            self.data.simulation or self.data.held_out_clips or self.data.spectral_match
        ):
            raise ValueError("data.simulation, held_out_clips and spectral_match are for data.pairs: mocap")
        return self
