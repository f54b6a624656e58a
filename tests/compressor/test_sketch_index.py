"""The int8 index finds what an exact search finds."""

import numpy as np
import pytest

from compressor.tasks.sketch.index import Index, top_k
from profiles.errors import RequestError


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def gallery() -> np.ndarray:
    return unit(np.random.default_rng(0), 500, 64)


@pytest.fixture(scope="module")
def index(gallery) -> Index:
    return Index.build(gallery, [f"photo {i}" for i in range(len(gallery))])


def test_cosines_are_those_of_float_within_the_rounding(index, gallery):
    # a code is off by at most half a step of max|row| / 127, so a cosine by about |error| = sqrt(D / 12) steps
    queries = unit(np.random.default_rng(1), 50, 64)
    step = np.abs(gallery).max(axis=1) / 127
    error = index.similarities(queries) - queries @ gallery.T
    assert error.std() < 2 * step.mean() / np.sqrt(12)
    assert np.abs(error).max() < step.max() * np.sqrt(64 / 12)


def test_a_gallery_photo_finds_itself(index, gallery):
    for row in (0, 17, 499):
        found, similarities = index.search(gallery[row], 3)
        assert found[0] == row and similarities[0] == pytest.approx(1, abs=1e-3)
        assert (np.diff(similarities) <= 0).all()


def test_length_does_not_matter_neither_the_gallerys_nor_the_querys(index, gallery):
    stretched = Index.build(gallery * np.linspace(0.1, 50, 500)[:, None], index.labels)
    assert (stretched.codes == index.codes).mean() > 0.999
    assert index.search(gallery[3] * 1000, 5)[0].tolist() == index.search(gallery[3], 5)[0].tolist()


def test_integer_queries_are_summed_exactly(index):
    query = np.random.default_rng(2).integers(-255, 256, 64).astype(np.int16)
    cosines = index.similarities(query[None])[0]
    exact = index.codes.astype(object) @ query.astype(object)
    norms = np.sqrt((index.codes.astype(np.int64) ** 2).sum(1) * float((query.astype(np.int64) ** 2).sum()))
    assert cosines == pytest.approx(exact.astype(float) / norms, rel=1e-6)


def test_equal_rows_come_in_the_gallerys_order():
    index = Index.build(np.tile(np.eye(4, dtype=np.float32), (50, 1)), range(200))
    found, similarities = index.search(np.array([0, 1, 0, 0], np.float32), 7)
    assert found.tolist() == [1, 5, 9, 13, 17, 21, 25] and (similarities == similarities[0]).all()
    assert index.search(np.ones(4), 1000)[0].tolist() == list(range(200))


def test_the_best_k_are_those_of_a_full_sort():
    rng = np.random.default_rng(4)
    for _ in range(50):
        scores = rng.integers(0, 6, 40).astype(np.float32)
        k = int(rng.integers(1, 41))
        assert top_k(scores, k).tolist() == np.argsort(-scores, kind="stable")[:k].tolist()
    assert top_k(np.array([np.nan, 1, np.nan, 2], np.float32), 3).tolist() == [3, 1, 0]


def test_an_index_is_a_quarter_of_its_embeddings_and_comes_back_from_its_file(index, gallery, tmp_path):
    index.save(tmp_path / "gallery.npz")
    back = Index.load(tmp_path / "gallery.npz")
    assert (back.codes == index.codes).all() and back.labels == index.labels
    assert 4 * back.codes.nbytes == gallery.nbytes


def test_what_is_no_index_is_refused_by_name(tmp_path):
    with pytest.raises(RequestError, match=r"row 1 of the gallery \(blank\)"):
        Index.build(np.array([[1.0, 2], [0, 0]]), ["full", "blank"])
    with pytest.raises(RequestError, match="2 labels"):
        Index.build(np.ones((3, 2)), ["a", "b"])
    np.savez(tmp_path / "other.npz", embeddings=np.ones((2, 2)))
    with pytest.raises(RequestError, match=r"other\.npz: no array 'codes'"):
        Index.load(tmp_path / "other.npz")
