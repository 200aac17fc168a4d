"""Every setting of gptlite: frozen, checked when it is made, and free of torch.

An architecture is a row of choices, a size is a row of numbers, and a preset is their product:

    ModelConfig.preset("qwen3", "small", vocab_size=1024)

Defaults are written here and nowhere else; the command line reads them from the class attributes.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from gptlite.errors import UsageError

# The choices. Sources: Vaswani et al. 2017 (transformer-2017), Radford et al. 2019 (gpt2),
# Touvron et al. 2023 (llama), Qwen Team 2025 (qwen3).
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen3": {
        "norm": "rmsnorm", "norm_position": "pre", "position": "rope", "activation": "swiglu",
        "qk_norm": True, "bias": False, "scale_embeddings": False, "norm_eps": 1e-6,
    },
    "llama": {
        "norm": "rmsnorm", "norm_position": "pre", "position": "rope", "activation": "swiglu",
        "qk_norm": False, "bias": False, "scale_embeddings": False, "norm_eps": 1e-5,
    },
    "gpt2": {
        "norm": "layernorm", "norm_position": "pre", "position": "learned", "activation": "gelu",
        "qk_norm": False, "bias": True, "scale_embeddings": False, "norm_eps": 1e-5,
    },
    "transformer-2017": {
        "norm": "layernorm", "norm_position": "post", "position": "sinusoidal", "activation": "relu",
        "qk_norm": False, "bias": True, "scale_embeddings": True, "norm_eps": 1e-5,
    },
}  # fmt: skip

# The numbers. Heads are 64 wide, which every fast attention kernel accepts.
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"n_layers": 4, "dim": 128, "n_heads": 2, "context_length": 128},
    "small": {"n_layers": 4, "dim": 192, "n_heads": 3, "context_length": 128},
    "medium": {"n_layers": 6, "dim": 384, "n_heads": 6, "context_length": 256},
    "large": {"n_layers": 12, "dim": 768, "n_heads": 12, "context_length": 1024},
}

# Corrections of a space of vectors (embedding/similarity.py), in the order in which a saved step has their statistics,
# and the number of principal components that are measured.
CORRECTIONS = ("none", "center", "zscore", "abtt")
MOST_COMPONENTS = 8

DEFAULT_SECONDS = 300.0  # of a run without a budget
MEMBERS = (1, 2, 4, 8)  # dividing by them is exact
LARGEST_RATE = 1e3  # a typing error; rates between this and the useful ones are found out by training
LARGEST_COMPANION = 0.95  # of a step, that comes from other texts than the user's own
LARGEST_CLIP = 1e30  # float32, in which gradients are kept, ends at 3e38
LARGEST_PENALTY = 100  # of a repetition; beyond it nothing changes any more
LARGEST_PHRASE = 1024  # tokens
LARGEST_NUMBER = 4096  # of samples
GREEDY = 1e-5  # temperatures up to here take the likeliest: what is left of the others is lost in rounding


@dataclass(frozen=True)
class RopeScaling:
    """Rotary positions slowed down, so that a model sees further than it was trained to; `model.slow_down` computes it.

    - `kind`: linear (Chen et al. 2023), llama3 (Llama Team 2024) or yarn (Peng et al. 2023).
    - `factor`: how many times slower; `original_context`: tokens that were seen before.
    - `slow`, `fast`: components that turn less often than `slow` times in the original context are slowed down fully,
      those that turn more often than `fast` times not at all. Linear slows down all.
    - `attention`: what cosines and sines are multiplied by.
    """

    kind: str
    factor: float
    original_context: int
    slow: float = 1.0
    fast: float = 32.0
    attention: float = 1.0

    def __post_init__(self) -> None:
        _choose("kind", self.kind, "linear", "llama3", "yarn")
        for name in ("factor", "original_context", "slow", "fast", "attention"):
            value = getattr(self, name)
            _require(0 < value < math.inf, f"{name} of rope scaling must be above zero, not {value}")
        _require(self.slow < self.fast, f"rope scaling needs slow ({self.slow:g}) below fast ({self.fast:g})")


@dataclass(frozen=True)
class ModelConfig:
    """Shape and choices of one decoder. Raises `UsageError` when they do not fit together.

    - `dim`: width of the residual stream; `hidden_dim`: width inside the feed-forward layer.
    - `n_kv_heads` < `n_heads` lets several query heads share keys and values (grouped-query attention).
    - `context_length`: the largest number of tokens that attention can see.
    """

    architecture: str = "qwen3"
    vocab_size: int = 1024
    context_length: int = 128
    dim: int = 192
    n_layers: int = 4
    n_heads: int = 3
    n_kv_heads: int = 3
    head_dim: int = 64
    hidden_dim: int = 512
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm: str = "rmsnorm"  # rmsnorm | layernorm
    norm_position: str = "pre"  # pre: normalise what enters a sub-layer | post: what leaves it
    position: str = "rope"  # rope | learned | sinusoidal
    activation: str = "swiglu"  # swiglu | gelu | relu
    qk_norm: bool = True  # normalise queries and keys before they meet
    bias: bool = False
    scale_embeddings: bool = False  # multiply embeddings by sqrt(dim)
    tie_embeddings: bool = True  # the output head is the embedding table

    def __post_init__(self) -> None:
        if isinstance(self.rope_scaling, dict):  # as `to_dict` has it
            object.__setattr__(self, "rope_scaling", RopeScaling(**self.rope_scaling))
        _known_architecture(self.architecture)
        for name, choice in ARCHITECTURES[self.architecture].items():
            same = name == "norm_eps" or getattr(self, name) == choice
            _require(same, f"{self.architecture} means `{name}` = {choice!r}, not {getattr(self, name)!r}")
        for name in ("vocab_size", "context_length", "dim", "n_layers", "n_heads", "n_kv_heads", "head_dim",
                     "hidden_dim"):  # fmt: skip
            _require(getattr(self, name) >= 1, f"`{name}` must be at least 1, not {getattr(self, name)}")
        _require(
            self.n_heads % self.n_kv_heads == 0,
            f"`n_heads` ({self.n_heads}) must be a multiple of `n_kv_heads` ({self.n_kv_heads})",
        )
        if self.position == "rope":
            _require(self.head_dim % 2 == 0, f"rotary positions need an even `head_dim`, not {self.head_dim}")
            # Outside of these the angles of positions are not finite, or are the same at all positions.
            _require(
                1e-3 <= self.rope_theta <= 1e15, f"`rope_theta` must be from 0.001 to 1e15, not {self.rope_theta:g}"
            )
        if self.rope_scaling is not None:
            _require(self.position == "rope", f"{self.architecture} has no rotary positions to scale")
            _require(self.rope_theta > 1, f"rope scaling needs a `rope_theta` above 1, not {self.rope_theta:g}")
        if self.architecture != "qwen3":  # where the width of a head is not a choice of its own
            _require(
                self.dim % self.n_heads == 0,
                f"`dim` ({self.dim}) must be a multiple of the number of heads ({self.n_heads})",
            )
        if self.architecture in ("gpt2", "transformer-2017"):
            _require(
                self.n_heads * self.head_dim == self.dim,
                f"{self.architecture} needs `dim` = `n_heads` x `head_dim`, "
                f"not {self.dim}, {self.n_heads}, {self.head_dim}",
            )
            _require(self.n_kv_heads == self.n_heads, f"{self.architecture} has no shared key-value heads")
        if self.architecture == "transformer-2017":
            _require(self.dim % 2 == 0, f"sinusoidal positions need an even `dim`, not {self.dim}")
            _require(self.tie_embeddings, "transformer-2017 shares its embeddings with the output head")
            _require(
                self.hidden_dim == 4 * self.dim,
                f"transformer-2017 has a feed-forward layer 4 times as wide as `dim`, not {self.hidden_dim}",
            )

    @classmethod
    def preset(cls, architecture: str, size: str, vocab_size: int, **overrides: Any) -> ModelConfig:
        """The configuration of `architecture` x `size`; `overrides` that are None keep the preset's value.

        Heads, head width and feed-forward width follow `dim` where they are not given.
        """
        _known_architecture(architecture)
        if size not in SIZES:
            raise UsageError(f"unknown size '{size}': choose from {', '.join(SIZES)}.")
        given = {name: value for name, value in overrides.items() if value is not None}
        values: dict[str, Any] = {**SIZES[size], **given}
        dim = values["dim"]
        if "n_heads" not in given:
            values["n_heads"] = next(n for n in range(max(1, dim // 64), 0, -1) if dim % n == 0)
        n_heads = values["n_heads"]
        _require(
            n_heads >= 1 and dim % n_heads == 0,
            f"`dim` ({dim}) must be a multiple of the number of heads ({n_heads}), such as {_nearest(dim, n_heads)}",
        )
        values.setdefault("head_dim", dim // n_heads)
        values.setdefault("n_kv_heads", n_heads)
        values.setdefault("hidden_dim", default_hidden_dim(dim, ARCHITECTURES[architecture]["activation"]))
        return cls(**{**ARCHITECTURES[architecture], "architecture": architecture, "vocab_size": vocab_size, **values})

    @property
    def n_params(self) -> int:
        """Number of trained parameters; tied embeddings count once."""
        bias = 1 if self.bias else 0
        q_dim, kv_dim = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        attention = (self.dim + bias) * (q_dim + 2 * kv_dim) + (q_dim + bias) * self.dim
        attention += 2 * self.head_dim if self.qk_norm else 0
        inner = self.hidden_dim * (2 if self.activation == "swiglu" else 1)
        mlp = (self.dim + bias) * inner + (self.hidden_dim + bias) * self.dim
        norm = self.dim * (2 if self.norm == "layernorm" else 1)
        embeddings = self.vocab_size * self.dim * (1 if self.tie_embeddings else 2)
        positions = self.context_length * self.dim if self.position == "learned" else 0
        final_norm = norm if self.norm_position == "pre" else 0
        return embeddings + positions + self.n_layers * (attention + mlp + 2 * norm) + final_norm

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The budget is one of `seconds`, `steps` and `epochs`; without any of them it is 300 seconds.

    - `most_epochs`: passes through the text after which a run ends whose budget is time, though time is left; None for
      no such end. As with `epochs`, each of several members makes its share of them.
    - `optimizer`: muon (with AdamW for embeddings, head and norms) or adamw; `momentum` is Muon's, the betas AdamW's.
    - `members`: models of one shape, each of which learns from its own share of each batch; what is saved is one model
      whose logits are the mean of theirs (training/ensemble.py).
    - `accumulate`: parts in which a batch is computed, one after the other, in less memory and to the same gradient.
    - `recompute`: keep little of a block for the backward pass, and compute it again there: less memory, more work.
    - `shard`: what several processes hold of the model: all of it each (none), or a part (fsdp).
    - `lr` is the peak of the schedule; `warmup` and `decay` are fractions of the whole run.
    - `init`: bigrams gives embeddings and head what counting tells (bigrams.py), random leaves all to training, and
      model goes on from one that is trained.
    - `loss`: of pairs, what is learned: the answers alone (answer), or the prompts too (all).
    - `ngram_weight`: of the probabilities of a 5-gram in the loss, 0 to 1; of a long text less in the end.
    - `eval_every`, `save_every`, `sample_every` count steps; 0 for `sample_every` means never, and None for the
      other two means about ten times in the run.
    - `background_share`, `background_end`: of the windows of a step, how many come from the background text: the
      first as long as the learning rate does not fall, then on a straight line to the other at the end.
    - `context_encoder`: of the time or the steps, the share for an encoder of what stands on both sides of words, made
      at the end; 0 for none, 0.15 at most in a new run. Time is taken from training, steps come on top.
    - `replay`: of the windows of a step, the share that is text of the run that this one started from.
    - `calibration`: the temperature by which the logits of the last step are divided, 0.5 to 2; 1 changes nothing.
    - `patience`: stop after so many scores in a row without a new best one; 0 for never.
    - `keep`: how many of the newest saved steps stay on disk, besides the best one.
    - `log`: another log beside `metrics.jsonl`: tensorboard, or none.
    """

    seconds: float | None = None
    steps: int | None = None
    epochs: float | None = None
    most_epochs: float | None = None
    batch_size: int = 16
    members: int = 1
    accumulate: int = 1
    recompute: bool = False
    shard: str = "none"
    optimizer: str = "muon"
    lr: float = 0.02
    warmup: float = 0.02
    decay: float = 0.6
    weight_decay: float = 0.1
    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    dropout: float = 0.0
    init: str = "bigrams"
    loss: str = "answer"
    ngram_weight: float = 0.0
    seed: int = 1
    eval_every: int | None = None
    save_every: int | None = None
    sample_every: int = 0
    sample_prompt: str = ""
    background_share: float = 0.0
    background_end: float = 0.0
    replay: float = 0.0
    context_encoder: float = 0.0
    calibration: float = 1.0
    patience: int = 0
    keep: int = 2
    log: str = "none"

    def __post_init__(self) -> None:
        if self.budget == (None, None, None):
            object.__setattr__(self, "seconds", DEFAULT_SECONDS)
        budget, *more = (value for value in self.budget if value is not None)
        if more:
            raise UsageError("give only one of `seconds`, `steps` and `epochs`.")
        _require(math.isfinite(budget) and budget > 0, f"the training budget must be above zero, not {budget}")
        if (most := self.most_epochs) is not None:
            _require(self.seconds is not None, "`most_epochs` is for runs whose budget is time")
            _require(0 < most < math.inf, f"`most_epochs` must be above zero, not {most}")
        for name in ("batch_size", "eval_every", "save_every", "keep"):
            value = getattr(self, name)
            _require(value is None or value >= 1, f"`{name}` must be at least 1, not {value}")
        _require(
            self.accumulate >= 1 and self.batch_size % self.accumulate == 0,
            f"`accumulate` ({self.accumulate}) must divide `batch_size` ({self.batch_size}) into equal parts",
        )
        _require(self.members in MEMBERS, f"`members` must be 1, 2, 4 or 8, not {self.members}")
        _choose("optimizer", self.optimizer, "muon", "adamw")
        _choose("init", self.init, "bigrams", "random", "model")
        _choose("loss", self.loss, "answer", "all")
        _choose("shard", self.shard, "none", "fsdp")
        _choose("log", self.log, "none", "tensorboard")
        for name in ("momentum", "beta1", "beta2", "dropout"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"`{name}` must be at least 0 and below 1, not {value}")
        for name, largest in (("lr", LARGEST_RATE), ("clip", LARGEST_CLIP)):
            value = getattr(self, name)
            _require(0 < value <= largest, f"`{name}` must be above zero and at most {largest:g}, not {value}")
        for name in ("warmup", "decay"):
            value = getattr(self, name)
            _require(0 <= value <= 1, f"`{name}` is a fraction of the run, between 0 and 1, not {value}")
        decay = self.weight_decay
        _require(0 <= decay < math.inf, f"`weight_decay` must not be negative, not {decay}")
        too_much = f"`weight_decay` ({decay:g}) times `lr` ({self.lr:g}) must be below 1, or steps undo the weights"
        _require(self.lr * decay < 1, too_much)
        _require(0.5 <= self.calibration <= 2, f"`calibration` must be from 0.5 to 2, not {self.calibration:g}")
        for name in ("background_share", "background_end", "replay"):
            value = getattr(self, name)
            _require(0 <= value <= LARGEST_COMPANION, f"`{name}` must be from 0 to {LARGEST_COMPANION}, not {value}")
        _require(
            round(max(self.background_share, self.background_end) + self.replay, 6) <= LARGEST_COMPANION,
            f"`replay` ({self.replay:g}) and the share of the background leave less than "
            f"{1 - LARGEST_COMPANION:.0%} of each step to the text itself",
        )
        _require(0 <= self.ngram_weight <= 1, f"`ngram_weight` must be from 0 to 1, not {self.ngram_weight}")
        _require(
            not self.ngram_weight or self.init != "model",
            "`ngram_weight` is for new models; leave it out with `init_from`",
        )
        share = self.context_encoder
        _require(0 <= share <= 0.5, f"`context_encoder` must be from 0 to 0.5 of the run, not {share:g}")
        _require(self.sample_every >= 0, f"`sample_every` must not be negative, not {self.sample_every}")
        _require(self.patience >= 0, f"`patience` must not be negative, not {self.patience}")
        _require(0 <= self.seed < 2**63, f"`seed` must be between 0 and 2^63 - 1, not {self.seed}")

    @property
    def budget(self) -> tuple[float | None, int | None, float | None]:
        return self.seconds, self.steps, self.epochs

    def total_steps(self, steps_per_epoch: float) -> int:
        """The steps after which a run ends in any case; 0 where time alone ends it."""
        epochs = self.most_epochs if self.epochs is None else self.epochs
        return (self.steps or 0) if epochs is None else max(1, round(epochs * steps_per_epoch))

    @property
    def windows_at_once(self) -> int:
        """Windows of text that pass through the model, or a member of it, together."""
        return self.batch_size // (self.accumulate * self.members)

    def share(self, processes: int) -> TrainConfig:
        """What the busiest of so many processes does: the same with its share of each batch, in as many parts."""
        windows = -(-self.batch_size // (processes * self.accumulate)) * self.accumulate
        return dataclasses.replace(self, batch_size=windows)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class SamplingConfig:
    """How to draw the next token, and for how long. Raises `UsageError` for what makes no sense.

    - `temperature`: at most 1e-5 takes the likeliest. `top_k` 0, `top_p` 1, `min_p` 0 and `typical_p` 1 are off.
    - `repetition_penalty` divides positive logits of tokens that the prompt or the text has, and multiplies negative
      ones (Keskar et al. 2019); 1 is off.
    - `presence_penalty` is taken once from the logits of tokens that the text has, `frequency_penalty` as often as it
      has them; the prompt does not count. Both as in OpenAI's interface; 0 is off.
    - `no_repeat_ngram`: no run of this many tokens occurs twice in prompt and text together; 0 is off.
    - `logit_bias`: pairs of a token, as its text or as its id, and what is added to its logit; or a dict of them.
    - `bans`: texts that never come, whichever tokens they might come in.
    - `min_new_tokens`: before so many neither the model nor a stop ends the text.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram: int = 0
    logit_bias: tuple[tuple[str | int, float], ...] = ()
    bans: tuple[str, ...] = ()
    min_new_tokens: int = 0
    max_new_tokens: int = 200
    num_samples: int = 1

    def __post_init__(self) -> None:
        _require(not isinstance(self.bans, str), f"`bans` must be texts in a list, not the text {self.bans!r}")
        object.__setattr__(self, "bans", tuple(self.bans))
        biases = self.logit_bias.items() if isinstance(self.logit_bias, dict) else self.logit_bias
        object.__setattr__(self, "logit_bias", tuple((token, bias) for token, bias in biases))
        _require(0 <= self.temperature < math.inf, f"`temperature` must be zero or above, not {self.temperature}")
        _require(self.top_k >= 0, f"`top_k` must be zero (off) or above, not {self.top_k}")
        _require(0 < self.top_p <= 1, f"`top_p` must be above 0 and at most 1 (off), not {self.top_p}")
        _require(0 <= self.min_p <= 1, f"`min_p` must be between 0 (off) and 1, not {self.min_p}")
        _require(0 < self.typical_p <= 1, f"`typical_p` must be above 0 and at most 1 (off), not {self.typical_p}")
        _require(
            1 / LARGEST_PENALTY <= self.repetition_penalty <= LARGEST_PENALTY,
            f"`repetition_penalty` must be between {1 / LARGEST_PENALTY} and {LARGEST_PENALTY}, 1 being off, "
            f"not {self.repetition_penalty}",
        )
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _require(
                abs(value) <= LARGEST_PENALTY,
                f"`{name}` must be between -{LARGEST_PENALTY} and {LARGEST_PENALTY}, 0 being off, not {value}",
            )
        _require(
            0 <= self.no_repeat_ngram <= LARGEST_PHRASE,
            f"`no_repeat_ngram` must be between 0 (off) and {LARGEST_PHRASE}, not {self.no_repeat_ngram}",
        )
        for token, bias in self.logit_bias:
            _require(abs(bias) < math.inf or bias == -math.inf, f"the bias of {token!r} must be a number, not {bias}")
            _require(token != "", "`logit_bias` needs the text of a token, or # and its id")
        _require("" not in self.bans, "`bans` needs texts: every text has an empty one at once")
        _require(
            not any("\ufffd" in ban for ban in self.bans),
            "\ufffd cannot be banned: it is no text of the model's, but stands for bytes that are none",
        )
        _require(self.max_new_tokens >= 0, f"`max_new_tokens` must not be negative, not {self.max_new_tokens}")
        _require(self.min_new_tokens >= 0, f"`min_new_tokens` must not be negative, not {self.min_new_tokens}")
        _require(
            self.min_new_tokens <= self.max_new_tokens,
            f"`min_new_tokens` ({self.min_new_tokens}) must not be above `max_new_tokens` ({self.max_new_tokens})",
        )
        _require(
            1 <= self.num_samples <= LARGEST_NUMBER,
            f"`num_samples` must be between 1 and {LARGEST_NUMBER}, not {self.num_samples}",
        )


def default_hidden_dim(dim: int, activation: str) -> int:
    """Feed-forward width: 4 x dim, or 8/3 x dim where a gate adds a third matrix (Shazeer 2020), in steps of 64."""
    if activation == "swiglu":
        return max(64, 64 * round(dim * 8 / 3 / 64))
    return 4 * dim


def _nearest(number: int, factor: int) -> str:
    """The multiples of `factor` on both sides of `number`."""
    below = number // max(1, factor) * factor
    return f"{below} or {below + factor}" if below > 0 else f"{factor}"


def _known_architecture(name: str) -> None:
    if name not in ARCHITECTURES:
        raise UsageError(f"unknown architecture '{name}': choose from {', '.join(ARCHITECTURES)}.")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(f"{message}.")


def _choose(name: str, value: str, *allowed: str) -> None:
    _require(value in allowed, f"`{name}` must be one of {', '.join(allowed)}, not '{value}'")
