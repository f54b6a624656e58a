"""Line drawings without photos: the outline icons of eight free sets. Unlabelled food for distillation.

They show things that some of OpenMoji's test concepts show too, in another hand: `compressor.data.words` finds those by
their names, so that a task can leave them out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.iconify import NEEDED, IconSet, icons_package
from compressor.data.packages import read_members
from compressor.data.pairs import write_pairs
from compressor.data.source import Progress, Source
from compressor.data.svg_workers import parse_svgs

PACKAGES = (
    icons_package(
        "lucide",
        "1.2.137",
        "e74db8c3a55fff55bc82de21268c4bced9f65ff10aacc0d5f3a395b0e93243c3",
        "ISC",
        "https://lucide.dev",
        "Lucide contributors",
    ),
    icons_package(
        "tabler",
        "1.2.41",
        "3bf99af156d28d05568aff524a35ed1ba238df640a7835a5e02e1f8e439685f6",
        "MIT",
        "https://tabler.io/icons",
        "Tabler Icons, Paweł Kuna",
    ),
    icons_package(
        "hugeicons",
        "1.2.35",
        "cca09de913319938961fa0613a8eb42952f76c3ee13a7c68ef411091590c5d8b",
        "MIT",
        "https://hugeicons.com",
        "Hugeicons, the free set",
    ),
    icons_package(
        "solar",
        "1.2.13",
        "9efec9045e9188c5dd5cf9de52f8ad968ffabee565026480a6c74bfe63b3bbc2",
        "CC-BY-4.0",
        "https://www.figma.com/community/file/1166831539721848736",
        "Solar, 480 Design",
    ),
    icons_package(
        "iconoir",
        "1.2.11",
        "8e5d3bfbd55aa8ef3878f0c2f248cf71fe99822172fd07990e32ab7fe7a68b1e",
        "MIT",
        "https://iconoir.com",
        "Iconoir, Luca Burgio",
    ),
    icons_package(
        "streamline",
        "1.2.5",
        "b64ca35d4d9fb1f6e730d260ab59e1ded79b23d9f156f8d2f458df6a7aa4cf53",
        "CC-BY-4.0",
        "https://github.com/webalys-hq/streamline-vectors",
        "Streamline, the free core set",
    ),
    icons_package(
        "mingcute",
        "1.2.8",
        "fec65f4430ac70a968e0e7fc7741e7064ba91e6da992b905f75c9d70c717bd2c",
        "Apache-2.0",
        "https://github.com/Richard9394/MingCute",
        "MingCute Design",
    ),
    icons_package(
        "lucide-lab",
        "1.2.3",
        "ea0a3dc587d60e65b4e710f2239a54a6609fcd19b214f9eb0df66874f920df08",
        "ISC",
        "https://github.com/lucide-icons/lucide-lab",
        "Lucide contributors",
    ),
)
# OpenMoji's, so that the line's width does not tell where a drawing is from; the icons' own is three times that.
LINE_WIDTH = 2 / 72


# Styles of a set that fill their shapes or repeat the outline in another form, by the end of the name.
OTHER_STYLES = ("-filled", "-fill", "-solid", "-remix", "-bold", "-duotone", "-broken", "-outline")


def is_outline(name: str, icon: Mapping[str, Any]) -> bool:
    """Whether an icon is drawn in lines, and still part of its set, and no company's logo."""
    body = icon["body"]
    drawn = "stroke=" in body and 'fill="none"' in body
    return drawn and not (name.endswith(OTHER_STYLES) or name.startswith("brand-") or icon.get("hidden"))


def build(directory: Path, archives: Mapping[str, Path], progress: Progress) -> dict[str, Any]:
    labels: list[str] = []
    svgs: dict[str, None] = {}  # ordered, each text once
    for package in PACKAGES:
        icons = IconSet(read_members(archives[package.name], lambda path: path in NEEDED))
        for name, icon in icons.icons.items():
            text = icons.svg(name)
            if is_outline(name, icon) and text not in svgs:
                svgs[text] = None
                labels.append(name.replace("-", " "))
    sketches = parse_svgs(list(svgs), lambda done: progress("strokes", done, len(svgs)))
    kept = [(label, sketch) for label, sketch in zip(labels, sketches, strict=True) if len(sketch)]
    thin = [
        dataclasses.replace(sketch, widths=np.where(sketch.filled == 0, np.float32(LINE_WIDTH), 0).astype(np.float32))
        for _, sketch in kept
    ]
    items = [{"label": label, "concept": f"icon/{label}", "fold": -1} for label, _ in kept]
    write_pairs(directory, items, thin, [])
    return {"vendors": [], "pairs": 0, "drawings": len(items)}


source = Source(
    name="line-icons",
    summary="some 19,000 line drawings without photos: the outline icons of eight free sets",
    packages=PACKAGES,
    build=build,
    revision=2,
)
