"""Generated C on emulated Cortex-M cores: every operator gives TFLite-Micro's bytes on every core."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from profiles.storage import write_json
from targets.c.generate import generate, translation_unit
from targets.c.runtime import CSession
from targets.firmware import BOARDS, Emulator, build
from targets.firmware.build import Optimization
from targets.graph import Graph, TensorSpec
from targets.tflite.schema import read_model
from tests.targets import c_cases, kernel_layers
from tests.targets.c_oracle import Micro, examples
from tests.targets.test_c_operators import CASES, inputs_of
from tests.tools import need, need_module

PER_FAMILY, LAYERS = 4, 24
MANY = 10  # times as many in the slow test


class Joined:
    """Many models as one: its input is all of their inputs in a row, its output all of their outputs."""

    def __init__(self, folder: Path, times: int = 1) -> None:
        need("qemu-system-arm", "arm-none-eabi-gcc", "gcc")
        need_module("tflite_micro", "ai_edge_litert")
        rng = np.random.default_rng(0)
        self.files: list[bytes] = []
        feeds: list[np.ndarray] = []
        expected: list[np.ndarray] = []
        for family in CASES:
            for raw in examples(getattr(c_cases, family)(), times * PER_FAMILY):
                inputs = inputs_of(family)(read_model(raw), rng)
                self.files.append(raw)
                feeds += inputs
                expected += Micro(raw).run(inputs)
        for i in range(times * LAYERS):
            case = kernel_layers.make(kernel_layers.random_form(rng), rng, f"layer{i}")
            self.files.append(case.raw)
            feeds.append(case.x)
            expected.append(case.y)
        self.request, self.reply = (b"".join(x.tobytes() for x in arrays) for arrays in (feeds, expected))
        self.folder = folder
        self._write()

    def _write(self) -> None:
        models = [generate(read_model(raw), f"m{i}") for i, raw in enumerate(self.files)]
        lines, places = [], {"input": 0, "output": 0}
        for i, made in enumerate(models):
            for j, tensor in enumerate(made.model.inputs):
                lines.append(f"  memcpy(m{i}_input({j}), joined_in + {places['input']}, {tensor.bytes});")
                places["input"] += tensor.bytes
            lines.append(f"  m{i}_run();")
            for j, tensor in enumerate(made.model.outputs):
                lines.append(f"  memcpy(joined_out + {places['output']}, m{i}_output({j}), {tensor.bytes});")
                places["output"] += tensor.bytes
        text = "\n".join(
            [
                translation_unit(models),
                f"static int8_t joined_in[{places['input']}], joined_out[{places['output']}];",
                "void joined_run(void) {",
                *lines,
                "}",
                "void *joined_input(int index) { (void)index; return joined_in; }",
                "void *joined_output(int index) { (void)index; return joined_out; }",
            ]
        )
        (self.folder / "model.h").write_text("", encoding="utf-8")
        (self.folder / "model.c").write_text(text, encoding="utf-8")

        def port(size: int) -> dict[str, object]:
            return {
                "name": "all",
                "dtype": "int8",
                "shape": [1, size],
                "bytes": size,
                "scale": None,
                "zero_point": None,
            }

        ports = {f"{key}s": [port(size)] for key, size in places.items()}
        write_json(self.folder / "model.json", {"name": "joined", **ports})


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Joined:
    return Joined(tmp_path_factory.mktemp("joined"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Joined:
    return Joined(tmp_path_factory.mktemp("many"), MANY)


def test_many_models_as_one_give_tflite_micros_bytes_here(joined: Joined) -> None:
    sizes = len(joined.request), len(joined.reply)
    ports = [(TensorSpec(name, "int8", (1, size)),) for name, size in zip(("all", "got"), sizes, strict=True)]
    session = CSession(Graph("joined", *ports), joined.folder, "O2")
    x = np.frombuffer(joined.request, np.int8)[None]
    assert session({"all": x})["got"].tobytes() == joined.reply


@pytest.mark.parametrize(("core", "defines"), [*((core, ()) for core in BOARDS), ("m55", ("MODEL_PLAIN_C",))], ids=str)
def test_every_operator_gives_tflite_micros_bytes_on_the_core(
    core: str, defines: tuple[str, ...], joined: Joined, tmp_path: Path
) -> None:
    check(joined, core, "O2", defines, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("core", BOARDS)
@pytest.mark.parametrize("defines", [(), ("MODEL_PLAIN_C",)], ids=str)
@pytest.mark.parametrize("optimization", ["O2", "O3"])
def test_ten_times_as_many_models_give_tflite_micros_bytes_on_every_core_and_path(
    core: str, defines: tuple[str, ...], optimization: Optimization, many: Joined, tmp_path: Path
) -> None:
    check(many, core, optimization, defines, tmp_path)


def check(models: Joined, core: str, optimization: Optimization, defines: tuple[str, ...], out: Path) -> None:
    with Emulator(build(models.folder, core, optimization, out, defines=defines)) as board:
        for _ in range(2):  # the second run finds the first one's memory
            assert board.ask(models.request) == models.reply
