"""What a test needs of the machine. Under CI (variable CI is set) a missing tool is a failure, elsewhere a skip."""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest


def need(*programs: str) -> None:
    """Skip (under CI: fail) unless every program is on the PATH."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        _missing(f"not on the PATH: {', '.join(missing)} (make setup-system)")


def need_module(*modules: str) -> None:
    """Skip (under CI: fail) unless every Python module can be imported."""
    missing = [module for module in modules if importlib.util.find_spec(module.split(".")[0]) is None]
    if missing:
        _missing(f"not installed: {', '.join(missing)} (make setup)")


def _missing(message: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
