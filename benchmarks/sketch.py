"""The sketch retriever over five folds of concepts: teacher, students with and without its help, ablation.

    python benchmarks/sketch.py              # many hours on two cores; goes on where it was stopped
    python benchmarks/sketch.py --folds 0 --seeds 0 --part students  # some of it, no results file

Every concept is a test query once: in its fold the teacher and all students are trained on the other four, and
choices (learning rates, steps, the ablation's winner) read the validation part of fold 0 only. `distilled` and
`scratch` have the same initialisation, steps, drawings per step and learning rate; scratch lacks the teacher's word on
drawings, and so also the drawings without photos, about which only the teacher knows anything: all of its batch is
paired, of the distilled student's 40 %. `distilled, paired only` has scratch's drawings and the teacher's word. In the
asymmetric gallery even scratch aims at the teacher's embeddings of photos; the symmetric students embed both sides
themselves. Fold 0 is repeated with every seed. MACs are those of a whole query: drawing, encoder, search; they stand
beside the teacher's and those of VGG-16 at 256 x 256, the paper's own teacher (counted; nobody has its weights here).
`int8` is the first student of fold 0, compiled for every runtime with int8, on the test part. What every network did is
kept (benchmarks/parts.py). Intervals are percentile bootstraps over the pooled queries, paired for
differences.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.parts import Parts, packed, unpacked
from benchmarks.runs import teacher_weights, train
from benchmarks.sketch_runs import teacher_scores
from benchmarks.writing import RESULTS, write_rows
from targets.manifest import place_file

SMALL = ["student.width=0.85", "stages.distill.canvases=[24]", "deploy.canvases=[24]", "deploy.canvas_px=24"]
SYMMETRIC = ["gallery=student", "student.in_channels=3", "stages.distill.loss.info_nce=1"]
SCRATCH = ["stages.distill.signal=none", "data.more_drawings=[]", "data.drawings=false"]
NO_DRAWINGS = ["data.more_drawings=[]", "data.drawings=false", "stages.distill.drawings_share=0"]


@dataclass(frozen=True)
class Variant:
    """One student: overrides of the recipe. `first_fold_only` for what is compared on one fold."""

    overrides: list[str] = field(default_factory=list)
    first_fold_only: bool = False


STUDENTS = {
    "distilled 1/30": Variant(),
    "scratch 1/30": Variant(SCRATCH),
    "distilled 1/100": Variant(SMALL),
    "scratch 1/100": Variant([*SMALL, *SCRATCH], first_fold_only=True),
    "distilled 1/30, paired only": Variant(NO_DRAWINGS, first_fold_only=True),
    "symmetric distilled 1/30": Variant(SYMMETRIC, first_fold_only=True),
    "symmetric scratch 1/30": Variant([*SYMMETRIC, *SCRATCH], first_fold_only=True),
}
LOSS = "stages.distill.loss"
FOLDS, FIRST_FOLD = range(5), 0
PARTS = ("students", "ablation", "int8")
ABLATION = {  # of the recipe with fewer steps
    "recipe": [],
    "without drawings": NO_DRAWINGS,
    "without icon sets": ["data.more_drawings=[]"],
    "without relational": [f"{LOSS}.relational=0"],
    "without cosine": [f"{LOSS}.cosine=0"],
    "without prototype cross-entropy": [f"{LOSS}.prototype_ce=0"],
    "without prototype KL": [f"{LOSS}.prototype_kl=0"],
    "relational only (the paper)": [f"{LOSS}.cosine=0", f"{LOSS}.prototype_ce=0", f"{LOSS}.prototype_kl=0"],
    "with features": [f"{LOSS}.feature=1"],
    "without moving average": ["stages.distill.ema=0"],
    "without jitter": ["stages.distill.jitter=0"],
    "pruned teacher": ["student.network=pruned-teacher", "student.macs_ratio=0.3", "student.in_channels=3"],
}
ABLATED = "ablation: "
COMPARISONS = [
    ("distilled 1/30", "scratch 1/30"),
    ("distilled 1/100", "scratch 1/100"),
    ("distilled 1/30, paired only", "scratch 1/30"),
    ("symmetric distilled 1/30", "symmetric scratch 1/30"),
]


@dataclass
class Outcome:
    """A trained student, or its teacher: 1 or 0 for every query of the validation and of the test part (None where
    nobody asked), and the cost of one."""

    validation: np.ndarray
    test: np.ndarray | None
    macs: float
    parameters: int
    teacher: str  # hash of its teacher's weights

    @classmethod
    def of(cls, found: dict[str, Any]) -> Outcome:
        test = unpacked(found["test"]) if "test" in found else None
        return cls(unpacked(found["validation"]), test, found["macs"], found["parameters"], found["teacher"])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="sketch-full")
    parser.add_argument("--out", type=Path, default=RESULTS / "sketch.json")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/sketch")
    parser.add_argument("--folds", type=int, nargs="+", default=list(FOLDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of fold 0; others have the first")
    parser.add_argument("--ablation-seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--ablation-steps", type=int, default=1200)
    parser.add_argument("--part", choices=["teachers", *PARTS], nargs="+", default=list(PARTS))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further overrides of the recipe")
    return parser.parse_args()


def train_teacher(arguments: argparse.Namespace, fold: int) -> Path:
    """The fold's teacher as one file of weights, for every student of the fold to start from."""
    from compressor.recipe import load_recipe

    recipe: Any = load_recipe(arguments.recipe, arguments.set)
    settings = {"teacher": recipe.teacher, "stages": {"teacher": recipe.stages.teacher}}
    # What belongs to students is the same for every teacher: another student needs no other teacher.
    fixed = [f"data.fold={fold}", "stages.distill.steps=0", "stages.targets.views=1"]
    # Another split of the data is another teacher; further drawings are not: it learns from pairs.
    fixed += [*(own for own in arguments.set if own.startswith("data.")), "data.more_drawings=[]"]
    kept = [f"{key}={value}" for key, value in flat(settings)]
    key = hashlib.sha256(" ".join([*kept, *fixed]).encode()).hexdigest()[:12]
    path = arguments.work / f"teacher-fold-{fold}-{key}.safetensors"
    if not path.exists():
        alone = ["selector.kind=fixed", "deploy.canvases=[32]", *threads(recipe)]
        run_dir = train("sketch", arguments.work, f"teacher fold {fold}", [*kept, *fixed, *alone])
        place_file(teacher_weights(run_dir), path)
    return path


