"""Captioned pictures: one's own pairs as a stream, splits by concept, text without pictures."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from compressor.data.bilingual_text import dictionary, messages
from compressor.data.captions import CaptionDataset, load_captions
from compressor.data.color_icons import largest_sizes
from compressor.data.pairs_stream import stream_pairs
from compressor.data.wordnet import synsets
from compressor.tasks.clip.targets import compose, read_texts
from profiles.errors import RequestError
from tests.compressor.clip_toy import toy_pairs, toy_pictures, write_shards, write_unnamed
from tests.tools import need_module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CaptionDataset:
    root = tmp_path_factory.mktemp("pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_COMPRESSOR_CACHE", str(root / "cache"))
        return load_captions(write_shards(root / "shards"), picture_px=40)


def write_csv(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    with open(folder / "pairs.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "en", "zh"])
        for key, png, en, zh in toy_pairs():
            (folder / f"{key}.png").write_bytes(png)
            writer.writerow([f"{key}.png", en, zh])
    return folder


def write_parquet(folder: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(exist_ok=True)
    rows = list(toy_pairs())
    columns = {
        "image": [{"bytes": png} for _, png, _, _ in rows],
        "en": [r[2] for r in rows],
        "zh": [r[3] for r in rows],
    }
    parquet.write_table(pyarrow.table(columns), folder / "pairs.parquet", row_group_size=7)
    return folder


def test_shards_parquet_and_csv_give_the_same_pairs(tmp_path: Path) -> None:
    need_module("pyarrow")
    sets = [
        {(pair.image, pair.captions["en"], pair.captions["zh"]) for pair in stream_pairs(path)}
        for path in (write_shards(tmp_path / "a"), write_csv(tmp_path / "b"), write_parquet(tmp_path / "c"))
    ]
    assert sets[0] == sets[1] == sets[2] == {(png, en, zh) for _, png, en, zh in toy_pairs()}


def test_a_stream_is_read_pair_by_pair(tmp_path: Path) -> None:
    """A shard that is cut off after its first pairs still gives those: nothing waits for the whole."""
    shard = next(iter(sorted(write_shards(tmp_path).glob("*.tar"))))
    shard.write_bytes(shard.read_bytes()[:6000])
    pairs = stream_pairs(shard)
    assert next(pairs).captions["en"] == next(toy_pairs())[2]
    with pytest.raises(RequestError, match="not a readable shard"):
        list(pairs)


def test_pictures_and_captions_come_back_as_they_were(data: CaptionDataset) -> None:
    order = [item["name"].rpartition("/")[2] for item in data.items]
    expected = {key: picture for (key, *_), picture in zip(toy_pairs(), toy_pictures(), strict=True)}
    captions = {key: (en, zh) for key, _, en, zh in toy_pairs()}
    assert sorted(order) == sorted(captions) and data.languages == ("en", "zh")
    for index, key in enumerate(order):
        assert np.array_equal(data.pictures(index)[0], expected[key])
        assert (data.caption(index, "en"), data.caption(index, "zh")) == captions[key]


def test_what_is_missing_in_a_pair_is_named(tmp_path: Path) -> None:
    folder = write_csv(tmp_path)
    (folder / "red-bar-left.png").unlink()
    with pytest.raises(RequestError, match="red-bar-left"):
        list(stream_pairs(folder))
    with pytest.raises(RequestError, match="no webdataset shards"):
        list(stream_pairs(tmp_path / "nothing"))


def test_every_thing_is_tested_once_and_no_concept_of_it_is_trained_on(data: CaptionDataset) -> None:
    concepts = np.array([f"c{index // 2}" for index in range(len(data))])  # pairs of variants
    for item, concept in zip(data.items, concepts, strict=True):
        item["concept"] = concept
    splits = [data.split(fold) for fold in range(5)]
    assert sorted(np.concatenate([split.test for split in splits]).tolist()) == list(range(len(data)))
    for split in splits:
        assert not set(concepts[split.train]) & set(concepts[np.concatenate([split.validation, split.test])])
        assert not set(concepts[split.validation]) & set(concepts[split.test])
    with pytest.raises(RequestError, match="folds 0 to 4"):
        data.split(5)


def test_pictures_whose_caption_shares_a_word_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_COMPRESSOR_CACHE", str(tmp_path / "cache"))
    pictures = load_captions(write_unnamed(tmp_path / "pictures"), picture_px=40)
    kept = {pictures.label(int(index), "en") for index in pictures.without({"disc", "bar"})}
    pictures.languages = ("zh",)
    with pytest.raises(RequestError, match="no English captions"):
        pictures.without({"disc"})
    assert kept == {f"gadget {number}" for number in range(1, 10)}


def test_of_an_icon_s_sizes_the_largest_is_taken() -> None:
    icons = {"video-16": {}, "video-28": {}, "zodiac-1": {}, "zodiac-2": {}, "old": {"hidden": True}}
    assert list(largest_sizes(icons)) == ["video-28", "zodiac-1", "zodiac-2"]


def test_wordnet_s_synsets_give_their_words_and_their_definition() -> None:
    """Lines of the form that wndb(5WN) describes."""
    lines = [
        "  1 This software and database is being provided to you, the LICENSEE, by",
        '02084071 05 n 02 dog 0 domestic_dog 0 002 @ 02083346 n 0000 ~ 01 n 0000 | a canine; "the dog barked"  ',
        "00003131 00 a 01 adducent(a) 0 000 | especially of muscles; drawing inward  ",
    ]
    found = ["dog, domestic dog", "a canine", "adducent", "especially of muscles; drawing inward"]
    assert list(synsets("\n".join(lines))) == found


def test_texts_of_one_language_are_read_beside_pairs(tmp_path: Path) -> None:
    paths = []
    for number, pairs in enumerate([[["cat", "猫"], ["dog", "狗"]], [["a canine", ""], ["feline", ""], ["x", ""]]]):
        paths.append(str(tmp_path / f"{number}.json"))
        Path(paths[-1]).write_text(json.dumps(pairs), encoding="utf-8")
    assert len(read_texts(paths, limit=2)) == 4  # of each source


def test_composed_texts_are_a_short_text_and_some_of_those_that_mean_the_like() -> None:
    """Two groups of directions: no text has parts of both while a group has as many as are looked for."""
    rng = np.random.default_rng(0)
    texts = [f"{group} {number}" for group in ("cat", "dog") for number in range(60)] + ["a definition, " * 3]
    features = np.repeat([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [60, 60, 1], axis=0) + rng.normal(0, 0.05, (121, 2))
    rows = np.concatenate([part["rows"] for part in compose(texts, features, 700)])
    counts = (rows >= 0).sum(1)
    assert rows.shape == (700, 12) and counts.min() == 2 and counts.max() == 12 and rows.max() < 120
    assert np.array_equal(rows, np.concatenate([part["rows"] for part in compose(texts, features, 700)]))
    for row, count in zip(rows, counts, strict=True):
        own = row[:count]
        assert (row[count:] == -1).all() and len(set(own)) == count and len(set(own // 60)) == 1
    assert [*compose([], np.zeros((0, 2)), 50)] == []


def test_catalogues_and_the_dictionary_give_pairs() -> None:
    import struct

    entries = sorted([(b"", b"Content-Type: text/plain; charset=utf-8\n"), (b"menu\x04Open", "打开".encode())])
    keys, values, offset = b"", b"", 28 + 16 * len(entries)
    tables: list[list[int]] = [[], []]
    for key, value in entries:
        tables[0] += [len(key), offset + len(keys)]
        keys += key + b"\0"
        tables[1] += [len(value), len(values)]
        values += value + b"\0"
    for index in range(1, len(tables[1]), 2):
        tables[1][index] += offset + len(keys)
    head = struct.pack("<7I", 0x950412DE, 0, len(entries), 28, 28 + 8 * len(entries), 0, 0)
    content = io.BytesIO(head + struct.pack(f"<{4 * len(entries)}I", *tables[0], *tables[1]) + keys + values).getvalue()
    assert list(messages(content)) == [("Open", "打开")]
    entry = '["貓","猫","mao1","cat; (coll.) a cat person; CL:隻|只[zhi1]",[],[]]'
    assert list(dictionary(f'export default {{"all":[{entry}]}}'.encode())) == [("cat", "猫"), ("a cat person", "猫")]


def test_icons_are_captioned_by_their_names_and_tags() -> None:
    """Each set has a form of its own; a name or tag that is the label is not said twice."""
    from compressor.data import icon_tags

    sets = {package.name: read for package, _, read in icon_tags.SETS}
    found = {
        "lucide-static": {"a-cat": ["pet", "a cat"]},
        "@tabler/icons": {
            "a-cat": {"category": "Animals", "tags": ["pet", 9]},
            "brand-x": {"category": "Brand", "tags": []},
        },
        "ionicons": {"icons": [{"name": "a-cat", "tags": ["cat"]}]},
        "@fortawesome/fontawesome-free": {
            "cat": {"svgs": {"classic": ["solid"]}, "search": {"terms": ["pet"]}, "aliases": {"names": ["kitty"]}},
            "x": {"svgs": {"classic": ["brands"]}, "search": {"terms": []}},
        },
        "@mdi/svg": [{"name": "cat", "aliases": []}],
    }
    expected = {
        "lucide-static": ["a cat", "a cat, pet"],
        "@tabler/icons": ["a cat", "a cat, 9, pet"],
        "ionicons": ["a cat", "a cat, cat"],
        "@fortawesome/fontawesome-free": ["cat", "cat, kitty, pet"],
        "@mdi/svg": ["cat"],
    }
    for name, content in found.items():
        texts = [text for icon, tags in sets[name](content) for text in icon_tags.captions(icon, tags)]
        assert texts == expected[name], name
    (longest,) = set(icon_tags.captions("a", [f"tag {number:03}" for number in range(90)])) - {"a"}
    assert len(longest) <= 160
