"""The same file on this machine: what a device's outputs are compared with, beside the float reference.

A file has one meaning, and its runtime should give the same on every machine. Where it does not, the set-up is wrong
(an emulated processor that computes wrongly, another file, another runtime), whatever the float reference allows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from profiles.errors import MissingError
from targets.artifact import Artifact
from targets.target import Session

# Largest difference that is allowed, by runtime and precision: in steps of the output's own integers, or relative to
# max(1, |value|). Kernels for different processors add in different orders. What is not here is only reported.
STEPS = {("c", "int8"): 0.0, ("tflite", "int8"): 1.0}
RELATIVE = {("tflite", "fp32"): 1e-5, ("onnx", "fp32"): 1e-4}


def against_this_machine(artifact: Artifact, graph: str, session: Session) -> tuple[dict[str, Any], str | None]:
    """Outputs over there and here, on the golden inputs, and why they differ too much (None if they do not).

    Gives {"exact", "max_abs", "steps", "differing", "values", "note"}; all but the note None where this machine cannot
    run the file. `steps`: the largest difference in steps of int8, where the outputs have such.
    """
    inputs, _ = artifact.golden(graph)
    unknown = {"exact": None, "max_abs": None, "steps": None, "differing": None, "values": None}
    try:
        here = artifact.session(graph)
        expected = here(inputs)
    except MissingError as error:
        return {**unknown, "note": f"not compared with this machine: {error}"}, None
    found = session(inputs)
    key = artifact.runtime, artifact.manifest["graphs"][graph]["precision"]
    scales = here.details.get("output_steps", {})
    differences = {name: np.abs(found[name].astype(np.float64) - expected[name]) for name in expected}
    worst = max(float(value.max(initial=0)) for value in differences.values())
    steps = [float(differences[name].max(initial=0)) / scale for name, scale in scales.items() if scale]
    relative = max(
        float((value / np.maximum(1, np.abs(expected[name]))).max(initial=0)) for name, value in differences.items()
    )
    report = {
        "exact": worst == 0,
        "max_abs": worst,
        "steps": round(max(steps), 3) if steps else None,
        "differing": int(sum(np.count_nonzero(value) for value in differences.values())),
        "values": int(sum(value.size for value in differences.values())),
    }
    problem, note = None, _note(report)
    there, ours = session.details.get("package"), here.details.get("package")
    if there != ours:  # another implementation: it need not give the same
        return {**report, "note": f"{note} ({there} there, {ours} here: reported, not judged)"}, None
    if key in STEPS and (max(steps) if steps else worst) > STEPS[key] + 1e-3:
        problem = f"differs from this machine by {report['steps'] or worst:g} steps, at most {STEPS[key]:g} are right"
    elif key in RELATIVE and relative > RELATIVE[key]:
        problem = f"differs from this machine by {relative:.2g}, at most {RELATIVE[key]:g} is right"
    return {**report, "note": note}, problem


def _note(report: dict[str, Any]) -> str:
    if report["exact"]:
        return f"all {report['values']} outputs are those of this machine, bit by bit"
    steps = f" ({report['steps']:g} steps of int8)" if report["steps"] is not None else ""
    return (
        f"{report['differing']} of {report['values']} outputs differ from this machine's, "
        f"by at most {report['max_abs']:.2g}{steps}"
    )