def threads(recipe: Any) -> list[str]:
    return [] if recipe.train.threads is None else [f"train.threads={recipe.train.threads}"]


def flat(settings: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """A recipe's section as overrides: key.key, value as YAML."""
    items = settings.model_dump(mode="json") if hasattr(settings, "model_dump") else settings
    for key, value in items.items():
        if isinstance(value, dict) or hasattr(value, "model_dump"):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value)


def overrides_of(arguments: argparse.Namespace, name: str) -> list[str]:
    if name in STUDENTS:
        return STUDENTS[name].overrides
    return [f"stages.distill.steps={arguments.ablation_steps}", *ABLATION[name.removeprefix(ABLATED)]]


def train_student(arguments: argparse.Namespace, teacher: Path, name: str, fold: int, seed: int) -> Path:
    fixed = [f"teacher.weights={teacher}", "stages.teacher.steps=0", f"data.fold={fold}", f"seed={seed}"]
    fixed.append("stages.targets.seed=0")  # the teacher says it once for all seeds
    overrides = [*arguments.set, *fixed, *overrides_of(arguments, name)]
    return train(arguments.recipe, arguments.work, f"{name} fold {fold} seed {seed}", overrides) / "bundle"


def outcome(arguments: argparse.Namespace, name: str, fold: int, seed: int, parts: tuple[str, ...]) -> dict[str, Any]:
    """Of a student, trained first where it is not; it reads these parts only."""
    import targets
    from compressor.bench import query_macs
    from profiles.flops import count_onnx
    from profiles.storage import sha256_file

    teacher = train_teacher(arguments, fold)
    bundle = train_student(arguments, teacher, name, fold, seed)
    graphs = json.loads((bundle / "bundle.json").read_text())["graphs"]
    opened = targets.load(bundle)
    return {
        **{part: packed(opened.evaluate(part).scores) for part in parts},
        "macs": sum(query_macs(bundle).values()),
        "parameters": max(count_onnx(bundle / graph["onnx"]).parameters for graph in graphs.values()),
        "teacher": sha256_file(teacher),
    }


