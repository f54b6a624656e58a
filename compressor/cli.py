"""The `compressor` command: parses, calls one function, prints. No logic lives here.

Exit codes: 0 done, 1 the work ran and the answer is no, 2 the request is wrong, 3 something is missing on this
machine, 4 a fault of ours, 130/143 stopped by a signal with the state saved.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from profiles.errors import CompressorError, MissingError, RequestError

app = typer.Typer(
    name="compressor",
    help="Distil a big model into a small one, compile it for a device, and measure it there.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Demo data sets and weights, fetched through the package clients.", no_args_is_help=True)
app.add_typer(data_app, name="data")
docker_app = typer.Typer(help="Images of device classes: build one, run its smoke test.", no_args_is_help=True)
app.add_typer(docker_app, name="docker")

Devices = Annotated[list[str] | None, typer.Option("--device", help="A device's name, or a profile's path (.yaml).")]
Runtimes = Annotated[list[str] | None, typer.Option("--runtime", help="Only this runtime (repeatable).")]
Precisions = Annotated[
    list[str] | None, typer.Option("--precision", help="fp32, fp16 or int8 (repeatable). Default: all of the device's.")
]
DataOption = Annotated[
    str | None, typer.Option("--data", help="Inputs (and targets) for your own model: .npz, or a folder of .npy files.")
]
MetricOption = Annotated[str | None, typer.Option("--metric", help="top1, top5, mae, mse, or module:function.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Directory to write to.")]
RunnerOption = Annotated[str | None, typer.Option("--runner", help="Where to run. Default: what the device names.")]


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, allow_nan=False))


@app.command()
def recipes(as_json: JsonOption = False) -> None:
    """The recipes that ship with this version."""
    from compressor.recipe import list_recipes
    from compressor.terminal import print_rows

    rows = [{"recipe": name, "what": summary} for name, summary in list_recipes()]
    _print_json(rows) if as_json else print_rows(rows)


@app.command()
def devices(as_json: JsonOption = False) -> None:
    """The device profiles that ship with this version."""
    from compressor.terminal import print_rows
    from profiles.device import list_devices, load_device

    found = [load_device(name) for name in list_devices()]
    rows = [
        {
            "device": device.name,
            "class": device.class_,
            "what": device.summary,
            "runtimes": ", ".join(device.runtimes),
            "this machine": "yes" if device.matches_this_machine() else "",
        }
        for device in found
    ]
    _print_json([device.model_dump(mode="json", by_alias=True) for device in found]) if as_json else print_rows(rows)


@data_app.command("fetch")
def data_fetch(name: str, as_json: JsonOption = False) -> None:
    """Get a data set or weights into the cache; prints where they are."""
    from compressor.data import fetch

    path = fetch(name)
    _print_json({"name": name, "path": str(path)}) if as_json else print(path)


@data_app.command("list")
def data_list(as_json: JsonOption = False) -> None:
    """What can be fetched, with licences."""
    from compressor.data import sources
    from compressor.terminal import print_rows

    rows = [{"name": s.name, "what": s.summary, "licences": ", ".join(s.licences)} for s in sources()]
    _print_json(rows) if as_json else print_rows(rows)


@app.command()
def distill(
    recipe: str,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    out: OutOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe's stages; ends with a bundle. Default --out: runs/RECIPE."""
    from compressor.recipe import load_recipe
    from compressor.train import distill as run

    loaded = load_recipe(recipe, overrides or [])
    bundle = run(loaded, out or Path("runs") / loaded.name, resume=resume)
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        _print_json({"bundle": str(bundle)}) if as_json else print(bundle)


@app.command()
def evaluate(
    subject: Annotated[str, typer.Argument(metavar="BUNDLE|ARTIFACT")],
    split: Annotated[str, typer.Option(help="validation or test")] = "validation",
    as_json: JsonOption = False,
) -> None:
    """The task's own metric, measured on the bundle (PyTorch) or on the compiled files."""
    from compressor.bench import evaluate as run
    from compressor.terminal import print_rows

    row = run(subject, split)
    _print_json(row) if as_json else print_rows([row])


