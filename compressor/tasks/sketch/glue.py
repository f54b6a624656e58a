"""The sketch student on a device: choose a canvas, draw, encode, look for the nearest photo. numpy only.

Settings of the bundle:

    selector            {"kind": "fixed", "canvas_px": 32}; SELECTORS has the kinds
    gallery             "teacher": its embeddings were made beforehand; "student": "photo_encoder" embeds its images
    minimum_width_px    of the rasteriser
    normalise           {"mean": m, "std": s}: the encoder gets (ink - m) / s, ink 1 on 0
    photo_normalise     {"mean": [3], "std": [3]}: the photo encoder gets (rgb / 255 - mean) / std

Graphs: `encoder_PX` ("canvas" (batch, 1, PX, PX) float32 -> "embedding" (batch, D)) for every canvas that the selector
may choose, and `photo_encoder` ("image" (batch, 3, H, W) float32 -> "embedding") for a student's gallery. Embeddings
are normalised here, so a graph need not.

Assets: gallery.npz with `embeddings` (G, D), or `images` (G, H, W, 3) uint8 for a student's gallery, and `labels` (G,).
Arrays of a split: packed sketches ("sketch_..."), `truth` (n,) index into the gallery, `gallery` (G, D) or
`gallery_images` (G, H, W, 3) uint8, `labels` (G,), and for pictures `gallery_thumbs` (G, h, w, 3) uint8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from compressor.data.sketch import FIELDS, Sketch, unpack_sketch, unpack_sketches
from compressor.tasks.sketch.raster import MINIMUM_WIDTH_PX, pixels_uint8, rasterise, rasterise_batch
from profiles.errors import RequestError
from profiles.storage import load_npz
from targets.glue import Answer, Evaluation, Example, GraphCall
from targets.graph import Arrays

CHUNK = 64  # sketches or photos per call while evaluating
PICTURE_PX = 96
METRIC = "acc@1"


class Selector(Protocol):
    """Chooses the side of the canvas, in pixels, for a sketch. `canvases` are all that it may choose."""

    canvases: tuple[int, ...]

    def __call__(self, sketch: Sketch) -> int: ...


class FixedCanvas:
    """The same canvas for every sketch."""

    def __init__(self, settings: Mapping[str, Any], graphs: Mapping[str, GraphCall]) -> None:
        self.canvases: tuple[int, ...] = (int(settings["canvas_px"]),)

    def __call__(self, sketch: Sketch) -> int:
        return self.canvases[0]


# A learned selector gets the graphs too: its network is one of them.
SELECTORS: dict[str, Callable[[Mapping[str, Any], Mapping[str, GraphCall]], Selector]] = {"fixed": FixedCanvas}


@dataclass(frozen=True)
class Ranking:
    """The answer to one sketch: gallery indices, best first, with cosine similarities and labels."""

    canvas_px: int
    indices: np.ndarray
    similarities: np.ndarray
    labels: tuple[str, ...]


class Glue:
    """See the module's docstring for graphs, settings and assets."""

    def __init__(self, graphs: Mapping[str, GraphCall], settings: Mapping[str, Any], assets: Path | None) -> None:
        chosen = settings["selector"]
        if chosen["kind"] not in SELECTORS:
            raise RequestError(f"selector {chosen['kind']!r}: this version knows {', '.join(SELECTORS)}")
        self.graphs = graphs
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
        self._gallery_path = Path(assets) / "gallery.npz" if assets is not None else None
        self._gallery: tuple[np.ndarray, tuple[str, ...]] | None = None

    def __call__(self, query: Sketch, count: int = 10) -> Ranking:
        """The `count` nearest photos of the bundle's gallery. Batch 1, as on the device."""
        embeddings, labels = self.gallery()
        canvas_px = self.selector(query)
        canvas = rasterise(query, canvas_px, self.minimum_width_px)
        similarities = embeddings @ self._encode(canvas[None], canvas_px)[0]
        best = np.argsort(-similarities, kind="stable")[:count]
        return Ranking(canvas_px, best, similarities[best], tuple(labels[index] for index in best))

    def gallery(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Embeddings (G, D), normalised, and labels of the bundle's own gallery, read once."""
        if self._gallery is None:
            if self._gallery_path is None or not self._gallery_path.is_file():
                raise RequestError("this student has no gallery (assets/gallery.npz), so it can only be evaluated")
            arrays = load_npz(self._gallery_path)
            embeddings = self._embed_gallery(arrays, "images", "embeddings", str(self._gallery_path))
            self._gallery = embeddings, _labels(arrays, len(embeddings))
        return self._gallery

    def evaluate(self, arrays: Arrays, limit: int | None = None) -> Evaluation:
        """acc@1 per sketch (1 or 0) against the split's gallery; extras acc@5 and acc@10.

        A photo that is as similar as the right one counts as nearer, so a student that gives one answer to
        everything is not called right; nor is one that gives no finite number.
        """
        truth = np.asarray(arrays["truth"][: _count(arrays)][:limit], np.int64)
        sketches = unpack_sketches(arrays)[: len(truth)]
        similarities = self._similarities(sketches, self._split_gallery(arrays))
        right = similarities[np.arange(len(truth)), truth]
        not_farther = (similarities >= right[:, None]).sum(axis=1)  # the right one among them
        rank = np.where(np.isfinite(similarities).all(axis=1), not_farther, similarities.shape[1] + 1)
        extras = {f"acc@{k}": float((rank <= k).mean()) for k in (5, 10)}
        return Evaluation(METRIC, (rank == 1).astype(np.float64), extras=extras)

    def queries(self, arrays: Arrays) -> Iterator[Sketch]:
        """The split's sketches. A student without a gallery of its own looks for them in the split's from here on.

        The gallery is embedded before the first query: it is no part of a query's cost.
        """
        if self._gallery_path is None or not self._gallery_path.is_file():
            embeddings = self._split_gallery(arrays)
            self._gallery = embeddings, _labels(arrays, len(embeddings))
        self.gallery()
        for index in range(_count(arrays)):
            yield unpack_sketch(arrays, index)

    def examples(self, arrays: Arrays, count: int) -> list[Example]:
        """Queries evenly spread over the split, as the encoder sees them, each with its five nearest photos."""
        total = _count(arrays)
        chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
        sketches = [unpack_sketch(arrays, index) for index in chosen]
        gallery = self._split_gallery(arrays)
        similarities = self._similarities(sketches, gallery)
        labels = _labels(arrays, len(gallery))
        thumbs = arrays.get("gallery_thumbs")
        examples = []
        for sketch, index, row in zip(sketches, chosen, similarities, strict=True):
            truth, canvas_px = int(arrays["truth"][index]), self.selector(sketch)
            seen = pixels_uint8(rasterise(sketch, canvas_px, self.minimum_width_px))
            zoom = max(round(PICTURE_PX / canvas_px), 1)
            answers = tuple(
                Answer(None if thumbs is None else thumbs[best], labels[best], int(best) == truth)
                for best in np.argsort(-row, kind="stable")[:5]
            )
            picture = seen.repeat(zoom, axis=0).repeat(zoom, axis=1)[..., None]
            examples.append(Example(f"{labels[truth]} ({canvas_px} px)", picture, answers))
        return examples

    def _similarities(self, sketches: Sequence[Sketch], gallery: np.ndarray) -> np.ndarray:
        """Cosines (n, G); sketches of one canvas go through the encoder together."""
        canvases = np.array([self.selector(sketch) for sketch in sketches])
        result = np.empty((len(sketches), len(gallery)), np.float32)
        for canvas_px in np.unique(canvases):
            own = np.flatnonzero(canvases == canvas_px)
            for start in range(0, len(own), CHUNK):
                part = own[start : start + CHUNK]
                drawn = rasterise_batch([sketches[index] for index in part], int(canvas_px), self.minimum_width_px)
                result[part] = self._encode(drawn, int(canvas_px)) @ gallery.T
        return result

    def _encode(self, canvases: np.ndarray, canvas_px: int) -> np.ndarray:
        feeds = {"canvas": (canvases[:, None] - self.mean) / self.std}
        return _normalised(self.graphs[f"encoder_{canvas_px}"](feeds)["embedding"])

    def _split_gallery(self, arrays: Arrays) -> np.ndarray:
        return self._embed_gallery(arrays, "gallery_images", "gallery", "the split")

    def _embed_gallery(self, arrays: Arrays, images: str, embeddings: str, where: str) -> np.ndarray:
        needed = images if self.gallery_by_student else embeddings
        if needed not in arrays:
            raise RequestError(f"{where}: no array {needed!r}, which the sketch student's gallery needs")
        if not self.gallery_by_student:
            return _normalised(arrays[needed])
        parts = []
        for start in range(0, len(arrays[needed]), CHUNK):
            pixels = arrays[needed][start : start + CHUNK].astype(np.float32) / 255
            image = ((pixels - self.photo_mean) / self.photo_std).transpose(0, 3, 1, 2)
            parts.append(self.graphs["photo_encoder"]({"image": np.ascontiguousarray(image)})["embedding"])
        return _normalised(np.concatenate(parts))


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


def _normalised(embeddings: np.ndarray) -> np.ndarray:
    embeddings = np.asarray(embeddings, np.float32).reshape(len(embeddings), -1)
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
