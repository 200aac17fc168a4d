"""Models of pairs in two halves: an encoder reads the prompt from both sides, and a decoder writes the answer and looks
back at the prompt by attention.

- `LSTMPair`: a bidirectional LSTM and an LSTM with additive attention (Bahdanau et al. 2014, whose cells were GRUs).
- `TransformerPair`: encoder and decoder of Vaswani et al. (2017), by `torch.nn.Transformer`.

As for a `GPT`, ids (B, N) of whole pairs go in and logits (B, N, V) come out, so the same training step and the same
scores serve all. The last token `begin` of a row divides it: the encoder reads what stands before it.

Dimensions:  B pairs · N tokens of a pair · S tokens of a prompt · T tokens of an answer · D dim · H heads · L layers ·
V vocabulary. `known` (B, S) is true where a prompt has a token.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gptlite.errors import UsageError
from gptlite.model import sinusoids

KINDS = ("lstm", "transformer")
WIDTH_STEP = 16  # widths are multiples of it
FEW_HEADS, MANY_HEADS, WIDE = 4, 8, 256  # heads of a Transformer, more from this width on
FEED_FORWARD = 4  # widths of the layer in the middle of a feed-forward network


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """A model of pairs: `kind` lstm or transformer, with `n_layers` in the encoder and as many in the decoder.

    - `begin`: the id after which an answer is written.
    Raises `UsageError`.
    """

    kind: str
    vocab_size: int
    dim: int
    n_layers: int = 1
    begin: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"unknown kind of encoder-decoder '{self.kind}': choose from {', '.join(KINDS)}.")
        for name in ("vocab_size", "dim", "n_layers"):
            if getattr(self, name) < 1:
                raise UsageError(f"`{name}` must be at least 1, not {getattr(self, name)}.")
        if self.dim % WIDTH_STEP:
            raise UsageError(f"`dim` must be a multiple of {WIDTH_STEP}, not {self.dim}.")
        if self.kind == "lstm" and self.n_layers > 1:
            raise UsageError("`n_layers` must be 1: an LSTM with attention has one layer on each side.")

    @classmethod
    def of_size(
        cls, kind: str, vocab_size: int, n_params: int, n_layers: int = 1, begin: int = 0
    ) -> EncoderDecoderConfig:
        """The model of this kind whose number of parameters is nearest to `n_params`."""
        dim = WIDTH_STEP
        while cls(kind, vocab_size, dim + WIDTH_STEP, n_layers).n_params <= n_params:
            dim += WIDTH_STEP
        nearest = (cls(kind, vocab_size, width, n_layers, begin) for width in (dim, dim + WIDTH_STEP))
        return min(nearest, key=lambda config: abs(config.n_params - n_params))

    @property
    def n_heads(self) -> int:
        return MANY_HEADS if self.dim >= WIDE else FEW_HEADS

    @property
    def n_params(self) -> int:
        """Number of trained parameters."""
        d, v = self.dim, self.vocab_size
        if self.kind == "lstm":
            encoder = 2 * 4 * (d // 2) * (d + d // 2 + 2)
            decoder = 4 * d * (2 * d + d + 2)
            begin, attention, readout = d * (d // 2) + d, 2 * d * d + 2 * d, 3 * d * d + d
            return 2 * v * d + v + encoder + decoder + begin + attention + readout
        attention, norm = 4 * d * d + 4 * d, 2 * d
        feed_forward = 2 * FEED_FORWARD * d * d + FEED_FORWARD * d + d
        return v * d + self.n_layers * (3 * attention + 2 * feed_forward + 5 * norm)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class EncoderDecoder(nn.Module, abc.ABC):
    """What both models have in common: token ids (B, N) to logits (B, N, V), of use from `begin` on."""

    config: EncoderDecoderConfig

    def forward(self, tokens: Tensor) -> Tensor:
        source, known, target, mark = self.split(tokens)
        logits = self.answer(source, known, target)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        place = (places - mark[:, None]).clamp_min(0)  # (B, N), in the answer
        return logits.gather(1, place[..., None].expand(-1, -1, logits.shape[-1]))

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Prompts (B, S) with `known`, what the decoder reads (B, T), and where `begin` stands in each row (B,)."""
        n = tokens.shape[1]
        places = torch.arange(n, device=tokens.device)
        mark = torch.where(tokens == self.config.begin, places, 0).amax(1)
        longest = int(mark.max())
        after = (mark[:, None] + places[: n - int(mark.min())]).clamp_max(n - 1)
        return tokens[:, :longest], places[:longest] < mark[:, None], tokens.gather(1, after), mark

    @abc.abstractmethod
    def answer(self, source: Tensor, known: Tensor, target: Tensor) -> Tensor:
        """Logits (B, T, V) of the token after each of `target` (B, T), for prompts (B, S)."""

    @abc.abstractmethod
    def attention(self, source: Tensor, known: Tensor, target: Tensor) -> Tensor:
        """Cross-attention (L, B, H, T, S): what each predicted token takes from each token of the prompt; rows sum
        to 1."""

    @abc.abstractmethod
    def writer(self, source: Tensor, known: Tensor) -> Callable[[Tensor], Tensor]:
        """A function that reads one more token (B,) of each answer and gives logits (B, V) of the next."""

    @torch.no_grad()
    def write(self, prompts: Sequence[Sequence[int]], end: int, most: int) -> list[list[int]]:
        """Greedy answers to prompts, of at most `most` ids each and without `end`, which ends them.

        - `prompts`: ids, the last of which is `begin`.
        """
        device = next(self.parameters()).device
        lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])
        source = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
        for row, prompt in zip(source, prompts, strict=True):
            row[: len(prompt) - 1] = torch.tensor(prompt[:-1])
        known = torch.arange(source.shape[1]) < lengths[:, None]
        append = self.writer(source.to(device), known.to(device))
        token = torch.full((len(prompts),), self.config.begin, device=device)
        ended, written = torch.zeros(len(prompts), dtype=torch.bool, device=device), list[Tensor]()
        for _ in range(most):
            token = append(token).argmax(-1)
            ended |= token == end
            if bool(ended.all()):
                break
            written.append(torch.where(ended, end, token))
        rows = torch.stack(written, dim=1).tolist() if written else [[] for _ in prompts]
        return [row[: row.index(end)] if end in row else row for row in rows]


