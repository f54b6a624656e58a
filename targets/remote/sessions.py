"""A graph that runs on a device, as a session: through the agent (Python there), or as a static program of our C."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from targets.firmware.rows import decode, encode
from targets.graph import Arrays, Graph
from targets.remote.agent import message
from targets.remote.channel import Channel, DeviceError
from targets.session import GraphSession

ANSWER_BYTES = 1 << 32  # more than this is no answer
KINDS = "biufc"  # of numpy's dtypes: numbers and truth values


class Agent:
    """This end of targets.remote.agent: requests go out, answers are checked."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def call(
        self, do: str, arrays: Arrays | None = None, *, timeout_s: float | None = None, **fields: Any
    ) -> tuple[Any, dict[str, np.ndarray]]:
        """(value, arrays) of an answer. Raises DeviceError if there is none in time, or it is none, or an error."""
        self._channel.send(message({"do": do, **fields}, arrays or {}))
        line = self._channel.receive_line(timeout_s=timeout_s)
        head = self._parsed(line)
        if "error" in head:
            raise DeviceError(f"{head['error']}, while {self._channel.doing}")
        return head["value"], {name: self._array(dtype, shape) for name, dtype, shape in head["arrays"]}

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            head = json.loads(line)
            if "error" not in head:
                _ = head["value"], [_size(dtype, shape) for _, dtype, shape in head["arrays"]]
            return head
        except (ValueError, TypeError, KeyError):
            raise DeviceError(f"answered garbage ({line[:40]!r}) while {self._channel.doing}") from None

    def _array(self, dtype: str, shape: list[int]) -> np.ndarray:
        return np.frombuffer(self._channel.receive(_size(dtype, shape)), dtype).reshape(shape)


def _size(dtype: str, shape: list[int]) -> int:
    """Bytes of an array. Raises ValueError if it cannot be one."""
    kind = np.dtype(dtype)
    count = kind.itemsize
    for axis in shape:
        if not isinstance(axis, int) or axis < 0:
            raise ValueError(shape)
        count *= axis
    if kind.kind not in KINDS or count > ANSWER_BYTES:
        raise ValueError(dtype)
    return count


class AgentSession(GraphSession):
    """A graph that the agent has opened."""

    def __init__(self, graph: Graph, agent: Agent, details: Mapping[str, Any]) -> None:
        super().__init__(graph, details)
        self._agent = agent

    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        _, outputs = self._agent.call("run", feeds, graph=self.graph.name)
        return outputs


class ProgramSession(GraphSession):
    """A static program of our C that answers row by row. `stack_bytes`, `peak_bytes`: known once it was closed."""

    def __init__(self, graph: Graph, channel: Channel, manifest: Mapping[str, Any], details: Mapping[str, Any]) -> None:
        super().__init__(graph, details)
        self._channel, self._manifest = channel, manifest
        self.stack_bytes: int | None = None
        self.peak_bytes: int | None = None

    def close(self) -> None:
        """End the program. Raises DeviceError if it does not say what it took."""
        text = self._channel.finish()
        found = re.search(r"^program: stack (\d+) peak_kb (\d+)", text, re.MULTILINE)
        if found is None:
            raise DeviceError(f"answered garbage ({text[-40:]!r}) at the end, while {self._channel.doing}")
        self.stack_bytes, self.peak_bytes = int(found[1]), int(found[2]) * 1024

    def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        size = sum(port["bytes"] for port in self._manifest["outputs"])
        replies = []
        for row in encode(self.graph, self._manifest, feeds):
            self._channel.send(row)
            replies.append(self._channel.receive(size))
        return decode(self.graph, self._manifest, replies)
