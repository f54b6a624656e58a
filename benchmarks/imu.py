"""What does video teach an inertial student? Every way of pre-training it, at 1, 10 and 100 % of the labels.

    python benchmarks/imu.py                      # goes on where it was stopped; parts are kept in runs/imu-stages
    python benchmarks/imu.py --only COMODO        # some variants; several processes may share the work
    python benchmarks/imu.py --quick              # few steps, one seed, no test people: whether it runs, not a result

The video and the sensor that the student is pre-trained on are simulated; the people it is judged on (HAPT, and
BasicMotions with no people's ids) are real. Every pre-training seed has a teacher of its own. Label draws are the same
for all variants and seeds. The probe's penalty and, at 1 %, fine-tuning's learning rate are chosen, per
variant, by the validation people's accuracy over seeds and draws; the test people are read with that choice alone.
The row "..., validation people too" is the variant that the validation people like best with all labels, trained anew
on them as well.
Intervals resample test people and seeds together (2,000 times), differences pair them.
"""

from __future__ import annotations

import argparse
import copy
import fcntl
import functools
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.imu_rows import all_rows, best_with_all_labels
from benchmarks.writing import RESULTS, write_rows

NONE = ["stages.distill.steps=0"]
SIMCLR = ["stages.simclr.steps={steps}"]
MAIN: dict[str, list[str]] = {
    "no pre-training": NONE,
    "COMODO": [],
    "random teacher": ["teacher.frozen_random=true"],
    "InfoNCE": ["stages.distill.loss=info_nce"],
    "L2": ["stages.distill.loss=l2"],
    "SimCLR": [*NONE, *SIMCLR],
    "SimCLR, twice the steps": [*NONE, "stages.simclr.steps={twice}"],
    "COMODO, then SimCLR": SIMCLR,
    "COMODO with SimCLR": ["stages.distill.simclr=1"],
}
ABLATION: dict[str, list[str]] = {
    "COMODO, centred": ["stages.distill.centre=true"],
    "COMODO, queue of 256": ["stages.distill.queue_length=256"],
    "COMODO, equal temperatures": ["stages.distill.student_temperature=0.1"],
    "COMODO, teacher at 0.05": ["stages.distill.teacher_temperature=0.05"],
    "COMODO, teacher of clip identity": ["stages.teacher.contrast=0"],
    "COMODO, teacher of time contrast": ["stages.teacher.identity=0"],
    "COMODO, 2,000 pairs": ["data.simulation={count: 2000}"],
    "COMODO, spectrum not matched": ["data.spectral_match=false"],
    "COMODO, last block only": ["student.multi_scale=false"],
    "SimCLR on the virtual sensor": [*NONE, *SIMCLR, "stages.simclr.windows=pairs"],
}
SMALL: dict[str, list[str]] = {
    "no pre-training, tiny-imu-16": [*NONE, "student.network=tiny-imu-16"],
    "COMODO, tiny-imu-16": ["student.network=tiny-imu-16"],
}
HAND = ("12 statistics", "54 hand features")
VARIANTS = MAIN | ABLATION | SMALL
FINAL = "validation people too"  # of the variant that is best on the validation people with all labels
SHARES = {0.01: 5, 0.1: 2, 1.0: 1}  # share of labels: draws
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
# Share of labels: steps and batch of fine-tuning, and the learning rates to choose from.
FINE_TUNING = {0.01: (200, 64, (5e-4, 2e-3)), 0.1: (400, 64, (1e-3,)), 1.0: (1000, 128, (2e-3,))}
CASES, CASE_DRAWS = (1, 3, 10), 10  # BasicMotions: cases per class
CASE_PENALTY = 1e-2  # nothing to choose by
CASE_STEPS, CASE_LR, CASE_TUNED_DRAWS = 100, 1e-3, 3  # of fine-tuning: as long as it takes to fit forty cases


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "imu.json")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/imu-stages")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600, help="of pre-training")
    parser.add_argument("--only", nargs="+", default=[], metavar="VARIANT", help="of: " + "; ".join([*VARIANTS, FINAL]))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further overrides of the recipe")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.only if name not in (*VARIANTS, *HAND, FINAL)]:
        parser.error(f"--only {unknown[0]!r}: there are {'; '.join([*VARIANTS, *HAND, FINAL])}")
    if arguments.quick:
        arguments.seeds, arguments.steps = arguments.seeds[:1], 10
        arguments.work = arguments.work.with_name(arguments.work.name + "-quick")
        arguments.out = arguments.work / "imu.json"
        arguments.set += ["data.simulation={count: 400}", "stages.teacher.steps=5"]
    return arguments


