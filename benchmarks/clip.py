"""A bilingual CLIP distilled from a large teacher: what each stage brings, per language, on unseen concepts.

    python benchmarks/clip.py            # goes on where it was stopped; --folds, --seeds, --only VARIANT ... for less
    python benchmarks/clip.py --quick    # one fold, one seed, no ablation

Every concept is in the test part of one fold, so a row's queries are all concepts. One teacher per fold; students of
three seeds. Variants, of the same networks and data:

    none       InfoNCE on pictures and captions of the training concepts, from the same start, no teacher
    stage 1    feature distillation of each tower, nothing after it
    stage 2    alignment with the teacher's similarities, without stage 1
    both       stage 1, then stage 2
    english    both, but the text tower reads English only; the image tower starts from the same stage 1
    none and stage 2 take ALONE steps of alignment: validation R@10 has long stopped rising by then.

Rows: R@1 and R@10 of text to image and image to text in each language, English to Chinese text, zero-shot classes. Of
the first student with both stages, int8 on every runtime that runs here, and whether TensorRT-RTX builds its towers.
Intervals are percentile bootstraps over concepts of the mean over seeds; differences are paired by concept. Trainings
run on one thread, so that two of these programs, with other --folds, may run side by side: runs/clip-stages. What each
student did is kept (benchmarks/parts.py); benchmarks/results/clip.json is made of that. `--ablation-folds` and
`--ablation-seeds` say where none, stage 2 and english are trained, `--seed-folds` in which folds all seeds are.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.parts import Parts, packed, unpacked
from benchmarks.runs import train
from benchmarks.writing import RESULTS, write_rows

ABLATION = ("none", "stage 2", "english")
VARIANTS = ("stage 1", "both", *ABLATION)
ALONE = 1000
GPU = "rtx-4070"  # whose engines are built here
NO_TEXTS = ["data.texts=[]", "data.composed=0", "student.text={}"]  # no run without text is another by its settings
NO_PICTURES = ["data.pictures=[]"]
STAGES = ("text_pretraining", "image_features", "text_features", "alignment")
COMPARISONS = [("both", "teacher"), ("both", "stage 1"), ("both", "none"), ("stage 2", "none"), ("both", "english")]
Scores = dict[str, np.ndarray]  # measure -> per concept


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="clip")
    parser.add_argument("--out", type=Path, default=RESULTS / "clip.json")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/clip-stages")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--ablation-folds", type=int, nargs="*", default=[0])
    parser.add_argument("--ablation-seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--seed-folds",
        type=int,
        nargs="*",
        default=[0],
        help="where all seeds are trained, elsewhere the first",
    )
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--no-devices", action="store_true", help="train and measure only; writes no results file")
    parser.add_argument("--quick", action="store_true", help="fold 0, seed 0, no ablation; writes no results file")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further overrides of the recipe")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.folds, arguments.seeds, arguments.ablation_folds = [0], [0], []
    return arguments


def run(arguments: argparse.Namespace, name: str, overrides: list[str]) -> Path:
    """A finished run's bundle."""
    return train(arguments.recipe, arguments.work, name, [*arguments.set, *overrides]) / "bundle"


def teacher_bundle(arguments: argparse.Namespace, fold: int) -> Path:
    """It has untrained students beside the teacher's heads."""
    return run(arguments, f"teacher fold {fold}", [f"data.fold={fold}", *NO_TEXTS, *NO_PICTURES, *only_stages()])


def only_stages(*kept: str, **changed: int) -> list[str]:
    """Overrides: the student's stages are those that are kept or changed. What the recipe says of the others makes no
    other run."""
    left_out = [name for name in STAGES if name not in (*kept, *changed)]
    nothing = [f"stages.{name}={{steps: 0, optimizer: {{lr: 1.0}}}}" for name in left_out]
    return [*nothing, *(f"stages.{name}.steps={count}" for name, count in changed.items())]


