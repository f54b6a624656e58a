"""Imports that only an extra of the distribution brings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from profiles.errors import MissingError

OURS = ("compressor", "targets", "profiles")


@contextlib.contextmanager
def needs(extra: str, *own: str) -> Iterator[None]:
    """Within this block a missing module is a MissingError that names the extra, unless it is one of ours or `own`.

    >>> with needs("train"):
    ...     import torch
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if not missing or missing in OURS or missing in own:
            raise
        raise MissingError(f"{missing} is not installed: pip install 'edge-compressor[{extra}]'") from None
