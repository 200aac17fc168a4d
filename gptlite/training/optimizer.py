"""One training step: Muon for the hidden matrices, AdamW for the rest, and how large a step is when."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gptlite.config import TrainConfig
from gptlite.device import Hardware
from gptlite.errors import CheckpointError
from gptlite.kernels.fused import Teacher
from gptlite.kernels.workers import Workers
from gptlite.model import GPT
from gptlite.storage.validation import shown
from gptlite.text.batches import count_targets, read_batch
from gptlite.training.adamw import AdamW
from gptlite.training.ensemble import Ensemble, models_and_windows
from gptlite.training.muon import Muon
from gptlite.training.team import ALONE, Team

Loss = Callable[[GPT, Tensor], Tensor]  # of a model on windows (B, T + 1)
MOST_STEPS = 10**18
OTHERS_SCALE = 0.2  # of Muon's rate, for embeddings, head and norms under AdamW


def make_optimizers(
    model: GPT | Ensemble, config: TrainConfig, team: Team = ALONE, workers: Workers | None = None
) -> list[torch.optim.Optimizer]:
    """Muon and AdamW, or AdamW alone (Loshchilov & Hutter 2019); only hidden matrices decay."""
    groups = parameter_groups(model)
    betas = (config.beta1, config.beta2)
    others = {"params": groups.pop("others"), "weight_decay": 0.0, "lr_scale": 1.0}
    if config.optimizer == "adamw":
        matrices = [p for group in groups.values() for p in group]
        decaying = {"params": matrices, "weight_decay": config.weight_decay, "lr_scale": 1.0}
        return [AdamW([decaying, others], lr=config.lr, betas=betas, fused=True)]
    # A head is a unit of its own: orthogonalised with its neighbours, it would have to share their directions.
    blocks = {
        "to_heads": (model.config.head_dim, model.config.dim),
        "from_heads": (model.config.dim, model.config.head_dim),
    }
    matrices = [{"params": group, "block": blocks.get(name)} for name, group in groups.items()]
    muon = Muon(matrices, config.lr, config.momentum, config.weight_decay, team, workers)
    others["lr_scale"] = OTHERS_SCALE
    return [muon, AdamW([others], lr=config.lr * OTHERS_SCALE, betas=betas, fused=True)]


def parameter_groups(model: GPT | Ensemble) -> dict[str, list[nn.Parameter]]:
    """Hidden matrices whose rows (`to_heads`) or columns (`from_heads`) belong to heads, other `matrices`, `others`.

    A tied head belongs to the embeddings, which are among the others.
    """
    groups: dict[str, list[nn.Parameter]] = {"to_heads": [], "from_heads": [], "matrices": [], "others": []}
    kinds = {"q_proj": "to_heads", "k_proj": "to_heads", "v_proj": "to_heads", "o_proj": "from_heads"}
    for name, parameter in model.named_parameters():
        hidden = parameter.ndim == 2 and ".blocks." in name
        groups[kinds.get(name.split(".")[-2], "matrices") if hidden else "others"].append(parameter)
    return groups


def mean_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Nats per token on windows (B, T + 1), each token but the first predicted from those before it.

    Tokens that are not learned (`read_batch`) are left out of the mean.
    """
    inputs, targets = read_batch(batch)
    logits = model(inputs)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def distilled_loss(model: nn.Module, batch: Tensor, teacher: Teacher) -> Tensor:
    """Nats per token as `mean_loss`, with the gradient of a student's loss, which has two terms (Hinton et al. 2015).

    One is the loss on the text, the other the cross entropy with the teacher, in which all tokens but the teacher's
    likeliest count as one event.

    - `batch`: windows (B, 2, T + 1): tokens, and their positions in the stream.
    """
    windows = batch[:, 0]
    logs = model(windows[:, :-1]).flatten(0, 1).float().log_softmax(-1)  # (N, V)
    top, shares = (x.to(logs.device) for x in teacher.at(batch[:, 1, 1:].flatten()))
    on_text = F.nll_loss(logs, windows[:, 1:].flatten())
    likeliest = logs.gather(1, top)
    others = (1 - likeliest.exp().sum(1)).clamp_min(1e-6).log()
    left = (1 - shares.sum(1)).clamp_min(0)
    on_teacher = -((shares * likeliest).sum(1) + left * others).mean()
    mixed = (1 - teacher.weight) * on_text + teacher.weight * on_teacher
    return on_text.detach() + mixed - mixed.detach()


def recompute_blocks(model: GPT) -> None:
    """Let the backward pass compute the inside of a block again instead of keeping it (Chen et al. 2016)."""
    for block in model.transformer.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def training_step(
    model: GPT | Ensemble,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: Tensor,
    hardware: Hardware,
    clip: float,
    loss_of: Loss = mean_loss,
    accumulate: int = 1,
    team: Team = ALONE,
    mean_windows: float | None = None,
    workers: Workers | None = None,
) -> tuple[float, float]:
    """One optimizer step on windows (B, T + 1): the mean loss per token and the gradient's norm.

    Forward and backward pass go through `accumulate` parts of the batch, one after the other; their gradients add up to
    that of the whole. Each member of an ensemble has its share of each part. Where loss or norm is not finite, the
    weights are left as they were. `loss_of` may be a compiled `mean_loss`. Where a GPU takes the step in bf16, Muon's
    own products are in TF32, which takes less than a quarter of the time and moves an update by 0.05 to 0.5 %
    (docs/lab/gpus.md).

    - `team`, `mean_windows`: the processes that take this step together, and B in the mean over them.
    - `workers`: those of `loss_of` and `optimizers`, where these are divided among threads.
    """
    with (workers or Workers()).alone():
        return _step(model, optimizers, batch, hardware, clip, loss_of, accumulate, team, mean_windows or len(batch))


