"""Does a speech recogniser help a lip reader? Each term alone and together, early and late, in two languages.

    python benchmarks/lips.py                      # hours on two cores; goes on where it was stopped
    python benchmarks/lips.py --only full quarter  # some parts, no results file; two of these may run side by side
    python benchmarks/lips.py --kept               # train nothing: what is there, with as many seeds as there are
    python benchmarks/lips.py --quick              # a few steps of everything: does it run?

Voices are synthetic and mouths are simulated (`compressor data fetch lips`); Mandarin is written in pinyin. One
recogniser per language, trained once. Readers of one comparison share initialisation, clips, order and learning rate.
Intervals are percentile bootstraps that draw seeds and test clips; differences are paired in both. Test sentences and
faces are in no other part. A row names its seeds; a difference is that of the seeds which both have.

Parts: `teachers`; `full` (none, all terms); `early` (all in 60 % of the steps); `longer` (none in twice the steps: has
it converged?); `quarter` (a quarter of the clips); `terms` (each alone, and LIBS' three); `mandarin`; `paper` (LIBS'
three with its constant weights); `constant` (all with constant weights); `reference` (a BiGRU reader, which neither
streams nor deploys); `device` (int8, streaming, speed). What every reader read, and its validation curve, is kept
(benchmarks/parts.py); benchmarks/results/lips.json is made of that.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.parts import Parts
from benchmarks.runs import teacher_weights, train
from benchmarks.writing import RESULTS, write_rows

LOSS = "stages.distill.loss"
TERMS = ("sequence", "context", "frame", "attention")
PARTS = (
    "teachers", "full", "early", "longer", "quarter", "terms", "mandarin", "paper", "constant", "reference", "device"
)  # fmt: skip
LANGUAGES = {"en": ("data.language=en",), "cmn": ("data.language=cmn", "data.text=pinyin")}
EARLY = 0.6  # of the steps: where all terms should be as good as none are at the end


def without(*terms: str) -> list[str]:
    return [f"{LOSS}.{term}=0" for term in terms]


@dataclass(frozen=True)
class Variant:
    """A reader: overrides of the recipe, the language, the share of the steps."""

    overrides: tuple[str, ...] = ()
    language: str = "en"
    steps: float = 1.0


NONE = tuple(without(*TERMS))
QUARTER = ("data.train_share=0.25",)
ALONE = {name: tuple(without(*(other for other in TERMS if other != name))) for name in TERMS}
PAPER = tuple(
    f"{LOSS}.{key}={value}"
    for key, value in {
        "sequence": 10, "context": 40, "frame": 10, "frame_window": "null", "attention": 0, "schedule": "constant"
    }.items()
)  # fmt: skip
# It knows what is to come, and need not look later than the recogniser listens.
BIGRU = ("student.encoder={kind: bigru, dim: 128, hidden: 96, layers: 2}", f"{LOSS}.attention_delay=0")
VARIANTS = {
    "none": Variant(NONE),
    "all": Variant(),
    "all, 60 % of the steps": Variant(steps=EARLY),
    "none, twice the steps": Variant(NONE, steps=2.0),
    "none, quarter": Variant((*NONE, *QUARTER)),
    "all, quarter": Variant(QUARTER),
    **{name: Variant(overrides) for name, overrides in ALONE.items()},
    "all but attention": Variant(tuple(without("attention"))),
    "none, Mandarin": Variant(NONE, "cmn"),
    "all, Mandarin": Variant((), "cmn"),
    "three terms, LIBS weights": Variant(PAPER),
    "all, constant weights": Variant((f"{LOSS}.schedule=constant",)),
    "all, BiGRU": Variant(BIGRU),
}
PART_VARIANTS = {
    "full": ["none", "all"],
    "early": ["all, 60 % of the steps"],
    "longer": ["none, twice the steps"],
    "quarter": ["none, quarter", "all, quarter"],
    "terms": [*TERMS, "all but attention"],
    "mandarin": ["none, Mandarin", "all, Mandarin"],
    "paper": ["three terms, LIBS weights"],
    "constant": ["all, constant weights"],
    "reference": ["all, BiGRU"],
}
COMPARISONS = [
    ("all", "none"),
    ("all, 60 % of the steps", "none"),
    ("all", "none, twice the steps"),
    ("all, quarter", "none, quarter"),
    *((name, "none") for name in (*TERMS, "all but attention")),
    ("all", "attention"),
    ("all, Mandarin", "none, Mandarin"),
    ("three terms, LIBS weights", "none"),
    ("all, constant weights", "all"),
    ("all", "all, BiGRU"),
]
REACHED = [("all", "none"), ("all, quarter", "none, quarter"), ("all, Mandarin", "none, Mandarin")]


@dataclass
class Scores:
    """Per test clip, (seeds, clips): errors, 1 or 0 for the sentence, 1, 0 or nan for the hard word; and the characters
    of each clip, (clips,)."""

    errors: np.ndarray
    sentence: np.ndarray
    slot: np.ndarray
    characters: np.ndarray

    def value(self, metric: str, seeds: np.ndarray, clips: np.ndarray) -> np.ndarray:
        """A metric of the drawn seeds and clips, each (draws, n) -> (draws,)."""
        pick = (seeds[:, :, None], clips[:, None, :])
        if metric == "CER":
            return self.errors[pick].sum((1, 2)) / (self.characters[clips].sum(1) * seeds.shape[1])
        return np.nanmean((self.sentence if metric == "sentence accuracy" else self.slot)[pick], axis=(1, 2))

    def metrics(self) -> list[str]:
        """Without that of hard words where no sentence has one (pinyin)."""
        return list(METRICS if np.isfinite(self.slot).any() else METRICS[:2])

    def plain(self, metric: str) -> float:
        seeds, clips = self.errors.shape
        return float(self.value(metric, np.arange(seeds)[None], np.arange(clips)[None])[0])


METRICS = ("CER", "sentence accuracy", "hard word accuracy")


def draws(scores: Scores, count: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Seeds and clips of every resample, the same for every variant of as many seeds and clips."""
    rng = np.random.default_rng(0)
    seeds, clips = scores.errors.shape
    return rng.integers(0, seeds, (count, seeds)), rng.integers(0, clips, (count, clips))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="lips")
    parser.add_argument("--out", type=Path, default=RESULTS / "lips.json")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/lips-stages")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1600, help="of every reader")
    parser.add_argument("--teacher-steps", type=int, default=1600)
    parser.add_argument("--kept", action="store_true", help="train nothing; the seeds of each variant that are there")
    parser.add_argument("--quick", action="store_true", help="a few steps, one seed, into runs/lips-quick")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further overrides of the recipe")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps, arguments.teacher_steps, arguments.seeds = 20, 20, arguments.seeds[:1]
        arguments.work = arguments.work.with_name("lips-quick")
        arguments.out = arguments.work / "lips.json"
    return arguments


