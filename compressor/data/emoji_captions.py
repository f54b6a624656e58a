"""Emoji as captioned pictures: Noto's, Twemoji's and OpenMoji's of one concept, with English and Chinese captions.

The pictures are those of the source "openmoji", larger, and of one concept more, whose line drawing is empty. Labels,
tags and the names of the groups, which are classes to recognise, are from emojibase. captions.py has the form on disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.data.captions import write_captions
from compressor.data.concepts import concept_keys, equal_folds, group_by_keys
from compressor.data.iconify import NEEDED, IconSet
from compressor.data.openmoji import COLOR, FURTHER, VENDORS
from compressor.data.openmoji import PACKAGES as PICTURES
from compressor.data.packages import Package, read_members
from compressor.data.source import Progress, Source
from compressor.data.svg_workers import render_svgs

PICTURE_PX = 128
LANGUAGES = ("en", "zh")
LABELS, MESSAGES = "package/{}/data.json", "package/{}/messages.json"
EMOJIBASE = Package(
    client="npm",
    name="emojibase-data",
    version="17.0.0",
    sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    licence="MIT",
    url="https://emojibase.dev",
    note="Emojibase, Miles Johnson; labels and tags after Unicode CLDR",
)


def build(directory: Path, archives: Mapping[str, Path], progress: Progress) -> dict[str, Any]:
    members = {key: read_members(archives[package.name], _is_needed) for key, package in PICTURES.items()}
    icon_sets = {key: IconSet(members[key]) for key in PICTURES if key != "openmoji"}
    drawn = members["openmoji"]
    wanted = {name.format(code) for name in (LABELS, MESSAGES) for code in LANGUAGES}
    labels = read_members(archives[EMOJIBASE.name], lambda path: path in wanted)
    tables = {code: _by_hexcode(labels[LABELS.format(code)]) for code in LANGUAGES}
    entries = [
        entry
        for entry in json.loads(drawn["package/data/openmoji.json"])
        if _is_concept(entry)
        and COLOR.format(entry["hexcode"]) in drawn
        and all(icon_sets[key].emoji(entry["hexcode"]) for key in VENDORS[:2])
        and all(_plain(entry["hexcode"]) in table for table in tables.values())
    ]
    keys = [concept_keys(entry["hexcode"], entry["annotation"]) for entry in entries]
    concepts = [str(entries[first]["hexcode"]) for first in group_by_keys(keys)]
    folds = equal_folds(concepts)
    items, svgs, further = [], [], []
    for entry, concept, fold in zip(entries, concepts, folds, strict=True):
        code = entry["hexcode"]
        captions = {language: _caption(table[_plain(code)]) for language, table in tables.items()}
        items.append({"name": code, "class": entry["group"], "concept": concept, "fold": int(fold), **captions})
        svgs += [str(icon_sets[key].emoji(code)) for key in VENDORS[:2]] + [drawn[COLOR.format(code)].decode()]
        further.append(_further(code, icon_sets))
    pixels = render_svgs(svgs, PICTURE_PX, lambda done: progress("pictures", done, len(svgs)))
    texts = [text for own in further for text in own]
    more = render_svgs(texts, PICTURE_PX, lambda done: progress("further pictures", done, len(texts)))
    write_captions(
        directory,
        items,
        pixels.reshape(len(items), len(VENDORS), PICTURE_PX, PICTURE_PX, 3),
        more,
        [len(own) for own in further],
    )
    names = {code: _group_names(labels[MESSAGES.format(code)]) for code in LANGUAGES}
    groups = sorted({item["class"] for item in items})
    classes = [{"key": group, **{code: names[code][group] for code in LANGUAGES}} for group in groups]
    return {"vendors": list(VENDORS), "languages": list(LANGUAGES), "classes": classes, "pairs": len(items)}


def _is_concept(entry: Mapping[str, Any]) -> bool:
    """No skin tone, no flag, none of OpenMoji's own extras."""
    return not entry["skintone"] and entry["group"] != "flags" and not entry["group"].startswith("extras-")


def _plain(hexcode: str) -> str:
    """Emoji sequences are written with and without presentation selectors."""
    return "-".join(code for code in hexcode.upper().split("-") if code != "FE0F")


def _by_hexcode(content: bytes) -> dict[str, dict[str, Any]]:
    return {_plain(entry["hexcode"]): entry for entry in json.loads(content)}


def _group_names(content: bytes) -> dict[str, str]:
    return {group["key"]: group["message"] for group in json.loads(content)["groups"]}


def _caption(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"label": entry["label"], "tags": list(entry.get("tags", ()))}


def _further(hexcode: str, icon_sets: Mapping[str, IconSet]) -> list[str]:
    """What other sets have of an emoji. Older sets have no table of code points, but Noto's names."""
    name = icon_sets["noto"].emoji_name(hexcode)
    found = []
    for icons in (icon_sets[key] for key in FURTHER):
        if icons.names:
            found.append(icons.emoji(hexcode))
        elif name is not None and icons.has(name):
            found.append(icons.svg(name))
    return [picture for picture in found if picture is not None]


def _is_needed(path: str) -> bool:
    return path.startswith("package/color/svg/") or path in NEEDED or path == "package/data/openmoji.json"


source = Source(
    name="emoji-captions",
    summary="1,644 emoji with Noto, Twemoji and OpenMoji pictures, English and Chinese labels and tags",
    packages=(EMOJIBASE, *PICTURES.values()),
    build=build,
    revision=2,
)
