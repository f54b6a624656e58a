"""A graph on an emulated core, as a session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from targets.firmware.build import Firmware
from targets.firmware.emulator import ROW_TIMEOUT_S, Emulator
from targets.firmware.rows import decode, encode
from targets.graph import Graph
from targets.session import GraphSession


class QemuSession(GraphSession):
    """One QEMU process (or another `board`) answers every row. A context manager; `stack_bytes` is known after it was
    closed."""

    def __init__(
        self,
        graph: Graph,
        firmware: Firmware,
        manifest: Mapping[str, Any],
        timeout_s: float = ROW_TIMEOUT_S,
        board: Emulator | None = None,
    ) -> None:
        super().__init__(graph, {"runtime": "c", "provider": firmware.board.machine, "threads": 1})
        self._manifest = manifest
        self._board = board or Emulator(firmware, timeout_s=timeout_s)

    def __enter__(self) -> QemuSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._board.__exit__(kind)

    @property
    def stack_bytes(self) -> int | None:
        return self._board.stack_bytes

    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        replies = [self._board.ask(request) for request in encode(self.graph, self._manifest, feeds)]
        return decode(self.graph, self._manifest, replies)