# --- training ---


def teacher(arguments: argparse.Namespace, language: str) -> Path:
    """The recogniser's weights as one file. Its run trains no reader and exports one that has learned nothing."""
    overrides = [*arguments.set, *LANGUAGES[language], f"stages.teacher.steps={arguments.teacher_steps}"]
    # whatever the recipe's reader is, and how it learns
    no_reader = ["stages.distill.steps=0", "student={encoder: {kind: causal}}", f"{LOSS}={{sequence: 0}}"]
    run_dir = train(arguments.recipe, arguments.work, f"teacher {language}", [*overrides, *no_reader])
    return teacher_weights(run_dir)


def reader(arguments: argparse.Namespace, name: str, seed: int) -> Path:
    """A trained reader's run directory."""
    variant = VARIANTS[name]
    overrides = [
        *arguments.set,
        *LANGUAGES[variant.language],
        f"teacher.weights={teacher(arguments, variant.language)}",
        "stages.teacher.steps=0",
        f"stages.distill.steps={round(variant.steps * arguments.steps)}",
        f"seed={seed}",
        *variant.overrides,
    ]
    label = name.replace(",", "").replace(" %", "")
    return train(arguments.recipe, arguments.work, f"{label} seed {seed}", overrides)


def heard(arguments: argparse.Namespace, language: str) -> dict[str, Any]:
    """The test part: what was said, where its hard word is, and what the teacher heard."""
    from targets.bundle import Bundle

    run_dir = teacher(arguments, language).parent
    arrays = Bundle.open(run_dir / "bundle").split("test")
    texts = {key: [str(text) for text in arrays[name]] for key, name in (("truth", "texts"), ("heard", "heard"))}
    return {**texts, "slots": arrays["slots"].tolist(), "parameters": costs_of(run_dir)["teacher_parameters"]}


