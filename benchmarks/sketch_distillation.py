"""Does the teacher help? The same student with and without it, over several seeds, on the same test queries.

    python benchmarks/sketch_distillation.py            # about forty minutes on two cores; goes on where it was stopped

One teacher, trained once. Two galleries: "symmetric", sketches and photos both through the student, and "asymmetric",
photos embedded once by the teacher. In each, `scratch` has the task's losses only and `distilled` the teacher's signal
on top: same initialisation, data, steps, and the same learning rates to choose from, by validation accuracy of the
first seed. The asymmetric scratch student still aims at the teacher's photo embeddings; only what the teacher says
about sketches is taken away. "with drawings" is the recipe as it ships: it also distils on sketches without a photo,
about which only the teacher knows anything. Intervals are percentile bootstraps over test queries of the mean over
seeds; differences are paired by query.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.runs import spent, teacher_weights, train
from benchmarks.sketch_runs import teacher_scores
from benchmarks.writing import RESULTS, write_rows

# The weights of the recipe's loss are the asymmetric student's. A symmetric one has InfoNCE for prototype_ce.
SAME_DATA = "stages.distill.drawings_share=0"  # without a teacher's signal the task uses no drawings anyway
SYMMETRIC = ["gallery=student", "student.in_channels=3", "stages.distill.loss.info_nce=1"]
VARIANTS: dict[str, list[str]] = {
    "symmetric scratch": [*SYMMETRIC, "stages.distill.signal=none"],
    "symmetric distilled": [*SYMMETRIC, "stages.distill.signal=teacher", SAME_DATA],
    "asymmetric scratch": ["stages.distill.signal=none"],
    "asymmetric distilled": ["stages.distill.signal=teacher", SAME_DATA],
    "asymmetric distilled with drawings": ["stages.distill.signal=teacher"],
}
COMPARISONS = [
    ("symmetric distilled", "symmetric scratch"),
    ("asymmetric distilled", "asymmetric scratch"),
    ("asymmetric distilled", "symmetric distilled"),
    ("asymmetric distilled with drawings", "asymmetric distilled"),
]


@dataclass
class Outcome:
    """One trained student: acc@1 on the validation part, and 1 or 0 for every test query."""

    validation: float
    scores: np.ndarray
    bundle: Path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="sketch")
    parser.add_argument("--out", type=Path, default=RESULTS / "sketch_distillation.json")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/sketch-distillation")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400, help="of every student")
    parser.add_argument("--lr", type=float, nargs="+", default=[3.0e-3, 6.0e-3], help="chosen from by validation")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further overrides of the recipe")
    return parser.parse_args()


ONE_CANVAS = ["selector.kind=fixed", "deploy.canvases=[32]"]  # what is compared is the encoder


def train_teacher(arguments: argparse.Namespace) -> Path:
    """The teacher's weights as one file, for every student to start from."""
    overrides = [*arguments.set, *ONE_CANVAS, "stages.distill.steps=0", "stages.targets.views=1"]
    return teacher_weights(train(arguments.recipe, arguments.work, "teacher", overrides))


def student(arguments: argparse.Namespace, teacher: Path, variant: str, seed: int, lr: float) -> Outcome:
    import targets

    overrides = [
        *arguments.set,
        *ONE_CANVAS,
        f"teacher.weights={teacher}",
        "stages.teacher.steps=0",
        f"stages.distill.steps={arguments.steps}",
        f"stages.distill.optimizer.lr={lr}",
        f"seed={seed}",
        *VARIANTS[variant],
    ]
    bundle = train(arguments.recipe, arguments.work, f"{variant} seed {seed}", overrides) / "bundle"
    opened = targets.load(bundle)
    return Outcome(opened.evaluate("validation").value, opened.evaluate("test").scores, bundle)


def tuned(arguments: argparse.Namespace, teacher: Path, variant: str) -> tuple[float, list[Outcome]]:
    """The learning rate that is best on validation with the first seed, and the outcome of every seed with it."""
    first, *others = arguments.seeds
    tried = {lr: student(arguments, teacher, variant, first, lr) for lr in arguments.lr}
    best = max(tried, key=lambda lr: tried[lr].validation)
    return best, [tried[best], *(student(arguments, teacher, variant, seed, best) for seed in others)]


def row(variant: str, scores: np.ndarray, macs: float, parameters: int, **more: Any) -> dict[str, Any]:
    """`scores` (seeds, queries)."""
    from profiles.statistics import bootstrap_interval

    return {
        "task": "sketch",
        "variant": variant,
        "metric": "acc@1",
        "value": float(scores.mean()),
        "ci95": list(bootstrap_interval(scores.mean(0))),
        "n": scores.shape[1],
        "macs": macs,
        "parameters": parameters,
        "by_seed": [float(value) for value in scores.mean(1)],
        **more,
    }


def difference_row(name: tuple[str, str], a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    from profiles.statistics import paired_bootstrap

    difference = paired_bootstrap(a.mean(0), b.mean(0))
    return {
        "task": "sketch",
        "variant": f"{name[0]} minus {name[1]}",
        "metric": "acc@1",
        "value": difference.difference,
        "ci95": list(difference.ci95),
        "n": a.shape[1],
        "macs": None,
        "parameters": None,
        "by_seed": [float(value) for value in (a - b).mean(1)],
    }


def costs_of(bundle: Path) -> tuple[float, int]:
    """MACs and parameters per query: the one encoder that a query passes."""
    from profiles.flops import count_onnx

    manifest = json.loads((bundle / "bundle.json").read_text())
    (graph,) = manifest["uses"]["query"]
    costs = count_onnx(bundle / manifest["graphs"][graph]["onnx"])
    return costs.macs, costs.parameters


def all_rows(outcomes: dict[str, tuple[float, list[Outcome]]], bundle: Path) -> list[dict[str, Any]]:
    teacher = json.loads((bundle / "bundle.json").read_text())["teacher"]
    rows = [row("teacher", teacher_scores(bundle)[None], teacher["macs"], teacher["parameters"], by_seed=None)]
    scores = {}
    for variant, (lr, own) in outcomes.items():
        scores[variant] = np.stack([outcome.scores for outcome in own])
        validation = [outcome.validation for outcome in own]
        rows.append(row(variant, scores[variant], *costs_of(own[0].bundle), lr=lr, validation_by_seed=validation))
    return rows + [difference_row(pair, scores[pair[0]], scores[pair[1]]) for pair in COMPARISONS]


def main() -> None:
    arguments = parse_arguments()
    teacher = train_teacher(arguments)
    outcomes = {variant: tuned(arguments, teacher, variant) for variant in VARIANTS}
    rows = all_rows(outcomes, outcomes["asymmetric distilled"][1][0].bundle)
    write_rows(arguments.out, rows, minutes=spent(arguments.work) / 60, seeds=arguments.seeds)
    for item in rows:
        low, high = item["ci95"]
        print(f"{item['variant']:48s} {item['value']:7.3f}  [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
