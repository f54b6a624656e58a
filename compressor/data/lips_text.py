"""Sentences to be spoken: commands of the GRID corpus' form in English, and commands in Mandarin.

GRID (Cooke et al. 2006): verb, colour, preposition, letter, digit, adverb. The letter is what lip readers fail at: B
and P, or D and T, look alike. The Mandarin commands have a surname in that place. Both languages have far more
sentences than are drawn, so those of the parts can be disjoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grammar:
    """`slots`: the words that may stand at each place. `separator` joins them. `hard_slot`: the place whose words look
    alike. `voice`: espeak's. `pinyin`: of each Chinese character, without tones; empty in English."""

    language: str
    voice: str
    separator: str
    slots: tuple[tuple[str, ...], ...]
    hard_slot: int
    pinyin: dict[str, str]

    def sentence(self, number: int) -> list[str]:
        """The words of sentence `number`, from 0 to `size - 1`: a mixed-radix number, the last slot the fastest."""
        words = []
        for slot in reversed(self.slots):
            number, place = divmod(number, len(slot))
            words.append(slot[place])
        return words[::-1]

    @property
    def size(self) -> int:
        return int(np.prod([len(slot) for slot in self.slots]))

    def text(self, words: list[str]) -> str:
        return self.separator.join(words)


LETTERS = tuple("abcdefghijklmnopqrstuvxyz")  # GRID leaves out w, the only one of three syllables
ENGLISH = Grammar(
    language="en",
    voice="en-us",
    separator=" ",
    slots=(
        ("bin", "lay", "place", "set"),
        ("blue", "green", "red", "white"),
        ("at", "by", "in", "with"),
        LETTERS,
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        ("again", "now", "please", "soon"),
    ),
    hard_slot=3,
    pinyin={},
)
SURNAMES = {
    "王": "wang", "李": "li", "张": "zhang", "刘": "liu", "陈": "chen", "杨": "yang", "赵": "zhao", "黄": "huang",
    "周": "zhou", "吴": "wu", "徐": "xu", "孙": "sun", "胡": "hu", "朱": "zhu", "高": "gao", "林": "lin", "何": "he",
    "郭": "guo", "马": "ma", "罗": "luo", "白": "bai", "潘": "pan", "毛": "mao", "包": "bao", "方": "fang",
}  # fmt: skip
DIGITS = {
    "零": "ling", "一": "yi", "二": "er", "三": "san", "四": "si", "五": "wu", "六": "liu", "七": "qi", "八": "ba",
    "九": "jiu",
}  # fmt: skip
OTHER = {
    "打": "da", "给": "gei", "找": "zhao", "到": "dao", "告": "gao", "诉": "su", "提": "ti", "醒": "xing",
    "老": "lao", "小": "xiao", "今": "jin", "明": "ming", "天": "tian", "早": "zao", "上": "shang", "晚": "wan",
    "点": "dian", "楼": "lou", "号": "hao", "分": "fen",
}  # fmt: skip
MANDARIN = Grammar(
    language="cmn",
    voice="cmn",
    separator="",
    slots=(
        ("打给", "找到", "告诉", "提醒"),
        ("老", "小"),
        tuple(SURNAMES),
        ("今天", "明天", "早上", "晚上"),
        tuple(DIGITS),
        ("点", "楼", "号", "分"),
    ),
    hard_slot=2,
    pinyin={**SURNAMES, **DIGITS, **OTHER},
)
GRAMMARS = {grammar.language: grammar for grammar in (ENGLISH, MANDARIN)}


def draw_sentences(grammar: Grammar, count: int, rng: np.random.Generator) -> list[list[str]]:
    """`count` different sentences, in random order."""
    return [grammar.sentence(int(number)) for number in rng.choice(grammar.size, count, replace=False)]
