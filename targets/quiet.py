"""Silence for other people's exporters."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep exporters' chatter from the terminal: loggers below ERROR, warnings, and what they print."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """As `quiet`, for tools that report their progress on the error stream, too."""
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        yield
