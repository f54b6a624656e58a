"""A whole query as one program: what it takes is counted, and stands in the record of the whole student."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from profiles.results import Cost, Memory, RanOn
from targets.firmware import build
from targets.firmware.query import QueryProgram, program_writer, whole_query
from targets.measurement import Measurement
from tests.targets.hand_written import write_model
from tests.tools import need

# movw, a thousand turns of two instructions, and the return
LOOP = """__attribute__((naked)) void net_run(void) {
  __asm volatile("movw r0, #1000\\n 1: subs r0, #1\\n bne 1b\\n bx lr\\n");
}"""


def test_the_programs_queries_are_counted_and_its_answers_compared(tmp_path: Path) -> None:
    need("qemu-system-arm", "arm-none-eabi-gcc", "gcc")
    folder = write_model(tmp_path / "model", "", run=LOOP)
    program = QueryProgram(folder, [bytes(32)] * 3, lambda index, reply: index > 0 and reply == bytes(32))
    firmware = build(folder, "m4", "O2", tmp_path / "m4")
    found = whole_query(program, firmware, arena_bytes=64, timeout_s=60.0)
    assert found.instructions == 1 + 2 * 1000 + 1 and (found.agreed, found.queries) == (2, 3)
    assert not found.agrees and replace(found, agreed=3).agrees
    warm = whole_query(replace(program, warm_up=1), firmware, arena_bytes=64, timeout_s=60.0)
    assert warm.agrees and (warm.agreed, warm.queries) == (2, 2)  # the first request is no query
    assert found.memory["arena"] == 64 and found.memory["ram"] >= 64 and 0 < found.memory["flash"] < 200


def test_equal_weights_of_two_networks_of_a_program_are_in_flash_once(tmp_path: Path) -> None:
    need("arm-none-eabi-gcc")
    values = ", ".join(str(value) for value in np.random.default_rng(0).integers(-128, 128, 4096))
    arrays = "\n".join(f"static const int8_t {name}[4096] = {{{values}}};" for name in ("small", "large"))
    body = (
        "for (int i = 0; i < 32; i++) out[i] = (int8_t)(small[(in[i] & 63) * 64 + i] + large[(in[0] & 63) * 32 + i]);"
    )
    firmware = build(write_model(tmp_path / "model", body, before=arrays), "m4", "O2", tmp_path / "m4")
    assert 4096 < firmware.flash_bytes < 4096 + 300


def test_the_whole_students_record_is_the_whole_program_where_there_is_one() -> None:
    graph = {"cost": {"kind": "instructions", "value": 10.0, "source": "counted"}, "memory": {"flash": 5, "ram": 3}}
    memory = {"arena": 1, "flash": 9, "ram": 4, "stack": 2}
    report = {"graphs": {"a": graph}, "query": {"calls": {"a": 2.0}, "latency": None}, "peak_bytes": None}

    def measurement(**more: object) -> Measurement:
        return Measurement({**report, **more}, {}, {}, RanOn(kind="emulator", name="x"), "real")

    whole = {"cost": {**graph["cost"], "value": 27.0}, "memory": memory, "queries": 3, "agreed": 3}
    assert measurement(whole=whole).cost("*") == Cost(kind="instructions", value=27.0, source="counted")
    assert measurement(whole=whole).memory("*") == Memory(**memory)
    assert measurement(whole=whole).cost("a") == Cost(kind="instructions", value=10.0, source="counted")
    for without in (measurement(), measurement(whole=None)):
        assert without.whole is None and without.cost("*") == Cost(kind="instructions", value=20.0, source="counted")


def test_the_generic_glue_has_no_program() -> None:
    assert program_writer("model") is None
