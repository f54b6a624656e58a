"""SketchyNetV2's stage: the student is frozen, a selector learns which canvas each sketch needs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from compressor.context import entropy, seed_globally
from compressor.losses import policy_gradient
from compressor.stage import OptimizerSpec, Stage, adamw
from compressor.tasks.sketch.query_cost import choice_macs, look_macs, search_macs
from compressor.tasks.sketch.selector.analysis import gain_over_hull
from compressor.tasks.sketch.selector.config import SelectorConfig, selector_canvases
from compressor.tasks.sketch.selector.features import sequence_steps, stroke_statistics, sureness
from compressor.tasks.sketch.selector.glue import Scale
from compressor.tasks.sketch.selector.policies import CrossFitted, FeaturePolicy, GruPolicy, build_policy
from compressor.tasks.sketch.selector.rewards import Outcomes, by_drawing, collect
from compressor.tasks.sketch.simplify import five_tuples, simplify
from profiles.flops import count_module
from targets.bundle import Bundle

if TYPE_CHECKING:
    from compressor.tasks.sketch.task import Task
    from compressor.train import Context


@dataclass(frozen=True)
class Samples:
    """What a policy learns from, N samples of K canvases.

    inputs: the policy's, each (N, ...). macs, rewards (N, K). fixed_macs (N, K): of each canvas alone. fold (N,): the
    part of the data that a drawing belongs to.
    """

    outcomes: Outcomes
    inputs: tuple[np.ndarray, ...]
    macs: np.ndarray
    fixed_macs: np.ndarray
    rewards: np.ndarray
    fold: np.ndarray


def fold_of(label: str, folds: int) -> int:
    """The part of a drawing, by its name: the same in every run, and for every student."""
    return int.from_bytes(hashlib.sha256(label.encode()).digest()[:4], "little") % folds


class SelectorStage(Stage):
    """Train a policy on the rewards of all canvases (`statistics`, `gru`, `gate`).

    Of a drawing that the student was not trained on every canvas' reward is known, so the policy gradient can be exact.
    As many policies as `selector.folds` are trained beside the deployed one, each without a part of the drawings:
    `validate` reports what these choose for their part.
    """

    name = "selector"

    def __init__(self, task: Task, settings: SelectorConfig | None = None) -> None:
        self.task = task
        self.settings: SelectorConfig = settings or task.config.selector
        self.canvases = selector_canvases(self.settings, task.config.deploy.canvases)
        self.steps = self.settings.steps
        self.scale: Scale | None = None
        self.students: dict[str, str] = {}  # path: SHA-256 of the bundles that added rewards
        self._policy: CrossFitted | None = None
        self.samples: Samples | None = None

    # --- modules ---

    @property
    def policy(self) -> CrossFitted:
        if self._policy is None:
            settings = self.settings
            seed_globally(self.task.config.seed, "selector")
            copies = [
                build_policy(settings.kind, len(self.canvases), settings.units) for _ in range(settings.folds + 1)
            ]
            self._policy = CrossFitted(copies)
        return self._policy

    def modules(self) -> dict[str, nn.Module]:
        return {"selector": self.policy}

    def optimizers(self) -> list[OptimizerSpec]:
        return [adamw(list(self.policy.parameters()), **self.settings.optimizer.model_dump(), steps=self.steps)]

    def state_dict(self) -> dict[str, Any]:
        scale = self.scale.to_settings() if self.scale is not None else None
        return {"scale": scale, "students": self.students}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.scale = Scale.from_settings(state["scale"]) if state["scale"] else None
        self.students = dict(state["students"])

    # --- samples ---

    def start(self, context: Context) -> None:
        self.task.load_targets(context)
        self.students = {path: Bundle.open(path).sha256 for path in self.settings.students}
        self.task.student.to(context.device)
        self.samples = self.make_samples(collect(self.task, self.settings, context.device))

    def make_samples(self, outcomes: Outcomes, like: SelectorStage | None = None) -> Samples:
        """Rewards of the outcomes. `like`: a stage of the same kind and outcomes, whose inputs and costs are taken."""
        settings = self.settings
        if like is not None and like.samples is not None:
            self.scale = like.scale
            inputs, macs, fixed = like.samples.inputs, like.samples.macs, like.samples.fixed_macs
        else:
            inputs, macs, fixed = self._counted(outcomes)
        sees_answers = settings.kind in ("gate", "cascade")
        rewards = policy_gradient.selector_reward(
            macs,
            outcomes.usefulness(settings.usefulness, smooth=not sees_answers),
            outcomes.triplet if sees_answers else outcomes.mean_by_label(outcomes.triplet),
            most_macs=float(fixed.mean(0).max()),
            lambda_flops=settings.lambda_F,
            lambda_rank=settings.lambda_r,
            lambda_triplet=settings.lambda_tri,
        )
        fold = np.array([fold_of(str(label), settings.folds) for label in outcomes.labels])
        return Samples(outcomes, inputs, macs, fixed, rewards, fold)

    def _counted(self, outcomes: Outcomes) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]:
        """Inputs, and the MACs (N, K) of every choice and of every canvas alone."""
        task = self.task
        device = next(task.student.parameters()).device
        blank = [torch.zeros(1, 1, px, px, device=device) for px in self.canvases]
        encoder_macs = [count_module(task.student, canvas).macs for canvas in blank]
        search = search_macs(len(task.pairs), task.config.teacher.embedding_dim)  # the device holds all photos
        fixed = look_macs(outcomes.views, self.canvases, encoder_macs, search)
        inputs, own_macs = self._inputs(outcomes)
        asked = {"kind": self.settings.kind, "tolerance": self.settings.tolerance}
        return inputs, choice_macs(asked, fixed, outcomes.views) + own_macs[:, None], fixed

    def _inputs(self, outcomes: Outcomes) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """What the policy sees of every sample, and what it costs itself, (N,) MACs."""
        settings = self.settings
        if settings.kind == "gru":
            tuples = [five_tuples(simplify(view, settings.tolerance), settings.points) for view in outcomes.views]
            points = np.stack(tuples)
            steps = sequence_steps(points)
            policy = self.policy.deployed
            assert isinstance(policy, GruPolicy)
            return (points, steps), steps * float(policy.step.macs)
        features = np.stack([stroke_statistics(view, settings.tolerance) for view in outcomes.views])
        if settings.kind == "gate":
            features = np.concatenate([sureness(outcomes.nearest[:, 0]), features], axis=1)
        self.scale = self.scale or Scale.of(features)
        policy = self.policy.deployed
        assert isinstance(policy, FeaturePolicy)
        return (self.scale(features),), np.full(len(features), float(policy.macs))

    # --- steps ---

    def batch(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        samples = self.samples
        assert samples is not None  # `start` made them
        rows = rng.integers(0, len(samples.rewards), self.settings.batch)
        batch = {f"input_{i}": torch.from_numpy(array[rows]) for i, array in enumerate(samples.inputs)}
        batch["rewards"] = torch.from_numpy(samples.rewards[rows].astype(np.float32))
        batch["fold"] = torch.from_numpy(samples.fold[rows])
        return batch

    def loss(self, modules: Mapping[str, nn.Module], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        settings = self.settings
        inputs = [batch[f"input_{i}"] for i in range(len(batch) - 2)]
        logits, rewards = modules["selector"](*inputs), batch["rewards"]
        terms = []
        for copy in range(len(logits)):
            # A policy does not learn from its own part; the first one learns from all of them.
            mine = batch["fold"] != copy - 1
            if mine.any():
                own = logits[copy][mine]
                terms.append(self._gain_loss(own, rewards[mine]) - settings.entropy * policy_gradient.entropy(own))
        expected = -policy_gradient.expected_reward_loss(logits[0].detach(), rewards)
        undecided = policy_gradient.entropy(logits[0].detach())
        return {"loss": torch.stack(terms).sum(), "reward": expected, "entropy": undecided}

    def _gain_loss(self, logits: Tensor, rewards: Tensor) -> Tensor:
        if self.settings.gradient == "exact":
            return policy_gradient.expected_reward_loss(logits, rewards)
        actions = torch.distributions.Categorical(logits=logits.detach()).sample()
        return policy_gradient.reinforce(logits, rewards, actions, self.settings.baseline)

    def fit_outside_a_run(self, outcomes: Outcomes, like: SelectorStage | None = None) -> None:
        """Learn on samples that were collected before, on the CPU, without checkpoints: a sweep over lambda_F, say, for
        one student, whose outcomes need to be collected once for each way of combining looks."""
        self.samples = self.make_samples(outcomes, like)
        (spec,) = self.optimizers()
        seed = self.task.config.seed
        for step in range(self.steps):
            seed_globally(seed, self.name, step)
            batch = self.batch(step, np.random.default_rng(entropy(seed, self.name, step)))
            spec.optimizer.zero_grad()
            self.loss(self.modules(), batch)["loss"].backward()
            spec.optimizer.step()
            assert spec.scheduler is not None  # adamw gives one
            spec.scheduler.step()

    # --- validation ---

    def validate(self, context: Context) -> dict[str, float]:
        assert self.samples is not None
        return report(self.samples, *self.choices(), self.canvases)

    @torch.no_grad()
    def choices(self) -> tuple[np.ndarray, np.ndarray]:
        """What policies that have not learned from a sample choose for it, and the deployed one's choice, both (N,)."""
        samples = self.samples
        assert samples is not None
        device = next(self.policy.parameters()).device
        choices = (
            self.policy(*(torch.from_numpy(array).to(device) for array in samples.inputs)).argmax(-1).cpu().numpy()
        )
        return np.take_along_axis(choices[1:], samples.fold[None], axis=0)[0], choices[0]

    @torch.no_grad()
    def choose(self, outcomes: Outcomes) -> np.ndarray:
        """The deployed policy's choices (N,) for other drawings than those it has learned from."""
        inputs, _ = self._inputs(outcomes)
        return self.policy.deployed.cpu()(*map(torch.from_numpy, inputs)).argmax(-1).numpy()

    def settings_for_glue(self) -> dict[str, Any]:
        """The bundle's setting `selector`."""
        settings = self.settings
        common = {"kind": settings.kind, "canvases": list(self.canvases), "tolerance": settings.tolerance}
        if settings.kind == "gru":
            return {**common, "points": settings.points, "hidden": settings.units}
        assert self.scale is not None
        return {**common, **self.scale.to_settings()} | (
            {"combine": settings.combined} if settings.kind == "gate" else {}
        )


