"""Training the tokenizer on text of all languages, with the library `tokenizers`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compressor.tasks.clip.tokenizer import WORDS, Tokenizer, prepared
from profiles.errors import require
from profiles.storage import atomic_file


def train_tokenizer(texts: Iterable[str], vocabulary: int, path: Path) -> Tokenizer:
    """Learn merges until there are `vocabulary` ids (the 256 bytes among them), write tokenizer.json, read it back."""
    library: Any = require("tokenizers", "clip")
    tokenizer = library.Tokenizer(library.models.BPE())
    words = library.pre_tokenizers.Split(library.Regex(WORDS), behavior="isolated")
    as_bytes = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence([words, as_bytes])
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((prepared(text) for text in texts), trainer)
    with atomic_file(path) as temporary:
        temporary.write_text(tokenizer.to_str(), encoding="utf-8")
    return Tokenizer(path)
