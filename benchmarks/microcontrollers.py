"""What int8 C costs on Cortex-M: instructions per multiply-accumulate of single layers, and whole networks.

    python benchmarks/microcontrollers.py                     # about four minutes on two cores

Layers: a fixed list with random weights, generated as C and run on QEMU's boards at -O2 and -O3, with and without
MODEL_PLAIN_C, so our plain C against our kernels for each core. Counted are all instructions that the core executes
from the first of the layer's run function to its return: filling columns, requantisation and padding included. Counts
are exact and repeat; they are no cycles. Before they are counted, the bytes of every layer are compared with TFLite's
reference arithmetic. A Cortex-M3 has no SIMD: there the plain C is what runs.

Networks: five that are trained here in seconds (tests/targets/small_nets.py and the shape network of
tests/targets/nets.py), in full int8. Flash and RAM are what the linker keeps of the model alone, the stack is painted,
instructions are of one inference. Every core must give the bytes that TFLite-Micro's interpreter gives for the same
file on this machine; beside our arena stands what that interpreter says it used of its own: tensors, and its
structures, in the sizes of a 64-bit machine (on a Cortex-M its pointers take half).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.writing import RESULTS, write_rows
from tests.targets import nets, small_nets
from tests.targets.c_oracle import Micro
from tests.targets.kernel_layers import SAME, Case, Form, make, write_program

if TYPE_CHECKING:
    from targets.c.generate import Generated

CONV, DEPTHWISE, DENSE = "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"
LAYERS = {
    "dense 3x3, 16 to 16, 16x16": Form(CONV, (1, 16, 16, 16), 16, (3, 3), padding=SAME),
    "dense 3x3, 32 to 32, 16x16": Form(CONV, (1, 16, 16, 32), 32, (3, 3), padding=SAME),
    "dense 3x3, 64 to 64, 8x8": Form(CONV, (1, 8, 8, 64), 64, (3, 3), padding=SAME),
    "dense 3x3 stride 2, 16 to 32, 32x32": Form(CONV, (1, 32, 32, 16), 32, (3, 3), (2, 2), padding=SAME),
    "dense 3x3, 3 to 16, 32x32": Form(CONV, (1, 32, 32, 3), 16, (3, 3), padding=SAME),
    "dense 3x3, 1 to 16, 32x32": Form(CONV, (1, 32, 32, 1), 16, (3, 3), padding=SAME),
    "dense 1x5, 16 to 32, 1x64": Form(CONV, (1, 1, 64, 16), 32, (1, 5), padding=SAME),
    "pointwise, 16 to 16, 16x16": Form(CONV, (1, 16, 16, 16), 16),
    "pointwise, 16 to 32, 32x32": Form(CONV, (1, 32, 32, 16), 32),
    "pointwise, 24 to 40, 11x11": Form(CONV, (1, 11, 11, 24), 40),
    "pointwise, 32 to 32, 16x16": Form(CONV, (1, 16, 16, 32), 32),
    "pointwise, 32 to 64, 8x8": Form(CONV, (1, 8, 8, 32), 64),
    "pointwise, 64 to 64, 8x8": Form(CONV, (1, 8, 8, 64), 64),
    "fully connected, 64 to 10": Form(DENSE, (1, 64), 10),
    "fully connected, 256 to 64": Form(DENSE, (1, 256), 64),
    "fully connected, 1024 to 16": Form(DENSE, (1, 1024), 16),
    "depthwise 3x3, 16, 16x16": Form(DEPTHWISE, (1, 16, 16, 16), 16, (3, 3), padding=SAME),
    "depthwise 3x3, 32, 16x16": Form(DEPTHWISE, (1, 16, 16, 32), 32, (3, 3), padding=SAME),
    "depthwise 3x3, 64, 8x8": Form(DEPTHWISE, (1, 8, 8, 64), 64, (3, 3), padding=SAME),
    "depthwise 3x3 stride 2, 32, 16x16": Form(DEPTHWISE, (1, 16, 16, 32), 32, (3, 3), (2, 2), padding=SAME),
    "depthwise 1x5, 32, 1x64": Form(DEPTHWISE, (1, 1, 64, 32), 32, (1, 5), padding=SAME),
}
NETWORKS = ("image", "imu", "gru", "keyword", "shapes")
CORES = ("m3", "m4", "m7", "m33", "m55")
SEED = 0
ROWS = 8  # golden inputs of a network that are run on every core


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS / "microcontrollers.json")
    parser.add_argument("--cores", nargs="+", default=list(CORES), choices=CORES)
    parser.add_argument("--optimizations", nargs="+", default=["O2", "O3"], choices=["O2", "O3", "Os"])
    return parser.parse_args()


def count(cases: Sequence[Case], core: str, optimization: Any, defines: Sequence[str], folder: Path) -> list[int]:
    """Instructions of every layer, after its bytes were compared."""
    from targets.firmware import Emulator, build, count_instructions

    checked, counted = folder / "checked", folder / "counted"
    program = write_program(cases, checked)
    with Emulator(build(checked, core, optimization, checked / "firmware", defines=defines)) as board:
        for i, case in enumerate(cases):
            if board.ask(program.request(i, case))[: case.y.size] != case.y.tobytes():
                raise SystemExit(f"{core} -{optimization}: {list(LAYERS)[i]} gives other bytes than the reference")
    program = write_program(cases, counted, copies=False)
    firmware = build(counted, core, optimization, counted / "firmware", defines=defines)
    return count_instructions(firmware, [program.request(i, case) for i, case in enumerate(cases)])


def measure(core: str, optimization: str) -> list[dict[str, Any]]:
    from targets.c.macs import total_macs
    from targets.tflite.schema import read_model

    rng = np.random.default_rng(SEED)
    cases = [make(form, rng, f"layer{i}") for i, form in enumerate(LAYERS.values())]
    counts = []
    for defines in ([], ["MODEL_PLAIN_C"]):
        with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
            counts.append(count(cases, core, optimization, defines, Path(folder)))
    rows = []
    for name, case, ours, plain in zip(LAYERS, cases, *counts, strict=True):
        macs = total_macs(read_model(case.raw))
        rows.append(
            {
                "work": name,
                "core": core,
                "optimization": optimization,
                "macs": macs,
                "ours": ours,
                "peer": plain,
                "peer_is": "the same layer in plain C",
                "ratio": round(plain / ours, 3),
                "instructions_per_mac": round(ours / macs, 3),
                "plain_instructions_per_mac": round(plain / macs, 3),
            }
        )
    return rows


@dataclass(frozen=True)
class Network:
    """A full-integer file, its C, and what TFLite-Micro makes of some of its golden inputs, as bytes."""

    name: str
    folder: Path
    generated: Generated
    requests: list[bytes]
    expected: list[bytes]
    micro_arena_bytes: int


def compile_networks(folder: Path) -> list[Network]:
    """Train, convert and generate each; needs torch and the extras tflite and mcu."""
    from targets.c.generate import generate, write
    from targets.tflite import compile_int8
    from targets.tflite.affine import quantize
    from targets.tflite.schema import read_model

    networks = []
    for name in NETWORKS:
        task = small_nets.TASKS.get(name) or small_nets.SmallTask(
            nets.train_shape_net, small_nets.single("canvas", nets.shapes)
        )
        out = folder / name
        out.mkdir()
        bundle = small_nets.write_bundle(folder / f"{name}-bundle", name, task.train(), task)
        compile_int8(bundle.source(name), out)
        raw = (out / "model.tflite").read_bytes()
        model, micro = read_model(raw), Micro(raw)
        generated = generate(model, name)
        write(generated, out)
        inputs = bundle.golden(name)[0].values()
        requests, expected = [], []
        for row in range(ROWS):
            pairs = zip(inputs, model.inputs, strict=True)
            feeds = [quantize(x[row : row + 1], float(t.scale[0]), int(t.zero_point[0])) for x, t in pairs]
            requests.append(b"".join(x.tobytes() for x in feeds))
            expected.append(b"".join(y.tobytes() for y in micro.run(feeds)))
        networks.append(Network(name, out, generated, requests, expected, micro.arena_bytes()))
    return networks


def measure_network(network: Network, core: str, optimization: Any) -> dict[str, Any]:
    """One row: memory and instructions of an inference. Exits where the core gives other bytes than TFLite-Micro."""
    from targets.c.macs import total_macs
    from targets.firmware import build, profile

    profiles, firmwares = [], []
    for defines in ([], ["MODEL_PLAIN_C"]):
        with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
            firmware = build(network.folder, core, optimization, Path(folder), defines=defines)
            found = profile(firmware, network.requests)
        if found.outputs != network.expected:
            raise SystemExit(f"{core} -{optimization}: {network.name} gives other bytes than TFLite-Micro")
        if found.instructions is None:
            raise SystemExit(found.note)
        profiles.append(found)
        firmwares.append(firmware)
    ours, plain = (statistics.median_high(found.instructions or []) for found in profiles)
    macs = total_macs(network.generated.model)
    return {
        "work": f"network {network.name}",
        "core": core,
        "optimization": optimization,
        "macs": macs,
        "ours": ours,
        "peer": plain,
        "peer_is": "the same network in plain C",
        "ratio": round(plain / ours, 3),
        "instructions_per_mac": round(ours / macs, 3),
        "plain_instructions_per_mac": round(plain / macs, 3),
        "flash_bytes": firmwares[0].flash_bytes,
        "plain_flash_bytes": firmwares[1].flash_bytes,
        "ram_bytes": firmwares[0].ram_bytes,
        "stack_bytes": profiles[0].stack_bytes,
        "arena_bytes": network.generated.arena_bytes,
        "tflite_micro_arena_bytes": network.micro_arena_bytes,
        "same_bytes_as_tflite_micro_rows": len(network.requests),
    }


def network_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "networks: arena ours < TFLite-Micro's",
        f"{'':32}{'flash':>8}{'RAM':>8}{'stack':>7}{'instructions':>14}{'per MAC':>9}{'arena':>16}",
    ]
    for row in rows:
        where = f"{row['work']}, {row['core']} -{row['optimization']}"
        arena = f"{row['arena_bytes']} < {row['tflite_micro_arena_bytes']}"
        lines.append(
            f"{where:32}{row['flash_bytes']:>8}{row['ram_bytes']:>8}{row['stack_bytes']:>7}{row['ours']:>14}"
            f"{row['instructions_per_mac']:>9.2f}{arena:>16}"
        )
    return "\n".join(lines)


def table(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys((row["core"], row["optimization"]) for row in rows))
    found = {(row["work"], row["core"], row["optimization"]): row for row in rows}
    lines = ["instructions per multiply-accumulate, plain C > for the core"]
    lines.append(f"{'':36}" + "".join(f"{f'{core} -{optimization}':>14}" for core, optimization in columns))
    for work in LAYERS:
        cells = [found[work, *column] for column in columns]
        figures = [f"{c['plain_instructions_per_mac']:.2f} > {c['instructions_per_mac']:.2f}" for c in cells]
        lines.append(f"{work:36}" + "".join(f"{figure:>14}" for figure in figures))
    return "\n".join(lines)


def main() -> None:
    arguments = parse_arguments()
    began = time.monotonic()
    layers, networks = [], []
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        compiled = compile_networks(Path(folder))
        for core in arguments.cores:
            for optimization in arguments.optimizations:
                print(f"{core} -{optimization}", file=sys.stderr, flush=True)
                layers += measure(core, optimization)
                networks += [measure_network(network, core, optimization) for network in compiled]
    print(table(layers), network_table(networks), sep="\n\n")
    write_rows(arguments.out, [*layers, *networks], minutes=(time.monotonic() - began) / 60, seeds=[SEED])


if __name__ == "__main__":
    main()
