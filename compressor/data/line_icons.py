"""Line drawings without photos: the outline icons of Lucide and Tabler. Unlabelled food for distillation.

They show things that some of OpenMoji's test concepts show too, in another hand and without a photo: a student sees
only the teacher's answer to them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.iconify import NEEDED, IconSet
from compressor.data.packages import Package, read_members
from compressor.data.pairs import write_pairs
from compressor.data.source import Progress, Source
from compressor.data.svg_workers import parse_svgs

PACKAGES = (
    Package(
        client="npm",
        name="@iconify-json/lucide",
        version="1.2.137",
        sha256="e74db8c3a55fff55bc82de21268c4bced9f65ff10aacc0d5f3a395b0e93243c3",
        licence="ISC",
        url="https://lucide.dev",
        note="Lucide contributors",
    ),
    Package(
        client="npm",
        name="@iconify-json/tabler",
        version="1.2.41",
        sha256="3bf99af156d28d05568aff524a35ed1ba238df640a7835a5e02e1f8e439685f6",
        licence="MIT",
        url="https://tabler.io/icons",
        note="Tabler Icons, Paweł Kuna",
    ),
)
# OpenMoji's, so that the line's width does not tell where a drawing is from; the icons' own is three times that.
LINE_WIDTH = 2 / 72


def is_outline(name: str, icon: Mapping[str, Any]) -> bool:
    """Whether an icon is drawn in lines, and still part of its set, and no company's logo."""
    return not (name.endswith("-filled") or name.startswith("brand-") or icon.get("hidden"))


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
    summary="some 6,500 line drawings without photos: the outline icons of Lucide and Tabler",
    packages=PACKAGES,
    build=build,
)
