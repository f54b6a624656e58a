"""The sketch student's Pareto front: fixed canvases against selectors, over lambda_F, widths and sets of canvases.

    python benchmarks/sketch_sweep.py                       # after benchmarks/sketch.py, whose students it finds
    python benchmarks/sketch_sweep.py --folds 0 --seeds 0 --kinds cascade --sets 24,32

Students are those of benchmarks/sketch.py ("distilled 1/30", in the same --students folder) where these have the
canvases, else students of the same recipe that are trained on all of them; what is missing is trained, what is there is
kept. --widths adds students of other widths. A selector learns on the validation
part of its student's fold, and chooses for the fold's test part, which no choice here has read: all lambda_F are shown.
Pooled over folds every concept is a query once. MACs count everything (compressor/tasks/sketch/query_cost.py): drawing,
every look's encoder, every search through the gallery of all photos, the selector. `gain_over_fixed` is against the
best fixed canvas or mixture of two at the same mean MACs, `gain_over_paths` also against always taking the same looks;
intervals are paired bootstraps over the pooled queries (a query keeps all of its seeds).
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import sketch
from benchmarks.runs import spent, train
from benchmarks.sketch_sweep_figure import write_figure
from benchmarks.writing import RESULTS, write_rows
from profiles.storage import load_npz, save_npz

Width = float | None
Canvases = tuple[int, ...]
BASE = "distilled 1/30"
SETS = ((24, 32), (16, 48), (24, 64), (16, 24, 32, 48, 64))
KINDS = ("cascade", "gate", "statistics", "gru")
LAMBDAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True)
class Cell:
    """One selector of one student on the fold's test part: its answers and MACs (queries,), those of every canvas alone
    and of every path (queries, K), and which canvas was the last (queries,)."""

    right: np.ndarray
    macs: np.ndarray
    fixed_right: np.ndarray
    fixed_macs: np.ndarray
    path_right: np.ndarray
    path_macs: np.ndarray
    last: np.ndarray


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="sketch-full")
    parser.add_argument("--out", type=Path, default=RESULTS / "sketch_sweep.json")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs/sketch-front.svg")
    parser.add_argument("--students", type=Path, default=ROOT / "runs/sketch", help="of benchmarks/sketch.py")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/sketch_sweep")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the first fold; others the first")
    parser.add_argument("--widths", type=float, nargs="+", default=[], help="beside the recipe's")
    parser.add_argument("--sets", nargs="+", default=[",".join(map(str, own)) for own in SETS], help="e.g. 16,48")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--lambdas", type=float, nargs="+", default=list(LAMBDAS))
    parser.add_argument("--views", type=int, default=8, help="variations of every drawing that a selector learns from")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further overrides of the recipe")
    return parser.parse_args()


def student(arguments: argparse.Namespace, width: Width, canvases: Canvases, fold: int, seed: int) -> Path:
    """The bundle of a student that was trained on these canvases; trained if it is not there. Width None: the recipe's.

    Where the recipe's own student deploys them all it is that one, else one that is trained on every set's canvases.
    """
    from compressor.recipe import load_recipe

    here = argparse.Namespace(recipe=arguments.recipe, work=arguments.students, set=arguments.set)
    recipe: Any = load_recipe(arguments.recipe, arguments.set)
    teacher = sketch.train_teacher(here, fold)
    if width is None and set(canvases) <= set(recipe.deploy.canvases):
        return sketch.train_student(here, teacher, BASE, fold, seed)
    every = sorted({px for own in sets_of(arguments) for px in own})
    overrides = [f"teacher.weights={teacher}", "stages.teacher.steps=0", f"data.fold={fold}", f"seed={seed}"]
    overrides += [f"stages.distill.canvases={every}", f"deploy.canvases={every}", f"deploy.canvas_px={every[-1]}"]
    overrides += [] if width is None else [f"student.width={width}"]
    name = f"width {width or recipe.student.width} fold {fold} seed {seed}"
    return train(arguments.recipe, arguments.work, name, [*arguments.set, *overrides]) / "bundle"


def sets_of(arguments: argparse.Namespace) -> list[tuple[int, ...]]:
    return [tuple(int(px) for px in text.split(",")) for text in arguments.sets]


@dataclass(frozen=True)
class Opened:
    """A student, and what a selector's stage asks of a task: its recipe, its network, and how many photos there are."""

    task: SimpleNamespace
    validation: Any
    test: Any


