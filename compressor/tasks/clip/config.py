"""The CLIP task's recipe: data, teacher, student, stages, what is deployed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from compressor.recipe import RecipeConfig, Section
from compressor.tasks.sketch.config import OptimizerConfig

Language = Literal["en", "zh"]


class DataConfig(Section):
    """`source`: a data source's name, or a file or folder of your own pairs (docs/clip.md has the forms)."""

    source: str = "emoji-captions"
    fold: int = Field(default=0, ge=0, description="the test part")
    validation_share: float = Field(default=0.1, gt=0, lt=1, description="of the other folds")
    vendor: str | None = Field(default=None, description="whose pictures are searched; null: the first vendor's")
    picture_px: int = Field(default=128, ge=16, description="at which your own pictures are stored")
    pictures: tuple[str, ...] = Field(
        default=(), description="sources of pictures without captions, for image distillation"
    )
    texts: tuple[str, ...] = Field(
        default=("bilingual-text",), description="sources of text without pictures, for text distillation"
    )
    texts_limit: int = Field(default=60000, ge=0, description="pairs of each, evenly spread; 0: no such text")
    composed: int = Field(
        default=0, ge=0, description="texts more per language, several of those joined like a caption"
    )


class TeacherConfig(Section):
    """`kind`: "assembled" (EfficientNet-Lite0 and USE-multilingual with heads that are trained here), or a real CLIP:
    "altclip", "chinese-clip", "siglip" (transformers) or "open-clip", from `path`: a local directory, or a name in your
    hub cache (for open-clip: "MODEL" or "MODEL:WEIGHTS_FILE")."""

    kind: Literal["assembled", "altclip", "chinese-clip", "siglip", "open-clip"] = "assembled"
    path: str | None = None
    heads: str | None = Field(
        default=None,
        description="a .safetensors file of the assembled teacher's heads, trained before (a bundle's assets have it); "
        "with stages.teacher.steps=0 they stay as they are",
    )
    picture_px: int = Field(default=160, ge=32, description="of the assembled teacher; a real one has its own")
    embedding_dim: int = Field(default=256, ge=1, description="of the assembled teacher; a real one has its own")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="before the heads")

    @model_validator(mode="after")
    def _path_goes_with_a_real_teacher(self) -> TeacherConfig:
        if (self.kind == "assembled") != (self.path is None):
            raise ValueError("teacher.path goes with a real teacher (altclip, chinese-clip, siglip, open-clip)")
        return self


class ImageStudentConfig(Section):
    """`network`: teacher-stages:N (the assembled teacher's first stages, with their weights), teacher-stages:N:WIDTH
    (and a 1x1 convolution behind them), pruned-teacher (carved to `macs_ratio`), or timm:NAME. `weights`: a
    .safetensors file of a tower trained before, such as a bundle's
    weights/image.safetensors; for timm:NAME also "timm", its published ones."""

    network: str = "teacher-stages:5"
    weights: str | None = None
    px: int = Field(default=48, ge=16)
    macs_ratio: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _ratio_is_the_pruned_teacher_s(self) -> ImageStudentConfig:
        if (self.network == "pruned-teacher") != (self.macs_ratio is not None):
            raise ValueError("macs_ratio goes with network: pruned-teacher, and only with it")
        if self.weights == "timm" and not self.network.startswith("timm:"):
            raise ValueError("weights: timm goes with a network of timm")
        return self


class TextStudentConfig(Section):
    weights: str | None = Field(default=None, description="a .safetensors file of a text tower trained before")
    vocabulary: int = Field(default=8192, ge=256)
    length: int = Field(default=24, ge=2, description="tokens; longer texts are cut")
    token_width: int = Field(default=256, ge=1, description="costs memory, and no multiplications")
    width: int = Field(default=64, ge=1, description="of the transformer")
    hidden: int = Field(default=384, ge=1, description="of the layer behind the averages over tokens")
    layers: int = Field(default=1, ge=1)
    heads: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _heads_fit(self) -> TextStudentConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self


