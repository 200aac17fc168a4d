"""A network that takes part: its shape, its weights, its optimizer and the step that trains it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from gptlite.baselines import encoder_decoder, recurrent
from gptlite.baselines.encoder_decoder import EncoderDecoderConfig
from gptlite.baselines.recurrent import Recurrent, RecurrentConfig
from gptlite.comparison.contenders import GPTLITE, Contender, Protocol
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware
from gptlite.kernels.workers import Workers
from gptlite.model import GPT, initialise, set_vectors
from gptlite.training import bigram_init, compile, machine, optimizer, pair_data
from gptlite.training.adamw import AdamW
from gptlite.training.divided import plain_loss
from gptlite.training.optimizer import Loss
from gptlite.training.soft_targets import SoftTargets, weight_at, with_targets
from gptlite.training.team import ALONE
from gptlite.training.watcher import Watcher

BETAS = (0.9, 0.99)  # of AdamW for the networks of the past
POST_NORM_WARMUP = 0.1  # share of the time; without a warm-up the Transformer of 2017 diverges
MOST_LAYERS = 6  # of an encoder or a decoder, as in 2017
Config = ModelConfig | RecurrentConfig | EncoderDecoderConfig


@dataclass(frozen=True)
class Shape:
    """What decides on a network besides its kind: the vocabulary, the context, and gptlite's own plan for both.

    - `begin`: of pairs, the id after which an answer is written; None for running text.
    """

    model: ModelConfig
    train: TrainConfig
    begin: int | None = None

    @classmethod
    def of(cls, protocol: Protocol) -> Shape:
        return cls(ModelConfig(**protocol.model), TrainConfig(**protocol.train))

    def with_context(self, context_length: int, tokens_per_step: int) -> Shape:
        """The same with windows of another length, as many as there are `tokens_per_step`."""
        model = dataclasses.replace(self.model, context_length=context_length)
        train = dataclasses.replace(self.train, batch_size=max(1, tokens_per_step // context_length))
        return Shape(model, train, self.begin)


class Network:
    """A contender's model on its device, with everything that a training step needs.

    - `rate`: the peak of the learning rate; gptlite's own is that of its plan.
    """

    def __init__(self, contender: Contender, shape: Shape, hardware: Hardware, rate: float, seed: int) -> None:
        self.contender, self.seed = contender, seed
        self.config: Config = config_of(contender, shape)
        train = shape.train
        if contender.name != GPTLITE:
            warmup = train.warmup if contender.kind == "recurrent" else POST_NORM_WARMUP
            train = dataclasses.replace(
                train, optimizer="adamw", lr=rate, warmup=warmup, init="random", ngram_weight=0.0
            )
        self.train = train
        if isinstance(self.config, ModelConfig):
            hardware = machine.decide(hardware, train.seconds, 0, self.config, train)
            hardware = hardware if shape.begin is None else pair_data.uncompiled(hardware)
        self.hardware = dataclasses.replace(hardware, open=())
        self.workers: Workers = compile.workers_for(self.hardware, train)
        self.model: nn.Module = _build(self.config, train, seed).to(hardware.device)
        self.loss_of: Loss = plain_loss(self.hardware, self.workers)
        self.targets: SoftTargets | None = None
        if isinstance(self.model, GPT):
            self.loss_of, self.hardware = machine.ready(
                self.model, train, self.hardware, ALONE, Watcher(), self.workers
            )
            self.optimizers = optimizer.make_optimizers(self.model, train, workers=self.workers)
        else:  # no weight decay, as the papers have none
            groups = [{"params": list(self.model.parameters()), "lr_scale": 1.0}]
            self.optimizers = [AdamW(groups, lr=rate, betas=BETAS, weight_decay=0.0, fused=True)]

    def start_from_counts(self, ids: np.ndarray) -> None:
        """What gptlite does before its first step: token vectors from bigrams, where its plan says so."""
        if isinstance(self.model, GPT) and self.train.init == "bigrams":
            shape = self.model.config
            set_vectors(self.model, *bigram_init.bigram_vectors(ids, shape.vocab_size, shape.dim, self.seed))

    def learn_from(self, targets: SoftTargets | None) -> None:
        """Windows come with their places from now on (`with_places`), where there are soft targets."""
        self.targets, self.loss_of = targets, with_targets(self.loss_of, targets)

    def step(self, batch: Tensor, progress: float, step_share: float) -> float:
        """One optimizer step on windows (B, T + 1) at `progress` of the time; the loss in nats per token, maybe NaN."""
        rate = optimizer.learning_rate(progress, self.train, step_share)
        optimizer.set_learning_rate(self.optimizers, rate)
        if self.targets is not None:
            self.targets.weight = weight_at(progress, self.train, len(self.targets.ids))
        self.model.train()
        loss, norm = optimizer.training_step(
            cast(GPT, self.model), self.optimizers, batch, self.hardware, self.train.clip, self.loss_of,
            workers=self.workers,
        )  # fmt: skip
        return loss + 0 * norm  # not a number where either is none

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    @property
    def n_params(self) -> int:
        return self.config.n_params


def config_of(contender: Contender, shape: Shape) -> Config:
    """gptlite's own shape, or one of the contender's kind with about as many parameters."""
    own = shape.model
    if contender.kind == "encoder-decoder":
        return _encoder_decoder(contender, shape)
    if contender.kind == "recurrent":
        return RecurrentConfig.of_size(contender.name, own.vocab_size, own.n_params)
    if contender.name == GPTLITE:
        return own
    return _past_transformer(contender.name, own)


def _past_transformer(architecture: str, own: ModelConfig) -> ModelConfig:
    """As deep as gptlite's own, and as wide as its number of parameters allows."""

    def at(dim: int) -> ModelConfig:
        return ModelConfig.preset(
            architecture, "tiny", own.vocab_size, dim=dim, n_layers=own.n_layers, context_length=own.context_length,
            tie_embeddings=True,
        )  # fmt: skip

    step = 64 if own.dim >= 128 else 16
    return min((at(dim) for dim in range(step, 4 * own.dim + step, step)), key=lambda c: abs(c.n_params - own.n_params))


def _encoder_decoder(contender: Contender, shape: Shape) -> EncoderDecoderConfig:
    """Half of gptlite's own layers on each side, so that both are about as deep and as wide."""
    own, begin = shape.model, shape.begin
    assert begin is not None, "an encoder-decoder needs pairs"
    if contender.name == "lstm-attention":
        return EncoderDecoderConfig.of_size("lstm", own.vocab_size, own.n_params, begin=begin)
    n_layers = max(1, min(MOST_LAYERS, own.n_layers // 2))
    return EncoderDecoderConfig.of_size("transformer", own.vocab_size, own.n_params, n_layers, begin)


def _build(config: Config, train: TrainConfig, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    if isinstance(config, EncoderDecoderConfig):
        pair_model = encoder_decoder.build(config, train.dropout)
        encoder_decoder.initialise(pair_model, seed)
        return pair_model
    if isinstance(config, RecurrentConfig):
        model = Recurrent(config, train.dropout)
        recurrent.initialise(model, seed)
        return model
    gpt = GPT(config, dropout=train.dropout)
    initialise(gpt, seed)
    return gpt