# --- runs ---


class Run:
    """A task whose stages are trained in one directory, without the bundle at the end."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, overrides: list[str], seed: int) -> None:
        import torch

        from compressor import distributed
        from compressor.cache import TeacherCache
        from compressor.context import Context, seed_globally
        from compressor.recipe import load_recipe
        from compressor.runlog import RunLog
        from profiles.storage import cache_root

        torch.set_num_threads(arguments.threads)
        filled = [
            override.format(steps=arguments.steps, twice=2 * arguments.steps)
            if override.startswith("stages.simclr.steps=")
            else override
            for override in overrides
        ]
        steps = [f"stages.distill.steps={arguments.steps}"]
        # A part that was interrupted goes on from a checkpoint of the same recipe: its hash names the folder.
        threads = [f"train.threads={arguments.threads}"]
        recipe = load_recipe("imu", [*steps, *arguments.set, *filled, *threads, f"seed={seed}"])
        self.folder = folder / recipe.hash[:12]
        self.folder.mkdir(parents=True, exist_ok=True)
        fabric = distributed.make_fabric(recipe.train)
        log = RunLog(self.folder)
        cache = TeacherCache(cache_root() / "teachers", log.say)
        self.context = Context(fabric, 0, 1, self.folder, cache, recipe, log)
        seed_globally(seed, "setup")
        self.task: Any = recipe.task_class()(recipe)
        self.task.setup(self.context)
        if arguments.quick:
            self.task.test = self.task.validation  # the test people are read for results only

    def train(self, stages: list[Any]) -> None:
        from compressor.interrupts import Interrupts
        from compressor.train import Trainer

        with Interrupts() as interrupts:
            Trainer(self.context, interrupts, None).run(stages)


def teacher_file(arguments: argparse.Namespace, variant: str, seed: int) -> Path | None:
    """The trained teacher of this variant and seed, shared with the variants that have the same one."""
    from safetensors.torch import save_file

    from compressor.tasks.imu.teacher import TeacherStage
    from profiles.storage import atomic_file

    overrides = VARIANTS[variant]
    if set(NONE) <= set(overrides) or "teacher.frozen_random=true" in overrides:
        return None
    own = [override for override in overrides if override.startswith(("stages.teacher", "data.simulation"))]
    run = Run(arguments, arguments.work / "teachers", own, seed)
    path = run.folder / "teacher.safetensors"
    with open(run.folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be training it
        if not path.exists():
            run.train([TeacherStage(run.task)])
            weights = {name: value.contiguous() for name, value in run.task.teacher.state_dict().items()}
            with atomic_file(path) as temporary:
                save_file(weights, temporary)
    return path


def part(arguments: argparse.Namespace, variant: str, seed: int) -> dict[str, np.ndarray]:
    """Pre-train one student; the predictions of its probes and fine-tuned copies on validation and test people.

    Keys are "READOUT/SHARE/DRAW/SETTING/PART" -> (windows,) classes, and "basicmotions/READOUT/CASES/DRAW" -> right
    or not.
    """
    run = pretrained(arguments, variant, seed)
    task = run.task
    found = truth_of(task) | probes(task, features_of(task))
    if variant not in ABLATION:
        found |= fine_tuned(run, arguments.quick) | fine_tuned_on_cases(run, arguments.quick)
    return found | {"cost": np.array(costs_of(task))}


def pretrained(arguments: argparse.Namespace, variant: str, seed: int, more: Sequence[str] = ()) -> Run:
    """A run whose student has learned what the variant says, without labels."""
    from compressor.stage import TargetsStage
    from compressor.tasks.imu.distill import DistillStage, SimclrStage

    teacher = teacher_file(arguments, variant, seed)
    overrides = [*VARIANTS[variant], "stages.teacher.steps=0", *more]
    if teacher is not None:
        overrides.append(f"teacher.weights={teacher}")
    run = Run(arguments, arguments.work / "students" / label(variant, seed), overrides, seed)
    task, stages = run.task, []
    if task.config.stages.distill.steps:
        stages += [TargetsStage(task), DistillStage(task)]
    if task.config.stages.simclr.steps:
        stages.append(SimclrStage(task))
    run.train(stages)
    return run


def final_part(arguments: argparse.Namespace, variant: str, lr: float, seed: int) -> dict[str, np.ndarray]:
    """All labels of everybody but the test people: the validation people have chosen, and are learned from too."""
    run = pretrained(arguments, variant, seed, ["data.validation_people=[]"])
    found = fine_tuned(run, arguments.quick, {1.0: (*FINE_TUNING[1.0][:2], (lr,))})
    return truth_of(run.task) | found | {"cost": np.array(costs_of(run.task))}


def hand_part(arguments: argparse.Namespace, variant: str, seed: int) -> dict[str, np.ndarray]:
    """The same probe on statistics of the windows."""
    from compressor.tasks.imu.probe import hand_features, simple_statistics

    run = Run(arguments, arguments.work / "hand", NONE, seed)
    task = run.task
    rate_hz = task.labelled.rate_hz
    calculate = simple_statistics if variant == HAND[0] else lambda signals: hand_features(signals, rate_hz)
    features = {name: calculate(signals) for name, signals in signals_of(task).items()}
    return truth_of(task) | probes(task, features)


def truth_of(task: Any) -> dict[str, np.ndarray]:
    return {
        "validation": task.validation_labels,
        "test": np.asarray(task.test.labels),
        "people": task.test.people,
    }


def signals_of(task: Any) -> dict[str, np.ndarray]:
    """Scaled windows by part; "cases" are BasicMotions' training and test part, whole."""
    train, test = motion_cases()
    return {
        "train": task.train_signals,
        "validation": task.validation_signals,
        "test": task.scaled(task.test),
        "cases": task.scaled(train),
        "test cases": task.scaled(test),
    }


