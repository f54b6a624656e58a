"""Data sources, one module each: a module in this folder with a `Source` named `source` is one."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.errors import RequestError

if TYPE_CHECKING:
    from compressor.data.source import Progress, Source


def sources() -> list[Source]:
    """Every source, by name. Their modules import nothing heavy."""
    from compressor.data.source import Source

    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    found = [module.source for module in modules if isinstance(getattr(module, "source", None), Source)]
    return sorted(found, key=lambda source: source.name)


def fetch(name: str, progress: Progress | None = None) -> Path:
    """Get a source through the package clients into the cache and return its directory; at once if it is there.

    Raises RequestError for an unknown name, MissingError for a missing client, network, extra or disk space.
    """
    known = {source.name: source for source in sources()}
    if name not in known:
        raise RequestError(f"no data source {name!r}; there are {', '.join(known)}")
    return known[name].fetch() if progress is None else known[name].fetch(progress)
