"""The scaling law of the planner: bits per byte of held-out text, from the sizes of model and text and the tokens read.

    bits = FLOOR + PARAMETER_TERM / N ^ EXPONENT + TOKEN_TERM / D ^ EXPONENT + EXCESS_TERM * max(0, ln(N / (ROOM U)))

- N: millions of parameters, embeddings and head not counted.
- D: millions of tokens read. Repeated ones count less and less: U (1 + R (1 - exp(-(D / U - 1) / R))) for the U
  different ones of the text, R = `REUSE`. Counted as if each token spelled `BYTES_PER_TOKEN` bytes, so that the
  vocabulary does not change what a token is worth.
- The last term: a model with many parameters per token of text memorises it instead, far less with soft targets.

The form is that of Hoffmann et al. (2022), "Training Compute-Optimal Large Language Models"; the worth of repeated
tokens is that of Muennighoff et al. (2023), "Scaling Data-Constrained Language Models". The constants are fitted by
hand to runs of 1 to 30 minutes on one text (docs/lab/log.md). For another text the bits are scaled by those that a
5-gram needs for it (`scaled_by_ngram`).
"""

from __future__ import annotations

import math

from gptlite.config import ModelConfig

FLOOR, PARAMETER_TERM, TOKEN_TERM, EXPONENT = 1.55, 0.15, 0.40, 0.35
REUSE = 3.0  # a text read again and again is worth at most 1 + REUSE times its tokens
ROOM, EXCESS_TERM = 6.0, 0.4  # parameters per token of text beyond which a model memorises it
SHORT_TEXT = (40_000, 150_000)  # tokens of texts on which large models with soft targets were measured
SOFT_EXCESS_TERM = 0.06  # takes the place of `EXCESS_TERM` for these
BYTES_PER_TOKEN = 2.5
FEWEST_TOKENS = 1_000_000  # of the runs that the law was fitted to; shorter ones begin better than it says
# Bits per byte of the 5-gram on the text that the law was fitted to, and the bytes of that text. On a shorter text a
# 5-gram needs more bits, which the token term has counted already: `SHORT_NGRAM` more per root of how much shorter.
NGRAM_LEVEL, NGRAM_BYTES, SHORT_NGRAM = 2.204, 1_000_000, 0.155

# When a model begins to memorise its text: epochs * (hidden parameters per token of text) ^ OVERFITTING_EXPONENT, and
# the dropout that was best up to there (docs/lab/log.md). The mean of several models needs less of it. With soft
# targets that weigh less in the end, those of texts of `LONG_TEXT` tokens or more, models need more.
OVERFITTING_EXPONENT = 0.35
DROPOUT = ((7.7, 0.0), (23.0, 0.1), (35.0, 0.2), (math.inf, 0.3))
MEMBERS_DROPOUT = ((7.7, 0.0), (27.0, 0.1), (60.0, 0.2), (math.inf, 0.3))
FALLING_DROPOUT = ((7.7, 0.0), (14.0, 0.1), (35.0, 0.2), (math.inf, 0.3))
LONG_TEXT = 250_000
MEMBERS_OVERFITTING = 27.0  # beyond it they need more dropout, and their mean is no better
ROUNDING = 1e-9  # a run that ends at a bound is not beyond it

# The temperature by which logits are best divided after more than so many passes, where soft targets weigh less in the
# end (docs/lab/log.md), and the bits per byte that it gains. Fewer passes were not measured.
TEMPERATURE, TEMPERATURE_EPOCHS, TEMPERATURE_GAIN = 1.1, 6.0, 0.01

# Soft targets of a 5-gram: the passes through the text from which on they pay, their weight, and the bits per byte that
# they gain, which fall with a power of the tokens of the text. Counting takes time, of which a run has other uses.
NGRAM_EPOCHS, NGRAM_WEIGHT = 2.0, 0.5
NGRAM_GAIN, NGRAM_TOKENS, NGRAM_EXPONENT = 0.04, 50_000, 0.45
COUNTING_SECONDS = 1.3e-8  # per token of text and entry of the vocabulary, on one core
COUNTING_SHARE = 0.05  # of a time budget, at most

# What the mean of several models gains; most for small texts, of which each learns something else (docs/lab/log.md).
MEMBERS_GAIN, MEMBERS_TOKENS, MEMBERS_EXPONENT = 0.053, 365_000, 0.23
MEMBERS_FEWEST = 40_000  # tokens of the smallest text that was measured
# Members whose soft targets weigh less in the end, those of texts of `LONG_TEXT` tokens or more, differ more. That was
# measured on a text of a megabyte; for one of four the gain is what it is without falling weights.
FALLING_MEMBERS_GAIN, FALLING_MEMBERS_EXPONENT = 0.08, 0.5
MEMBERS_EPOCHS = 8.0  # of each, from which on the gain is whole; models that have read less differ less


