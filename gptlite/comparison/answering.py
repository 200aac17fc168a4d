"""What is measured of contenders on pairs: bits of held-out answers, how many are written exactly, and what a model
looks at in a prompt while it reads the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gptlite import tracing
from gptlite.baselines.encoder_decoder import EncoderDecoder
from gptlite.comparison.measures import Sums, wilson
from gptlite.comparison.networks import Network
from gptlite.errors import CorpusError
from gptlite.evaluation.scoring import LARGEST_LOGITS, spread
from gptlite.generation import answers
from gptlite.generation.decoding import choose_decoding
from gptlite.model import GPT
from gptlite.text.pairs import BOUNDARIES, Boundaries, answers_of
from gptlite.text.tokenizer import Tokenizer

MOST_SCORED, MOST_WRITTEN = 1024, 256  # held-out pairs that are scored, and whose answers are written
WRITTEN_AT_ONCE = 64
ROOM = 8  # tokens that an answer may be longer than the longest known one
SHOWN = 6  # answers in the result
LARGEST_MAP = 32  # tokens of the prompt, and of the answer, that a map has room for
WANTED_MAP = 12  # tokens of the shorter of the two in the example


@dataclass(frozen=True)
class Pair:
    """A held-out pair: `ids` from the beginning of its record to the end of its last answer, which begins after
    `mark`."""

    ids: np.ndarray
    mark: int

    @property
    def prompt(self) -> list[int]:
        return self.ids[: self.mark + 1].tolist()

    @property
    def answer(self) -> list[int]:
        """Without the boundary that ends it."""
        return self.ids[self.mark + 1 : -1].tolist()


def held_out_pairs(ids: np.ndarray, marks: Boundaries, context: int) -> list[Pair]:
    """The pairs of a stream that fit into a context; of a conversation, its last answer.

    Raises `CorpusError` where there is none.
    """
    places = answers_of(ids, marks, context).tolist()
    last = {start: Pair(np.asarray(ids[start : end + 1]), mark - start) for start, mark, end in places}
    pairs = [pair for pair in last.values() if pair.mark + 1 < context]
    if not pairs:
        raise CorpusError(f"none of the held-out pairs fits into {context:,} tokens; hold out others with `val`.")
    return pairs


def last_answer_alone(batch: Tensor, begin: int) -> Tensor:
    """A batch (B, T + 1) in which of a conversation only the last answer is learned, as an encoder-decoder can."""
    ids = torch.where(batch < 0, ~batch, batch)
    places = torch.arange(batch.shape[1])
    mark = torch.where(ids == begin, places, 0).amax(1)
    return torch.where(places > mark[:, None], batch, ~ids)


def as_batch(pairs: Sequence[Pair], padding: int) -> Tensor:
    """Rows (B, T + 1) as `PairBatches` has them: `~id` for what is not scored."""
    rows = torch.full((len(pairs), max(len(pair.ids) for pair in pairs)), ~padding)
    for row, pair in zip(rows, pairs, strict=True):
        ids = torch.from_numpy(pair.ids.astype(np.int64))
        row[: len(ids)] = torch.where(torch.arange(len(ids)) > pair.mark, ids, ~ids)
    return rows


@torch.no_grad()
def score_answers(network: Network, pairs: Sequence[Pair], token_bytes: np.ndarray) -> Sums:
    """Bits and bytes of each answer, its end among the bits."""
    network.model.eval()
    hardware, found = network.hardware.for_reading(), list[Tensor]()
    longest = max((len(pair.ids) for pair in pairs), default=1)
    rows = max(1, LARGEST_LOGITS // (network.config.vocab_size * longest))
    for first in range(0, len(pairs), rows):
        batch = as_batch(pairs[first : first + rows], 0).to(hardware.device)
        ids = torch.where(batch < 0, ~batch, batch)
        with hardware.autocast():
            logits: Tensor = network.model(ids[:, :-1])
        nats = F.cross_entropy(logits.float().transpose(1, 2), ids[:, 1:], reduction="none")
        found.append(nats.double().masked_fill(batch[:, 1:] < 0, 0).sum(1).cpu())
    bits = torch.cat(found).numpy() / math.log(2) if found else np.zeros(0)
    return Sums(bits, np.array([token_bytes[pair.answer].sum() for pair in pairs], dtype=np.float64))


def write_answers(network: Network, tokenizer: Tokenizer, pairs: Sequence[Pair]) -> list[answers.Answered]:
    """Greedy answers to the prompts of `pairs`, in order."""
    model, end = network.model.eval(), Boundaries.of(tokenizer).end
    most = max((len(pair.answer) for pair in pairs), default=0) + ROOM
    asked = [(pair.prompt, _prompt_text(pair, tokenizer), tokenizer.decode(pair.answer)) for pair in pairs]
    if isinstance(model, GPT):
        return list(answers.answer_ids(model, tokenizer, asked, most, choose_decoding(model, 1, compile="off")))
    assert isinstance(model, EncoderDecoder)
    written: list[list[int]] = []
    for first in range(0, len(asked), WRITTEN_AT_ONCE):
        written += model.write([ids for ids, _, _ in asked[first : first + WRITTEN_AT_ONCE]], end, most)
    return [
        answers.Answered(prompt, expected, tokenizer.decode(ids), len(ids) < most)
        for (_, prompt, expected), ids in zip(asked, written, strict=True)
    ]


def _prompt_text(pair: Pair, tokenizer: Tokenizer) -> str:
    """The messages before an answer, a line each."""
    end, messages = Boundaries.of(tokenizer).end, [list[int]()]
    for i in pair.prompt:
        messages.append([]) if i == end else messages[-1].append(i)
    return "\n".join(tokenizer.decode(message) for message in messages[:-1])


def choose_example(pairs: Sequence[Pair]) -> Pair | None:
    """The first pair whose prompt and answer both have some tokens and fit into a map; None where none fits."""
    fitting = [pair for pair in pairs if pair.mark < LARGEST_MAP and len(pair.answer) < LARGEST_MAP]
    return max(fitting, key=lambda pair: min(WANTED_MAP, pair.mark, len(pair.answer)), default=None)


@torch.no_grad()
def measure_attention(network: Network, tokenizer: Tokenizer, pair: Pair) -> dict[str, Any]:
    """What the model takes from each token of a prompt for each token of the known answer, in one head of one layer.

    The head is the one whose look at the prompt tells most about the place in the answer (`information`). Of a decoder
    alone, rows do not sum to 1: the rest goes to tokens of the answer.
    """
    model = network.model.eval()
    ids = torch.from_numpy(pair.ids.astype(np.int64))[None].to(network.hardware.device)
    if isinstance(model, EncoderDecoder):
        source, known, target, _ = model.split(ids[:, :-1])
        weights = model.attention(source, known, target)[:, 0]
    else:
        assert isinstance(model, GPT)
        seen = tracing.trace(model, ids[:, :-1], attention=True, head=False).attention
        weights = torch.stack(seen)[:, 0, :, pair.mark :, : pair.mark]
    weights = weights.double().cpu()  # (L, H, T, S)
    layer, head = divmod(int(information(weights).argmax()), weights.shape[1])
    return {
        "layer": layer + 1,
        "n_layers": weights.shape[0],
        "head": head + 1,
        "n_heads": weights.shape[1],
        "prompt": token_names(tokenizer, pair.ids[: pair.mark]),
        "answer": token_names(tokenizer, pair.ids[pair.mark + 1 :]),
        "weights": [[round(weight, 4) for weight in row] for row in weights[layer, head].tolist()],
    }


def information(weights: Tensor) -> Tensor:
    """Bits (...) that the place looked at tells about the row, for weights (..., T, S): their mutual information.

    It is 0 where all rows are alike, such as those of a head that always looks at the first token or at all of them,
    and high where each row looks at a place of its own. What rows lack of 1 counts as one more place.
    """
    rest = (1 - weights.sum(-1, keepdim=True)).clamp_min(0)
    shares = torch.cat((weights, rest), -1)
    return (_entropy(shares.mean(-2)) - _entropy(shares).mean(-1)) / math.log(2)


def _entropy(shares: Tensor) -> Tensor:
    return -(shares * shares.clamp_min(1e-12).log()).sum(-1)


def token_names(tokenizer: Tokenizer, ids: Sequence[int] | np.ndarray) -> list[str]:
    """Tokens as text; boundaries by their names."""
    marks = Boundaries.of(tokenizer)
    names = dict(zip((*marks.roles, marks.end, marks.separator), (*BOUNDARIES, tokenizer.separator), strict=True))
    return [names.get(int(i)) or tokenizer.decode([int(i)]) for i in ids]


def measure(
    network: Network, tokenizer: Tokenizer, val_ids: np.ndarray, token_bytes: np.ndarray, context: int
) -> dict[str, Any]:
    """Everything that is measured of a trained model of pairs."""
    pairs = held_out_pairs(val_ids, Boundaries.of(tokenizer), context)
    scored, asked = spread(pairs, MOST_SCORED), spread(pairs, MOST_WRITTEN)
    sums, written = score_answers(network, scored, token_bytes), write_answers(network, tokenizer, asked)
    interval, right = sums.interval(), [each.exact for each in written]
    example = choose_example(asked)
    return {
        "bits_per_byte": sums.bits_per_byte,
        "bits_per_byte_interval": interval and list(interval),
        "val_bytes": round(float(sums.bytes.sum())),
        "windows": {"bits": sums.bits.round(3).tolist(), "bytes": sums.bytes.round(3).tolist()},
        "exact": {"right": [int(each) for each in right], **wilson(sum(right), len(right))},
        "answers": [
            {"prompt": each.prompt, "expected": each.expected, "written": each.written, "exact": each.exact}
            for each in written[:SHOWN]
        ],
        "attention": measure_attention(network, tokenizer, example) if example else None,
    }
