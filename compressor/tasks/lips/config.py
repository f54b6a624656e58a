"""The lips task's recipe: data, teacher, student, stages, what is deployed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from compressor.losses.sequence import Schedule
from compressor.recipe import RecipeConfig, Section


class DataConfig(Section):
    """`source`: "lips", or a folder of videos in the layout of CMLR or LRS2 (compressor/data/lips_video.py)."""

    source: str = "lips"
    language: Literal["en", "cmn"] = "en"
    text: Literal["characters", "pinyin"] = Field(
        default="characters", description="what a Mandarin reader writes: Chinese characters, or pinyin's letters"
    )
    crop_px: tuple[int, int] = Field(default=(32, 48), description="height and width of mouths cut from videos")
    train_share: float = Field(default=1.0, gt=0, le=1, description="of the training part's clips")


class EncoderConfig(Section):
    """`kind`: "causal" convolutions (dim, dilations) or a "bigru" (hidden per direction, layers)."""

    kind: Literal["causal", "bigru"]
    dim: int = Field(default=128, ge=1, description="of the front end, and of the causal encoder")
    hidden: int = Field(default=128, ge=1)
    layers: int = Field(default=2, ge=1)
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16)


class DecoderConfig(Section):
    embedding: int = Field(default=48, ge=1)
    hidden: int = Field(default=128, ge=1)


class ModelConfig(Section):
    """One seq2seq model. `channels`, `first_stride`, `stack`: of the pictures' front end."""

    encoder: EncoderConfig
    decoder: DecoderConfig = DecoderConfig()
    channels: tuple[int, ...] = (16, 32, 64)
    first_stride: int = Field(default=2, ge=1, description="of the first convolution; that of the others is 2")
    stack: int = Field(default=3, ge=1, description="pictures per step, stacked into channels")
    dropout: float = Field(default=0.1, ge=0, lt=1)


class TeacherConfig(ModelConfig):
    """`weights`: a .safetensors file of a teacher trained before (with stages.teacher.steps=0 it stays as it is)."""

    encoder: EncoderConfig = EncoderConfig(kind="bigru", dim=256, hidden=256)
    decoder: DecoderConfig = DecoderConfig(embedding=64, hidden=256)
    weights: str | None = None


class StudentConfig(ModelConfig):
    encoder: EncoderConfig = EncoderConfig(kind="causal")


class OptimizerConfig(Section):
    """AdamW with a linear warm-up and a cosine to zero."""

    lr: float = Field(..., gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=100, ge=0)


class SequenceStageConfig(Section):
    """What both stages have."""

    steps: int = Field(..., ge=0)
    batch: int = Field(default=32, ge=1, description="clips per process")
    optimizer: OptimizerConfig
    ctc: float = Field(default=0.5, ge=0, description="weight of CTC beside the decoder's cross-entropy")
    random_characters: float = Field(
        default=0.15, ge=0, lt=1, description="share of the previous characters that are drawn at random in training"
    )
    own_characters: float = Field(
        default=0.0, ge=0, lt=1,
        description="share of the previous characters that are the model's own, reached linearly at the last step",
    )  # fmt: skip
    ema: float = Field(default=0.99, ge=0, lt=1, description="decay of the weights' moving average, which is kept")


class TeacherStageConfig(SequenceStageConfig):
    noise: float = Field(default=1.0, ge=0, description="strength of the noise on the training part's log-mel")


class DistillLossConfig(Section):
    """L = L_base + lambda_1 sequence + lambda_2 context + lambda_3 frame; LIBS has 10, 40, 10. `attention` is ours:
    where in time the recogniser listened for a character that it got right.

    `schedule`: how the three weights go to zero, over the first `until` of the steps.
    """

    sequence: float = Field(default=10.0, ge=0)
    context: float = Field(default=40.0, ge=0)
    frame: float = Field(default=10.0, ge=0)
    attention: float = Field(default=0.0, ge=0)
    attention_delay: float = Field(
        default=0.0, ge=0, description="pictures that the reader looks later than the teacher listens"
    )
    frame_window: float | None = Field(
        default=None, ge=0, description="of the frame term: pictures before and after a sound's own; null: all, as LIBS"
    )
    schedule: Schedule = "cosine"
    until: float = Field(default=0.6, gt=0, le=1)


class DistillStageConfig(SequenceStageConfig):
    augment: float = Field(default=1.0, ge=0, description="strength of the variation of pictures")
    loss: DistillLossConfig = DistillLossConfig()


class StagesConfig(Section):
    teacher: TeacherStageConfig
    distill: DistillStageConfig


class DeployConfig(Section):
    """`max_frames`: the longest clip; the decoder's memory has this size. `beam`: hypotheses; `length_power`: their
    scores are divided by length to this power."""

    max_frames: int = Field(default=100, ge=1)
    max_characters: int = Field(default=40, ge=1)
    beam: int = Field(default=4, ge=1)
    length_power: float = Field(default=0.7, ge=0)
    golden: int = Field(default=32, ge=1)
    calibration: int = Field(default=256, ge=1)


class LipsConfig(RecipeConfig):
    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    stages: StagesConfig
    deploy: DeployConfig = DeployConfig()

    @model_validator(mode="after")
    def _parts_fit(self) -> LipsConfig:
        if self.data.text == "pinyin" and self.data.language != "cmn":
            raise ValueError("data.text: pinyin is for data.language: cmn")
        return self
