"""The context encoder of a run (embedding/context_encoder.py), made when its training ends, from the training text.

It gets a share of the run's budget: of its time, which training then has less of, or of its steps, which come on top.
Nothing in the model itself changes. Four phases follow each other:

1. A backward model, which begins with the blocks of the model and its own bigrams, learns the text from right to left.
2. Both models read passages of the text, and their states around words are kept.
3. A small network learns to predict each word from them, among the most frequent words of the text.
4. Its vectors are whitened by half, and the uses of each of these words are put into a few groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gptlite.checkpoint.context_encoder import HIDDEN
from gptlite.embedding.both_sides import ContextBags, use_vectors
from gptlite.embedding.both_sides_scale import find_places
from gptlite.embedding.context_encoder import WINDOWS_AT_ONCE, ContextEncoder, hidden_layer, last_states, word_vectors
from gptlite.embedding.known_uses import KnownUses, choose_uses, group_uses, join_groups
from gptlite.errors import NumericsError, UsageError
from gptlite.kernels.build import NoKernel
from gptlite.kernels.forward import Forward
from gptlite.model import GPT, set_vectors
from gptlite.training import bigram_init, optimizer, soft_targets
from gptlite.training.clock import Clock
from gptlite.training.plan import can_start_from_bigrams
from gptlite.training.setup import Setup
from gptlite.training.state import State

READING, PREDICTING, GROUPING = 0.22, 0.62, 0.94  # when later phases begin, as parts of the whole
ENOUGH = 0.25  # of the time that was kept for it; with less there is no encoder
EDGE = 8  # tokens at the ends of a passage whose words know too little
MOST_EXAMPLES, FEWEST_EXAMPLES = 300_000, 100  # words
MOST_TARGETS = 4000  # different ones
FEW = 1 << 14  # words, that means and deviations are of
BATCH, RATE = 512, 3e-3  # words per step of the network, and its largest learning rate
WARMUP = 0.1
DROPOUT, HIDDEN_DROPOUT = 0.1, 0.2  # of what enters the network, and of its hidden layer
COMMON = 1e-3  # share of the text above which a word is learned from less often than it stands there
MOST_COMPARED = 32  # uses of one word, of which the variance within words is measured


def check(share: float, processes: int) -> None:
    """Raises `UsageError` where an encoder is asked for that would not be made."""
    if share and processes > 1:
        raise UsageError("`context_encoder` is for training in one process; leave it out.")


Read = Callable[[np.ndarray], np.ndarray]


class _Stopped(Exception):
    """A signal asked for the end."""


@dataclass
class Effort:
    """How much of the work is done, from 0 to 1: by the clock, or by counting where steps are the budget.

    - `seconds`: in all; 0 for counting. `n_steps`: of the backward model.
    """

    clock: Clock
    began: float
    seconds: float
    n_steps: int

    def ticks(self, begin: float, end: float, n: int, setup: Setup) -> Iterator[tuple[int, float]]:
        """Numbers from 0, and the progress of this phase, from 0 to 1, while it lasts: between two parts of the whole,
        or, where steps are the budget, `n` times. There is at least one. A phase whose predecessor ended early begins
        early."""
        i, progress = 0, 0.0
        if self.seconds:
            begin = min(begin, self._passed())
        while progress < 1:
            setup.watcher.phase("learning what stands around words", begin + progress * (end - begin))
            if setup.should_stop():
                raise _Stopped
            yield i, progress
            i += 1
            progress = (self._passed() - begin) / (end - begin) if self.seconds else i / n

    def _passed(self) -> float:
        return (self.clock.elapsed() - self.began) / self.seconds


def make_context_encoder(model: GPT, state: State, setup: Setup) -> ContextEncoder | None:
    """The context encoder of a run whose own training has ended; None where none was asked for.

    `model` is in `eval()` mode afterwards. With a notice, and without a result, end: a signal, a budget of time that is
    used already, a text of too few words, and failures of any kind. Torch's random numbers are as before.
    """
    share, clock = setup.plan.train.context_encoder, setup.clock
    if not share:
        return None
    began, seconds = clock.elapsed(), 0.0
    if clock.seconds is not None:  # what else is kept for the end comes after it
        others = state.reserve - state.encoder_seconds
        seconds = min(state.encoder_seconds, clock.seconds - others - began)
        if seconds < ENOUGH * state.encoder_seconds:
            setup.watcher.notice("no time is left for the context encoder, so there is none; a longer `time` helps.")
            return None
    effort = Effort(clock, began, seconds, max(1, round(READING * share * state.step)))
    devices = [setup.hardware.device] if setup.hardware.device.type == "cuda" else []
    try:
        if setup.bags is None:
            raise NumericsError("the text has too few words")
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(setup.plan.train.seed)
            backward = _train_backward(model, state, setup, effort)
            views, targets = _read(model.eval(), backward, setup, effort, setup.bags)
            network = _train_network(views, targets, setup, effort, setup.bags)
            network["out"] = _whitened(network, views, targets, setup.plan.train.seed)
            return ContextEncoder(backward, network, _group_uses(views, targets, network, setup, effort))
    except _Stopped:
        setup.watcher.notice("the context encoder was not finished and is left out of the last step.")
    except NumericsError as error:
        setup.watcher.notice(f"there is no context encoder: {str(error).rstrip('.')}.")
    except Exception as error:  # the model is trained, and is saved whatever happens here
        setup.watcher.notice(f"making the context encoder failed, and the last step is saved without it: {error!r}.")
    return None


# -- 1. The backward model


def _train_backward(forward: GPT, state: State, setup: Setup, effort: Effort) -> GPT:
    """As many windows per step as the model had, from where that stopped in the text. Raises `NumericsError`."""
    train = setup.plan.train
    model = _new_model(forward, setup)
    optimizers = optimizer.make_optimizers(model, train, workers=setup.workers)
    loss_of = soft_targets.without_targets(setup.loss_of, setup.hardware, setup.workers)
    for i, progress in effort.ticks(0.0, READING, effort.n_steps, setup):
        step_share = progress / i if i else 1 / effort.n_steps
        optimizer.set_learning_rate(optimizers, optimizer.learning_rate(progress, train, step_share))
        windows = setup.batches.batch(state.step + i)
        backwards = torch.where(windows < 0, ~windows, windows).flip(1)  # what is only read is learned too
        loss, norm = optimizer.training_step(
            model, optimizers, backwards, setup.hardware, train.clip, loss_of, train.accumulate, workers=setup.workers
        )
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NumericsError("the backward model diverged; a smaller `lr` may help")
    return model.eval()


def _new_model(forward: GPT, setup: Setup) -> GPT:
    """The weights of `forward`; vectors say what precedes what, as those of a new model what follows what."""
    shape, train = setup.plan.model, setup.plan.train
    model = GPT(shape, train.dropout)
    model.load_state_dict(forward.state_dict())
    if can_start_from_bigrams(shape):
        set_vectors(model, *bigram_init.bigram_vectors(setup.all_ids[::-1], shape.vocab_size, shape.dim, train.seed))
    return model.to(setup.hardware.device).train()


# -- 2. What stands around words


def _read(model: GPT, backward: GPT, setup: Setup, effort: Effort, bags: ContextBags) -> tuple[Tensor, Tensor]:
    """Views (n, 2 D + 2 W), float16, of words in passages spread over the text, and the numbers of the words (n,)."""
    ids, context = setup.all_ids, setup.plan.model.context_length
    length = min(context, len(ids))
    order = np.random.default_rng(setup.plan.train.seed).permutation(len(ids) // length)
    # A step of the backward model computes three passes; a passage takes two, one of each model.
    windows = (PREDICTING - READING) / READING * effort.n_steps * setup.plan.train.batch_size * 3 / 2
    n_groups = max(1, round(windows / WINDOWS_AT_ONCE))
    readers = _states_of(model, setup), _states_of(backward, setup)
    views: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    n = 0
    for i, _ in effort.ticks(READING, PREDICTING, n_groups, setup):
        chosen = order[i * WINDOWS_AT_ONCE : (i + 1) * WINDOWS_AT_ONCE]
        if not len(chosen) or n >= MOST_EXAMPLES:
            break
        passages = ids[chosen[:, None] * length + np.arange(length)]
        found, numbers = _views(*readers, setup, passages, bags)
        views.append(found)
        targets.append(numbers)
        n += len(numbers)
    if n < FEWEST_EXAMPLES:
        raise NumericsError(f"only {n} frequent words were read; a longer text or a longer run has more")
    return torch.from_numpy(np.concatenate(views)), torch.from_numpy(np.concatenate(targets))


def _states_of(model: GPT, setup: Setup) -> Read:
    """A function that reads windows (n, T) from left to right: the states (n, T, D) after the last block.

    With the forward pass in C where training steps were in C, and then in int8 where they were: half of the time, and
    a difference of 2 % of the states' norm.
    """
    hardware = setup.hardware
    try:
        if not hardware.fused:
            return partial(last_states, model)
        forward = Forward(model, dtype=torch.int8 if hardware.int8 else torch.float32)
    except NoKernel:
        return partial(last_states, model)

    def read(windows: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(windows.astype(np.int64)).tensor_split(min(len(windows), setup.workers.parts))
        return torch.cat(setup.workers.map(forward.states, parts)).numpy()

    return read


def _views(
    left_states: Read, right_states: Read, setup: Setup, passages: np.ndarray, bags: ContextBags
) -> tuple[np.ndarray, np.ndarray]:
    """Views (n, 2 D + 2 W) and numbers (n,) of the frequent words in passages (m, T)."""
    places = find_places(setup.tokenizer, passages)
    words: dict[int, list[str]] = {}
    for place in places:
        words.setdefault(place.window, []).append(place.word.casefold())
    around = bags.of_words(list(words.values()))  # in the order of `places`
    edge = min(EDGE, passages.shape[1] // 4)
    numbers = np.array([bags.index.get(place.word.casefold(), MOST_TARGETS) for place in places], dtype=np.int64)
    where = np.array([(p.window, p.first - 1, p.last + 1) for p in places], dtype=np.int64).reshape(-1, 3)
    kept = (numbers < MOST_TARGETS) & (where[:, 1] >= edge) & (where[:, 2] < passages.shape[1] - edge)
    window, before, after = where[kept].T
    left, right = left_states(passages), right_states(passages[:, ::-1])[:, ::-1]
    views = np.concatenate([left[window, before], right[window, after], around[kept]], axis=1)
    return views.astype(np.float16), numbers[kept]


# -- 3. The network


def _train_network(
    views: Tensor, targets: Tensor, setup: Setup, effort: Effort, bags: ContextBags
) -> dict[str, Tensor]:
    """The tensors of a network that has learned to predict `targets` (n,) from `views` (n, 2 D + 2 W).

    What its second layer gives is compared with vectors of the words, which begin as those of the bags.
    """
    generator = torch.Generator().manual_seed(setup.plan.train.seed)
    some = views[:FEW].float()
    mean, std = some.mean(0), some.std(0).clamp_min(1e-6)
    weight = torch.rand(HIDDEN, views.shape[1], generator=generator) * 2 - 1
    out = torch.rand(bags.dim, HIDDEN, generator=generator) * 2 - 1
    counts = torch.from_numpy(bags.words.counts[:MOST_TARGETS]).float()
    learned = {
        "weight": weight / math.sqrt(views.shape[1]),
        "bias": torch.zeros(HIDDEN),
        "out": out / math.sqrt(HIDDEN),
        "words": 0.1 * torch.from_numpy(bags.standardised[: len(counts)]).float(),
        "frequencies": (counts / counts.sum()).log(),
    }
    network = {"mean": mean, "std": std, **learned}
    adamw = torch.optim.AdamW([tensor.requires_grad_() for tensor in learned.values()], lr=RATE, weight_decay=0.01)
    # Of words that are more frequent than `COMMON`, fewer places are drawn.
    drawn = (COMMON * counts.sum() / counts).sqrt().clamp_max(1.0)[targets].double().cumsum(0)
    n_steps = max(1, round((GROUPING - PREDICTING) / READING * effort.n_steps * network_steps_per_step(learned, setup)))
    for _, progress in effort.ticks(PREDICTING, GROUPING, n_steps, setup):
        adamw.param_groups[0]["lr"] = RATE * min(1.0, (progress + 1 / n_steps) / WARMUP) * (1 - progress)
        chances = torch.rand(BATCH, generator=generator, dtype=torch.float64)
        batch = torch.searchsorted(drawn, chances * drawn[-1])
        hidden = hidden_layer(network, views[batch].float(), DROPOUT)
        vectors = F.linear(F.dropout(hidden, HIDDEN_DROPOUT), learned["out"])
        logits = F.linear(vectors, learned["words"], learned["frequencies"])
        adamw.zero_grad()
        F.cross_entropy(logits, targets[batch]).backward()
        adamw.step()
    return {name: network[name].detach() for name in ("mean", "std", "weight", "bias", "out")}


def network_steps_per_step(learned: Mapping[str, Tensor], setup: Setup) -> float:
    """How many steps of the network take as many multiplications as one step of the model."""
    shape, train = setup.plan.model, setup.plan.train
    of_network = BATCH * sum(tensor.numel() for tensor in learned.values())
    looked_up = 0 if shape.tie_embeddings else shape.vocab_size * shape.dim  # which takes no multiplication
    return (shape.n_params - looked_up) * train.batch_size * shape.context_length / of_network


# -- 4. The uses of each word


def _whitened(network: Mapping[str, Tensor], views: Tensor, targets: Tensor, seed: int) -> Tensor:
    """The last layer (W, H) of the network with each axis divided by the fourth root of its variance within words.

    Uses of one word differ most along a few axes, such as the subject of the text, which drown others that tell senses
    apart. The variance is that between uses of one word, in the mean over the words, and is drawn to its mean over the
    axes by half: within-class covariance normalisation (Hatch et al. 2006), half of the way. docs/lab/log.md has what
    all of the way costs.
    """
    out = network["out"]
    within = torch.zeros(len(out), len(out))
    for _, uses, _ in choose_uses(targets.numpy(), seed):
        some = uses[:, :MOST_COMPARED]
        vectors = F.normalize(word_vectors(network, views[some.clip(0)].float().flatten(0, 1)), dim=1)
        vectors = vectors.view(*some.shape, -1)
        real = torch.from_numpy(some >= 0)[..., None]
        means = (vectors * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        deviations = ((vectors - means) * real).flatten(0, 1)
        within += deviations.mT @ deviations
    if not within.trace() > 0:  # no word has enough uses
        return out
    variances, axes = torch.linalg.eigh(within.double())
    evened = (variances + variances.mean()) / 2
    return ((axes * evened**-0.25) @ axes.mT).float() @ out


def _group_uses(
    views: Tensor, targets: Tensor, network: Mapping[str, Tensor], setup: Setup, effort: Effort
) -> KnownUses:
    """Groups of the uses of the words `targets` (n,) that have enough of them; `views` (n, 2 D + 2 W)."""
    n_bags = views.shape[1] - 2 * setup.plan.model.dim
    chosen = list(choose_uses(targets.numpy(), setup.plan.train.seed))
    of_words: dict[int, np.ndarray] = {}
    for i, _ in effort.ticks(GROUPING, 1.0, len(chosen), setup):
        if i >= len(chosen):
            break
        words, uses, n_groups = chosen[i]
        some = views[uses.clip(0)].float().flatten(0, 1)
        vectors = use_vectors(some[:, -n_bags:].numpy(), word_vectors(network, some).numpy())
        vectors = torch.from_numpy(vectors).view(*uses.shape, -1) * torch.from_numpy(uses >= 0)[..., None]
        of_words |= zip(words.tolist(), group_uses(vectors, n_groups).numpy(), strict=True)
    return join_groups(of_words, 3 * n_bags // 2)