def open_student(bundle: Path) -> Opened:
    """Drawings of the validation part in a gallery as large as the test part's and without it; and the test part."""
    import targets
    from compressor.data.sketch import unpack_sketches
    from compressor.models.encoder import build_encoder
    from compressor.recipe import parse_recipe
    from compressor.tasks.sketch.selector.rewards import Unseen
    from targets.bundle import Bundle

    opened, loaded = Bundle.open(bundle), targets.load(bundle)
    glue: Any = loaded.glue
    config: Any = parse_recipe(opened.manifest["recipe"], "the student's recipe")
    network = build_encoder(
        config.student.network,
        config.teacher.embedding_dim,
        in_channels=config.student.in_channels,
        width=config.student.width,
    )
    parts = {name: opened.split(name) for name in ("validation", "test")}
    whole = glue.gallery()
    closed = {str(label) for arrays in parts.values() for label in arrays["labels"]}
    spare = np.flatnonzero([label not in closed for label in whole.labels])
    chosen = np.random.default_rng(0).permutation(spare)
    found = {}
    for name, arrays in parts.items():
        own = glue.split_gallery(arrays).embeddings
        missing = len(parts["test"]["labels"]) - len(own)
        gallery = np.concatenate([own, whole.embeddings[chosen[: max(missing, 0)]]])
        truth = np.asarray(arrays["truth"])
        labels = [str(arrays["labels"][row]) for row in truth]
        found[name] = Unseen(labels, unpack_sketches(arrays)[: len(truth)], gallery, truth, glue.encode)
    return Opened(SimpleNamespace(config=config, student=network, pairs=whole.labels), **found)


def cells(arguments: argparse.Namespace, bundle: Path, canvases: Canvases, kind: str) -> dict[float, Cell]:
    """The selector of this kind at every lambda_F, for one student; kept on disk."""
    from compressor.tasks.sketch.selector.cascade import selector_stage
    from compressor.tasks.sketch.selector.config import SelectorConfig
    from compressor.tasks.sketch.selector.rewards import outcomes

    name = f"{bundle.parent.name}-{'-'.join(map(str, canvases))}-{kind}-v{arguments.views}-s{arguments.steps}"
    paths = {value: arguments.work / "cells" / f"{name}-{value:g}.npz" for value in arguments.lambdas}
    missing = [value for value, path in paths.items() if not path.exists()]
    if missing:
        began = time.monotonic()
        own = open_student(bundle)
        seed = own.task.config.seed
        settings = SelectorConfig(
            kind=kind,  # type: ignore[arg-type]
            canvases=canvases,
            views=arguments.views,
            steps=arguments.steps,
        )
        learned = outcomes(own.validation, canvases, settings, seed, own=True)
        asked = outcomes(own.test, canvases, settings.model_copy(update={"views": 1}), seed, own=True)
        like = costs = None
        for value in missing:
            stage = selector_stage(own.task, settings.model_copy(update={"lambda_F": value}))  # type: ignore[arg-type]
            assert stage is not None
            stage.fit_outside_a_run(learned, like)
            like = like or stage
            costs = costs or stage.make_samples(asked)
            save_npz(paths[value], vars(_cell(asked, costs, stage.choose(asked))))
        spent(arguments.work, time.monotonic() - began)
    return {value: Cell(**load_npz(path)) for value, path in paths.items()}


def _cell(asked: Any, samples: Any, last: np.ndarray) -> Cell:
    """Of the test part's outcomes, their costs and the choices (queries,)."""
    rows = np.arange(len(last))
    return Cell(
        right=asked.correct[rows, last],
        macs=samples.macs[rows, last],
        fixed_right=(asked.alone == 1).astype(np.float64),
        fixed_macs=samples.fixed_macs,
        path_right=asked.correct,
        path_macs=samples.macs,
        last=last,
    )


def pooled(arguments: argparse.Namespace, width: Width, canvases: Canvases, kind: str) -> dict[float, Cell]:
    """Every lambda_F over all folds: a query's numbers are the means over its seeds."""
    parts: dict[float, list[Cell]] = {}
    for fold in arguments.folds:
        seeds = arguments.seeds if fold == arguments.folds[0] else arguments.seeds[:1]
        runs = [cells(arguments, student(arguments, width, canvases, fold, seed), canvases, kind) for seed in seeds]
        for value in arguments.lambdas:
            own = [run[value] for run in runs]
            means = {key: np.mean([getattr(cell, key) for cell in own], axis=0) for key in vars(own[0])}
            shares = np.mean([[cell.last == k for k in range(len(canvases))] for cell in own], axis=0).T
            parts.setdefault(value, []).append(Cell(**{**means, "last": shares}))
    return {
        value: Cell(**{key: np.concatenate([getattr(cell, key) for cell in own]) for key in vars(own[0])})
        for value, own in parts.items()
    }


