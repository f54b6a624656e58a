"""The bilingual CLIP student on a device: classify a picture, or find pictures by text and texts by picture. numpy
only.

Settings of the bundle:

    picture_px, text_length     what the towers take
    languages                   such as ["en", "zh"]

Graphs: `image` ("image" (n, 3, px, px) float32 in [0, 1] -> "embedding") and `text` ("ids" (n, length) int32, "mask"
(n, length) float32 -> "embedding"). Embeddings are normalised here.

Assets: tokenizer.json; gallery.npz with `embeddings` (G, D) and `label_LANGUAGE` (G,); classes.npz, the zero-shot
head, with `embeddings` (languages, C, D), made once of prompts, and `name_LANGUAGE` (C,). Classifying a picture runs
`image` only. Arrays of a split: `pictures` (n, px, px, 3) uint8, `caption_LANGUAGE` and `label_LANGUAGE` (n,) text,
`class` (n,) int64, -1 where there is none, and `thumbs` (n, h, w, 3) uint8 for the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from compressor.tasks.clip.metrics import ranks, recalls, unit_rows
from compressor.tasks.clip.pictures import to_input
from compressor.tasks.clip.tokenizer import Tokenizer
from profiles.errors import RequestError
from profiles.storage import load_npz
from targets.glue import Answer, Evaluation, Example, GraphCall, evenly_spread
from targets.graph import Arrays

CHUNK = 64
METRIC = "R@10"
TOKENIZER, GALLERY, CLASSES = "tokenizer.json", "gallery.npz", "classes.npz"
ANSWERS = 5


@dataclass(frozen=True)
class Found:
    """The answer to one query: what is nearest, best first: indices, cosines, and labels in the query's language."""

    indices: np.ndarray
    similarities: np.ndarray
    labels: tuple[str, ...]


