"""Pairs of drawn shapes with English and Chinese captions, and tiny teachers with random weights, on disk."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

COLORS = {"red": "红", "green": "绿", "blue": "蓝", "black": "黑", "orange": "橙", "purple": "紫"}
SHAPES = {"square": "方", "disc": "圆", "bar": "条", "cross": "叉"}
PLACES = {"left": "左", "right": "右"}


def toy_pairs() -> Iterator[tuple[str, bytes, str, str]]:
    """Key, PNG, English, Chinese of 48 pairs."""
    for color in COLORS:
        for shape in SHAPES:
            for place in PLACES:
                buffer = io.BytesIO()
                _draw(color, shape, place).save(buffer, "png")
                zh = f"{PLACES[place]}边的{COLORS[color]}色{SHAPES[shape]}形"
                yield f"{color}-{shape}-{place}", buffer.getvalue(), f"a {color} {shape} on the {place}", zh


def _draw(color: str, shape: str, place: str) -> Image.Image:
    picture = Image.new("RGB", (40, 40), "white")
    draw, x = ImageDraw.Draw(picture), 4 if place == "left" else 18
    if shape == "square":
        draw.rectangle((x, 10, x + 18, 28), fill=color)
    elif shape == "disc":
        draw.ellipse((x, 10, x + 18, 28), fill=color)
    elif shape == "bar":
        draw.rectangle((x + 6, 2, x + 12, 38), fill=color)
    else:
        draw.line((x, 8, x + 18, 30), fill=color, width=5)
        draw.line((x + 18, 8, x, 30), fill=color, width=5)
    return picture


def write_shards(folder: Path, shards: int = 2) -> Path:
    """The pairs as webdataset shards."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = list(toy_pairs())
    for number in range(shards):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for key, png, en, zh in pairs[number::shards]:
                for name, content in (
                    (f"{key}.png", png),
                    (f"{key}.json", json.dumps({"en": en, "zh": zh}).encode()),
                ):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return folder


def write_texts(path: Path) -> Path:
    """The captions as text without pictures, for a tokenizer and text distillation."""
    path.write_text(json.dumps([[en, zh] for _, _, en, zh in toy_pairs()], ensure_ascii=False), encoding="utf-8")
    return path


def write_unnamed(folder: Path) -> Path:
    """Ten pictures to distil from: gadgets, whose captions share no word with the pairs', and a disc, which does."""
    folder.mkdir(exist_ok=True)
    with open(folder / "pairs.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "en"])
        for number, (key, png, *_) in zip(range(10), toy_pairs(), strict=False):
            (folder / f"{key}.png").write_bytes(png)
            writer.writerow([f"{key}.png", f"gadget {number}" if number else "a disc of a gadget"])
    return folder


def word_vocabulary(folder: Path) -> Path:
    """A BERT vocabulary of the toy's words and characters."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({word for _, _, en, _ in toy_pairs() for word in en.split()})
    letters = sorted({letter for _, _, _, zh in toy_pairs() for letter in zh})
    path = folder / "vocab.txt"
    path.write_text("\n".join([*special, *words, *letters]), encoding="utf-8")
    return path


def write_chinese_clip(folder: Path) -> Path:
    """A Chinese-CLIP of two layers with random weights, in the form that transformers reads."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    tokenizer = transformers.BertTokenizer(str(word_vocabulary(folder)))
    text: dict[str, Any] = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.5}
    vision: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 24}
    vision |= {"intermediate_size": 32, "patch_size": 8}
    config = transformers.ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    transformers.ChineseCLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images = transformers.ChineseCLIPImageProcessor(
        size={"height": 24, "width": 24}, do_center_crop=False, image_mean=[0.4] * 3, image_std=[0.3] * 3
    )
    images.save_pretrained(folder)
    return folder


def toy_overrides(root: Path) -> list[str]:
    """Overrides of the recipe "clip" for a run of seconds on the toy pairs with a tiny Chinese-CLIP as the teacher."""
    shards = write_shards(root / "shards")
    texts = write_texts(root / "texts.json")
    pictures = write_unnamed(root / "pictures")
    teacher = write_chinese_clip(root / "teacher")
    return [
        f"data.source={shards}",
        "data.vendor=null",
        "data.picture_px=40",
        f"data.pictures=[{pictures}]",
        f"data.texts=[{texts}]",
        "data.composed=30",
        "teacher.kind=chinese-clip",
        f"teacher.path={teacher}",
        "stages.teacher.steps=0",
        "student.image.network=timm:lcnet_035",
        "student.image.px=32",
        "student.text.vocabulary=320",
        "student.text.length=12",
        "student.text.token_width=32",
        "student.text.width=16",
        "stages.text_pretraining.steps=4",
        "stages.text_pretraining.batch=16",
        "stages.image_features.steps=4",
        "stages.image_features.batch=16",
        "stages.text_features.steps=6",
        "stages.text_features.batch=16",
        "stages.alignment.steps=6",
        "stages.alignment.batch=16",
    ]


def toy_pictures() -> np.ndarray:
    """(48, 40, 40, 3) uint8."""
    return np.stack([np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for _, png, _, _ in toy_pairs()])