def teacher_outcome(arguments: argparse.Namespace, fold: int) -> dict[str, Any]:
    """The teacher on its own canvas, from the bundle of the fold's first student."""
    from profiles.storage import sha256_file

    first = next(iter(STUDENTS))
    teacher = train_teacher(arguments, fold)
    bundle = train_student(arguments, teacher, first, fold, arguments.seeds[0])
    costs = json.loads((bundle / "bundle.json").read_text())["teacher"]
    validation, test = (packed(teacher_scores(bundle, part)) for part in ("validation", "test"))
    about = {"macs": costs["macs"], "parameters": costs["parameters"], "teacher": sha256_file(teacher)}
    return {"validation": validation, "test": test, **about}


def kept(arguments: argparse.Namespace, parts: Parts, name: str, fold: int, seed: int) -> Outcome:
    """A student's part; in the ablation it has read the validation part only."""
    reads = ("validation", "test") if name in STUDENTS else ("validation",)
    label, own = f"{name} fold {fold} seed {seed}", overrides_of(arguments, name)
    return Outcome.of(parts.get(label, outcome, arguments, name, fold, seed, reads, of=own))


def run_students(arguments: argparse.Namespace, parts: Parts) -> list[dict[str, Any]]:
    """Rows of the teacher and of every student, pooled over folds, and of their differences."""
    scores: dict[str, list[np.ndarray]] = {}  # per fold (queries,): the mean over seeds
    outcomes: dict[str, list[Outcome]] = {}
    for fold in sorted(arguments.folds):
        seeds = arguments.seeds if fold == FIRST_FOLD else arguments.seeds[:1]
        found: dict[str, list[Outcome]] = {}
        for name, variant in STUDENTS.items():
            if fold == FIRST_FOLD or not variant.first_fold_only:
                found[name] = [kept(arguments, parts, name, fold, seed) for seed in seeds]
        found["teacher"] = [Outcome.of(parts.get(f"teacher fold {fold}", teacher_outcome, arguments, fold))]
        if len({own.teacher for group in found.values() for own in group}) > 1:
            print(f"fold {fold}: its parts are of teachers that differ (trained on other machines)", file=sys.stderr)
        for name, group in found.items():
            scores.setdefault(name, []).append(np.mean([own.test for own in group], axis=0))
            outcomes.setdefault(name, []).extend(group)
    pooled = {name: np.concatenate(own) for name, own in scores.items()}
    rows = with_headline([row(name, pooled[name], outcomes[name], scores[name]) for name in pooled])
    rows += [difference_row(f"{a} minus {b}", *common(pooled, a, b)) for a, b in COMPARISONS if a in pooled]
    students = [name for name in pooled if name != "teacher"]
    return rows + [share_row(name, *common(pooled, name, "teacher")) for name in students]


def common(pooled: dict[str, np.ndarray], a: str, b: str) -> tuple[np.ndarray, np.ndarray]:
    """The scores of two variants on the queries of both: those of fold 0, which come first, or all."""
    count = min(len(pooled[a]), len(pooled[b]))
    return pooled[a][:count], pooled[b][:count]


def int8_rows(arguments: argparse.Namespace) -> dict[str, Any]:
    """int8 against float on every runtime, paired over the test queries of the first fold."""
    from benchmarks.int8 import bench_one

    first = next(iter(STUDENTS))
    bundle = train_student(arguments, train_teacher(arguments, FIRST_FOLD), first, FIRST_FOLD, arguments.seeds[0])
    found = bench_one(bundle, "test", arguments.work / "int8")
    return {"rows": [{"task": "sketch", "variant": f"int8, {own['runtime']}", **own, "split": "test"} for own in found]}


def vgg16_macs() -> float:
    """Of VGG-16 at 256 x 256 as `sketch-paper` has it, the paper's teacher: counted, without weights."""
    import torch

    from compressor.models.encoder import build_encoder
    from compressor.recipe import load_recipe
    from profiles.flops import count_module

    teacher = load_recipe("sketch-paper").teacher
    with torch.device("meta"):
        network = build_encoder(teacher.network, teacher.embedding_dim)
        return count_module(network, torch.zeros(1, 3, teacher.canvas_px, teacher.canvas_px)).macs