def tower(arguments: argparse.Namespace, side: str, fold: int, seed: int) -> list[str]:
    """A tower after stage 1, "image", "text" or "english" (a text tower that read nothing else), as an override. What
    is learned from text alone is the same in every fold, and is learned once."""
    if side == "image":
        overrides = [*only_stages("image_features"), *NO_TEXTS]
        return [trained(arguments, f"image fold {fold}", fold, seed, "image", overrides)]
    reads = [*NO_PICTURES, *(["student.languages=[en]"] if side == "english" else [])]
    first = trained(arguments, f"{side} pretraining", 0, seed, "text", [*only_stages("text_pretraining"), *reads])
    overrides = [*only_stages("text_features"), *reads, first]
    return [trained(arguments, f"{side} fold {fold}", fold, seed, "text", overrides)]


def trained(arguments: argparse.Namespace, label: str, fold: int, seed: int, graph: str, overrides: list[str]) -> str:
    """A trained graph's weights, as an override for a run that starts from them."""
    bundle = run(arguments, f"{label} seed {seed}", [*place(arguments, fold, seed), *overrides])
    return f"student.{graph}.weights={bundle / f'weights/{graph}.safetensors'}"


def place(arguments: argparse.Namespace, fold: int, seed: int) -> list[str]:
    """Overrides of every student of a fold and seed."""
    heads = teacher_bundle(arguments, fold) / "assets/teacher-heads.safetensors"
    return [f"data.fold={fold}", f"teacher.heads={heads}", "stages.teacher.steps=0", f"seed={seed}"]


def student_bundle(arguments: argparse.Namespace, variant: str, fold: int, seed: int) -> Path:
    """A trained student, and before it all that it starts from."""
    alone = only_stages(alignment=ALONE)
    changed = {
        "stage 1": only_stages(),
        "none": [*alone, "stages.alignment.distil=0"],
        "stage 2": alone,
        "both": only_stages("alignment"),
        "english": [*only_stages("alignment"), "student.languages=[en]"],
    }[variant]
    towers = {"stage 1": ("image", "text"), "both": ("image", "text"), "english": ("image", "english")}
    starts = [override for side in towers.get(variant, ()) for override in tower(arguments, side, fold, seed)]
    overrides = [*place(arguments, fold, seed), *NO_PICTURES, *changed, *starts]
    return run(arguments, f"{variant} fold {fold} seed {seed}", overrides)


