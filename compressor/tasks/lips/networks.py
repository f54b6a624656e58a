"""The seq2seq model of both modalities: encoder, attention decoder of two GRUs, and a CTC layer beside it.

Tokens: 0 is CTC's blank and the padding, 1 begins and ends a text, the characters follow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.tasks.lips.encoders import AudioFrontEnd, BiGRU, CausalEncoder, VideoFrontEnd
from compressor.tasks.lips.vocabulary import BLANK, EDGE, FIRST

MASKED = 16.0  # what a frame that does not exist loses in its attention score; finite, so that int8 can say it


class Encoded(NamedTuple):
    """memory (batch, frames, dim), mask (batch, frames), last (batch, dim): the encoder's last hidden state."""

    memory: Tensor
    mask: Tensor
    last: Tensor


class Decoded(NamedTuple):
    """logits (batch, characters, vocabulary), contexts (batch, characters, dim), and the attention with which each was
    made (batch, characters, frames)."""

    logits: Tensor
    contexts: Tensor
    attention: Tensor


class Decoder(nn.Module):
    """GRU over the previous characters, attention over the memory with its state, GRU over state and context, output.

    The context is not fed back into the first GRU, so that with the true characters given all steps are two calls of
    nn.GRU. `step` is one character of the same.
    """

    def __init__(self, vocabulary: int, embedding: int, hidden: int, memory: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Linear(vocabulary, embedding, bias=False)  # of one-hot rows: int8 runs it as any matrix
        self.gru1 = nn.GRU(embedding, hidden, batch_first=True)
        self.query = nn.Linear(hidden, memory)
        self.gru2 = nn.GRU(hidden + memory, hidden, batch_first=True)
        self.output = nn.Linear(hidden + memory, vocabulary)
        self.hidden, self.vocabulary, self.dropout = hidden, vocabulary, dropout

    def forward(self, encoded: Encoded, previous: Tensor) -> Decoded:
        """`previous` (batch, characters): the character before each one, EDGE before the first."""
        embedded = self.embedding.weight.T[previous]
        first = self.gru1(functional.dropout(embedded, self.dropout, self.training))[0]
        scores = self.query(first) @ encoded.memory.transpose(1, 2) / math.sqrt(encoded.memory.shape[-1])
        mask = encoded.mask[:, None].to(scores.dtype)
        attention = torch.softmax(scores + (mask - 1) * MASKED, dim=-1)
        contexts = attention @ encoded.memory
        second = self.gru2(torch.cat([first, contexts], dim=-1))[0]
        joined = functional.dropout(torch.cat([second, contexts], dim=-1), self.dropout, self.training)
        return Decoded(self.output(joined), contexts, attention)

    def step(
        self, one_hot: Tensor, memory: Tensor, mask: Tensor, state1: Tensor, state2: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One character: one_hot (batch, vocabulary), memory (batch, frames, dim), mask (batch, frames) of 0 and 1,
        states (batch, hidden). Gives logits (batch, vocabulary), both states, attention (batch, frames)."""
        state1 = gru_cell(self.gru1, self.embedding(one_hot), state1)
        query = self.query(state1) * (1 / math.sqrt(memory.shape[-1]))
        scores = torch.matmul(memory, query[:, :, None])[:, :, 0]
        attention = torch.softmax(scores + (mask - 1) * MASKED, dim=-1)
        context = torch.matmul(attention[:, None], memory)[:, 0]
        state2 = gru_cell(self.gru2, torch.cat([state1, context], dim=-1), state2)
        return self.output(torch.cat([state2, context], dim=-1)), state1, state2, attention


def gru_cell(gru: nn.GRU, x: Tensor, state: Tensor) -> Tensor:
    """One step of a one-layer nn.GRU in plain operators (Cho et al. 2014, in torch's form), which every runtime has."""
    weight_input, weight_state, bias_input, bias_state = gru.all_weights[0]
    from_input = functional.linear(x, weight_input, bias_input)
    from_state = functional.linear(state, weight_state, bias_state)
    size = gru.hidden_size
    gates = torch.sigmoid(from_input[:, : 2 * size] + from_state[:, : 2 * size])
    reset, update = gates[:, :size], gates[:, size:]
    candidate = torch.tanh(from_input[:, 2 * size :] + reset * from_state[:, 2 * size :])
    return candidate + update * (state - candidate)


class Seq2Seq(nn.Module):
    """Front end, encoder, CTC layer, decoder."""

    def __init__(
        self, front_end: VideoFrontEnd | AudioFrontEnd, encoder: BiGRU | CausalEncoder, ctc: nn.Linear, decoder: Decoder
    ) -> None:
        super().__init__()
        self.front_end, self.encoder, self.ctc, self.decoder = front_end, encoder, ctc, decoder

    def encode(self, inputs: Tensor, mask: Tensor) -> Encoded:
        x, mask = self.front_end.clip(inputs, mask)
        memory = self.encoder(x, mask)
        return Encoded(memory, mask, self.encoder.last(memory, mask))

    def forward(
        self, inputs: Tensor, mask: Tensor, previous: Tensor, own: Tensor | None = None
    ) -> tuple[Encoded, Decoded, Tensor]:
        """Also the CTC layer's logits, (batch, frames, vocabulary). `own`: see `with_own_characters`."""
        encoded = self.encode(inputs, mask)
        if own is not None:
            previous = with_own_characters(self.decoder, encoded, previous, own)
        return encoded, self.decoder(encoded, previous), self.ctc(encoded.memory)


@torch.no_grad()
def with_own_characters(decoder: Decoder, encoded: Encoded, previous: Tensor, own: Tensor) -> Tensor:
    """`previous` (batch, characters), where `own`, of the same shape, is true with what the decoder itself wrote there.

    Scheduled sampling (Bengio et al. 2015) in two runs instead of one per character (Mihaylova and Martins 2019): the
    decoder writes every character after the right ones, then again after its own.
    """
    written = decoder(encoded, previous).logits.argmax(-1)
    before = torch.cat([previous[:, :1], written[:, :-1]], dim=1)
    keep = (previous < FIRST) | (before < FIRST)  # the start and the padding stay, and no end stands in the middle
    return torch.where(own & ~keep, before, previous)


def seq2seq_loss(decoded: Decoded, ctc_logits: Tensor, mask: Tensor, targets: Tensor, ctc_weight: float) -> Tensor:
    """Cross-entropy of the characters and of the end, plus `ctc_weight` times CTC's (Watanabe et al. 2017).

    targets (batch, characters): the text and EDGE after it, then BLANK as padding.
    """
    loss = functional.cross_entropy(decoded.logits.transpose(1, 2), targets, ignore_index=BLANK)
    if not ctc_weight:
        return loss
    lengths = ((targets != BLANK) & (targets != EDGE)).sum(1)
    log_probs = functional.log_softmax(ctc_logits.transpose(0, 1), dim=-1)
    texts = targets.masked_fill(targets == EDGE, BLANK)
    ctc = functional.ctc_loss(log_probs, texts, mask.sum(1), lengths, BLANK, reduction="none", zero_infinity=True)
    return loss + ctc_weight * (ctc / lengths.clamp(min=1)).mean()


@torch.no_grad()
def greedy(decoder: Decoder, encoded: Encoded, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """The most probable character at each step: tokens (batch, <= longest), BLANK after the end, and the contexts
    (batch, <= longest, dim) and attention (batch, <= longest, frames) with which they were chosen."""
    batch, device = len(encoded.memory), encoded.memory.device
    states = [torch.zeros(batch, decoder.hidden, device=device) for _ in range(2)]
    token = torch.full((batch,), EDGE, device=device)
    done = torch.zeros(batch, dtype=torch.bool, device=device)
    mask = encoded.mask.to(encoded.memory.dtype)
    tokens, contexts, looked = [], [], []
    for _ in range(longest):
        one_hot = functional.one_hot(token, decoder.vocabulary).to(encoded.memory.dtype)
        logits, *states, attention = decoder.step(one_hot, encoded.memory, mask, *states)
        token = logits.argmax(-1)
        done = done | (token == EDGE)
        tokens.append(token.masked_fill(done, BLANK))
        contexts.append((attention[:, None] @ encoded.memory)[:, 0])
        looked.append(attention)
        if bool(done.all()):
            break
    return torch.stack(tokens, 1), torch.stack(contexts, 1), torch.stack(looked, 1)


class EncoderStep(nn.Module):
    """What is deployed of a causal student: the newest stacked pictures (batch, stack, H, W) and the state (batch,
    frames, dim), to a row of memory (batch, dim) and the new state."""

    def __init__(self, front_end: VideoFrontEnd, encoder: CausalEncoder) -> None:
        super().__init__()
        self.front_end, self.encoder = front_end, encoder

    def forward(self, pictures: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder.step(self.front_end(pictures), state)


class DecoderStep(nn.Module):
    """One character of the decoder, as a graph."""

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self, one_hot: Tensor, memory: Tensor, mask: Tensor, state1: Tensor, state2: Tensor
    ) -> Sequence[Tensor]:
        return self.decoder.step(one_hot, memory, mask, state1, state2)


class WholeEncoder(nn.Module):
    """A BiGRU student's encoder: a whole clip of fixed length, padded; mask (batch, frames) of 0 and 1."""

    def __init__(self, model: Seq2Seq) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        return self.model.encode(frames, mask > 0.5).memory
