"""A large gallery is searched through a graph: the exact search's answers, at a part of its work."""

import sys

import numpy as np
import pytest

from compressor.tasks.sketch.graph_index import GraphIndex
from compressor.tasks.sketch.index import Index
from profiles.errors import MissingError, RequestError
from tests.tools import need_module

ROWS, DEPTH = 3000, 32


@pytest.fixture(scope="module")
def embeddings():
    """Photos around 100 concepts."""
    rng = np.random.default_rng(0)
    concepts = rng.standard_normal((100, DEPTH))
    return (concepts[np.arange(ROWS) % 100] + 0.7 * rng.standard_normal((ROWS, DEPTH))).astype(np.float32)


@pytest.fixture(scope="module")
def index(embeddings):
    return Index.build(embeddings, range(ROWS))


@pytest.fixture(scope="module")
def graph(index):
    need_module("usearch")
    return GraphIndex.build(index, threads=1)


def test_nearly_all_of_the_nearest_are_found_with_the_exact_searchs_scores(graph, index, embeddings):
    rng = np.random.default_rng(1)
    queries = embeddings[rng.integers(0, ROWS, 100)] + 0.5 * rng.standard_normal((100, DEPTH)).astype(np.float32)
    recall = []
    for query in queries:
        rows, similarities = graph.search(query, 10)
        exact, cosines = index.search(query, 10)
        recall.append(len(set(rows) & set(exact)) / 10)
        common = np.isin(exact, rows)
        assert similarities[np.isin(rows, exact)] == pytest.approx(cosines[common], abs=1e-6)
        assert (np.diff(similarities) <= 0).all()
    assert np.mean(recall) > 0.98


def test_a_file_is_opened_for_its_own_gallery_only(graph, index, embeddings, tmp_path):
    graph.save(tmp_path / "gallery.usearch")
    back = GraphIndex.load(index, tmp_path / "gallery.usearch")
    assert back.search(embeddings[7], 5)[0].tolist() == graph.search(embeddings[7], 5)[0].tolist()
    with pytest.raises(RequestError, match="is of 3000 photos in 32 dimensions"):
        GraphIndex.load(Index(index.codes[:5], index.labels[:5]), tmp_path / "gallery.usearch")
    with pytest.raises(RequestError, match="no such file"):
        GraphIndex.load(index, tmp_path / "other.usearch")
    (tmp_path / "broken.usearch").write_bytes(b"no graph" * 40)
    with pytest.raises(RequestError, match=r"broken\.usearch: is no graph"):
        GraphIndex.load(index, tmp_path / "broken.usearch")


def test_a_query_without_a_direction_gets_the_gallerys_order(graph):
    assert graph.search(np.zeros(DEPTH), 4)[0].tolist() == [0, 1, 2, 3]


def test_without_the_library_its_extra_is_named(index, monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch", None)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(MissingError, match=r"edge-compressor\[retrieval\]"):
        GraphIndex.build(index)
