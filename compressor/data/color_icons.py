"""Coloured icons without captions: fourteen free sets. Unlabelled pictures for distilling an image tower.

They show things that some of the emoji show too, in another hand; `CaptionDataset.without` finds those by the words of
their names, so that a task can leave them out. On disk they are captioned pictures (captions.py) of one vendor, whose
label is the icon's name, in English only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.captions import write_captions
from compressor.data.iconify import NEEDED, IconSet, icons_package
from compressor.data.packages import read_members
from compressor.data.source import Progress, Source
from compressor.data.svg_workers import render_svgs

PICTURE_PX = 128  # as emoji_captions.py has
PACKAGES = (
    icons_package(
        "streamline-color",
        "1.2.2",
        "06c2addb59f572b2bfe581863888fcf7dbe0927e0511e7157c54f332fe90347f",
        "CC-BY-4.0",
        "https://github.com/webalys-hq/streamline-vectors",
        "Streamline, the core set in colour",
    ),
    icons_package(
        "streamline-ultimate-color",
        "1.2.2",
        "46133a11f3734bcef29066391d7edc141ed1d8056242ddfa1b5d36ce286420b6",
        "CC-BY-4.0",
        "https://github.com/webalys-hq/streamline-vectors",
        "Streamline, the free ultimate set in colour",
    ),
    icons_package(
        "streamline-plump-color",
        "1.2.2",
        "33ed8a9ebda9ed896125f1e01873105688d68d0b0c95ca1bcead5a41309afcf6",
        "CC-BY-4.0",
        "https://github.com/webalys-hq/streamline-vectors",
        "Streamline, the free plump set in colour",
    ),
    icons_package(
        "streamline-flex-color",
        "1.2.2",
        "17ef2e9d596bb288991c271a2b468be822f994cb073c94801a1c186a0e4af827",
        "CC-BY-4.0",
        "https://github.com/webalys-hq/streamline-vectors",
        "Streamline, the free flex set in colour",
    ),
    icons_package(
        "streamline-sharp-color",
        "1.2.2",
        "2bf3019009ba033d723823dc16ff3c7f5a7dbce25e31860ed9d4b1060a1f5831",
        "CC-BY-4.0",
        "https://github.com/webalys-hq/streamline-vectors",
        "Streamline, the free sharp set in colour",
    ),
    icons_package(
        "streamline-freehand-color",
        "1.2.2",
        "00d74cbddaf1bcf35c8614ac0544d10af69c7cee8801475473fe424ee0c0c642",
        "CC-BY-4.0",
        "https://github.com/webalys-hq/streamline-vectors",
        "Streamline, the free freehand set in colour",
    ),
    icons_package(
        "streamline-kameleon-color",
        "1.2.2",
        "5f972d986afb340d8a45d7a16e767f99f91fdd94db53e46a78c79847212aed7b",
        "CC-BY-4.0",
        "https://github.com/webalys-hq/streamline-vectors",
        "Streamline, the free kameleon set",
    ),
    icons_package(
        "streamline-cyber-color",
        "1.2.2",
        "bc71bb624b8a500841e2e47c0175bf13dfb99b38a6ddc2421d3ac21331e21eac",
        "CC-BY-4.0",
        "https://github.com/webalys-hq/streamline-vectors",
        "Streamline, the free cyber set in colour",
    ),
    icons_package(
        "streamline-stickies-color",
        "1.2.2",
        "e96b8b2bbe1efde22272c420a75024b4b2c7e224ec1f323c93a421a07410971e",
        "CC-BY-4.0",
        "https://github.com/webalys-hq/streamline-vectors",
        "Streamline, the free stickies set",
    ),
    icons_package(
        "icon-park",
        "1.2.4",
        "c1a25212a31602aca93c3fa6f6b3288e89b9d7811afc132dfd78506e9d586b6f",
        "Apache-2.0",
        "https://github.com/bytedance/IconPark",
        "IconPark, ByteDance",
    ),
    icons_package(
        "flat-color-icons",
        "1.2.3",
        "d8878a9b0f02d749bc8671eb7d47882eb711185cbcefbb365cbfb488773c4786",
        "MIT",
        "https://github.com/icons8/flat-Color-icons",
        "Icons8, free flat icons",
    ),
    icons_package(
        "fluent-color",
        "1.2.21",
        "fa2ddaaac7a2a7b902659cea1b5b8c03017ce2ae56295138876b86a36177dfbe",
        "MIT",
        "https://github.com/microsoft/fluentui-system-icons",
        "Fluent UI System Icons in colour, Microsoft",
    ),
    icons_package(
        "marketeq",
        "1.2.2",
        "80070c7b0fb41ed5198ecadb9145984d2221b975bb9e0f52f563beb241d549cb",
        "MIT",
        "https://icon-sets.iconify.design/marketeq/",
        "Marketeq",
    ),
    icons_package(
        "meteocons",
        "1.2.4",
        "1c0b49c6375c0e35c3ed65db6e41e9811a0cbd2368c13ee27f870f60c6185ff0",
        "MIT",
        "https://github.com/basmilius/weather-icons",
        "Meteocons, Bas Milius",
    ),
)


def largest_sizes(icons: Mapping[str, Any]) -> Iterator[str]:
    """Names without those of smaller drawings of the same icon ("video-16" beside "video-28") and without hidden ones.

    >>> list(largest_sizes({"video-16": {}, "video-28": {}, "zodiac": {}, "old": {"hidden": True}}))
    ['video-28', 'zodiac']
    """
    sizes: dict[str, tuple[int, str]] = {}
    for name, icon in icons.items():
        if icon.get("hidden"):
            continue
        stem, size = re.fullmatch(r"(.*?)(?:-(12|16|20|24|28|32|48))?", name).groups()  # type: ignore[union-attr]
        sizes[stem] = max(sizes.get(stem, (0, name)), (int(size or 0), name))
    return (name for _, name in sizes.values())


def build(directory: Path, archives: Mapping[str, Path], progress: Progress) -> dict[str, Any]:
    labels: list[str] = []
    svgs: dict[str, None] = {}  # ordered, each text once
    for package in PACKAGES:
        icons = IconSet(read_members(archives[package.name], lambda path: path in NEEDED))
        for name in largest_sizes(icons.icons):
            text = icons.svg(name)
            if text not in svgs:
                svgs[text] = None
                labels.append(name.replace("-", " "))
    pixels = render_svgs(list(svgs), PICTURE_PX, lambda done: progress("pictures", done, len(svgs)))
    items = [{"name": label, "concept": f"icon/{label}", "en": {"label": label, "tags": []}} for label in labels]
    none = np.zeros((0, *pixels.shape[1:]), np.uint8)
    write_captions(directory, items, pixels[:, None], none, [0] * len(items))
    return {"vendors": ["icons"], "languages": ["en"], "pairs": len(items)}


source = Source(
    name="color-icons",
    summary="some 12,000 coloured icons without captions: fourteen free sets",
    packages=PACKAGES,
    build=build,
)
