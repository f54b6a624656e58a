"""Errors that a user meets. Each carries the exit code of the command line.

0 done, 1 the work ran and the answer is no, 2 the request is wrong, 3 something is missing on this machine,
4 a fault of ours. Messages say what was wrong, where, and what to do, in one line.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class CompressorError(Exception):
    """Base of every error that is meant for the user."""

    exit_code = 4


class GateError(CompressorError):
    """The work ran and the answer is no: parity, accuracy, budget or a comparison failed."""

    exit_code = 1


class RequestError(CompressorError):
    """The request is wrong: an unknown name or key, an unreadable file, a missing option."""

    exit_code = 2


class MissingError(CompressorError):
    """Something that the request needs is not on this machine: an extra, a tool, disk space."""

    exit_code = 3


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise MissingError naming the extra that brings it.

    >>> require("json", "onnx").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingError(f"{module.split('.')[0]} is not installed: pip install 'edge-compressor[{extra}]'") from None