def predicted_bits(
    model: ModelConfig, tokens: float, text_tokens: int, text_bytes: int, soft_targets: bool = False
) -> float:
    """Bits per byte on held-out text after `tokens` tokens, on the scale of the text that the law was fitted to.

    - `text_tokens`, `text_bytes`: size of the training text, which is read again where `tokens` is more.
    """
    unique = min(tokens, text_tokens)
    worth = unique * (1 + REUSE * (1 - math.exp(-(tokens / unique - 1) / REUSE)))
    worth *= text_bytes / text_tokens / BYTES_PER_TOKEN
    hidden = hidden_params(model)
    bits = FLOOR + PARAMETER_TERM * (1e6 / hidden) ** EXPONENT + TOKEN_TERM * (1e6 / max(1.0, worth)) ** EXPONENT
    measured = SHORT_TEXT[0] <= text_tokens <= SHORT_TEXT[1]
    excess = SOFT_EXCESS_TERM if soft_targets and measured else EXCESS_TERM
    return bits + excess * max(0.0, math.log(hidden / (ROOM * text_tokens)))


def scaled_by_ngram(bits: float, ngram_bits: float, text_bytes: int) -> float:
    """Bits per byte of the text at hand, from those on the scale of `predicted_bits`.

    - `ngram_bits`: of a 5-gram on its held-out part; `text_bytes`: size of the training text.
    """
    shorter = max(1.0, NGRAM_BYTES / max(1, text_bytes)) ** 0.5
    return bits * ngram_bits / (NGRAM_LEVEL + SHORT_NGRAM * (shorter - 1))


def best_dropout(
    model: ModelConfig, epochs: float, text_tokens: int, members: int = 1, soft_targets: bool = False
) -> float:
    """The dropout for a text that is read `epochs` times: the larger the model, the sooner it memorises the text."""
    overfitting = epochs * _overfitting_of_an_epoch(model, text_tokens)
    table = MEMBERS_DROPOUT if members > 1 else DROPOUT
    if soft_targets and text_tokens >= LONG_TEXT:
        table = FALLING_DROPOUT
    return next(rate for most, rate in table if overfitting <= most * (1 + ROUNDING))


def best_temperature(epochs: float, text_tokens: int, soft_targets: bool) -> float:
    """The temperature by which the logits of a model are divided that has read a text `epochs` times; 1 where none was
    measured."""
    return TEMPERATURE if soft_targets and text_tokens >= LONG_TEXT and epochs > TEMPERATURE_EPOCHS else 1.0


def most_epochs(member: ModelConfig, text_tokens: int) -> float:
    """How often each of several models should read a text at most; any number for texts of which this is not known."""
    if not (SHORT_TEXT[0] <= text_tokens <= SHORT_TEXT[1] or text_tokens >= LONG_TEXT):
        return math.inf
    return MEMBERS_OVERFITTING / _overfitting_of_an_epoch(member, text_tokens)


def _overfitting_of_an_epoch(model: ModelConfig, text_tokens: int) -> float:
    return (hidden_params(model) / text_tokens) ** OVERFITTING_EXPONENT


def best_ngram_weight(epochs: float, text_tokens: int, vocab_size: int, seconds: float | None = None) -> float:
    """The weight of a 5-gram's soft targets for a text that is read `epochs` times, in `seconds` if time is the budget.

    0 where they would gain less than the time in which the 5-gram counts.
    """
    counting = COUNTING_SECONDS * text_tokens * vocab_size
    pays = epochs >= NGRAM_EPOCHS and (seconds is None or counting <= COUNTING_SHARE * seconds)
    return NGRAM_WEIGHT if pays else 0.0


def ngram_gain(text_tokens: int) -> float:
    """Bits per byte that soft targets gain, on the scale of `predicted_bits`."""
    return NGRAM_GAIN * min(1.0, NGRAM_TOKENS / max(1, text_tokens)) ** NGRAM_EXPONENT


def members_gain(members: int, epochs: float, text_tokens: int, soft_targets: bool = False) -> float:
    """Bits per byte that the mean of so many models gains over each of them, on the scale of `predicted_bits`.

    - `epochs`: how often each reads the text.
    """
    whole = MEMBERS_GAIN * (MEMBERS_TOKENS / max(MEMBERS_FEWEST, text_tokens)) ** MEMBERS_EXPONENT
    if soft_targets and text_tokens >= LONG_TEXT:
        whole = FALLING_MEMBERS_GAIN * min(1.0, MEMBERS_TOKENS / text_tokens) ** FALLING_MEMBERS_EXPONENT
    return whole * (1 - 1 / members) * min(1.0, epochs / MEMBERS_EPOCHS)


def hidden_params(model: ModelConfig) -> int:
    """Parameters besides embeddings and head."""
    return model.n_params - model.vocab_size * model.dim * (1 if model.tie_embeddings else 2)
