"""Real teachers' adapters on tiny random configurations: own preprocessing, own tokenizer, from a local directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from compressor.tasks.clip.adapters import Adapter, load_adapter
from profiles.errors import MissingError, RequestError
from tests.compressor.clip_toy import toy_pairs, toy_pictures, word_vocabulary, write_chinese_clip
from tests.tools import need_module

CPU = torch.device("cpu")
TINY: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def write_pieces(folder: Path) -> Path:
    """A SentencePiece model of the toy's captions."""
    import sentencepiece

    prefix = folder / "spiece"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for _, _, en, zh in toy_pairs() for text in (en, zh)]),
        model_prefix=str(prefix),
        vocab_size=90,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


def fast_tokenizer(folder: Path) -> Any:
    """A WordPiece tokenizer, fast, as any checkpoint may carry one."""
    import tokenizers
    import transformers

    inner = tokenizers.BertWordPieceTokenizer(str(word_vocabulary(folder)))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner._tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def write_siglip(folder: Path) -> Path:
    import transformers

    torch.manual_seed(1)
    tokenizer = fast_tokenizer(folder)
    text = {**TINY, "vocab_size": len(tokenizer), "max_position_embeddings": 64, "projection_size": 16}
    vision = {**TINY, "image_size": 24, "patch_size": 8}
    transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": 24, "width": 24}).save_pretrained(folder)
    return folder


def write_altclip(folder: Path) -> Path:
    import transformers

    torch.manual_seed(2)
    tokenizer = fast_tokenizer(folder)
    text = {**TINY, "vocab_size": len(tokenizer), "project_dim": 12, "pad_token_id": 0, "max_position_embeddings": 40}
    vision = {**TINY, "image_size": 24, "patch_size": 8}
    config = transformers.AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    transformers.AltCLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}).save_pretrained(
        folder
    )
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "altclip": write_altclip,
    "chinese-clip": write_chinese_clip,
    "siglip": write_siglip,
}


@pytest.fixture(scope="module", params=list(WRITERS))
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Adapter]:
    need_module("transformers", "sentencepiece")
    folder = tmp_path_factory.mktemp(request.param)
    WRITERS[request.param](folder)
    return request.param, folder, load_adapter(request.param, str(folder))


def test_pictures_and_texts_get_the_embeddings_of_the_model_itself(adapter: tuple[str, Path, Adapter]) -> None:
    """Against transformers' own forward of both sides together, one item at a time."""
    import transformers

    kind, folder, teacher = adapter
    pictures, texts = toy_pictures()[:3], [en for _, _, en, _ in toy_pairs()][:3]
    image, text = teacher.image_features(pictures, CPU), teacher.text_features(texts, CPU)
    assert image.shape == text.shape == (3, teacher.embedding_dim)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    images = transformers.AutoImageProcessor.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding: dict[str, Any] = {"padding": "max_length", "max_length": 64} if kind == "siglip" else {"padding": True}
    with torch.no_grad():
        for index in range(3):
            feeds = tokenizer([texts[index]], return_tensors="pt", **padding)
            pixels = images(images=[Image.fromarray(pictures[index])], return_tensors="pt")["pixel_values"]
            output = model(**feeds, pixel_values=pixels)
            for ours, theirs in ((image, output.image_embeds), (text, output.text_embeds)):
                unit = ours[index] / np.linalg.norm(ours[index])
                np.testing.assert_allclose(unit, theirs[0].numpy(), atol=1e-5)


def test_costs_are_counted_and_the_key_follows_the_weights(adapter: tuple[str, Path, Adapter]) -> None:
    _, _, teacher = adapter
    costs = teacher.costs(["a red square on the left"])
    assert costs["image_macs"] > 0 and costs["text_macs"] > 0
    assert costs["parameters"] == sum(parameter.numel() for parameter in teacher.model.parameters())
    before = teacher.key()
    with torch.no_grad():
        next(iter(teacher.model.parameters())).add_(1)
    assert teacher.key() != before


def test_open_clip_keeps_its_own_transform_and_tokenizer(tmp_path: Path) -> None:
    need_module("open_clip")
    import open_clip
    from safetensors.torch import save_file

    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    model_cfg = {"embed_dim": 12, "vision_cfg": {"image_size": 24, "layers": 1, "width": 64, "patch_size": 8}}
    config = {"model_cfg": {**model_cfg, "text_cfg": text}, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(3)
    model = open_clip.model.CLIP(embed_dim=12, vision_cfg=model_cfg["vision_cfg"], text_cfg=text)  # type: ignore[arg-type]
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "open_clip_model.safetensors")
    teacher = load_adapter("open-clip", str(tmp_path))
    pictures, texts = toy_pictures()[:2], ["a red square", "方"]
    plain = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    small = torch.nn.functional.interpolate(plain, (24, 24), mode="bicubic", antialias=True).clamp(0, 1)
    with torch.no_grad():
        expected = model.eval().encode_image((small - 0.5) / 0.5).numpy()
        tokens = open_clip.SimpleTokenizer(context_length=16)(texts)
        np.testing.assert_allclose(teacher.text_features(texts, CPU), model.encode_text(tokens).numpy(), atol=1e-5)
    np.testing.assert_allclose(teacher.image_features(pictures, CPU), expected, atol=0.02)  # PIL rounds to 8 bits


def test_what_is_not_here_or_is_another_model_is_said_in_one_line(tmp_path: Path) -> None:
    need_module("transformers")
    with pytest.raises(MissingError, match="hub cache"):
        load_adapter("altclip", "no-such/model")
    write_chinese_clip(tmp_path)
    with pytest.raises(RequestError, match="chinese_clip model, not a siglip"):
        load_adapter("siglip", str(tmp_path))
