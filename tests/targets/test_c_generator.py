"""The C that is generated: its files, its memory, what it refuses, and that sanitizers find nothing in it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from targets.c.generate import c_name, generate, translation_unit, write
from targets.c.lowering import UnsupportedOperator
from targets.tflite.schema import read_model
from tests.targets import c_cases
from tests.targets.c_oracle import Library, Micro, examples, run_sanitized
from tests.targets.test_c_operators import CASES, inputs_of
from tests.targets.tflite_builder import Node, Spec, build, build_graph, constant
from tests.tools import need, need_module

pytestmark = pytest.mark.usefixtures("_tools")


@pytest.fixture(scope="module")
def _tools() -> None:
    need("gcc")
    need_module("tflite_micro", "ai_edge_litert")


def spec(*shape: int, data: np.ndarray | None = None) -> Spec:
    return Spec(shape, scale=0.05, zero_point=3, data=data)


def residual() -> bytes:
    """x + relu(x), seen as a vector: a residual block without its layers."""
    x, y, z, flat = spec(1, 4, 4, 2), spec(1, 4, 4, 2), spec(1, 4, 4, 2), spec(1, 32)
    nodes = [
        Node("RELU", [x], [y], {}),
        Node("ADD", [x, y], [z], {}),
        Node("RESHAPE", [z, constant([1, 32])], [flat], {"newShape": [1, 32]}),
    ]
    return build_graph(nodes)


def test_sanitizers_find_nothing_in_any_operator_and_the_bytes_are_tflite_micros(tmp_path: Path) -> None:
    files, inputs, expected = [], [], []
    rng = np.random.default_rng(0)
    for family in CASES:
        for raw in examples(getattr(c_cases, family)(), 10):
            feeds = inputs_of(family)(read_model(raw), rng)
            files.append(raw)
            inputs.append(feeds)
            expected.append(b"".join(value.tobytes() for value in Micro(raw).run(feeds)))
    assert len(files) > 100
    assert run_sanitized(files, inputs, tmp_path) == expected


def test_the_files_compile_as_they_are_and_main_runs(tmp_path: Path) -> None:
    files = write(generate(read_model(residual()), "wake word"), tmp_path)
    assert sorted(files) == sorted(path.name for path in tmp_path.iterdir())
    flags = "CFLAGS=-std=c99 -O2 -Wall -Wextra -Werror -pedantic"
    subprocess.run(["make", "-s", flags], cwd=tmp_path, check=True)
    lines = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout.split()
    expected = Micro(residual()).run([np.zeros((1, 4, 4, 2), np.int8)])[0]
    assert [int(line) for line in lines] == expected.ravel().tolist()
    assert len((tmp_path / "main.c").read_text().splitlines()) <= 20


def test_the_makefile_builds_for_cortex_m_with_the_artifacts_optimisation(tmp_path: Path) -> None:
    need("arm-none-eabi-gcc")
    write(generate(read_model(residual()), "net"), tmp_path, "O3")
    for core in ("m0plus", "m3", "m4", "m7", "m33", "m55"):
        done = subprocess.run(["make", f"cortex-{core}.o"], cwd=tmp_path, check=True, capture_output=True, text=True)
        assert " -O3 " in done.stdout


def test_the_header_and_model_json_say_what_a_caller_needs(tmp_path: Path) -> None:
    write(generate(read_model(residual()), "2nd-net"), tmp_path)
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["name"] == "model_2nd_net" and about["operators"] == {"ADD": 1, "RELU": 1, "RESHAPE": 1}
    port = about["inputs"][0]
    assert (port["dtype"], port["shape"], port["bytes"]) == ("int8", [1, 4, 4, 2], 32)
    assert port["scale"] == np.float32(0.05) and port["zero_point"] == 3
    header = (tmp_path / "model.h").read_text()
    for line in (
        "MODEL_2ND_NET_INPUT_0_BYTES 32",
        "MODEL_2ND_NET_OUTPUT_0_ZERO_POINT (3)",
        "void model_2nd_net_run(void);",
    ):
        assert line in header


def test_names_become_identifiers() -> None:
    assert [c_name(name) for name in ("encoder_32", "my-net", "9", "int", "")] == [
        "encoder_32", "my_net", "model_9", "model_int", "model_",
    ]  # fmt: skip


def test_the_code_calls_nothing_but_memcpy_and_memset_and_has_no_float(tmp_path: Path) -> None:
    files = [raw for family in CASES for raw in examples(getattr(c_cases, family)(), 4)]
    library = Library(files, tmp_path, ("-O2", "-fno-builtin"))
    assert library.models
    symbols = subprocess.run(["nm", "-u", "models.so"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    undefined = {line.split()[-1].split("@")[0] for line in symbols.splitlines() if " U " in line}
    assert undefined <= {"memcpy", "memset", "__stack_chk_fail"}
    text = translation_unit(library.models)
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("/*", "*")))
    assert "float " not in code and "double " not in code


def test_a_residual_block_needs_two_tensors_at_a_time_and_no_more() -> None:
    """x and relu(x) live together; the sum lies over one of them, and the reshape is another view of it."""
    generated = generate(read_model(residual()), "net")
    assert generated.arena_bytes == generated.arena_lower_bound == 64


def test_equal_constants_are_in_flash_once() -> None:
    table = np.arange(32, dtype=np.int8).reshape(1, 4, 4, 2)
    x, y, z = spec(1, 4, 4, 2), spec(1, 4, 4, 2), spec(1, 4, 4, 2)
    nodes = [
        Node("ADD", [x, spec(1, 4, 4, 2, data=table)], [y], {}),
        Node("ADD", [y, spec(1, 4, 4, 2, data=table)], [z], {}),
    ]
    assert generate(read_model(build_graph(nodes)), "net").constant_bytes == 32


def test_every_unsupported_operator_is_named_with_its_place_before_anything_is_written() -> None:
    x, y, z = spec(1, 4, 4, 4), Spec((1, 2, 2, 16), scale=0.05, zero_point=3, name="packed"), spec(1, 2, 2, 16)
    z.scale, z.name = 0.1, "renamed"
    nodes = [
        Node("SPACE_TO_DEPTH", [x], [y], {"blockSize": 2}),
        Node("MAXIMUM", [y, y], [z], {}),
    ]
    with pytest.raises(UnsupportedOperator) as error:
        generate(read_model(build_graph(nodes)), "net")
    message = str(error.value)
    assert "SPACE_TO_DEPTH (operator 0, gives packed)" in message
    assert "MAXIMUM (operator 1, gives renamed)" in message and "quantised otherwise" in message


def test_float_operators_are_refused() -> None:
    x, y = Spec((4,), "float32"), Spec((4,), "float32")
    with pytest.raises(UnsupportedOperator, match=r"ADD .*is float"):
        generate(read_model(build("ADD", [x, x], [y])), "net")


@pytest.mark.parametrize("value", [(0.5, -128), (1 / 256, 0)])
def test_a_logistic_output_that_tflite_micro_would_misread_is_refused(value: tuple[float, int]) -> None:
    raw = build("LOGISTIC", [spec(4)], [Spec((4,), scale=value[0], zero_point=value[1])])
    with pytest.raises(UnsupportedOperator, match=r"scale 0\.00390625 and zero point -128"):
        generate(read_model(raw), "net")


def test_an_index_outside_the_table_reads_its_nearest_row(tmp_path: Path) -> None:
    table = spec(3, 2, data=np.arange(6, dtype=np.int8).reshape(3, 2))
    raw = build("GATHER", [table, Spec((4,), "int32")], [spec(4, 2)], axis=0)
    rows = Library([raw], tmp_path).run(0, [np.array([-5, 1, 2, 99], np.int32)])[0]
    assert rows.tolist() == [[0, 1], [2, 3], [4, 5], [4, 5]]


def test_outputs_may_be_constants_views_or_given_twice(tmp_path: Path) -> None:
    table = spec(2, 3, data=np.arange(6, dtype=np.int8).reshape(2, 3))
    flat, x, square = spec(6), spec(4), spec(2, 2)
    nodes = [
        Node("RESHAPE", [table, constant([6])], [flat], {"newShape": [6]}),
        Node("RESHAPE", [x, constant([2, 2])], [square], {"newShape": [2, 2]}),
    ]
    outputs = Library([build_graph(nodes, [flat, square, square])], tmp_path).run(0, [np.array([1, 2, 3, 4], np.int8)])
    assert [value.tolist() for value in outputs] == [[0, 1, 2, 3, 4, 5], [[1, 2], [3, 4]], [[1, 2], [3, 4]]]
