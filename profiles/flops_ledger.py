"""The bookkeeping that both counters share: layers, what was not counted, which tensors live at the same time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from profiles.flops import Costs, Layer


class Ledger:
    """Takes the operators of a graph in order and gives the Costs. Tensors are known by name."""

    def __init__(self) -> None:
        self._layers: list[Layer] = []
        self._uncounted: Counter[str] = Counter()
        self._root: dict[str, str] = {}  # alias -> the tensor whose memory it shares
        self._bytes: dict[str, int] = {}
        self._steps: list[tuple[list[str], list[str]]] = []  # (reads, writes) as roots
        self._names: Counter[str] = Counter()

    def tensor(self, name: str, size_bytes: int) -> None:
        """An input: it is there from the beginning."""
        self._bytes[name] = size_bytes
        self._steps.append(([], [name]))

    def alias(self, name: str, of: str) -> None:
        """`name` shares the memory of `of`: a view, or an operator in place."""
        self._root[name] = self.root(of)

    def root(self, name: str) -> str:
        return self._root.get(name, name)

    def not_counted(self, op: str, times: int = 1) -> None:
        self._uncounted[op] += times

    def layer(
        self,
        name: str,
        op: str,
        *,
        macs: int,
        parameters: int,
        reads: Iterable[str],
        writes: Mapping[str, int],
        output_shape: tuple[int, ...],
        keep: bool = False,
    ) -> None:
        """One operator. `writes` maps its new tensors to their bytes. What costs nothing at all makes no row."""
        self._bytes.update(writes)
        self._steps.append(([self.root(read) for read in reads], list(writes)))
        size = sum(writes.values())
        if macs or parameters or size or keep:
            self._names[name] += 1
            unique = name if self._names[name] == 1 else f"{name}#{self._names[name]}"
            self._layers.append(Layer(unique, op, macs, parameters, size, output_shape))

    def costs(self, outputs: Iterable[str], input_shapes: Mapping[str, tuple[int, ...]]) -> Costs:
        layers = self._layers
        return Costs(
            macs=sum(layer.macs for layer in layers),
            parameters=sum(layer.parameters for layer in layers),
            activation_bytes=sum(layer.activation_bytes for layer in layers),
            peak_activation_bytes=self._peak({self.root(output) for output in outputs}),
            layers=tuple(layers),
            uncounted=dict(sorted(self._uncounted.items())),
            input_shapes=dict(input_shapes),
        )

    def _peak(self, outputs: set[str]) -> int:
        last: dict[str, int] = {}
        for index, (reads, writes) in enumerate(self._steps):
            for name in (*reads, *writes):
                last[name] = index
        ends: dict[int, list[str]] = {}
        for name, index in last.items():
            if name not in outputs and name in self._bytes:
                ends.setdefault(index, []).append(name)
        alive = peak = 0
        for index, (_, writes) in enumerate(self._steps):
            alive += sum(self._bytes[name] for name in writes)
            peak = max(peak, alive)
            alive -= sum(self._bytes[name] for name in ends.get(index, ()))
        return peak
