"""Alignment of pictures with captions in several languages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compressor.losses.contrastive import info_nce
from compressor.losses.response import prototype_kl


def multilingual_info_nce(image: Tensor, texts: Sequence[Tensor], temperature: float | Tensor) -> Tensor:
    """1/2 (L_image->text + L_text->image), InfoNCE, averaged over the languages.

    `image` (batch, dim), and per language the captions of the same things in the same order; rows L2-normalised. With
    several processes the rows of all of them are gathered first. Source: DC-CLIP (2024), stage 2.
    """
    return torch.stack([info_nce(image, text, temperature) for text in texts]).mean()


def cross_modal_kl(
    image: Tensor,
    texts: Sequence[Tensor],
    teacher_image: Tensor,
    teacher_texts: Sequence[Tensor],
    temperature: float,
) -> Tensor:
    """The student's similarities to the teacher's other side follow the teacher's own, both ways, over the batch.

    KL of softmax over the teacher's captions for pictures and over the teacher's pictures for captions; rows (batch,
    dim) L2-normalised, teacher and student of one width. Source: response distillation (Hinton et al. 2015) across
    the two sides.
    """
    terms = []
    for text, teacher_text in zip(texts, teacher_texts, strict=True):
        terms.append(prototype_kl(image, teacher_image, teacher_text, temperature, temperature))
        terms.append(prototype_kl(text, teacher_text, teacher_image, temperature, temperature))
    return torch.stack(terms).mean()
