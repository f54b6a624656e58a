"""The convolution kernels of the C generator: TFLite-Micro's bytes, on every core, fast or plain, within a budget."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from targets.c.fixed_point import doubling_high_multiply, multiply_by_quantized_multiplier, rounding_divide_by_power
from targets.c.generate import generate
from targets.c.lowering import UnsupportedOperator
from targets.c.macs import total_macs
from targets.tflite.schema import read_model
from tests.tools import need, need_module

need_module("ai_edge_litert", "tflite_micro")

from tests.targets.kernel_layers import SAME, Case, Form, make, random_form, write_program  # noqa: E402
from tests.targets.tflite_builder import Spec, build  # noqa: E402

CORES = ("m3", "m4", "m7", "m33", "m55")
KERNELS = Path(__file__).parents[2] / "targets" / "c" / "kernels"
CONV, DEPTHWISE, DENSE = "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"


def cases_of(count: int, seed: int, limit: int = 3000) -> list[Case]:
    rng = np.random.default_rng(seed)
    return [make(random_form(rng, limit), rng, f"layer{i}") for i in range(count)]


def wrong_on_host(cases: Sequence[Case], folder: Path, *flags: str) -> list[str]:
    """Layers whose bytes differ, compiled as C99 for this machine."""
    program, library = write_program(cases, folder), folder / "layers.so"
    command = ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *flags, "-o", str(library)]
    subprocess.run([*command, str(folder / "model.c")], check=True)
    layers = ctypes.CDLL(str(library))
    layers.layers_input.restype = layers.layers_output.restype = ctypes.c_void_p
    wrong = []
    for i, case in enumerate(cases):
        request = program.request(i, case)
        ctypes.memmove(layers.layers_input(0), request, len(request))
        layers.layers_run()
        if ctypes.string_at(layers.layers_output(0), case.y.size) != case.y.tobytes():
            wrong.append(case.name)
    return wrong


def wrong_on_core(
    cases: Sequence[Case], folder: Path, core: str, optimization: str, defines: Sequence[str] = ()
) -> list[str]:
    """Layers whose bytes differ on the emulated core."""
    from targets.firmware import Emulator, build

    program = write_program(cases, folder)
    firmware = build(folder, core, optimization, folder / "firmware", defines=defines)
    with Emulator(firmware) as board:
        replies = [board.ask(program.request(i, case)) for i, case in enumerate(cases)]
    return [c.name for c, reply in zip(cases, replies, strict=True) if reply[: c.y.size] != c.y.tobytes()]


def micro_output(case: Case) -> np.ndarray:
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(case.raw, arena_size=1 << 18)
    interpreter.set_input(case.x, 0)
    interpreter.invoke()
    return interpreter.get_output(0)


def test_the_reference_of_these_tests_is_tflite_micro():
    compared = 0
    for case in cases_of(300, seed=0):
        operator = read_model(case.raw).operators[0]
        if operator.kind == DEPTHWISE and operator.inputs[2] is None:
            continue  # TFLite-Micro of 2025 reads the bias that is not there, and crashes
        np.testing.assert_array_equal(micro_output(case), case.y, err_msg=str(operator))
        compared += 1
    assert compared > 200


def test_every_layer_gives_the_references_bytes_on_this_machine(tmp_path):
    need("gcc")
    assert wrong_on_host(cases_of(200, seed=1), tmp_path, "-O1") == []


def test_layers_are_clean_under_address_and_undefined_behaviour_sanitizers(tmp_path):
    need("gcc")
    cases = cases_of(60, seed=2)
    program = write_program(cases, tmp_path)
    requests = b"".join(program.request(i, case) for i, case in enumerate(cases))
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\n"
        "void layers_run(void); void *layers_input(int); void *layers_output(int);\n"
        f"int main(void) {{ while (fread(layers_input(0), {program.input_bytes}, 1, stdin) == 1) {{ layers_run();\n"
        f"  fwrite(layers_output(0), {program.output_bytes}, 1, stdout); }} return 0; }}\n"
    )
    flags = ["-std=c99", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    sources = [str(tmp_path / "model.c"), str(tmp_path / "main.c")]
    subprocess.run(["gcc", *flags, *sources, "-o", str(tmp_path / "layers")], check=True)
    done = subprocess.run([str(tmp_path / "layers")], input=requests, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    replies = [done.stdout[i : i + program.output_bytes] for i in range(0, len(done.stdout), program.output_bytes)]
    assert [r[: c.y.size] for r, c in zip(replies, cases, strict=True)] == [c.y.tobytes() for c in cases]


@pytest.mark.parametrize("core", CORES)
def test_every_core_gives_the_references_bytes(core, tmp_path):
    need("arm-none-eabi-gcc", "qemu-system-arm")
    assert wrong_on_core(cases_of(80, seed=3, limit=2000), tmp_path, core, "O2") == []


@pytest.mark.parametrize("core", ["m4", "m55"])
def test_fast_cores_give_the_same_bytes_at_o3_and_without_their_fast_kernels(core, tmp_path):
    need("arm-none-eabi-gcc", "qemu-system-arm")
    cases = cases_of(50, seed=4, limit=2000)
    assert wrong_on_core(cases, tmp_path / "fast", core, "O3") == []
    assert wrong_on_core(cases[:20], tmp_path / "plain", core, "O2", ["MODEL_PLAIN_C"]) == []


@pytest.mark.parametrize("core", ["m4", "m55"])
def test_depthwise_windows_that_the_border_cuts_to_three_rows_use_the_right_weights(core, tmp_path):
    need("arm-none-eabi-gcc", "qemu-system-arm")
    rng = np.random.default_rng(12)
    kernels = [(height, width) for height in (2, 3, 4, 5) for width in (2, 3, 4, 5)]
    forms = [Form(DEPTHWISE, (1, 7, 6, 20), 20, kernel, padding=SAME) for kernel in kernels]
    cases = [make(form, rng, f"layer{i}") for i, form in enumerate(forms)]
    assert wrong_on_core(cases, tmp_path, core, "O2") == []


@pytest.mark.slow
@pytest.mark.parametrize("optimization", ["O2", "O3", "Os"])
@pytest.mark.parametrize("core", CORES)
def test_hundreds_of_layers_give_the_references_bytes(core, optimization, tmp_path):
    need("arm-none-eabi-gcc", "qemu-system-arm")
    for seed in range(2):
        cases = cases_of(100, seed=1000 + seed, limit=2500)
        assert wrong_on_core(cases, tmp_path / str(seed), core, optimization) == [], f"seed {1000 + seed}"


@pytest.mark.slow
def test_thousands_of_layers_give_tflite_micros_bytes_on_this_machine(tmp_path):
    need("gcc")
    for seed in range(5):
        cases = cases_of(400, seed=2000 + seed)
        assert wrong_on_host(cases, tmp_path / str(seed), "-O2") == [], f"seed {2000 + seed}"


# Sums and multipliers at which a rounding could go wrong: signs, ties, and the ends of the ranges that are proven.
def sums_and_multipliers(limit: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    powers = [sign * (1 << bit) + near for bit in range(31) for near in (-1, 0, 1) for sign in (-1, 1)]
    edges = np.array([0, limit - 1, 1 - limit, *powers])
    edges = edges[np.abs(edges) < limit]
    sums = np.concatenate([edges, rng.integers(1 - limit, limit, 3000), rng.integers(-5000, 5000, 1000)])
    multipliers = np.array([1 << 30, (1 << 30) + 1, (1 << 31) - 1, *rng.integers(1 << 30, 1 << 31, 40)])
    return np.meshgrid(sums, multipliers)


def test_short_forms_of_the_requantisation_are_gemmlowps():
    """The formulas of the comments in requantize.h and depthwise_conv_2d.h, in integers of arbitrary size."""
    sums, multipliers = sums_and_multipliers(1 << 30)
    high = doubling_high_multiply(sums, multipliers)
    # Signed products of 62 bits, so every step fits int64.
    doubled = 2 * multipliers - (1 << 32)
    np.testing.assert_array_equal(sums + ((sums * doubled + (1 << 31)) >> 32), high)
    np.testing.assert_array_equal((2 * sums * multipliers + (1 << 31)) >> 32, high)
    for e in range(1, 32):
        exact = rounding_divide_by_power(high, e)
        sign = high >> 63
        for zero_point in (-128, -1, 0, 127):
            offset = 1 + 2 * zero_point
            np.testing.assert_array_equal((((high + sign) >> (e - 1)) + offset) >> 1, exact + zero_point)
            if e <= 22:
                shifted = high + (sums >> 63) + (offset << (e - 1))
                assert np.abs(shifted).max() < 1 << 31
                np.testing.assert_array_equal(shifted >> e, exact + zero_point)
        np.testing.assert_array_equal((high + sign + (1 << (e - 1))) >> e, exact)


def requantize_program(folder: Path) -> None:
    """A model whose input is 64 rows of (sum, multiplier, shift, zero point), its output their int8 results."""
    (folder / "model.c").write_text(
        (KERNELS / "requantize.h").read_text()
        + """