def with_headline(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with costs also say what share of the teacher's and of VGG-16's MACs they are."""
    paper = vgg16_macs()
    teacher = next(own["macs"] for own in rows if own["variant"] == "teacher")
    return [
        {**own, "of_teacher": own["macs"] / teacher, "of_vgg16_256": own["macs"] / paper} if own["macs"] else own
        for own in rows
    ]


def run_ablation(arguments: argparse.Namespace, parts: Parts) -> list[dict[str, Any]]:
    """The recipe in fewer steps, with one thing taken away or added, on the validation part of fold 0."""
    scores = {}
    for name in ABLATION:
        group = [kept(arguments, parts, ABLATED + name, FIRST_FOLD, seed) for seed in arguments.ablation_seeds]
        scores[name] = np.mean([own.validation for own in group], axis=0)
    rows = [simple_row(ABLATED + name, own) for name, own in scores.items()]
    others = [name for name in scores if name != "recipe"]
    rows += [difference_row(f"{ABLATED}{name} minus recipe", scores[name], scores["recipe"]) for name in others]
    return [{**one, "split": "validation"} for one in rows]


def simple_row(variant: str, scores: np.ndarray) -> dict[str, Any]:
    from profiles.statistics import bootstrap_interval

    value, interval = float(scores.mean()), list(bootstrap_interval(scores))
    whole = {"task": "sketch", "variant": variant, "metric": "acc@1", "value": value, "ci95": interval}
    return {**whole, "n": len(scores), "macs": None, "parameters": None, "split": "test"}


def row(variant: str, scores: np.ndarray, outcomes: list[Outcome], by_fold: list[np.ndarray]) -> dict[str, Any]:
    costs = {"macs": outcomes[0].macs, "parameters": outcomes[0].parameters}
    validation = [float(own.validation.mean()) for own in outcomes]
    folds = [float(part.mean()) for part in by_fold]
    runs = [float(own.test.mean()) for own in outcomes]  # type: ignore[union-attr]
    return {**simple_row(variant, scores), **costs, "by_fold": folds, "by_run": runs, "validation_by_run": validation}


def difference_row(variant: str, a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    from profiles.statistics import paired_bootstrap

    difference = paired_bootstrap(a, b)
    return {**simple_row(variant, a), "value": difference.difference, "ci95": list(difference.ci95)}


def share_row(name: str, student: np.ndarray, teacher: np.ndarray) -> dict[str, Any]:
    """What part of the teacher's acc@1 is kept, with an interval over the same resampled queries."""
    from profiles.statistics import paired_ratio

    value, interval = paired_ratio(student, teacher)
    whole = {**simple_row(f"{name} / teacher", student), "metric": "share of the teacher's acc@1"}
    return {**whole, "value": value, "ci95": list(interval)}


def main() -> None:
    from compressor.recipe import load_recipe

    arguments = parse_arguments()
    parts = Parts("sketch", load_recipe(arguments.recipe, arguments.set).hash)
    rows: list[dict[str, Any]] = []
    if "teachers" in arguments.part:
        for fold in arguments.folds:
            train_teacher(arguments, fold)
    if "students" in arguments.part:
        rows += run_students(arguments, parts)
    if "ablation" in arguments.part:
        rows += run_ablation(arguments, parts)
    if "int8" in arguments.part:
        own = overrides_of(arguments, next(iter(STUDENTS)))
        rows += parts.get("int8", int8_rows, arguments, of=own)["rows"]
    if set(arguments.folds) == set(FOLDS) and set(arguments.part) >= set(PARTS):
        write_rows(arguments.out, rows, minutes=sum(parts.minutes.values()), seeds=arguments.seeds)
    for item in rows:
        low, high = item.get("ci95") or item.get("drop_ci95") or (float("nan"), float("nan"))
        value = item.get("value", item.get("drop", float("nan")))
        costs = f"  1/{1 / item['of_teacher']:.1f} of the teacher's MACs" if "of_teacher" in item else ""
        costs += f", 1/{1 / item['of_vgg16_256']:,.0f} of VGG-16's" if costs else ""
        print(f"{item['variant']:52s} {value:7.3f}  [{low:.3f}, {high:.3f}]  n {item.get('n')}{costs}")


if __name__ == "__main__":
    main()