def report(samples: Samples, unseen: np.ndarray, deployed: np.ndarray, canvases: tuple[int, ...]) -> dict[str, float]:
    """Numbers of the deployed student's validation drawings, in the rewards' gallery.

    acc@1, mmacs: of policies that have not learned from the drawing (`unseen` (N,) their choices), all looks, drawing,
    searches and the policy counted. share_PXpx: how often the deployed policy ends on that canvas. These are of the
    drawings as they are; what follows is of their variations too, each drawing one item.
    acc@1_views, mmacs_views. always_PXpx_...: of the same path for every drawing. fixed_PXpx_...: of that canvas alone.
    gain_over_fixed: acc@1 above the best mixture of single canvases at the same cost; gain_over_paths: above the best
    mixture of single canvases and of paths, so what is left is the gain of choosing, not that of looking twice. _low
    and _high: their 95 % intervals. There is no gain where a policy is cheaper than every canvas.
    """
    outcomes, rows = samples.outcomes, np.arange(len(unseen))
    plain, own = outcomes.own & outcomes.plain, outcomes.own
    correct, macs = outcomes.correct[rows, unseen], samples.macs[rows, unseen]
    fixed = (outcomes.alone == 1).astype(np.float64)
    result = {
        "acc@1": float(correct[plain].mean()),
        "mmacs": float(macs[plain].mean() / 1e6),
        "acc@1_views": float(correct[own].mean()),
        "mmacs_views": float(macs[own].mean() / 1e6),
        "reward": float(samples.rewards[rows, unseen][own].mean()),
    }
    for index, px in enumerate(canvases):
        result[f"share_{px}px"] = float((deployed[plain] == index).mean())
        result[f"always_{px}px_acc@1_views"] = float(outcomes.correct[own, index].mean())
        result[f"always_{px}px_mmacs_views"] = float(samples.macs[own, index].mean() / 1e6)
        result[f"fixed_{px}px_acc@1_views"] = float(fixed[own, index].mean())
        result[f"fixed_{px}px_mmacs_views"] = float(samples.fixed_macs[own, index].mean() / 1e6)
    paths = np.concatenate([fixed, outcomes.correct], 1), np.concatenate([samples.fixed_macs, samples.macs], 1)
    for name, (values, costs) in {"fixed": (fixed, samples.fixed_macs), "paths": paths}.items():
        items = [by_drawing(outcomes.labels[own], array[own]) for array in (correct, macs, values, costs)]
        if items[1].mean() >= items[3].mean(0).min():
            gain = gain_over_hull(*items)
            result[f"gain_over_{name}"] = gain.gain
            result[f"gain_over_{name}_low"], result[f"gain_over_{name}_high"] = gain.ci95
    return result