def wanted(arguments: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    """Variant, fold and seed, what the claims rest on first."""
    for fold in arguments.folds:
        yield "teacher", fold, 0
    places = [(fold, arguments.seeds[0]) for fold in arguments.folds]
    places += [(fold, seed) for fold in arguments.seed_folds for seed in arguments.seeds[1:] if fold in arguments.folds]
    for fold, seed in places:
        yield from ((variant, fold, seed) for variant in ("stage 1", "both") if variant in arguments.only)
    for fold, seed in places:
        if fold in arguments.ablation_folds and seed in arguments.ablation_seeds:
            yield from ((variant, fold, seed) for variant in ABLATION if variant in arguments.only)


def student_scores(bundle: Path, teacher: Path) -> Scores:
    """Per test concept of this bundle's fold: 1 or 0 for each measure. Also with one side from the teacher, in whose
    space the student is: pictures that it embedded once, off the device, or texts."""
    import targets
    from targets.bundle import Bundle

    glue: Any = targets.load(bundle).glue
    arrays = Bundle.open(bundle).split("test")
    image = glue.embed_pictures(arrays["pictures"])
    texts = {code: glue.embed_texts(arrays[f"caption_{code}"].tolist()) for code in glue.languages}
    scores = measures(image, texts)
    their_image, their_texts = teacher_sides(teacher)
    for code, own in texts.items():
        scores |= recalls(f"{code} to teacher's image", own, their_image)
        scores |= recalls(f"teacher's {code} to image", their_texts[code], image)
    for code in glue.languages if (arrays["class"] >= 0).all() else ():  # a set of one's own may have no classes
        guess = (image @ glue.classes(code)[0].T).argmax(1)
        scores[f"zero-shot {code}"] = (guess == arrays["class"]).astype(float)
    return scores


@functools.cache
def teacher_sides(bundle: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The test part by the teacher whose heads are in this bundle: pictures, and captions by language, (n, dim)."""
    from types import SimpleNamespace

    import torch

    from compressor.cache import TeacherCache
    from compressor.recipe import parse_recipe
    from compressor.tasks.clip.task import Task
    from compressor.tasks.clip.teacher import through_head
    from profiles.storage import cache_root, read_json

    recipe = read_json(bundle / "bundle.json")["recipe"]
    recipe["teacher"]["heads"] = str(bundle / "assets/teacher-heads.safetensors")
    task: Any = Task(parse_recipe(recipe, "the teacher's recipe"))
    cache = TeacherCache(cache_root() / "teachers")
    context: Any = SimpleNamespace(cache=cache, run_dir=bundle.parent, rank=0, device=torch.device("cpu"), say=print)
    task.setup(context)
    task.load_targets(context)
    test = task.split.test
    image = through_head(task.teacher.image_head, task.bank.features[0][task.gallery_pictures(test)])
    texts = {
        code: through_head(task.teacher.text_head, task.texts[code, "caption"].features[test])
        for code in task.data.languages
    }
    return image, texts


def measures(image: np.ndarray, texts: Mapping[str, np.ndarray]) -> Scores:
    """R@1 and R@10 of everything against everything, rows of length 1."""
    sides = {"image": image, **texts}
    asked = [("en", "image"), ("zh", "image"), ("image", "en"), ("image", "zh"), ("en", "zh")]
    found = [recalls(f"{a} to {b}", sides[a], sides[b]) for a, b in asked if a in sides and b in sides]
    return {name: own for part in found for name, own in part.items()}


def recalls(name: str, queries: np.ndarray, keys: np.ndarray) -> Scores:
    from compressor.tasks.clip.metrics import ranks

    own = ranks(queries, keys)
    return {f"{name} R@{k}": (own <= k).astype(float) for k in (1, 10)}


def scores(arguments: argparse.Namespace, variant: str, fold: int, seed: int) -> dict[str, str]:
    """Of one variant, trained first where it is not, as digits per measure."""
    if variant == "teacher":
        found = measures(*teacher_sides(teacher_bundle(arguments, fold)))
    else:
        found = student_scores(student_bundle(arguments, variant, fold, seed), teacher_bundle(arguments, fold))
    return {name: packed(own) for name, own in found.items()}


def collect(arguments: argparse.Namespace, parts: Parts) -> dict[str, dict[tuple[int, int], Scores]]:
    """Scores of every variant by (fold, seed)."""
    table: dict[str, dict[tuple[int, int], Scores]] = {}
    for place in wanted(arguments):
        variant, fold, seed = place
        label = f"{variant} fold {fold} seed {seed}"
        found = {name: unpacked(own) for name, own in parts.get(label, scores, arguments, *place).items()}
        table.setdefault(variant, {})[fold, seed] = found
        shown = [f"{name} {own.mean():.3f}" for name, own in found.items() if name.endswith("to image R@10")]
        print(f"{label:24s}: {', '.join(shown)}", flush=True)
    return table


def by_concept(runs: Mapping[tuple[int, int], Scores], measure: str, folds: Iterable[int]) -> np.ndarray:
    """(concepts,): the folds' concepts one after another, each the mean over the seeds that its fold has."""
    parts = [[own[measure] for (place, _), own in runs.items() if place == fold] for fold in folds]
    return np.concatenate([np.mean(part, axis=0) for part in parts])


def all_rows(table: dict[str, dict[tuple[int, int], Scores]], costs: Mapping[str, Any]) -> list[dict[str, Any]]:
    from profiles.statistics import bootstrap_interval, paired_bootstrap, paired_ratio

    rows = []
    for variant, runs in table.items():
        folds = sorted({fold for fold, _ in runs})
        for measure in next(iter(runs.values())):
            scores = by_concept(runs, measure, folds)
            by_run = {f"fold {fold} seed {seed}": float(own[measure].mean()) for (fold, seed), own in runs.items()}
            more = {"by_run": by_run, **costs["teacher" if variant == "teacher" else "student"]}
            rows.append(row(variant, measure, scores, float(scores.mean()), bootstrap_interval(scores), folds) | more)
    for first, second in COMPARISONS:
        if first not in table or second not in table:
            continue
        shared = common_runs(table[first], table[second], by_fold=second == "teacher")
        folds = sorted({fold for fold, _ in shared[0]})
        for measure in next(iter(table[second].values())):
            a, b = (by_concept(own, measure, folds) for own in shared)
            rows.append(row(f"{first} minus {second}", measure, a, *paired_bootstrap(a, b), folds))
            if second == "teacher" and b.any():
                rows.append(row(f"{first} / {second}", measure, a, *paired_ratio(a, b), folds))
    return rows


def common_runs(
    first: Mapping[tuple[int, int], Scores], second: Mapping[tuple[int, int], Scores], by_fold: bool
) -> tuple[dict[tuple[int, int], Scores], dict[tuple[int, int], Scores]]:
    """The runs of two variants that the other has too: of the same fold, and unless `by_fold` of the same seed."""

    def place(run: tuple[int, int]) -> tuple[int, ...]:
        return run[:1] if by_fold else run

    both = {place(run) for run in first} & {place(run) for run in second}
    a, b = ({run: scores for run, scores in own.items() if place(run) in both} for own in (first, second))
    return a, b


def row(
    variant: str, measure: str, scores: np.ndarray, value: float, interval: tuple[float, float], folds: list[int]
) -> dict[str, Any]:
    common = {"task": "clip", "variant": variant, "metric": measure, "value": value, "ci95": list(interval)}
    return {**common, "n": len(scores), "folds": folds, "macs": None, "parameters": None}


def costs_of(bundle: Path) -> dict[str, dict[str, Any]]:
    """MACs of each tower and parameters in all, of teacher and student."""
    from profiles.flops import count_onnx
    from profiles.storage import read_json

    teacher = read_json(bundle / "bundle.json")["teacher"]
    towers = {name: count_onnx(bundle / f"graphs/{name}/model.onnx") for name in ("image", "text")}
    student = {
        "macs": {name: costs.macs for name, costs in towers.items()},
        "parameters": sum(costs.parameters for costs in towers.values()),
    }
    macs = {name: teacher[f"{name}_macs"] for name in towers}
    return {"teacher": {"macs": macs, "parameters": teacher["parameters"]}, "student": student}


def device_rows(arguments: argparse.Namespace, bundle: Path) -> list[dict[str, Any]]:
    """int8 against float on the runtimes that run here (R@10 of text to image, mean over languages); TensorRT-RTX."""
    from benchmarks.int8 import bench_one
    from profiles.device import load_device
    from targets.artifact import compile_bundle
    from targets.bundle import Bundle

    common = {"task": "clip", "bundle": bundle.parent.name}
    rows = [{**common, "variant": f"int8, {row['runtime']}", **row} for row in bench_one(
        bundle, "test", arguments.work / "int8")]  # fmt: skip
    engine = compile_bundle(
        Bundle.open(bundle), load_device(GPU), "tensorrt-rtx", "fp16", arguments.work / "tensorrt-rtx"
    )
    for graph, entry in engine.manifest["graphs"].items():
        found = {"graph": graph, "status": entry["status"], "reason": entry["reason"]}
        rows.append({**common, "variant": "fp16, tensorrt-rtx", **found})
    return rows


def deployed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Costs, and what runs on devices, of the first student that has both stages."""
    bundle = student_bundle(arguments, "both", arguments.folds[0], arguments.seeds[0])
    return {"costs": costs_of(bundle), "rows": device_rows(arguments, bundle)}


def main() -> None:
    from compressor.recipe import load_recipe

    arguments = parse_arguments()
    arguments.set = ["train.threads=1", *arguments.set]
    parts = Parts("clip", load_recipe(arguments.recipe, arguments.set).hash)
    table = collect(arguments, parts)
    if arguments.no_devices:
        return
    found = parts.get("deployed", deployed, arguments)
    rows = all_rows(table, found["costs"]) + found["rows"]
    if not arguments.quick:
        write_rows(arguments.out, rows, minutes=sum(parts.minutes.values()), seeds=arguments.seeds)
    for row in rows:
        if "ci95" in row:
            low, high = row["ci95"]
            print(f"{row['variant']:24s} {row['metric']:20s} {row['value']:7.3f}  [{low:.3f}, {high:.3f}]")
        else:
            print(f"{row['variant']:24s} {row['status']:20s} {row.get('drop')} {row.get('drop_ci95')} {row['reason']}")


if __name__ == "__main__":
    main()