def features_of(task: Any) -> dict[str, np.ndarray]:
    import torch

    from compressor.tasks.imu.probe import embed

    return {name: embed(task.student, signals, torch.device("cpu")) for name, signals in signals_of(task).items()}


def probes(task: Any, features: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from compressor.tasks.imu.probe import fit_probe

    found = {}
    for share, draws in SHARES.items():
        for draw in range(draws):
            rows = task.labelled_rows(share, draw)
            for penalty in PENALTIES:
                probe = fit_probe(features["train"][rows], task.train_labels[rows], len(task.classes), penalty)
                for name in ("validation", "test"):
                    found[f"frozen/{share}/{draw}/{penalty}/{name}"] = probe(features[name]).argmax(1).astype(np.int8)
    train, test = motion_cases()
    for cases in CASES:
        for draw in range(CASE_DRAWS):
            rows = drawn_cases(train, cases, draw)
            probe = fit_probe(features["cases"][rows], train.labels[rows], len(train.label_names), CASE_PENALTY)
            right = probe(features["test cases"]).argmax(1) == test.labels
            found[f"basicmotions/frozen/{cases}/{draw}"] = right
    return found


def motion_cases() -> tuple[Any, Any]:
    """BasicMotions' training and test part, whole."""
    from compressor.data import basicmotions, fetch

    return basicmotions.load_whole(fetch("basicmotions"))


def drawn_cases(train: Any, cases: int, draw: int) -> np.ndarray:
    """The same rows for all variants and seeds: so many of each class."""
    rng = np.random.default_rng([cases, draw])
    return np.concatenate(
        [rng.choice(np.flatnonzero(train.labels == k), cases, False) for k in range(len(train.label_names))]
    )


def fine_tuned(run: Run, quick: bool, plan: Mapping[float, Any] = FINE_TUNING) -> dict[str, np.ndarray]:
    """Predictions on validation people, if there are any, and test people, at each share of labels in the plan."""
    from compressor.tasks.imu.classify import ClassifyStage

    task, found = run.task, {}
    signals = {"validation": task.validation_signals, "test": task.scaled(task.test)}
    for share, (steps, batch, learning_rates) in plan.items():
        for draw in range(SHARES[share]):
            for lr in learning_rates:
                changed = {
                    "steps": 3 if quick else steps,
                    "batch": batch,
                    "label_share": share,
                    "label_draw": draw,
                    "optimizer": task.config.stages.classify.optimizer.model_copy(update={"lr": lr}),
                }
                settings = task.config.stages.classify.model_copy(update=changed)
                stage = ClassifyStage(task, settings, f"classify-{share:g}-{draw}-{lr:g}".replace(".", "_"))
                run.train([stage])
                for name, windows in signals.items():
                    if not len(windows):
                        continue
                    scores = stage.scores(windows, run.context.device)
                    found[f"fine-tuned/{share}/{draw}/{lr}/{name}"] = scores.argmax(1).astype(np.int8)
    return found


def fine_tuned_on_cases(run: Run, quick: bool) -> dict[str, np.ndarray]:
    """The same stage on BasicMotions: few cases, other classes, no validation part."""
    from compressor.tasks.imu.classify import ClassifyStage

    train, test = motion_cases()
    task, found = copy.copy(run.task), {}
    task.classes, task.train_signals, task.train_labels = train.label_names, task.scaled(train), train.labels
    task.validation_signals = task.validation_signals[:0]
    for cases in CASES:
        for draw in range(CASE_TUNED_DRAWS):
            rows = drawn_cases(train, cases, draw)
            task.labelled_rows = lambda share, number, rows=rows: rows
            changed = {
                "steps": 3 if quick else CASE_STEPS,
                "batch": min(16, len(rows)),
                "probe_penalty": CASE_PENALTY,
                "optimizer": task.config.stages.classify.optimizer.model_copy(update={"lr": CASE_LR}),
            }
            settings = task.config.stages.classify.model_copy(update=changed)
            stage = ClassifyStage(task, settings, f"classify-cases-{cases}-{draw}")
            run.train([stage])
            right = stage.scores(task.scaled(test), run.context.device).argmax(1) == test.labels
            found[f"basicmotions/fine-tuned/{cases}/{draw}"] = right
    return found


def costs_of(task: Any) -> tuple[int, int]:
    import torch

    from profiles.flops import count_module

    costs = count_module(task.student.eval(), torch.zeros(1, *task.train_signals.shape[1:]))
    return costs.macs, costs.parameters


# --- all of it ---


def label(variant: str, seed: int) -> str:
    return f"{variant.replace(', ', '-').replace(' ', '-').replace(',', '')}-seed-{seed}"


def main() -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = parse_arguments()
    from compressor.recipe import load_recipe
    from profiles.storage import load_npz, save_npz

    # Parts of other settings are other parts.
    settings = load_recipe("imu", [f"stages.distill.steps={arguments.steps}", *arguments.set]).hash[:12]
    folder = arguments.work / "parts" / settings

    def kept(variant: str, seed: int, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """A part, from disk if it is there."""
        path = folder / f"{label(variant, seed)}.npz"
        if not path.exists():
            print(f"{variant}, seed {seed}", file=sys.stderr, flush=True)
            began = time.process_time()
            found = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            save_npz(path, {**found, "seconds": np.array(time.process_time() - began)})
        return load_npz(path)

    def seeds_of(variant: str) -> list[int]:
        return arguments.seeds[:1] if variant in HAND else arguments.seeds

    for variant in [*HAND, *VARIANTS]:
        if not arguments.only or variant in arguments.only:
            for seed in seeds_of(variant):
                kept(variant, seed, functools.partial(hand_part if variant in HAND else part, arguments, variant, seed))
    # A row stands for all seeds: a variant that another process is still at has none yet.
    parts = {}
    for variant in [*HAND, *VARIANTS]:
        files = [folder / f"{label(variant, seed)}.npz" for seed in seeds_of(variant)]
        if all(file.exists() for file in files):
            parts[variant] = [load_npz(file) for file in files]
    if set(MAIN) <= set(parts) and (not arguments.only or FINAL in arguments.only):
        variant, lr = best_with_all_labels({name: parts[name] for name in MAIN})
        parts[f"{variant}, {FINAL}"] = [
            kept(f"{variant}, {FINAL}", seed, functools.partial(final_part, arguments, variant, float(lr), seed))
            for seed in arguments.seeds
        ]
    rows = all_rows(parts)
    minutes = sum(float(item["seconds"]) for own in parts.values() for item in own) / 60
    write_rows(arguments.out, rows, minutes=minutes, seeds=arguments.seeds)
    for row in rows:
        low, high = row["ci95"]
        place = f"{row['set']} {row['labels']}"
        print(f"{row['variant']:50s} {row['readout']:10s} {place:28s} {row['value']:7.4f}  [{low:.4f}, {high:.4f}]")


if __name__ == "__main__":
    main()