class StudentConfig(Section):
    image: ImageStudentConfig = ImageStudentConfig()
    text: TextStudentConfig = TextStudentConfig()
    languages: tuple[Language, ...] = Field(default=("en", "zh"), min_length=1, description="that it learns")


class StageConfig(Section):
    steps: int = Field(..., ge=0)
    batch: int = Field(default=256, ge=2, description="pairs, pictures or texts per process")
    optimizer: OptimizerConfig


class TeacherStageConfig(StageConfig):
    temperature: float = Field(default=0.07, gt=0)


class TargetsStageConfig(Section):
    """What the teacher says about `views` variations of every picture and about every text; kept in the cache."""

    views: int = Field(default=3, ge=1, description="the picture itself is the first")
    strength: float = Field(default=1.0, ge=0)


class FeatureStageConfig(StageConfig):
    """Stage 1: SmoothL1 to the teacher's features (through an adapter, which is thrown away) and embeddings."""

    feature: float = Field(default=1.0, ge=0, description="weight of the features' term")
    embedding: float = Field(default=1.0, ge=0, description="weight of the embeddings' term")
    beta: float = Field(default=1.0, gt=0)
    jitter_px: int = Field(default=2, ge=0, description="pictures are moved by up to so much")
    pictures_share: float = Field(default=0.5, ge=0, le=1, description="of a picture batch are from data.pictures")
    captions_share: float = Field(default=0.25, ge=0, le=1, description="of a text batch; the rest has no picture")
    composed_share: float = Field(default=0.5, ge=0, le=1, description="of that rest, where data.composed is not 0")


class PretrainingStageConfig(FeatureStageConfig):
    """Stage 1 from text without pictures alone, features only: no fold changes what it learns. Left out where there is
    no such text."""

    embedding: float = Field(default=0.0, ge=0)
    captions_share: float = Field(default=0.0, ge=0, le=1)


class AlignmentStageConfig(StageConfig):
    """Stage 2: InfoNCE between pictures and captions of each language. `distil`: weight of the KL to the teacher's
    similarities across the two sides; 0: captions and pictures only, as the paper has it."""

    temperature: float = Field(default=0.07, gt=0)
    distil: float = Field(default=1.0, ge=0)
    jitter_px: int = Field(default=2, ge=0)
    label_share: float = Field(default=0.3, ge=0, le=1, description="how often a caption is the label alone")


class StagesConfig(Section):
    """Stages with 0 steps are left out."""

    teacher: TeacherStageConfig = TeacherStageConfig(steps=0, optimizer=OptimizerConfig(lr=1e-3))
    targets: TargetsStageConfig = TargetsStageConfig()
    text_pretraining: PretrainingStageConfig = PretrainingStageConfig(steps=0, optimizer=OptimizerConfig(lr=4e-3))
    image_features: FeatureStageConfig
    text_features: FeatureStageConfig
    alignment: AlignmentStageConfig


class DeployConfig(Section):
    prompts: dict[Language, tuple[str, ...]] = Field(
        default={"en": ("{}", "an emoji of {}"), "zh": ("{}", "{}的表情")},
        description="a class's embedding is the mean over them, {} its name",
    )
    golden: int = Field(default=32, ge=1)
    calibration: int = Field(default=256, ge=1)


class ClipConfig(RecipeConfig):
    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    student: StudentConfig = StudentConfig()
    stages: StagesConfig
    deploy: DeployConfig = DeployConfig()

    @model_validator(mode="after")
    def _stages_fit(self) -> ClipConfig:
        trained = self.stages.teacher.steps > 0 or self.teacher.heads is not None
        if trained != (self.teacher.kind == "assembled"):
            raise ValueError(
                "stages.teacher.steps or teacher.heads: the assembled teacher needs one, a real teacher none"
            )
        return self