def _step(
    model: GPT | Ensemble,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: Tensor,
    hardware: Hardware,
    clip: float,
    loss_of: Loss,
    accumulate: int,
    team: Team,
    mean_windows: float,
) -> tuple[float, float]:
    model.zero_grad(set_to_none=True)
    loss = torch.zeros((), device=hardware.device)
    parts = [each for part in batch.tensor_split(accumulate) for each in models_and_windows(model, part)]
    shares = [mean_windows / len(part) for _, part in parts]
    if bool((batch < 0).any()):  # a mean over the tokens that are learned
        shares = [count_targets(batch) / count_targets(part) for _, part in parts]
    for i, (learner, part) in enumerate(parts, start=1):
        part = part.to(hardware.device, non_blocking=True)
        with hardware.autocast():
            share = team.loss(loss_of, learner, part, i == len(parts)) / shares[i - 1]
        share.backward()
        loss += share.detach()
    norm = team.whole(torch.nn.utils.clip_grad_norm_(model.parameters(), clip))
    numbers = team.mean(loss).item(), norm.item()
    if all(math.isfinite(number) for number in numbers):
        with hardware.rough_products():
            for optimizer in optimizers:
                optimizer.step()
    return numbers


def learning_rate(progress: float, config: TrainConfig, step_share: float = 0.0) -> float:
    """The rate of the step that begins at `progress` (0 to 1) of the run: a linear rise, a plateau, a linear fall.

    - `step_share`: the fraction of the run that the step takes. The rise is that of the end of the step and the fall
      that of its beginning, so neither the first step nor the last one has the rate zero.

    Decaying linearly to zero beats the cosine at small budgets (Bergsma et al. 2025); the plateau makes the shape
    independent of how long the run is (Hägele et al. 2024).
    """
    rise = min(1.0, (progress + step_share) / config.warmup) if config.warmup else 1.0
    fall = min(1.0, max(0.0, 1.0 - progress) / config.decay) if config.decay else 1.0
    return config.lr * min(rise, fall)


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], lr: float) -> None:
    """Give each group `lr`, times its scale."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]


def optimizer_tensors(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], team: Team = ALONE
) -> dict[str, Tensor]:
    """What the optimizers remember, as tensors named `<state>.<parameter>`; all of it in the first process."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = value.detach()
    return {name: tensor.cpu().clone() for name, tensor in team.gather(tensors).items()}


def expected_state(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, tuple[int, ...]]:
    """The shapes of `optimizer_tensors` once steps were taken."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    shapes: dict[str, tuple[int, ...]] = {}
    for optimizer in optimizers:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            name, shape = names[id(parameter)], tuple(parameter.shape)
            if isinstance(optimizer, Muon):
                shapes[f"momentum.{name}"] = shape
            else:
                shapes |= {f"step.{name}": (), f"exp_avg.{name}": shape, f"exp_avg_sq.{name}": shape}
    return shapes


def restore_optimizers(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, Tensor], team: Team = ALONE
) -> None:
    """Give the optimizers back what `optimizer_tensors` took; raises `CheckpointError` if it cannot be theirs."""
    check_optimizer_state(expected_state(model, optimizers), tensors)
    scatter_optimizer_state(model, optimizers, tensors, team)


def check_optimizer_state(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> None:
    """Raises `CheckpointError` unless the tensors have the `expected` names and shapes and possible values."""
    for name in (*tensors, *expected):
        if name not in expected:
            raise CheckpointError(f"the optimizer state names {shown(name)}, which this model does not have.")
        if name not in tensors:
            raise CheckpointError(f"the optimizer state has no {shown(name)}.")
        tensor, kind = tensors[name], name.partition(".")[0]
        if tuple(tensor.shape) != expected[name]:
            shape = shown(tuple(tensor.shape))
            raise CheckpointError(f"the optimizer state {shown(name)} has the shape {shape}, not {expected[name]}.")
        if not torch.isfinite(tensor).all() or (kind in ("step", "exp_avg_sq") and (tensor < 0).any()):
            raise CheckpointError(f"the optimizer state {shown(name)} holds numbers that training cannot produce.")
        if kind == "step" and (tensor.item() != int(tensor.item()) or tensor.item() > MOST_STEPS):
            raise CheckpointError(
                f"the optimizer state {shown(name)} is {tensor.item():g}, which is not a number of steps."
            )


def scatter_optimizer_state(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    tensors: Mapping[str, Tensor] | None,
    team: Team = ALONE,
) -> None:
    """Give the optimizers of all processes what the first one has in `tensors`."""
    parameters = dict(model.named_parameters())
    owner = {id(p): o for o in optimizers for group in o.param_groups for p in group["params"]}
    for full_name, tensor in team.scatter(tensors, expected_state(model, optimizers)):
        key, _, name = full_name.partition(".")
        parameter = parameters[name]
        # Everything lives beside its parameter, a step counter too, because AdamW is fused.
        value = tensor.clone().to(parameter.device) if tensor.ndim == 0 else team.place(tensor, parameter)
        owner[id(parameter)].state[parameter][key] = value