@app.command()
def profile(
    subject: Annotated[str, typer.Argument(metavar="BUNDLE|MODEL")],
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """MACs, parameters and activation bytes, per layer, and what was not counted."""
    from compressor.bench import profile as run
    from compressor.terminal import print_costs

    costs = run(subject, data)
    if as_json:
        _print_json({name: graph_costs.to_json() for name, graph_costs in costs.items()})
    else:
        print_costs(costs)


@app.command("compile")
def compile_(
    subject: Annotated[str, typer.Argument(metavar="BUNDLE|MODEL")],
    device: Devices = None,
    runtime: Runtimes = None,
    precision: Precisions = None,
    out: OutOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compile for devices without running. Default --out: runs/compile."""
    from compressor.bench import BenchRequest
    from compressor.bench import compile_only as run
    from compressor.terminal import print_rows

    request = BenchRequest(
        subjects=[subject], devices=device or [], runtimes=runtime, precisions=precision, data=data,
        out=out or Path("runs/compile"), command=_command(),
    )  # fmt: skip
    rows = run(request)
    _print_json(rows) if as_json else print_rows(rows)
    _exit(0 if all(row["status"] in ("built", "deferred") for row in rows) else 1)


@app.command()
def bench(
    subjects: Annotated[list[str], typer.Argument(metavar="BUNDLE|RECIPE|MODEL [KEY=VALUE]...")],
    device: Devices = None,
    runtime: Runtimes = None,
    precision: Precisions = None,
    out: OutOption = None,
    data: DataOption = None,
    metric: MetricOption = None,
    runner: RunnerOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="For a recipe: go on from the last checkpoint.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The main job: distil (for a recipe), compile, check, measure, report. Default --out: runs/bench."""
    from compressor.bench import BenchRequest, verdict
    from compressor.bench import bench as run
    from compressor.policy import choose
    from compressor.terminal import print_table

    request = BenchRequest(
        subjects=[s for s in subjects if "=" not in s],
        overrides=[s for s in subjects if "=" in s],
        devices=device or [], runtimes=runtime, precisions=precision, data=data, metric=metric, runner=runner,
        resume=resume, out=out or Path("runs/bench"), command=_command(),
    )  # fmt: skip
    results = run(request)
    if as_json:
        _print_json(results.to_json())
    else:
        print_table(results, choices=() if request.explicit_precisions else choose(results.records))
    _exit(verdict(results, request))


@app.command()
def verify(artifact: Path, device: Devices = None, runner: RunnerOption = None, as_json: JsonOption = False) -> None:
    """Run the golden inputs through an artifact on its device, and compare with the float outputs."""
    from compressor.bench import verify as run
    from compressor.terminal import print_verification

    rows = run(artifact, device or [], runner)
    _print_json(rows) if as_json else print_verification(rows)
    _exit(0 if all(row["status"] == "verified" for row in rows) else 1)


EngineOption = Annotated[str, typer.Option("--engine", help="auto, docker or buildah (no daemon needed).")]
ImageArgument = Annotated[
    str, typer.Argument(metavar="DEVICE", help="A folder of docker/, or a device that names one.")
]


@docker_app.command("build")
def docker_build(
    device: ImageArgument,
    engine: EngineOption = "auto",
    local_base: Annotated[
        bool, typer.Option("--local-base", help="Make the base image here, with mmdebstrap.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Build the image of a device class."""
    from compressor.docker import build

    built = build(device, engine, local_base)
    _print_json(built) if as_json else print(built["image"])


@docker_app.command("run")
def docker_run(device: ImageArgument, engine: EngineOption = "auto") -> None:
    """Run an image's smoke test, without a network; prints its JSON."""
    from compressor.docker import run

    report = run(device, engine)
    _print_json(report)
    _exit(0 if report["passed"] else 1)


@app.command()
def compare(
    results: Path,
    baseline: Path,
    tolerance: Annotated[
        float, typer.Option(help="Relative change that is allowed, where there is no interval.")
    ] = 0.05,
    as_json: JsonOption = False,
) -> None:
    """Compare two results.json; exit code 1 on a regression."""
    from compressor.terminal import print_rows
    from profiles.compare import compare as run
    from profiles.results import Results

    findings = run(Results.load(results), Results.load(baseline), tolerance=tolerance)
    rows = [finding.to_json() for finding in findings]
    _print_json(rows) if as_json else print_rows(rows, empty="no difference")
    _exit(1 if any(finding.severity == "regression" for finding in findings) else 0)


@app.command()
def report(results: list[Path], out: OutOption = None) -> None:
    """Write the HTML page again from results.json files. Default --out: report.html beside the first."""
    from compressor.report import write_report

    path = out or results[0].parent / "report.html"
    write_report(results, path)
    print(path)


def _command() -> str:
    return shlex.join(["compressor", *sys.argv[1:]])


def _exit(code: int) -> None:
    if code:
        raise typer.Exit(code)


def _fail(message: str, code: int) -> NoReturn:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def main() -> None:
    """Entry point: every error of the user's is one line on standard error and its exit code."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except (typer.Exit, typer.Abort) as error:
        sys.exit(getattr(error, "exit_code", 130))
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a command group without a command: its help
            print(error.format_message(), file=sys.stderr)  # type: ignore[attr-defined]
            sys.exit(RequestError.exit_code)
        code, message = _explain(error)
        if code == 4:
            traceback.print_exc()
        _fail(message, code)


def _explain(error: Exception) -> tuple[int, str]:
    """Exit code and one line for an error that ended a command."""
    if isinstance(error, CompressorError):
        return error.exit_code, str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = error.filename or Path.cwd()
        return MissingError.exit_code, f"{where}: no space left on this disk; free some, or choose another --out"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EISDIR):
        return RequestError.exit_code, f"{error.filename}: {error.strerror}"
    if hasattr(error, "format_message"):  # a usage error of typer's
        return RequestError.exit_code, f"{error.format_message()} (see --help)"
    return 4, f"a fault of ours ({type(error).__name__}: {error}); please report it with the lines above"


if __name__ == "__main__":
    main()
