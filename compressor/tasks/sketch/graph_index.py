"""Search in large galleries: a graph of near neighbours (HNSW, Malkov and Yashunin, arXiv 1603.09320) over an Index.

The library is usearch (extra `retrieval`), which keeps int8 as it is and reads its file without loading it. The graph
proposes candidates, the Index ranks them: scores and order are those of the exact search wherever it finds the rows.
Worth it beyond some 100,000 photos; below, the exact search is as fast and needs no library.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from compressor.tasks.sketch.index import LARGEST, Index
from profiles.errors import RequestError, require
from profiles.storage import atomic_file

WORTH_IT = 100_000  # photos
CANDIDATES = 4  # times as many as asked for
NEIGHBOURS, ADD_EXPANSION, SEARCH_EXPANSION = 16, 128, 64  # per photo; looked at while adding and while searching


class GraphIndex:
    """`index`, searched through its graph. Make one by `build`, or by `load` from a file."""

    def __init__(self, index: Index, graph: Any) -> None:
        self.index, self._graph = index, graph

    @classmethod
    def build(cls, index: Index, threads: int = 0) -> GraphIndex:
        """Add every photo of the gallery: some 0.1 ms each. `threads`: 0 for all cores, with 1 the graph is repeatable.

        Raises MissingError naming the extra if usearch is not installed.
        """
        usearch = require("usearch.index", "retrieval")
        graph = usearch.Index(
            ndim=index.codes.shape[1],
            metric="cos",
            dtype="i8",
            connectivity=NEIGHBOURS,
            expansion_add=ADD_EXPANSION,
            expansion_search=SEARCH_EXPANSION,
        )
        graph.add(np.arange(len(index), dtype=np.uint64), index.codes, threads=threads)
        return cls(index, graph)

    def save(self, path: Path) -> None:
        """Write the graph (with its own copy of the codes) into one file."""
        with atomic_file(path) as temporary:
            self._graph.save(str(temporary))

    @classmethod
    def load(cls, index: Index, path: Path) -> GraphIndex:
        """Open what `save` wrote for this index; the file is mapped, not read.

        Raises MissingError without usearch, RequestError naming the file if it is none or another gallery's.
        """
        usearch = require("usearch.index", "retrieval")
        if not path.is_file():
            raise RequestError(f"{path}: there is no such file")
        try:
            graph = usearch.Index.restore(str(path), view=True)
        except ValueError as error:
            raise RequestError(f"{path}: is no graph of a gallery ({error})") from None
        if (len(graph), graph.ndim) != index.codes.shape:
            raise RequestError(f"{path}: is of {len(graph)} photos in {graph.ndim} dimensions, not {index.codes.shape}")
        return cls(index, graph)

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Index.search`, among the candidates that the graph proposes: almost always the k nearest."""
        wide = np.asarray(query, np.float32)
        largest = np.abs(wide).max(initial=0.0)
        if not (np.isfinite(largest) and largest > 0):  # no direction: nothing is nearer than anything else
            return self.index.search(query, k)
        code = np.rint(wide * (np.float32(LARGEST) / largest)).astype(np.int8)
        found = self._graph.search(code, min(CANDIDATES * k, len(self.index)))
        rows = np.sort(np.asarray(found.keys, np.int64))
        candidates = Index(self.index.codes[rows], tuple(self.index.labels[row] for row in rows))
        best, similarities = candidates.search(query, k)
        return rows[best], similarities