def rows_of(arguments: argparse.Namespace, width: Width, canvases: Canvases, kind: str) -> list[dict[str, Any]]:
    """The fixed canvases, the constant looks where they are several, and the selector at every lambda_F."""
    from compressor.tasks.sketch.selector.analysis import gain_over_hull

    found = pooled(arguments, width, canvases, kind)
    first = found[arguments.lambdas[0]]
    common = {"task": "sketch", "metric": "acc@1", "split": "test", "width": width, "canvases": list(canvases)}
    rows = [
        {
            **common,
            "variant": f"fixed {px} px",
            "kind": "fixed",
            **_number(first.fixed_right[:, k], first.fixed_macs[:, k]),
        }
        for k, px in enumerate(canvases)
    ]
    if kind in ("gate", "cascade"):
        rows += [
            {**common, "variant": f"{kind}, always to {px} px", "kind": f"{kind} path"}
            | _number(first.path_right[:, k], first.path_macs[:, k])
            for k, px in enumerate(canvases)
            if k
        ]
    for value, cell in found.items():
        row = {**common, "variant": f"{kind} lambda_F {value:g}", "kind": kind, "lambda_F": value}
        row |= _number(cell.right, cell.macs)
        row["shares"] = {f"{px} px": float(share) for px, share in zip(canvases, cell.last.mean(0), strict=True)}
        lines = {
            "fixed": (cell.fixed_right, cell.fixed_macs),
            "paths": (
                np.concatenate([cell.fixed_right, cell.path_right], 1),
                np.concatenate([cell.fixed_macs, cell.path_macs], 1),
            ),
        }
        for name, line in lines.items():
            comparable = cell.macs.mean() >= line[1].mean(0).min()
            gain = gain_over_hull(cell.right, cell.macs, *line) if comparable else None
            row[f"gain_over_{name}"] = None if gain is None else gain.gain
            row[f"gain_over_{name}_ci95"] = None if gain is None else list(gain.ci95)
        rows.append(row)
    return rows


def oracle_rows(arguments: argparse.Namespace, width: Width, canvases: Canvases) -> list[dict[str, Any]]:
    """What the best canvas of every sketch would gain on the first fold: with an oracle that looks at the seed that it
    is scored on, and with one that looks at another seed, which is what is true of the sketch."""
    from compressor.tasks.sketch.selector.analysis import oracle_gain

    fold, value = arguments.folds[0], arguments.lambdas[0]
    kind = arguments.kinds[0]
    runs = [
        cells(arguments, student(arguments, width, canvases, fold, seed), canvases, kind)[value]
        for seed in arguments.seeds
    ]
    scores, macs = np.stack([run.fixed_right for run in runs]), runs[0].fixed_macs
    # at the price that the line from the cheapest to the best canvas has
    means, costs = scores.mean((0, 1)), macs.mean(0)
    best = int(means.argmax())
    price = max(float((means[best] - means[0]) / (costs[best] - costs[0])), 0.0) if best else 0.0
    rows = []
    for noise in (True, False):
        if noise or len(runs) > 1:
            gain = oracle_gain(scores, macs, price, selection_noise=noise)
            name = "oracle on its own seed" if noise else "oracle chosen on another seed"
            rows.append(
                {"task": "sketch", "metric": "acc@1", "split": "test", "width": width, "canvases": list(canvases)}
                | {"variant": name, "kind": "oracle", "value": gain.value, "ci95": None, "n": scores.shape[1]}
                | {"macs": gain.macs, "gain_over_fixed": gain.gain, "gain_over_fixed_ci95": list(gain.ci95)}
            )
    return rows


def _number(right: np.ndarray, macs: np.ndarray) -> dict[str, Any]:
    from profiles.statistics import bootstrap_interval

    return {"value": float(right.mean()), "ci95": list(bootstrap_interval(right)), "n": len(right)} | {
        "macs": float(macs.mean()),
        "parameters": None,
    }


def main() -> None:
    arguments = parse_arguments()
    rows: list[dict[str, Any]] = []
    for width in (None, *arguments.widths):
        for canvases in sets_of(arguments):
            for kind in arguments.kinds:
                new = rows_of(arguments, width, canvases, kind)
                known = {(row["variant"], row["width"], tuple(row["canvases"])) for row in rows}
                rows += [row for row in new if (row["variant"], width, canvases) not in known]
            rows += oracle_rows(arguments, width, canvases)
            minutes = (spent(arguments.work) + spent(arguments.students)) / 60
            write_rows(arguments.out, rows, minutes=minutes, seeds=arguments.seeds)
    write_figure(arguments.figure, rows)
    for row in rows:
        gain, interval = row.get("gain_over_fixed"), row.get("gain_over_fixed_ci95")
        said = "" if gain is None else f"  over fixed {gain:+.3f} [{interval[0]:+.3f}, {interval[1]:+.3f}]"
        print(
            f"{row['width'] or 'recipe'!s:7s} {','.join(map(str, row['canvases'])):12s} {row['variant']:30s} "
            f"{row['value']:.3f}  {row['macs'] / 1e6:6.2f} MMAC{said}"
        )


if __name__ == "__main__":
    main()