def read(arguments: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """What a reader reads on the test part, how it learned, and what it costs."""
    import targets
    from targets.bundle import Bundle

    run_dir = reader(arguments, name, seed)
    bundle = run_dir / "bundle"
    glue: Any = targets.load(bundle).glue
    texts = glue.texts(Bundle.open(bundle).split("test"))
    return {"read": texts, "validation_curve": curve(run_dir), "costs": costs_of(run_dir)}


def scores_of(test: dict[str, Any], found: Sequence[list[str]]) -> Scores:
    """Of one variant's texts, a row per seed, against the test part's."""
    from compressor.tasks.lips.vocabulary import edit_distance, slot_is_right

    truth, slots = test["truth"], test["slots"]

    def right(read: str, said: str, slot: list[int]) -> float:
        return float(slot_is_right(read, said, (slot[0], slot[1]))) if slot[0] >= 0 else np.nan

    return Scores(
        np.array([[edit_distance(a, b) for a, b in zip(run, truth, strict=True)] for run in found], float),
        np.array([[a == b for a, b in zip(run, truth, strict=True)] for run in found], float),
        np.array([[right(*three) for three in zip(run, truth, slots, strict=True)] for run in found], float),
        np.array([len(text) for text in truth], float),
    )


# --- rows ---


def rows_of(name: str, scores: Scores, **more: Any) -> list[dict[str, Any]]:
    """One row per metric."""
    rows = []
    for metric in scores.metrics():
        low, high = np.percentile(scores.value(metric, *draws(scores)), [2.5, 97.5])
        seeds, clips = scores.errors.shape
        every = np.arange(clips)[None]
        by_seed = [float(scores.value(metric, np.array([[seed]]), every)[0]) for seed in range(seeds)]
        common = {"task": "lips", "variant": name, "metric": metric, "value": scores.plain(metric)}
        rows.append({**common, "ci95": [float(low), float(high)], "n": clips, "by_seed": by_seed, **more})
    return rows


def difference_rows(names: tuple[str, str], a: Scores, b: Scores, **more: Any) -> list[dict[str, Any]]:
    """a - b of every metric, and the change of the CER relative to b."""
    rows = []
    for metric in a.metrics():
        first, second = a.value(metric, *draws(a)), b.value(metric, *draws(b))
        kinds = {metric: (first - second, a.plain(metric) - b.plain(metric))}
        if metric == "CER":
            floor = 1 / b.characters.sum()  # a draw without an error has no ratio
            kinds["relative CER"] = (first / np.maximum(second, floor) - 1, a.plain(metric) / b.plain(metric) - 1)
        for kind, (values, value) in kinds.items():
            low, high = np.percentile(values, [2.5, 97.5])
            common = {"task": "lips", "variant": f"{names[0]} minus {names[1]}", "metric": kind, "value": float(value)}
            rows.append({**common, "ci95": [float(low), float(high)], "n": a.errors.shape[1], **more})
    return rows


def reached(curve: Sequence[Sequence[float]], goal: float) -> float | None:
    """The step at which a curve of [step, CER] has come down to the goal, linear between its points; None if it has
    not."""
    for (before, high), (after, low) in pairwise(curve):
        if low <= goal:
            return before + (after - before) * min(1.0, (high - goal) / (high - low)) if high > goal else before
    return None


def reach_rows(readers: dict[str, dict[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    """When all terms are where none ends, on the validation part: in shares of none's steps, seed by seed; None where
    they never are."""
    rows = []
    for helped, plain in REACHED:
        seeds = [seed for seed in readers.get(helped, {}) if seed in readers.get(plain, {})]
        shares: list[float | None] = []
        for seed in seeds:
            steps, goal = readers[plain][seed]["validation_curve"][-1]
            step = reached(readers[helped][seed]["validation_curve"], goal)
            shares.append(None if step is None else step / steps)
        if seeds:
            common = {"task": "lips", "variant": f"{helped} where {plain} ends", "metric": "share of the steps"}
            known = [share for share in shares if share is not None]
            mean = float(np.mean(known)) if len(known) == len(shares) else None
            rows.append({**common, "value": mean, "by_seed": shares, "seeds": seeds})
    return rows


def curve(run_dir: Path) -> list[list[float]]:
    """[step, CER] on the validation part while the reader learned."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [[line["step"], line["cer"]] for line in lines if line["stage"] == "distill" and "cer" in line]


def costs_of(run_dir: Path) -> dict[str, Any]:
    """MACs of a clip as the glue calls the graphs, parameters of all graphs, and the teacher's."""
    from profiles.flops import count_onnx

    manifest = json.loads((run_dir / "bundle" / "bundle.json").read_text())
    costs = {name: count_onnx(run_dir / "bundle" / graph["onnx"]) for name, graph in manifest["graphs"].items()}
    calls = manifest["uses"]["query"]
    return {
        "macs": sum(calls[name] * cost.macs for name, cost in costs.items()),
        "parameters": sum(cost.parameters for cost in costs.values()),
        "teacher_parameters": manifest["teacher"]["parameters"],
    }


# --- the deployed reader ---


DEVICE_READER = "all"


def int8_rows(arguments: argparse.Namespace) -> dict[str, Any]:
    """int8 against float on three runtimes, paired over the test clips."""
    from benchmarks.int8 import bench_one

    bundle = reader(arguments, DEVICE_READER, arguments.seeds[0]) / "bundle"
    rows = bench_one(bundle, "test", arguments.work / "int8")
    return {"rows": [{"task": "lips", "variant": f"int8, {row['runtime']}", **row} for row in rows]}


def speed_rows(arguments: argparse.Namespace) -> dict[str, Any]:
    """Streaming against the whole clip; speed on one core."""
    run_dir = reader(arguments, DEVICE_READER, arguments.seeds[0])
    rows = [{"task": "lips", "variant": "streaming against the whole clip", **streaming_difference(run_dir)}]
    runtimes = ("onnx", "openvino", "tflite")
    return {"rows": rows + [speed_row(run_dir / "bundle", runtime, arguments.work) for runtime in runtimes]}


def streaming_difference(run_dir: Path, clips: int = 20) -> dict[str, Any]:
    """The largest difference between the memory of the streamed graph and that of the module over whole clips."""
    import torch

    import targets
    from compressor.checkpoint import Checkpoints
    from compressor.recipe import load_recipe
    from compressor.tasks.lips.glue import clips_of
    from compressor.tasks.lips.task import Task
    from targets.bundle import Bundle

    task: Any = Task(load_recipe(str(run_dir / "recipe.yaml")))
    task.setup(None)
    state = Checkpoints(run_dir / "checkpoints" / "distill").load("final")["shared"]["modules"]["student"]
    task.student.load_state_dict(state)
    task.student.eval()
    own = clips_of(Bundle.open(run_dir / "bundle").split("test"))[:clips]
    glue: Any = targets.load(run_dir / "bundle").glue
    worst = 0.0
    for clip in own:
        streamed = glue.encode([clip])[0][0, : len(clip)]
        frames = torch.from_numpy(clip.astype(np.float32) / 255)[None]
        with torch.no_grad():
            whole = task.student.encode(frames, torch.ones(1, len(clip), dtype=torch.bool)).memory[0].numpy()
        worst = max(worst, float(np.abs(streamed - whole).max()))
    return {"metric": "largest difference", "value": worst, "n": len(own)}


def speed_row(bundle: Path, runtime: str, work: Path, clips: int = 30) -> dict[str, Any]:
    """The medians of the glue's timings; the runtime has one thread, as benchmarks/int8.yaml says."""
    from compressor.tasks.lips.glue import LAST_TO_TEXT_MS, TIMES_REAL_TIME, clips_of
    from profiles.device import load_device
    from targets.artifact import compile_bundle
    from targets.bundle import Bundle

    one_thread = load_device(ROOT / "benchmarks" / "int8.yaml")
    artifact = compile_bundle(Bundle.open(bundle), one_thread, runtime, "fp32", work / "speed" / runtime)
    glue: Any = artifact.student().glue
    timings = [glue.timings(clip) for clip in clips_of(Bundle.open(bundle).split("validation"))[:clips]]
    return {
        "task": "lips",
        "variant": f"speed, {runtime} fp32",
        "metric": TIMES_REAL_TIME,
        "value": float(np.median([own[TIMES_REAL_TIME] for own in timings])),
        "last_picture_to_text_ms": float(np.median([own[LAST_TO_TEXT_MS] for own in timings])),
        "n": len(timings),
    }


# --- all ---


def settings_of(arguments: argparse.Namespace) -> str:
    """Hash of what all readers share: the recipe without the terms of distillation, which each variant sets."""
    from compressor.recipe import canonical_hash, load_recipe

    recipe = load_recipe(arguments.recipe, arguments.set).identity()
    del recipe["stages"]["distill"]["loss"]
    return canonical_hash([recipe, arguments.steps, arguments.teacher_steps])


def own_settings(arguments: argparse.Namespace, name: str) -> list[str]:
    """What a reader's parts are of. One without any term is the same whatever the recipe's weights and schedule are."""
    from compressor.recipe import load_recipe

    variant = VARIANTS[name]
    loss = load_recipe(arguments.recipe, [*arguments.set, *variant.overrides]).identity()["stages"]["distill"]["loss"]
    own = [f"{key}={value}" for key, value in sorted(loss.items())] if any(loss[term] for term in TERMS) else ["none"]
    others = [override for override in variant.overrides if not override.startswith(LOSS)]
    return [*own, *others, variant.language, f"{variant.steps}"]


def part_of(arguments: argparse.Namespace, parts: Parts, name: str, seed: int) -> dict[str, Any] | None:
    """A reader's part; None if it is not there and nothing shall be trained."""
    label, of = f"{name} seed {seed}", own_settings(arguments, name)
    return parts.kept(label, of) if arguments.kept else parts.get(label, read, arguments, name, seed, of=of)


def tests_of(arguments: argparse.Namespace, parts: Parts) -> dict[str, dict[str, Any]]:
    """The test part of every language that these parts are in."""
    readers = [name for part in arguments.only for name in PART_VARIANTS.get(part, ["all"])]
    wanted = set(LANGUAGES) if "teachers" in arguments.only else {VARIANTS[name].language for name in readers}
    labels = {language: f"teacher {language}" for language in LANGUAGES if language in wanted}
    if arguments.kept:
        found = {language: parts.kept(label) for language, label in labels.items()}
        return {language: test for language, test in found.items() if test is not None}
    return {language: parts.get(label, heard, arguments, language) for language, label in labels.items()}


def device_rows(arguments: argparse.Namespace, parts: Parts) -> list[dict[str, Any]]:
    """Of the deployed reader."""
    of = own_settings(arguments, DEVICE_READER)
    rows: list[dict[str, Any]] = []
    for label, measure in (("speed", speed_rows), ("int8", int8_rows)):
        found = parts.kept(label, of) if arguments.kept else parts.get(label, measure, arguments, of=of)
        rows += found["rows"] if found else []
    return rows


def collect(arguments: argparse.Namespace, parts: Parts) -> list[dict[str, Any]]:
    """Run what is asked for, a seed of every variant of a part before the next; the rows of all that is asked for."""
    rows: list[dict[str, Any]] = []
    readers: dict[str, dict[int, dict[str, Any]]] = {}  # by variant and seed
    tests = tests_of(arguments, parts)

    def scores(name: str, seeds: Sequence[int]) -> Scores:
        return scores_of(tests[VARIANTS[name].language], [readers[name][seed]["read"] for seed in seeds])

    for part in arguments.only:
        if part == "teachers":
            for language, test in tests.items():
                own = scores_of(test, [test["heard"]])
                rows += rows_of(f"teacher {language}", own, parameters=test["parameters"])
        elif part == "device":
            rows += device_rows(arguments, parts)
        else:
            for seed in arguments.seeds:
                for name in PART_VARIANTS[part]:
                    found = part_of(arguments, parts, name, seed)
                    if found is not None:
                        readers.setdefault(name, {})[seed] = found
    for name, seeds in readers.items():
        curves = [own["validation_curve"] for own in seeds.values()]
        costs = next(iter(seeds.values()))["costs"]
        rows += rows_of(name, scores(name, list(seeds)), **costs, seeds=list(seeds), validation_curves=curves)
    for pair in COMPARISONS:
        if set(pair) <= set(readers) and (common := [seed for seed in readers[pair[0]] if seed in readers[pair[1]]]):
            rows += difference_rows(pair, scores(pair[0], common), scores(pair[1], common), seeds=common)
    return rows + reach_rows(readers)


def main() -> None:
    arguments = parse_arguments()
    parts = Parts("lips-quick" if arguments.quick else "lips", settings_of(arguments))
    rows = collect(arguments, parts)
    if set(arguments.only) == set(PARTS):
        write_rows(arguments.out, rows, minutes=sum(parts.minutes.values()), seeds=arguments.seeds)
    for item in rows:
        low, high = item.get("ci95") or item.get("drop_ci95") or (float("nan"), float("nan"))
        value = item.get("value", item.get("drop"))
        value = float("nan") if value is None else value
        metric = f"{item.get('metric') or ''}{' lost' if 'drop' in item else ''}"
        seeds = f"seeds {item['seeds']}" if "seeds" in item else ""
        if "by_seed" in item:
            seeds += " " + " ".join("never" if own is None else f"{own:.3f}" for own in item["by_seed"])
        print(f"{item['variant']:48s} {metric:26s} {value:8.4f}  [{low:.4f}, {high:.4f}]  {seeds}")


if __name__ == "__main__":
    main()
