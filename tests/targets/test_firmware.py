"""Firmware on emulated Cortex-M cores: bytes, faults, memory and instruction counts against what is known by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from profiles.errors import MissingError, RequestError
from targets.firmware import BOARDS, Emulator, Firmware, FirmwareError, build, count_instructions, counter, profile
from targets.firmware.boards import program
from tests.targets import hand_written
from tests.targets.hand_written import PLUS_ONE, PRODUCT, write_model
from tests.tools import need

CORES = list(BOARDS)
LOOP = """__attribute__((naked)) void net_run(void) {
  __asm volatile("movw r0, #1000\\n 1: subs r0, #1\\n bne 1b\\n bx lr\\n");
}"""
# As many turns as the first input says: 3 instructions before, 2 a turn, 1 after.
LOOP_OF_INPUT = """__attribute__((naked)) void net_run(void) {
  __asm volatile("movw r0, #:lower16:arena\\n movt r0, #:upper16:arena\\n ldrsb r0, [r0]\\n"
                 "1: subs r0, #1\\n bne 1b\\n bx lr\\n");
}"""


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    need("qemu-system-arm", "arm-none-eabi-gcc", "gcc")


def rows(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(1).integers(-128, 128, (count, size)).astype(np.int8)


def make(tmp_path: Path, core: str = "m4", body: str = PLUS_ONE, **model: object) -> Firmware:
    folder = write_model(tmp_path / "model", body, **model)  # type: ignore[arg-type]
    return build(folder, core, "O2", tmp_path / core)


def ask(firmware: Firmware, requests: np.ndarray, timeout_s: float = 60.0) -> tuple[np.ndarray, int]:
    with Emulator(firmware, timeout_s=timeout_s) as board:
        replies = [np.frombuffer(board.ask(request.tobytes()), np.int8) for request in requests]
    assert board.stack_bytes is not None
    return np.stack(replies), board.stack_bytes


@pytest.mark.parametrize("core", CORES)
def test_every_core_gives_the_bytes_that_numpy_gives(core: str, tmp_path: Path) -> None:
    x = rows(20)
    firmware = make(tmp_path, core, PRODUCT, before=hand_written.weights_in_c(), outputs=8)
    np.testing.assert_array_equal(ask(firmware, x)[0], hand_written.product(x))


def test_rows_larger_than_a_pipe_and_thousands_of_them_go_through_one_process(tmp_path: Path) -> None:
    size = 200_000
    firmware = make(tmp_path, body=f"for (int i = 0; i < {size}; i++) out[i] = in[i] ^ 1;", inputs=size, outputs=size)
    x = rows(3, size)
    np.testing.assert_array_equal(ask(firmware, x)[0], x ^ 1)
    x = rows(3000)
    np.testing.assert_array_equal(ask(make(tmp_path), x)[0], (x.astype(np.int16) + 1).astype(np.int8))


@pytest.mark.parametrize("core", CORES)
def test_instructions_are_those_counted_by_hand(core: str, tmp_path: Path) -> None:
    firmware = make(tmp_path, core, run=LOOP)
    assert count_instructions(firmware, [bytes(32)] * 3) == [1 + 2 * 1000 + 1] * 3


def test_instructions_of_a_low_overhead_loop_and_of_a_skipped_one_count(tmp_path: Path) -> None:
    # Helium's loop instruction ends every turn: 4 before, 2 a turn, 1 after
    body = "push {lr}\\n movw r0, #500\\n dls lr, r0\\n nop\\n 1: nop\\n le lr, 1b\\n pop {pc}"
    run = f'__attribute__((naked)) void net_run(void) {{ __asm volatile("{body}"); }}'
    assert count_instructions(make(tmp_path, "m55", run=run), [bytes(32)]) == [4 + 2 * 500 + 1]
    # what an IT block skips was fetched: movs, cmp, it, moveq, bx
    body = "movs r0, #1\\n cmp r0, #2\\n it eq\\n moveq r0, #3\\n bx lr"
    run = f'__attribute__((naked)) void net_run(void) {{ __asm volatile("{body}"); }}'
    assert count_instructions(make(tmp_path, "m4", run=run), [bytes(32)]) == [5]


def test_instructions_are_counted_per_call_and_follow_the_input(tmp_path: Path) -> None:
    firmware = make(tmp_path, run=LOOP_OF_INPUT)
    turns = [1, 100, 7]
    requests = [bytes([n]) + bytes(31) for n in turns]
    assert count_instructions(firmware, requests) == [3 + 2 * n + 1 for n in turns]


def test_instructions_are_the_same_in_three_runs_and_on_a_busy_machine(tmp_path: Path) -> None:
    firmware = make(tmp_path, body=PRODUCT, before=hand_written.weights_in_c(), outputs=8)
    requests = [row.tobytes() for row in rows(5)]
    found = [profile(firmware, requests) for _ in range(3)]
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        found += [profile(firmware, requests) for _ in range(3)]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert all(run.instructions is not None and run == found[0] for run in found)


def test_flash_and_ram_are_the_models_alone(tmp_path: Path) -> None:
    plain = make(tmp_path / "plain")
    assert plain.ram_bytes == plain.arena_bytes == 64
    table = "static const int8_t table[5000] = {1, 2, 3};"
    with_table = make(tmp_path / "table", body=PLUS_ONE + "out[0] = table[(uint8_t)in[0]];", before=table)
    assert 5000 <= with_table.flash_bytes - plain.flash_bytes < 5100
    copying = make(tmp_path / "copy", body=f"memcpy(out, in, in[0] & 31);{PLUS_ONE}")
    assert copying.flash_bytes - plain.flash_bytes > 100, "the memcpy that it pulls in counts"
    initialised = make(
        tmp_path / "data", body=PLUS_ONE + "out[0] = state[in[0] & 7]++;", before="static int8_t state[8] = {1};"
    )
    assert initialised.ram_bytes == 64 + 8, "initialised data is in RAM"
    assert plain.flash_bytes < 100 < 500 < plain.image_bytes, "the harness is in the image only"


@pytest.mark.parametrize("core", CORES)
def test_stack_is_what_the_model_touches_and_too_much_is_one_clear_reason(core: str, tmp_path: Path) -> None:
    use = "volatile char space[{0}]; for (int i = {0} - 1; i >= 0; i--) space[i] = (char)i; out[0] = space[3];"
    assert 1000 <= ask(make(tmp_path / "a", core, use.format(1000)), rows(2))[1] < 1050
    for size in (33_000, 500_000):
        with pytest.raises(FirmwareError, match=r"^stack overflow: the model needs more than the 32,768 bytes"):
            ask(make(tmp_path / "b", core, use.format(size)), rows(1))


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "out[0] = *(volatile int8_t *)0x24000000;",
            "^bus fault: access to where no memory is 0x24000000, pc .* in net_run",
        ),
        ("volatile int zero = 0; out[0] = in[0] / zero;", "^usage fault: division by zero, pc .* in net_run"),
        ('__asm volatile("udf #1");', "^usage fault: undefined instruction, pc .* in net_run"),
        ("((void (*)(void))0x24000001)();", "fault: .* in no function"),
    ],
)
def test_a_fault_says_which_why_and_where(core: str, body: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(FirmwareError, match=reason):
        ask(make(tmp_path, core, body), rows(1))


def test_a_fault_after_good_rows_is_reported_for_its_row(tmp_path: Path) -> None:
    firmware = make(tmp_path, body=f'{PLUS_ONE} if (in[0] == 9) __asm volatile("udf #0");')
    with Emulator(firmware) as board:
        assert board.ask(bytes(32)) == bytes([1] * 32)
        with pytest.raises(FirmwareError, match="undefined instruction"):
            board.ask(bytes([9]) + bytes(31))
        board.kill()


def test_a_model_that_never_returns_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(FirmwareError, match=r"^the emulated core hangs: no answer within 0.5 s$"):
        ask(make(tmp_path, body="for (;;) {}"), rows(1), timeout_s=0.5)


def test_what_does_not_fit_says_where_and_by_how_much(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", PLUS_ONE, arena=70_000)
    with pytest.raises(FirmwareError, match=r"^does not fit the device: needs 4,464 bytes more than the 65,536 of RAM"):
        build(folder, "m4", "O2", tmp_path / "out", ram_bytes=65_536)
    assert build(folder, "m4", "O2", tmp_path / "out", ram_bytes=70_000).ram_bytes == 70_000
    table = "const int8_t table[300000] = {1};"
    folder = write_model(tmp_path / "model", "out[0] = table[in[0] & 7];", before=table)
    with pytest.raises(FirmwareError, match=r"needs 37,\d\d\d bytes more than the 262,144 of FLASH"):
        build(folder, "m4", "O2", tmp_path / "out", flash_bytes=262_144)
    folder = write_model(tmp_path / "model", PLUS_ONE, arena=5_000_000)
    with pytest.raises(FirmwareError, match=r"^does not fit the board mps2-an386: .* of RAM"):
        build(folder, "m4", "O2", tmp_path / "out")


def test_a_definition_chooses_the_plain_path(tmp_path: Path) -> None:
    body = "#ifdef MODEL_PLAIN_C\nout[0] = 1;\n#else\nout[0] = 2;\n#endif"
    folder = write_model(tmp_path / "model", body)
    for defines, value in ((("MODEL_PLAIN_C",), 1), ((), 2)):
        firmware = build(folder, "m33", "O3", tmp_path / "out", defines=defines)
        assert ask(firmware, rows(1))[0][0, 0] == value


def test_an_error_in_the_c_is_named(tmp_path: Path) -> None:
    with pytest.raises(FirmwareError, match=r"^does not compile: .*model.c:\d+:.*error: 'nothing' undeclared"):
        make(tmp_path, body="out[0] = nothing;")
    with pytest.raises(FirmwareError, match=r"^does not link: .*undefined reference to `nowhere'"):
        make(tmp_path, body="nowhere();", before="extern void nowhere(void);")
    with pytest.raises(RequestError, match=r"no emulated board has the core 'm44': did you mean m4\?"):
        make(tmp_path, core="m44")


def test_an_emulator_without_plugins_still_runs_and_says_why_nothing_was_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what QEMU says that was configured with --disable-plugins
    fake = tmp_path / "bin" / "qemu-system-arm"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *-plugin*) echo "qemu-system-arm: plugin interface not enabled in this build" >&2; '
        f'exit 1;; esac\nexec {program("qemu-system-arm")} "$@"\n'
    )
    fake.chmod(0o755)
    firmware = make(tmp_path)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    found = profile(firmware, [bytes(32)])
    assert found.outputs == [bytes([1] * 32)] and found.instructions is None
    assert found.note is not None and "plugin interface not enabled in this build" in found.note


def test_an_emulator_of_another_plugin_interface_is_told_from_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (counter.SOURCES / "icount.c").read_text()
    (tmp_path / "icount.c").write_text(source.replace("qemu_plugin_version = 1", "qemu_plugin_version = 1000"))
    monkeypatch.setattr(counter, "SOURCES", tmp_path)
    monkeypatch.setenv("EDGE_COMPRESSOR_CACHE", str(tmp_path / "cache"))
    found = profile(make(tmp_path), [bytes(32)])
    assert found.instructions is None
    assert found.note is not None and "plugin requires API version 1000" in found.note
    assert [path.suffix for path in (tmp_path / "cache" / "qemu-plugins").iterdir()] == [".so"], (
        "built once, nothing else"
    )


@pytest.mark.parametrize(
    ("name", "package"), [("qemu-system-arm", "qemu-system-arm"), ("arm-none-eabi-gcc", "gcc-arm-none-eabi")]
)
def test_a_missing_program_is_named_with_its_package(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingError, match=f"^{name} is not installed: apt install {package}.* make setup-system"):
        program(name)