class LSTMPair(EncoderDecoder):
    """A bidirectional LSTM, and an LSTM that looks at all its states before each token of the answer.

    For token t, the decoder's state s before it asks, and each state h of the encoder answers with v tanh(W s + U h);
    the softmax of these scores weighs the states. Their mean goes into the decoder with the token before (Bahdanau et
    al. 2014, appendix A; a tanh layer stands for their maxout layer).

    - `dropout`: share of embeddings and of readouts that is silenced while training.
    """

    def __init__(self, config: EncoderDecoderConfig, dropout: float = 0.0) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, dim)
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.LSTM(dim, dim // 2, batch_first=True, bidirectional=True)
        self.first = nn.Linear(dim // 2, dim)
        self.query, self.key = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)
        self.energy = nn.Linear(dim, 1, bias=False)
        self.decoder = nn.LSTMCell(2 * dim, dim)
        self.readout = nn.Linear(3 * dim, dim)
        self.head = nn.Linear(dim, config.vocab_size)

    def answer(self, source: Tensor, known: Tensor, target: Tensor) -> Tensor:
        return self._decode(source, known, target)[0]

    @torch.no_grad()
    def attention(self, source: Tensor, known: Tensor, target: Tensor) -> Tensor:
        return self._decode(source, known, target)[1][None, :, None]

    def writer(self, source: Tensor, known: Tensor) -> Callable[[Tensor], Tensor]:
        states, keys, state = self._encode(source, known)

        def append(token: Tensor) -> Tensor:
            nonlocal state
            x = self.dropout(self.embed(token))
            state, context, _ = self._step(x, state, states, keys, known)
            return self._read_out(x, state[0], context)

        return append

    def _encode(self, source: Tensor, known: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """States (B, S, D) of the encoder, what they are asked with (B, S, D), and the decoder's first state."""
        lengths = known.sum(1).cpu()
        packed = pack_padded_sequence(self.dropout(self.embed(source)), lengths, batch_first=True, enforce_sorted=False)
        packed, (last, _) = self.encoder(packed)
        states, _ = pad_packed_sequence(packed, batch_first=True, total_length=source.shape[1])
        first = torch.tanh(self.first(last[1]))  # from the backward direction, which ends at the first token
        return states, self.key(states), (first, torch.zeros_like(first))

    def _step(
        self, x: Tensor, state: tuple[Tensor, Tensor], states: Tensor, keys: Tensor, known: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """The next state, the context (B, D) that it was given, and the weights (B, S) of that."""
        scores = self.energy(torch.tanh(self.query(state[0])[:, None] + keys))[..., 0]
        weights = scores.float().masked_fill(~known, -torch.inf).softmax(-1)
        context = (weights[:, None].to(states.dtype) @ states)[:, 0]
        return self.decoder(torch.cat((x, context), -1), state), context, weights

    def _decode(self, source: Tensor, known: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        states, keys, state = self._encode(source, known)
        embedded = self.dropout(self.embed(target))
        seen = list[tuple[Tensor, Tensor, Tensor]]()
        for x in embedded.unbind(1):
            state, context, weights = self._step(x, state, states, keys, known)
            seen.append((state[0], context, weights))
        hidden, contexts, weights = (torch.stack(parts, 1) for parts in zip(*seen, strict=True))
        return self._read_out(embedded, hidden, contexts), weights

    def _read_out(self, x: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        return self.head(self.dropout(torch.tanh(self.readout(torch.cat((hidden, context, x), -1)))))


class TransformerPair(EncoderDecoder):
    """The Transformer of 2017: post-norm blocks, sinusoids, and one table for prompts, answers and the head.

    - `dropout`: share of embeddings and of each layer's output that is silenced while training.
    """

    def __init__(self, config: EncoderDecoderConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        shape: dict[str, Any] = {"dim_feedforward": FEED_FORWARD * config.dim, "dropout": dropout, "batch_first": True}
        encoding = nn.TransformerEncoderLayer(config.dim, config.n_heads, **shape)
        decoding = nn.TransformerDecoderLayer(config.dim, config.n_heads, **shape)
        self.embed = nn.Embedding(config.vocab_size, config.dim)
        self.dropout = nn.Dropout(dropout)
        # `torch.nn.Transformer` makes stacks that end with one more norm, which those of 2017 do not.
        self.transformer = nn.Transformer(
            config.dim,
            config.n_heads,
            custom_encoder=nn.TransformerEncoder(encoding, config.n_layers, enable_nested_tensor=False),
            custom_decoder=nn.TransformerDecoder(decoding, config.n_layers),
            batch_first=True,
        )

    def answer(self, source: Tensor, known: Tensor, target: Tensor) -> Tensor:
        memory = self.transformer.encoder(self._embed(source), src_key_padding_mask=~known)
        return self._decode(memory, known, target)

    @torch.no_grad()
    def attention(self, source: Tensor, known: Tensor, target: Tensor) -> Tensor:
        seen: list[Tensor] = []
        with self._watched(seen):
            self.answer(source, known, target)
        return torch.stack(seen)

    def writer(self, source: Tensor, known: Tensor) -> Callable[[Tensor], Tensor]:
        memory = self.transformer.encoder(self._embed(source), src_key_padding_mask=~known)
        target = torch.zeros(len(source), 0, dtype=torch.long, device=source.device)

        def append(token: Tensor) -> Tensor:
            nonlocal target
            target = torch.cat((target, token[:, None]), 1)
            return self._decode(memory, known, target)[:, -1]

        return append

    def _embed(self, tokens: Tensor) -> Tensor:
        """Vectors (B, T, D) of tokens, scaled by sqrt(D) (section 3.4), and of their positions."""
        x = math.sqrt(self.config.dim) * self.embed(tokens)
        return self.dropout(x + sinusoids(tokens.shape[1], self.config.dim).to(x))

    def _decode(self, memory: Tensor, known: Tensor, target: Tensor) -> Tensor:
        T = target.shape[1]
        future = torch.ones(T, T, dtype=torch.bool, device=target.device).triu(1)
        hidden = self.transformer.decoder(
            self._embed(target), memory, tgt_mask=future, memory_key_padding_mask=~known, tgt_is_causal=True
        )
        return hidden @ self.embed.weight.T

    @contextmanager
    def _watched(self, seen: list[Tensor]) -> Iterator[None]:
        """Collect the weights (B, H, T, S) of cross-attention, layer by layer; `torch.nn` makes them if asked."""

        def ask(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, "need_weights": True, "average_attn_weights": False}

        handles: list[Any] = []
        for layer in self.transformer.decoder.layers:
            module = cast(nn.MultiheadAttention, layer.multihead_attn)
            handles.append(module.register_forward_pre_hook(ask, with_kwargs=True))
            handles.append(module.register_forward_hook(lambda _m, _a, output: seen.append(output[1])))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def build(config: EncoderDecoderConfig, dropout: float = 0.0) -> EncoderDecoder:
    return LSTMPair(config, dropout) if config.kind == "lstm" else TransformerPair(config, dropout)


@torch.no_grad()
def initialise(model: EncoderDecoder, seed: int) -> None:
    """Set all weights as a function of `seed` alone.

                    lstm                                      transformer
    embeddings      normal, 1                                 normal, 1/sqrt(dim)
    matrices        uniform, +-1/sqrt(dim)                    uniform (Glorot & Bengio 2010)
    biases          uniform, +-1/sqrt(dim)                    0
    norms                                                     1
    """
    generator = torch.Generator().manual_seed(seed)
    bound = model.config.dim**-0.5
    for name, parameter in model.named_parameters():
        if model.config.kind == "lstm":
            if name.startswith("embed"):
                parameter.normal_(0, 1, generator=generator)
            else:
                parameter.uniform_(-bound, bound, generator=generator)
        elif name.startswith("embed"):
            parameter.normal_(0, bound, generator=generator)
        elif parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter, generator=generator)
        else:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
