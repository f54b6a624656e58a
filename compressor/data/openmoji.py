"""OpenMoji's line drawings with the pictures that Noto, Twemoji and OpenMoji itself have of the same concept.

1,644 emoji have all three (without skin tones, flags and OpenMoji's extras). A pair's photos are in the order of
VENDORS. OpenMoji's colour version is aligned with the line drawing pixel by pixel, so it is for training only. Most
pairs have up to three further pictures (FURTHER), for training too: another designer's view of the same thing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.concepts import concept_keys, equal_folds, group_by_keys
from compressor.data.iconify import NEEDED, IconSet
from compressor.data.packages import Package, read_members
from compressor.data.pairs import write_pairs
from compressor.data.sketch import Sketch
from compressor.data.source import Progress, Source
from compressor.data.svg_workers import parse_svgs, render_svgs

PHOTO_PX = 112
BLACK, COLOR = "package/black/svg/{}.svg", "package/color/svg/{}.svg"
VENDORS = ("noto", "twemoji", "openmoji")
FURTHER = ("fluent", "noto-v1", "emojione")
PACKAGES = {
    "openmoji": Package(
        client="npm",
        name="openmoji",
        version="17.0.0",
        sha256="55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
        licence="CC-BY-SA-4.0",
        url="https://openmoji.org",
        note="All emojis designed by OpenMoji, the open-source emoji and icon project",
    ),
    "noto": Package(
        client="npm",
        name="@iconify-json/noto",
        version="1.2.9",
        sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        licence="Apache-2.0",
        url="https://github.com/googlefonts/noto-emoji",
        note="Noto Emoji, Google",
    ),
    "twemoji": Package(
        client="npm",
        name="@iconify-json/twemoji",
        version="1.2.5",
        sha256="19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        licence="CC-BY-4.0",
        url="https://github.com/jdecked/twemoji",
        note="Twemoji, Twitter and contributors",
    ),
    "fluent": Package(
        client="npm",
        name="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        licence="MIT",
        url="https://github.com/microsoft/fluentui-emoji",
        note="Fluent Emoji, Microsoft",
    ),
    "noto-v1": Package(
        client="npm",
        name="@iconify-json/noto-v1",
        version="1.2.5",
        sha256="2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        licence="Apache-2.0",
        url="https://github.com/googlefonts/noto-emoji",
        note="Noto Emoji, the first version, Google",
    ),
    "emojione": Package(
        client="npm",
        name="@iconify-json/emojione",
        version="1.2.3",
        sha256="26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        licence="CC-BY-4.0",
        url="https://github.com/EmojiTwo/emojitwo",
        note="EmojiTwo, from Emoji One's last free version",
    ),
}


def build(directory: Path, archives: Mapping[str, Path], progress: Progress) -> dict[str, Any]:
    members = {key: read_members(archives[package.name], _is_needed) for key, package in PACKAGES.items()}
    icon_sets = {key: IconSet(members[key]) for key in PACKAGES if key != "openmoji"}
    svgs = {path: text.decode() for path, text in members["openmoji"].items() if path.endswith(".svg")}
    entries = json.loads(members["openmoji"]["package/data/openmoji.json"])
    sketches = read_lines([svgs[BLACK.format(entry["hexcode"])] for entry in entries], progress)
    # One line drawing (1F195, "NEW button") is empty in OpenMoji 17.0.0. What has no ink is no sketch of anything.
    blank = [entry["hexcode"] for entry, sketch in zip(entries, sketches, strict=True) if not len(sketch)]
    drawn = [(entry, sketch) for entry, sketch in zip(entries, sketches, strict=True) if len(sketch)]
    paired, unpaired = arrange([entry for entry, _ in drawn], [sketch for _, sketch in drawn], icon_sets)
    by_code = {entry["hexcode"]: sketch for entry, sketch in drawn}
    pictures = [picture for item in paired for picture in _pictures(item["hexcode"], icon_sets, svgs)]
    pixels = render_svgs(pictures, PHOTO_PX, lambda done: progress("photos", done, len(pictures)))
    photos = pixels.reshape(len(paired), len(VENDORS), PHOTO_PX, PHOTO_PX, 3)
    further = [list(_further(item["hexcode"], icon_sets)) for item in paired]
    texts = [text for own in further for text in own]
    more = render_svgs(texts, PHOTO_PX, lambda done: progress("further photos", done, len(texts)))
    items = [*paired, *unpaired]
    write_pairs(
        directory, items, [by_code[item["hexcode"]] for item in items], photos, more, [len(own) for own in further]
    )
    return {"vendors": list(VENDORS), "pairs": len(paired), "drawings": len(unpaired), "blank": blank}


def read_lines(svgs: Sequence[str], progress: Progress) -> list[Sketch]:
    """The strokes of each drawing. Every skin tone repeats its base's file, so each text is read once."""
    texts = [" ".join(re.sub(r'\bid="[^"]*"', "", svg).split()) for svg in svgs]
    unique = list(dict.fromkeys(texts))
    found = parse_svgs(unique, lambda done: progress("strokes", done, len(unique)))
    sketch_of = dict(zip(unique, found, strict=True))
    return [sketch_of[text] for text in texts]


