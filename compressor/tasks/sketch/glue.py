"""The sketch student on a device: choose a canvas, draw, encode, look for the nearest photo. numpy only.

Settings of the bundle:

    selector            {"kind": "fixed", "canvas_px": 32}; selector/glue.py has the kinds
    gallery             "teacher": its embeddings were made beforehand; "student": "photo_encoder" embeds its images
    index               "float32", or "int8": galleries are searched as an Index (index.py)
    minimum_width_px    of the rasteriser
    normalise           {"mean": m, "std": s}: the encoder gets (ink - m) / s, ink 1 on 0
    photo_normalise     {"mean": [3], "std": [3]}: the photo encoder gets (rgb / 255 - mean) / std

Graphs: `encoder_PX` ("canvas" (batch, 1, PX, PX) float32 -> "embedding" (batch, D)) for every canvas that the selector
may choose, the selector's own if it has one, and `photo_encoder` ("image" (batch, 3, H, W) float32 -> "embedding") for
a student's gallery. Embeddings are normalised here, so a graph need not.

Assets: index.npz, an int8 Index of embeddings that were made beforehand; or gallery.npz with `embeddings` (G, D), or
`images` (G, H, W, 3) uint8 for a student's gallery, and `labels` (G,).
Arrays of a split: packed sketches ("sketch_..."), `truth` (n,) index into the gallery, `gallery` (G, D) or
`gallery_images` (G, H, W, 3) uint8, `labels` (G,), and for pictures `gallery_thumbs` (G, h, w, 3) uint8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.sketch import FIELDS, Sketch, unpack_sketch, unpack_sketches
from compressor.tasks.sketch.charts import draw_charts
from compressor.tasks.sketch.index import Index, top_k
from compressor.tasks.sketch.query_cost import glue_macs, search_macs
from compressor.tasks.sketch.raster import MINIMUM_WIDTH_PX, pixels_uint8, rasterise, rasterise_batch
from compressor.tasks.sketch.selector.features import normalised
from compressor.tasks.sketch.selector.glue import SELECTORS, Selection
from profiles.errors import RequestError
from profiles.storage import load_npz
from targets.glue import Answer, Chart, Evaluation, Example, GraphCall, evenly_spread
from targets.graph import Arrays

CHUNK = 64  # sketches or photos per call while evaluating
PICTURE_PX = 96
METRIC = "acc@1"
GALLERY, INDEX = "gallery.npz", "index.npz"


@dataclass(frozen=True)
class Ranking:
    """The answer to one sketch: gallery indices, best first, with cosine similarities and labels.

    canvas_px: the canvas that was chosen for it, the last one where several were looked at.
    """

    canvas_px: int
    indices: np.ndarray
    similarities: np.ndarray
    labels: tuple[str, ...]


class Gallery:
    """What is searched: embeddings (G, D), L2-normalised, or an int8 index of them; and labels (G,)."""

    def __init__(self, embeddings: np.ndarray | Index, labels: tuple[str, ...]) -> None:
        self._rows, self.labels = embeddings, labels
        self._last: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def embeddings(self) -> np.ndarray:
        """(G, D) float32, L2-normalised."""
        return normalised(self._rows.codes.astype(np.float32)) if isinstance(self._rows, Index) else self._rows

    def similarities(self, queries: np.ndarray) -> np.ndarray:
        """Cosines (n, G) of L2-normalised queries (n, D). The same queries a second time are not compared again."""
        if self._last is not None and np.array_equal(self._last[0], queries):
            return self._last[1]
        rows = self._rows
        found = rows.similarities(queries) if isinstance(rows, Index) else queries @ rows.T
        self._last = queries.copy(), found
        return found

    def nearest(self, queries: np.ndarray, count: int) -> np.ndarray:
        """The largest cosines (n, at most count), best first."""
        similarities = self.similarities(queries)
        if count < similarities.shape[1]:
            similarities = -np.partition(-similarities, count - 1, axis=1)[:, :count]
        return -np.sort(-similarities, axis=1)


@dataclass(frozen=True)
class _Looks:
    """What a selector may do, on one gallery."""

    encode: Callable[[Sequence[Sketch], int], np.ndarray]
    nearest: Callable[[np.ndarray, int], np.ndarray]


class Glue:
    """See the module's docstring for graphs, settings and assets."""

    def __init__(self, graphs: Mapping[str, GraphCall], settings: Mapping[str, Any], assets: Path | None) -> None:
        chosen = settings["selector"]
        if chosen["kind"] not in SELECTORS:
            raise RequestError(f"selector {chosen['kind']!r}: this version knows {', '.join(SELECTORS)}")
        self.graphs, self.chosen_by = graphs, chosen
        self.selector = SELECTORS[chosen["kind"]](chosen, graphs)
        for canvas_px in self.selector.canvases:
            if f"encoder_{canvas_px}" not in graphs:
                raise RequestError(f"the selector chooses a {canvas_px} px canvas, but there is no encoder_{canvas_px}")
        normalise = settings.get("normalise", {"mean": 0.0, "std": 1.0})
        self.mean, self.std = np.float32(normalise["mean"]), np.float32(normalise["std"])
        photo_normalise = settings.get("photo_normalise", {"mean": [0.0] * 3, "std": [1.0] * 3})
        self.photo_mean, self.photo_std = (np.array(photo_normalise[key], np.float32) for key in ("mean", "std"))
        self.minimum_width_px = float(settings.get("minimum_width_px", MINIMUM_WIDTH_PX))
        self.gallery_by_student = settings.get("gallery", "teacher") == "student"
        self.quantised = settings.get("index", "float32") == "int8"
        self._assets = Path(assets) if assets is not None else None
        self._gallery: Gallery | None = None

    def __call__(self, query: Sketch, count: int = 10) -> Ranking:
        """The `count` nearest photos of the bundle's gallery. Batch 1, as on the device."""
        gallery = self.gallery()
        selection = self.select([query], gallery)
        similarities = gallery.similarities(selection.embeddings)[0]
        best = top_k(similarities, count)
        labels = tuple(gallery.labels[index] for index in best)
        return Ranking(int(selection.canvas_px[0]), best, similarities[best], labels)

    def select(self, sketches: Sequence[Sketch], gallery: Gallery) -> Selection:
        """The canvas of every sketch, and what the gallery is asked with."""
        return self.selector(sketches, _Looks(self.encode, gallery.nearest))

    def gallery(self) -> Gallery:
        """The bundle's own gallery, read once."""
        if self._gallery is None:
            path = self._gallery_file()
            if path is None:
                raise RequestError("this student has no gallery (assets/gallery.npz), so it can only be evaluated")
            if path.name == INDEX:
                index = Index.load(path)
                self._gallery = Gallery(index, index.labels)
            else:
                self._gallery = self._embed_gallery(load_npz(path), "images", "embeddings", str(path))
        return self._gallery

    def device_gallery(self, arrays: Arrays) -> Gallery:
        """The bundle's own gallery; from here on the split's, where it has none."""
        if self._gallery is None and self._gallery_file() is None:
            self._gallery = self.split_gallery(arrays)
        return self.gallery()

    def _gallery_file(self) -> Path | None:
        names = (INDEX, GALLERY) if self.quantised else (GALLERY,)
        files = [self._assets / name for name in names] if self._assets is not None else []
        return next((file for file in files if file.is_file()), None)

    def split_gallery(self, arrays: Arrays) -> Gallery:
        """The gallery of a split."""
        return self._embed_gallery(arrays, "gallery_images", "gallery", "the split")

    def evaluate(self, arrays: Arrays, limit: int | None = None) -> Evaluation:
        """acc@1 per sketch (1 or 0) against the split's gallery; extras acc@5 and acc@10, and of a selector's canvases
        how often each was chosen.

        A photo that is as similar as the right one counts as nearer, so a student that gives one answer to
        everything is not called right; nor is one that gives no finite number.
        """
        truth = np.asarray(arrays["truth"][: _count(arrays)][:limit], np.int64)
        sketches = unpack_sketches(arrays)[: len(truth)]
        gallery = self.split_gallery(arrays)
        selection = self.select(sketches, gallery)
        similarities = gallery.similarities(selection.embeddings)
        rank = ranks(similarities, truth)
        extras = {f"acc@{k}": float((rank <= k).mean()) for k in (5, 10)}
        if len(self.selector.canvases) > 1:
            extras |= {f"share at {px} px": float((selection.canvas_px == px).mean()) for px in self.selector.canvases}
        return Evaluation(METRIC, (rank == 1).astype(np.float64), extras=extras)

    def choices(self, arrays: Arrays, limit: int | None = None) -> np.ndarray:
        """The canvas that each of the split's sketches is drawn on last, (n,) in pixels."""
        sketches = unpack_sketches(arrays)[: _count(arrays)][:limit]
        return self.select(sketches, self.split_gallery(arrays)).canvas_px

    def queries(self, arrays: Arrays) -> Iterator[Sketch]:
        """The split's sketches. A student without a gallery of its own looks for them in the split's from here on.

        The gallery is embedded before the first query: it is no part of a query's cost.
        """
        self.device_gallery(arrays)
        for index in range(_count(arrays)):
            yield unpack_sketch(arrays, index)

    def examples(self, arrays: Arrays, count: int) -> list[Example]:
        """Queries evenly spread over the split, as the encoder sees them, each with its five nearest photos."""
        total = _count(arrays)
        chosen = evenly_spread(total, count)
        sketches = [unpack_sketch(arrays, index) for index in chosen]
        gallery = self.split_gallery(arrays)
        selection = self.select(sketches, gallery)
        similarities = gallery.similarities(selection.embeddings)
        labels, thumbs = gallery.labels, arrays.get("gallery_thumbs")
        examples = []
        for sketch, index, row, px in zip(sketches, chosen, similarities, selection.canvas_px, strict=True):
            truth, canvas_px = int(arrays["truth"][index]), int(px)
            seen = pixels_uint8(rasterise(sketch, canvas_px, self.minimum_width_px))
            zoom = max(round(PICTURE_PX / canvas_px), 1)
            answers = tuple(
                Answer(None if thumbs is None else thumbs[best], labels[best], int(best) == truth)
                for best in np.argsort(-row, kind="stable")[:5]
            )
            picture = seen.repeat(zoom, axis=0).repeat(zoom, axis=1)[..., None]
            examples.append(Example(f"{labels[truth]} ({canvas_px} px)", picture, answers))
        return examples

    def macs(self, queries: Sequence[Sketch], answers: Sequence[Ranking]) -> dict[str, float]:
        """What the glue does itself, mean MACs per query: see query_cost.py."""
        gallery = self.gallery()
        search = search_macs(len(gallery), gallery.embeddings.shape[1])
        chosen = [answer.canvas_px for answer in answers]
        return glue_macs(self.chosen_by, self.selector.canvases, queries, chosen, search, self.minimum_width_px)

    def charts(self, arrays: Arrays, macs: Mapping[str, float]) -> list[Chart]:
        """The canvases against each other, where the student has several: see charts.py."""
        return draw_charts(self, arrays, macs)

    def encode(self, sketches: Sequence[Sketch], canvas_px: int) -> np.ndarray:
        """Embeddings (n, D), L2-normalised, of sketches drawn on that canvas."""
        parts = []
        for start in range(0, len(sketches), CHUNK):
            canvases = rasterise_batch(sketches[start : start + CHUNK], canvas_px, self.minimum_width_px)
            feeds = {"canvas": (canvases[:, None] - self.mean) / self.std}
            parts.append(_flat_normalised(self.graphs[f"encoder_{canvas_px}"](feeds)["embedding"]))
        return np.concatenate(parts)

    def _embed_gallery(self, arrays: Arrays, images: str, embeddings: str, where: str) -> Gallery:
        needed = images if self.gallery_by_student else embeddings
        if needed not in arrays:
            raise RequestError(f"{where}: no array {needed!r}, which the sketch student's gallery needs")
        rows = self._embed_photos(arrays[needed]) if self.gallery_by_student else _flat_normalised(arrays[needed])
        labels = _labels(arrays, len(rows))
        return Gallery(Index.build(rows, labels) if self.quantised else rows, labels)

    def _embed_photos(self, images: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(images), CHUNK):
            pixels = images[start : start + CHUNK].astype(np.float32) / 255
            image = ((pixels - self.photo_mean) / self.photo_std).transpose(0, 3, 1, 2)
            parts.append(self.graphs["photo_encoder"]({"image": np.ascontiguousarray(image)})["embedding"])
        return _flat_normalised(np.concatenate(parts))


def ranks(similarities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n,) from 1: how many photos are at least as similar (n, G) as the right one, so a tie is not won; beyond the
    last where a similarity is no finite number."""
    right = similarities[np.arange(len(truth)), truth]
    not_farther = (similarities >= right[:, None]).sum(axis=1)  # the right one among them
    return np.where(np.isfinite(similarities).all(axis=1), not_farther, similarities.shape[1] + 1)


def _count(arrays: Arrays) -> int:
    missing = [name for name in (*(f"sketch_{field}" for field in FIELDS), "truth") if name not in arrays]
    if missing:
        raise RequestError(f"the split has no array {missing[0]!r}, so it is none of the sketch task")
    return len(arrays["truth"])


def _labels(arrays: Arrays, count: int) -> tuple[str, ...]:
    """The gallery's labels; numbers where there are none."""
    labels = tuple(str(label) for label in arrays.get("labels", range(count)))
    if len(labels) != count:
        raise RequestError(f"{len(labels)} labels for a gallery of {count} photos")
    return labels


def _flat_normalised(embeddings: np.ndarray) -> np.ndarray:
    return normalised(np.asarray(embeddings, np.float32).reshape(len(embeddings), -1))
