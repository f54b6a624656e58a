"""How a TFLite operator becomes C: one function per operator, found by the operator's name.

A lowering takes an `Operator` and writes to an `Emitter`: constants that go to flash, the kernel it calls (a header in
`kernels/`, put into the file once), scratch memory it needs while it runs, and the call itself.

    @lowering("RESHAPE")
    def reshape(operator: Operator, emitter: Emitter) -> None:
        emitter.alias(operator.outputs[0], operator.inputs[0])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from targets.tflite.schema import Operator, Tensor


class UnsupportedOperator(Exception):
    """An operator, or a form of it, that the generator does not know. The message names it and says what to do."""


class Emitter(Protocol):
    """What a lowering writes to."""

    def ref(self, tensor: Tensor) -> str:
        """The C expression that points to the tensor: `const T *` for constants (emitted as they are, in flash), `T *`
        into the arena else. T is int8_t, int32_t, ... by the tensor's dtype."""
        ...

    def constant(self, name: str, values: np.ndarray) -> str:
        """Put an array into flash (C type by its dtype, 4-byte aligned); gives its C name, made unique from `name`.
        Equal arrays are emitted once. A weight tensor that is only used in another layout is emitted in that alone."""
        ...

    def kernel(self, *names: str) -> None:
        """Include `kernels/NAME.h` once; what it includes of that folder by #include "OTHER.h" is put in before it."""
        ...

    def scratch(self, size: int) -> str:
        """`int8_t *` to at least `size` bytes (8-byte aligned) of the arena that live during this operator only."""
        ...

    def alias(self, output: Tensor, input: Tensor) -> None:
        """The output is the input's memory: no code. The planner lets them share a place."""
        ...

    def in_place(self, output: Tensor, input: Tensor) -> None:
        """The kernel may write the output over this input (element by element), if nobody reads the input later."""
        ...

    def call(self, statement: str) -> None:
        """One or more C statements of the run function."""
        ...


Lowering = Callable[[Operator, Emitter], None]
LOWERINGS: dict[str, Lowering] = {}


def lowering(*kinds: str) -> Callable[[Lowering], Lowering]:
    """Register a function for operators of these names."""

    def register(function: Lowering) -> Lowering:
        for kind in kinds:
            LOWERINGS[kind] = function
        return function

    return register