def arrange(
    entries: Sequence[Mapping[str, Any]], sketches: Sequence[Sketch], icon_sets: Mapping[str, IconSet]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The items with all three pictures, and of the rest those whose lines no other item has.

    Emoji that share their lines (all skin tones do, coloured hearts, flags) are one concept. An unpaired drawing has
    the fold of its paired variants, or -1.
    """
    lines = [_lines(sketch) for sketch in sketches]
    keys = [
        [*concept_keys(entry["hexcode"], entry["annotation"]), ("lines", own)]
        for entry, own in zip(entries, lines, strict=True)
    ]
    concepts = [str(entries[first]["hexcode"]) for first in group_by_keys(keys)]
    is_paired = [
        not entry["skintone"]
        and entry["group"] != "flags"
        and not entry["group"].startswith("extras-")
        and all(icon_sets[key].emoji(entry["hexcode"]) for key in VENDORS[:2])
        for entry in entries
    ]
    paired_numbers = [number for number, chosen in enumerate(is_paired) if chosen]
    fold_numbers = equal_folds([concepts[number] for number in paired_numbers])
    folds = {concepts[number]: int(fold) for number, fold in zip(paired_numbers, fold_numbers, strict=True)}
    seen = {lines[number] for number in paired_numbers}
    new_numbers = []
    for number, own in enumerate(lines):
        if own not in seen:
            seen.add(own)
            new_numbers.append(number)

    def item(number: int) -> dict[str, Any]:
        entry, concept = entries[number], concepts[number]
        facts = {"hexcode": entry["hexcode"], "label": entry["annotation"], "group": entry["group"]}
        return {**facts, "subgroup": entry["subgroups"], "concept": concept, "fold": folds.get(concept, -1)}

    return [item(number) for number in paired_numbers], [item(number) for number in new_numbers]


def _lines(sketch: Sketch) -> bytes:
    """What a drawing's strokes are, to a tenth of its 72 units; the order of strokes does not count, nor do widths."""
    rounded = np.rint(sketch.points * 720).astype(np.int16)
    return b"/".join(sorted(stroke.tobytes() for stroke in np.split(rounded, sketch.offsets[1:-1])))


def _pictures(hexcode: str, icon_sets: Mapping[str, IconSet], svgs: Mapping[str, str]) -> list[str]:
    """The SVGs of an emoji in the order of VENDORS."""
    return [str(icon_sets[key].emoji(hexcode)) for key in VENDORS[:2]] + [svgs[COLOR.format(hexcode)]]


def _further(hexcode: str, icon_sets: Mapping[str, IconSet]) -> Iterator[str]:
    """The SVGs that FURTHER has of an emoji. Older sets have no table of code points, but Noto's names."""
    name = icon_sets["noto"].emoji_name(hexcode)
    for key in FURTHER:
        icons = icon_sets[key]
        if icons.names:
            picture = icons.emoji(hexcode)
        else:
            picture = icons.svg(name) if name is not None and icons.has(name) else None
        if picture is not None:
            yield picture


def _is_needed(path: str) -> bool:
    folders = ("package/black/svg/", "package/color/svg/")
    return path.startswith(folders) or path in NEEDED or path == "package/data/openmoji.json"


source = Source(
    name="openmoji",
    summary="line drawings of 1,643 emoji with their Noto, Twemoji and OpenMoji pictures",
    packages=tuple(PACKAGES.values()),
    build=build,
    revision=3,
)
