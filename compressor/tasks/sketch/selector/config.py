"""The recipe's section `selector`: SketchyNetV2's canvas selector, and the cheaper policies beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from compressor.recipe import Section
from compressor.tasks.sketch.selector.features import Combine


class SelectorOptimizerConfig(Section):
    """AdamW with a linear warm-up and a cosine to zero."""

    lr: float = Field(default=1e-2, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    warmup_steps: int = Field(default=20, ge=0)


class SelectorConfig(Section):
    """How a canvas is chosen for every sketch; `fixed` is deploy.canvas_px for all, and no stage.

    statistics: a small network on numbers of the strokes. gru: SketchyNetV2's, over the simplified drawing's points.
    cascade: the smallest canvas first, the next one while the answer is in doubt. gate: the smallest canvas first; a
    small network on how sure it was chooses whether to look again, and on which canvas.

    Trained by policy gradient on R = lambda_F (-FLOPs) + (1 - lambda_F) (lambda_r usefulness - lambda_tri L_triplet),
    FLOPs as a ratio to the dearest canvas. A cascade's thresholds are searched for the same reward.
    """

    kind: Literal["fixed", "statistics", "gru", "cascade", "gate"] = "fixed"
    canvases: tuple[int, ...] = Field(default=(), description="to choose from; none: deploy.canvases")
    lambda_F: float = Field(default=0.1, ge=0, le=1, description="from accurate (0) to cheap (1)")
    lambda_r: float = Field(default=1.0, ge=0)
    lambda_tri: float = Field(default=0.0, ge=0)
    margin: float = Field(default=0.2, ge=0, description="of L_triplet")
    usefulness: Literal["reciprocal_rank", "probability", "accuracy"] = Field(
        default="reciprocal_rank", description="the paper's 1 / rank, or a smoother or harder number"
    )
    hidden: int | None = Field(
        default=None, ge=0, description="units of the GRU or of a hidden layer (0: linear); null: 16 for gru, else 0"
    )
    points: int = Field(default=40, ge=1, description="that the GRU reads at most")
    tolerance: float = Field(default=0.01, ge=0, description="of the simplification, as a share of the canvas")
    fuse: bool = Field(default=True, description="cascade, gate: search with the sum of the looks' embeddings")
    measure: Literal["margin", "entropy"] = Field(default="margin", description="of a cascade's doubt")
    views: int = Field(default=8, ge=1, description="of every drawing: itself and variations")
    view_strength: float = Field(default=0.6, ge=0)
    gallery: int | None = Field(
        default=None, ge=2, description="photos that rewards are measured in, at least; null: as many as the test part"
    )
    students: tuple[str, ...] = Field(
        default=(), description="bundles of other seeds or folds, which add what their own validation drawings earned"
    )
    folds: int = Field(default=5, ge=2, description="for the accuracy on drawings that a policy has not learned from")
    steps: int = Field(default=400, ge=0)
    batch: int = Field(default=256, ge=1)
    gradient: Literal["exact", "reinforce"] = Field(
        default="exact", description="the expectation over canvases, or a sampled one as in the paper"
    )
    baseline: Literal["none", "mean", "self_critical"] = Field(default="mean", description="of reinforce")
    entropy: float = Field(
        default=0.02, ge=0, description="bonus for undecided policies; with too little they settle before they learn"
    )
    optimizer: SelectorOptimizerConfig = SelectorOptimizerConfig()

    @property
    def units(self) -> int:
        """`hidden`, or its default. A hidden layer on a thousand noisy rewards gained less than none (a pilot)."""
        return self.hidden if self.hidden is not None else 16 if self.kind == "gru" else 0

    @property
    def combined(self) -> Combine:
        """How the looks that lead to a choice are combined."""
        if not self.fuse or self.kind not in ("gate", "cascade"):
            return "last"
        return "first" if self.kind == "gate" else "all"


def selector_canvases(selector: SelectorConfig, deployed: Sequence[int]) -> tuple[int, ...]:
    """What the selector chooses from, smallest first."""
    return tuple(sorted(set(selector.canvases or deployed)))


def check_selector(selector: SelectorConfig, deployed: Sequence[int]) -> None:
    """Raises ValueError where the selector cannot work with the canvases that are deployed."""
    if selector.kind == "fixed":
        return
    if unknown := sorted(set(selector.canvases) - set(deployed)):
        raise ValueError(f"selector.canvases has {unknown[0]} px, which deploy.canvases does not have")
    if len(selector_canvases(selector, deployed)) < 2:
        raise ValueError(f"selector.kind: {selector.kind} needs at least two canvases to choose from (deploy.canvases)")
    if selector.kind == "gru" and not selector.units:
        raise ValueError("selector.hidden: a GRU needs at least one unit")