static int32_t rows[64][4];
static int8_t results[64];
void *requantize_input(int index) { (void)index; return rows; }
void *requantize_output(int index) { (void)index; return results; }
void requantize_run(void) {
#if defined(KERNELS_MVE)
  const int32x4_t low = vdupq_n_s32(-128), high = vdupq_n_s32(127);
#endif
  for (int32_t i = 0; i < 64; i++) {
    const int32_t *row = rows[i];
#if defined(KERNELS_MVE)
    const int32x4_t sum = vdupq_n_s32(row[0]), multiplier = vdupq_n_s32(row[1]), shift = vdupq_n_s32(row[2]);
    const int32x4_t value = requantize(sum, multiplier, shift, row[3], low, high);
    results[i] = (int8_t)vgetq_lane_s32(value, 2);
#elif defined(KERNELS_DSP)
    results[i] = (int8_t)requantize(row[0], (int32_t)((uint32_t)row[1] << 1), ~row[2], 1 + 2 * row[3]);
#else
    results[i] = (int8_t)clamp(multiply_by_quantized_multiplier(row[0], row[1], row[2]) + row[3], -128, 127);
#endif
  }
}
"""
    )
    ports = '"inputs": [{"bytes": 1024}], "outputs": [{"bytes": 64}]'
    (folder / "model.json").write_text(f'{{"name": "requantize", {ports}}}')


@pytest.mark.parametrize("core", ["m3", "m4", "m55"])
def test_requantisation_on_the_cores_is_gemmlowps(core, tmp_path):
    need("arm-none-eabi-gcc", "qemu-system-arm")
    from targets.firmware import Emulator, build

    rng = np.random.default_rng(8)
    sums, multipliers = (grid.ravel()[: 64 * 1500] for grid in sums_and_multipliers(1 << 30))
    shifts, zeros = rng.integers(-31, 0, sums.size), rng.integers(-128, 128, sums.size)
    shifts[: sums.size // 2] = rng.integers(-31, -20, sums.size // 2)  # results that are not all saturated
    values = np.zeros_like(sums)
    for shift in range(-31, 0):
        chosen = shifts == shift
        high = doubling_high_multiply(sums[chosen], multipliers[chosen])
        values[chosen] = rounding_divide_by_power(high, -shift)
    expected = np.clip(values + zeros, -128, 127).astype(np.int8)
    rows = np.column_stack([sums, multipliers, shifts, zeros]).astype(np.int32).reshape(-1, 64 * 4)
    requantize_program(tmp_path)
    firmware = build(tmp_path, core, "O2", tmp_path / "firmware")
    with Emulator(firmware) as board:
        found = b"".join(board.ask(row.tobytes()) for row in rows)
    np.testing.assert_array_equal(np.frombuffer(found, np.int8), expected)


def test_plain_requantisation_is_gemmlowps_for_every_shift(tmp_path):
    need("gcc")
    (tmp_path / "plain.c").write_text(
        (KERNELS / "requantize.h").read_text() + "int32_t rescale(int32_t x, int32_t m, int s);\n"
        "int32_t rescale(int32_t x, int32_t m, int s) { return multiply_by_quantized_multiplier(x, m, s); }\n"
    )
    command = ["gcc", "-std=c99", "-O2", "-shared", "-fPIC", "-o", str(tmp_path / "plain.so")]
    subprocess.run([*command, str(tmp_path / "plain.c")], check=True)
    rescale = ctypes.CDLL(str(tmp_path / "plain.so")).rescale
    rng = np.random.default_rng(9)
    for shift in range(-31, 31):
        limit = 1 << (31 - max(shift, 0))  # more would overflow in the reference
        sums = [0, 1, -1, limit - 1, 1 - limit, -limit, *(int(v) for v in rng.integers(-limit, limit, 50))]
        for multiplier in (0, 1 << 30, (1 << 31) - 1, int(rng.integers(1 << 30, 1 << 31))):
            expected = multiply_by_quantized_multiplier(np.array(sums), multiplier, shift)
            assert [rescale(value, multiplier, shift) for value in sums] == expected.tolist()


def layer(bias: Sequence[int], scale: float = 0.001, weights: np.ndarray | None = None) -> bytes:
    data = np.ones((len(bias), 8), np.int8) if weights is None else weights
    return build(
        DENSE,
        [
            Spec((1, 8), scale=1.0, zero_point=3),
            Spec(data.shape, scale=scale, data=data),
            Spec((len(bias),), "int32", data=np.array(bias, np.int32)),
        ],
        [Spec((1, len(bias)), scale=1.0)],
    )


def test_an_accumulator_that_could_overflow_is_refused_with_the_layers_place():
    with pytest.raises(UnsupportedOperator, match=r"FULLY_CONNECTED \(operator 0.*beyond int32"):
        generate(read_model(layer([(1 << 31) - 5] * 4)), "net")


def test_the_fast_kernel_is_called_only_where_its_conditions_are_proven():
    def fast(raw: bytes) -> bool:
        return "fully_connected(&matrix" in generate(read_model(raw), "net").body

    assert fast(layer([0] * 4))
    assert not fast(layer([1 << 30] * 4)), "sums may reach 2^30"
    assert not fast(layer([0] * 4, scale=1.5)), "a shift to the left"
    assert not fast(layer([0] * 3)), "fewer rows than are computed at once"
    assert fast(layer([0] * 4, scale=1e-12)), "a channel that always gives 0 can be written otherwise"


# (layer, most instructions per MAC on M4, M7 and M33, and on M55)
BUDGET = {
    "dense": (Form(CONV, (1, 12, 12, 16), 16, (3, 3), padding=SAME), 2.0, 0.5),
    "pointwise 16": (Form(CONV, (1, 12, 12, 16), 16), 2.0, 0.5),
    "pointwise 64": (Form(CONV, (1, 8, 8, 64), 32), 2.0, 0.5),
    "fully connected": (Form(DENSE, (1, 256), 32), 2.0, 0.5),
    "depthwise": (Form(DEPTHWISE, (1, 16, 16, 32), 32, (3, 3), padding=SAME), 4.0, 1.5),
}


@pytest.mark.parametrize("optimization", ["O2", "O3"])
@pytest.mark.parametrize("core", ["m4", "m33", "m55"])
def test_layers_stay_within_their_instructions_per_multiply_accumulate(core, optimization, tmp_path):
    need("arm-none-eabi-gcc", "qemu-system-arm", "gcc")
    from targets.firmware import build as build_firmware
    from targets.firmware import count_instructions

    rng = np.random.default_rng(10)
    cases = [make(form, rng, f"layer{i}") for i, (form, _, _) in enumerate(BUDGET.values())]
    program = write_program(cases, tmp_path, copies=False)
    firmware = build_firmware(tmp_path, core, optimization, tmp_path / "firmware")
    counts = count_instructions(firmware, [program.request(i, case) for i, case in enumerate(cases)])
    for (name, (_, dsp, helium)), case, count in zip(BUDGET.items(), cases, counts, strict=True):
        per_mac = count / total_macs(read_model(case.raw))
        assert per_mac <= (helium if core == "m55" else dsp), f"{name}: {per_mac:.2f} instructions per MAC"