class Glue:
    """See the module's docstring for graphs, settings and assets."""

    def __init__(self, graphs: Mapping[str, GraphCall], settings: Mapping[str, Any], assets: Path | None) -> None:
        self.graphs = graphs
        self.px, self.length = int(settings["picture_px"]), int(settings["text_length"])
        self.languages: tuple[str, ...] = tuple(settings["languages"])
        self._assets = Path(assets) if assets is not None else None

    # --- the towers ---

    def embed_pictures(self, pictures: np.ndarray) -> np.ndarray:
        """(n, H, W, 3) uint8 -> (n, D), L2-normalised."""
        starts = range(0, len(pictures), CHUNK)
        return self._joined("image", ({"image": to_input(pictures[at : at + CHUNK], self.px)} for at in starts))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts of any language -> (n, D), L2-normalised."""
        starts = range(0, len(texts), CHUNK)
        return self._joined("text", (self.tokenizer.batch(texts[at : at + CHUNK], self.length) for at in starts))

    def _joined(self, graph: str, chunks: Iterable[Arrays]) -> np.ndarray:
        return unit_rows(np.concatenate([self.graphs[graph](feeds)["embedding"] for feeds in chunks]))

    # --- answers ---

    def __call__(self, query: str | np.ndarray, language: str | None = None, count: int = 10) -> Found:
        """Text: the gallery's pictures nearest to it. A picture (H, W, 3) uint8: its classes, or where the student has
        none the gallery's things nearest to it. Labels are in `language`, the first one if it is not given."""
        code = language or self.languages[0]
        if isinstance(query, str):
            return self._nearest(self.embed_texts([query])[0], *self._gallery(code), count)
        embedding = self.embed_pictures(query[None])[0]
        table = self.classes(code) if self._has(CLASSES) else self._gallery(code)
        return self._nearest(embedding, *table, count)

    @staticmethod
    def _nearest(embedding: np.ndarray, rows: np.ndarray, labels: np.ndarray, count: int) -> Found:
        similarities = rows @ embedding
        best = np.argsort(-similarities, kind="stable")[:count]
        return Found(best, similarities[best], tuple(str(labels[index]) for index in best))

    def evaluate(self, arrays: Arrays, limit: int | None = None) -> Evaluation:
        """R@10 of text to image, per thing the mean over languages. Extras: R@1 and R@10 both ways in each language, of
        text to text across languages, and how many pictures the zero-shot head puts into their class.

        With a limit the gallery shrinks too, so only whole splits compare with one another."""
        image = self.embed_pictures(arrays["pictures"][:limit])
        texts = {code: self.embed_texts(arrays[f"caption_{code}"][:limit].tolist()) for code in self.languages}
        found = {code: ranks(text, image) for code, text in texts.items()}
        extras: dict[str, float] = {}
        for code, text in texts.items():
            extras |= recalls(f"{code} to image", found[code]) | recalls(f"image to {code}", ranks(image, text))
        for first, second in zip(self.languages, self.languages[1:], strict=False):
            extras |= recalls(f"{first} to {second}", ranks(texts[first], texts[second]))
        truth = np.asarray(arrays["class"][:limit])
        if self._has(CLASSES) and (truth >= 0).all():
            for code in self.languages:
                guess = (image @ self.classes(code)[0].T).argmax(1)
                extras[f"zero-shot {code}"] = float((guess == truth).mean())
        hits = np.mean([own <= 10 for own in found.values()], axis=0)
        return Evaluation(METRIC, hits.astype(np.float64), extras=extras)

    def queries(self, arrays: Arrays) -> Iterator[str | np.ndarray]:
        """Pictures and captions by turns, languages by turns: half of the queries run each tower."""
        for index in range(len(arrays["pictures"])):
            yield arrays["pictures"][index]
            yield str(arrays[f"caption_{self.languages[index % len(self.languages)]}"][index])

    # --- pictures for the report ---

    def examples(self, arrays: Arrays, count: int) -> list[Example]:
        """Retrieval in each language, the things that the languages disagree most about, and zero-shot confusions."""
        image = self.embed_pictures(arrays["pictures"])
        texts = {code: self.embed_texts(arrays[f"caption_{code}"].tolist()) for code in self.languages}
        share = max(1, count // 3)
        spread = evenly_spread(len(image), share)
        examples = [self._retrieval(arrays, image, texts, int(index), "") for index in spread]
        if len(self.languages) > 1:
            both = np.stack([ranks(text, image) for text in texts.values()])
            apart = np.argsort(-np.ptp(np.log(both), axis=0), kind="stable")[:share]
            examples += [self._retrieval(arrays, image, texts, int(i), "languages disagree: ") for i in apart]
        return [*examples, *self._confusions(arrays, image, share)]

    def _retrieval(
        self, arrays: Arrays, image: np.ndarray, texts: Mapping[str, np.ndarray], index: int, note: str
    ) -> Example:
        """One thing asked for in each language, its own picture as the query; each answer says which language found
        it.
        """
        answers = []
        for code, rows in texts.items():
            for best in np.argsort(-(image @ rows[index]), kind="stable")[: max(2, ANSWERS // len(texts))]:
                label = f"{code}: {arrays[f'label_{code}'][best]}"
                answers.append(Answer(self._thumb(arrays, int(best)), label, int(best) == index))
        asked = " / ".join(str(arrays[f"label_{code}"][index]) for code in self.languages)
        return Example(f"{note}{asked}", self._thumb(arrays, index), tuple(answers))

    def _confusions(self, arrays: Arrays, image: np.ndarray, count: int) -> list[Example]:
        """Pictures in the wrong class, of as many pairs (class, taken for) as there are examples, the commonest
        first.
        """
        truth = np.asarray(arrays["class"])
        if not self._has(CLASSES) or (truth < 0).any():
            return []
        code = self.languages[0]
        rows, names = self.classes(code)
        similarities = image @ rows.T
        guess = similarities.argmax(1)
        wrong = np.flatnonzero(guess != truth)
        pairs, first, times = np.unique(truth[wrong] * len(names) + guess[wrong], return_index=True, return_counts=True)
        examples = []
        for number in np.argsort(-times, kind="stable")[:count]:
            index = int(wrong[first[number]])
            answers = tuple(
                Answer(None, f"{names[best]} {similarities[index, best]:.2f}", int(best) == truth[index])
                for best in np.argsort(-similarities[index], kind="stable")[:ANSWERS]
            )
            own, taken = divmod(int(pairs[number]), len(names))
            title = f"zero-shot: {names[own]} taken for {names[taken]}, {times[number]} of {len(truth)} pictures"
            examples.append(Example(title, self._thumb(arrays, index), answers))
        return examples

    @staticmethod
    def _thumb(arrays: Arrays, index: int) -> np.ndarray:
        return arrays.get("thumbs", arrays["pictures"])[index]

    # --- assets ---

    def _has(self, name: str) -> bool:
        return self._assets is not None and (self._assets / name).is_file()

    def _asset(self, name: str) -> Path:
        if not self._has(name):
            raise RequestError(f"this student has no {name} among its assets")
        assert self._assets is not None
        return self._assets / name

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self._asset(TOKENIZER))

    @cached_property
    def _gallery_arrays(self) -> dict[str, np.ndarray]:
        return load_npz(self._asset(GALLERY))

    @cached_property
    def _class_arrays(self) -> dict[str, np.ndarray]:
        return load_npz(self._asset(CLASSES))

    def _gallery(self, code: str) -> tuple[np.ndarray, np.ndarray]:
        arrays = self._gallery_arrays
        return arrays["embeddings"], self._names(arrays, f"label_{code}")

    def classes(self, code: str) -> tuple[np.ndarray, np.ndarray]:
        """The zero-shot head of one language: embeddings (C, D) and names (C,)."""
        arrays = self._class_arrays
        names = self._names(arrays, f"name_{code}")
        return arrays["embeddings"][self.languages.index(code)], names

    def _names(self, arrays: Arrays, key: str) -> np.ndarray:
        if key not in arrays:
            raise RequestError(f"language {key.rpartition('_')[2]!r}: this student knows {', '.join(self.languages)}")
        return arrays[key]


def class_embeddings(glue: Glue, names: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
    """(C, D): of each class the mean of its prompts' embeddings, L2-normalised; {} in a prompt is the class's name."""
    rows = glue.embed_texts([prompt.replace("{}", name) for name in names for prompt in prompts])
    return unit_rows(rows.reshape(len(names), len(prompts), -1).mean(1))
