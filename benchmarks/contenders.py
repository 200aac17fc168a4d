"""What `train.py` measures, one fresh process each: gptlite, two peers, and the machine; each prints one JSON object.

- `gptlite`: the command as its user runs it.
- `nanogpt`: a plain PyTorch loop with the recipe that nanoGPT's README gives for computers without a GPU, characters as
  tokens; written anew from the facts in README.md and config/train_shakespeare_char.py of github.com/karpathy/nanoGPT.
- `trainer`: gptlite's architecture, shape and vocabulary in `transformers`, trained by its `Trainer` as its example
  run_clm.py does: blocks of the context's length, shuffled, AdamW, a linear schedule.
- `machine`: how fast this machine multiplies fp32 matrices, and the versions of everything.
- `steps`: one training step of gptlite and one of the same architecture in `transformers`, by turns in one process.

All train on the same text, are scored by `gptlite.evaluation.scoring` on all of the same held-out bytes, and
have the same seconds. For gptlite these hold everything that its command does; for the peers they hold imports, reading
and training, while scores are taken with the clock stopped and nothing is saved. Both schedules follow the clock, so a
peer lands exactly where its time ends and nobody has to guess the right number of steps for it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlite.checkpoint import saved_step
from gptlite.checkpoint.runs import Run
from gptlite.config import ModelConfig, TrainConfig
from gptlite.device import Hardware, bf16_in_hardware, choose_hardware
from gptlite.evaluation import scoring
from gptlite.model import GPT, initialise
from gptlite.storage.reader import Reader
from gptlite.text import corpus, token_files
from gptlite.text.batches import Batches
from gptlite.text.tokenizer import Tokenizer
from gptlite.training import compile, dataset
from gptlite.training import optimizer as optim
from gptlite.training.watcher import Watcher

POINTS = 10  # of a peer's curve
CURVE_BYTES = 16_384  # of held-out text behind each of them, about what gptlite's own milestones score
PRODUCTS = ((1024, 1024, 1024), (4096, 512, 1024), (2048, 2048, 2048))  # rows, inner, columns
STEPS = 24  # of each side in `steps`, after three to warm up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    contenders = {"gptlite": gptlite, "nanogpt": nanogpt, "trainer": trainer, "machine": machine, "steps": steps}
    parser.add_argument("contender", choices=contenders)
    parser.add_argument("--text")
    parser.add_argument("--val", default="10%")
    parser.add_argument("--seconds", type=float, default=164.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=2e-3, help="the Trainer's peak learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.0, help="the Trainer's")
    parser.add_argument("--dropout", type=float, default=0.0, help="the Trainer's, after attention and feed-forward")
    parser.add_argument("--run", type=Path, help="gptlite's run: gptlite writes it, trainer and steps read it")
    parser.add_argument("--began", type=float, default=time.time(), help="time.time() when this process was started")
    options = parser.parse_args()
    print(json.dumps(contenders[options.contender](options)))


# ---------------------------------------------------------------------------------------- what they have in common


class Budget:
    """`seconds` from `began` on, and the curve of scores that were taken in them with the clock stopped."""

    def __init__(self, began: float, seconds: float) -> None:
        self.began, self.seconds = began, seconds
        self.stopped = 0.0  # seconds that do not count
        self.training_began = 0.0
        self.steps = self.points = 0
        self.curve: list[tuple[float, float]] = []

    def spent(self) -> float:
        return time.time() - self.began - self.stopped

    def begin(self) -> None:
        """Imports, reading and building are done."""
        self.training_began = self.spent()

    def share(self) -> float:
        """From 0 to 1 through the seconds that were left to train."""
        return min(1.0, (self.spent() - self.training_began) / max(1e-9, self.seconds - self.training_began))

    def step_done(self, bits_per_byte: Callable[[], float]) -> bool:
        """Count a step, score where a point of the curve is due, and say whether the time is over."""
        self.steps += 1
        over, points = self.share() >= 1, int(self.share() * POINTS)
        if points > self.points and not over:  # the last point is the score at the end
            self.points, spent = points, self.spent()
            self.curve.append((spent, bits_per_byte()))
            self.stopped = time.time() - self.began - spent
        return over

    def facts(self, spent: float, bits_per_byte: float, tokens_per_step: int) -> dict[str, Any]:
        """What every contender reports of its training, which ended after `spent` seconds."""
        return {
            "seconds": spent,
            "bits_per_byte": bits_per_byte,
            "steps": self.steps,
            "tokens_per_second": self.steps * tokens_per_step / (spent - self.training_began),
            "curve": [*self.curve, (spent, bits_per_byte)],
        }


def read_texts(options: argparse.Namespace) -> dataset.Inputs:
    """The text to train on and the text held out, split as gptlite splits them."""
    return dataset.hold_out(corpus.open_text([options.text]), options.val, Watcher())


def a_few(windows: list[scoring.Window], n_bytes: int) -> list[scoring.Window]:
    """Some of `windows`, which together score `n_bytes`: as many as score `CURVE_BYTES`."""
    return scoring.spread(windows, max(1, round(len(windows) * min(1.0, CURVE_BYTES / n_bytes))))


def read_run(path: Path) -> tuple[dict[str, Any], Path, Tokenizer]:
    """The `run.json`, the best step and the tokenizer of gptlite's run."""
    run = Run(path)
    best = run.best()
    if best is None:
        raise SystemExit(f"there is no step of gptlite in {path}.")
    with Reader(best.path) as reader:
        return run.read_info(), best.path, saved_step.read_tokenizer(reader)


# ----------------------------------------------------------------------------------------------------- contenders


def gptlite(options: argparse.Namespace) -> dict[str, Any]:
    """`gptlite train`, then the score of its best step; `seconds` are those of the whole command."""
    command = [sys.executable, "-m", "gptlite", "train", options.text, "--val", options.val]
    command += ["--time", f"{options.seconds:g}s", "--seed", str(options.seed), "--device", "cpu"]
    began = time.time()
    finished = subprocess.run([*command, "--json", "-q", "-o", str(options.run)], stdout=subprocess.PIPE, check=True)
    seconds = time.time() - began
    result = json.loads(finished.stdout)
    log = [json.loads(line) for line in (options.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]

    best = saved_step.load(read_run(options.run)[1])
    ids = token_files.tokenize(read_texts(options).val, best.tokenizer).ids()
    score = scoring.score_model(best.model, best.tokenizer, ids, choose_hardware("cpu"))
    curve = [(line["elapsed"], line["val_bits_per_byte"]) for line in log if "val_bits_per_byte" in line]
    return {
        "parameters": result["n_parameters"],
        "seconds": seconds,
        "bits_per_byte": score.bits_per_byte,
        "val_bytes": score.bytes,
        "steps": result["step"],
        "tokens_per_second": result["tokens_per_second"],  # its own scores and saves count as time here
        "curve": [*curve, (seconds, score.bits_per_byte)],
    }


def nanogpt(options: argparse.Namespace) -> dict[str, Any]:
    """Four layers of 128 on windows of 64 characters, 12 at a time; the cosine ends with the seconds."""
    context, batch_size, rate, last_rate, warmup = 64, 12, 1e-3, 1e-4, 100
    budget = Budget(options.began, options.seconds)
    torch.manual_seed(options.seed)
    texts = read_texts(options)
    train, val = ("".join(block for _, block in text.blocks()) for text in (texts.train, texts.val))
    alphabet = {character: i for i, character in enumerate(sorted(set(train)))}
    spare = len(alphabet)  # stands for every character that only the held-out text has, and for what precedes a text
    ids = torch.tensor([alphabet[character] for character in train])
    val_ids = np.array([spare, *(alphabet.get(character, spare) for character in val)])
    windows = scoring.sliding_windows(len(val_ids), context)
    few = a_few(windows, texts.val.n_bytes)
    token_bytes = torch.tensor([*(len(character.encode()) for character in alphabet), 1])

    model = CharacterGPT(len(alphabet) + 1, context, dim=128, layers=4, heads=4)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), fused=True)
    budget.begin()
    over, warm_share = False, 0.0
    while not over:
        if budget.steps < warmup:
            lr, warm_share = rate * (budget.steps + 1) / (warmup + 1), budget.share()
        else:
            share = (budget.share() - warm_share) / max(1e-9, 1 - warm_share)
            lr = last_rate + 0.5 * (rate - last_rate) * (1 + math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = lr
        starts = torch.randint(len(ids) - context, (batch_size, 1))
        batch = ids[starts + torch.arange(context + 1)]  # (B, T + 1)
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        over = budget.step_done(lambda: scoring.score(model, val_ids, few, token_bytes).bits_per_byte)
    spent = budget.spent()
    score = scoring.score(model, val_ids, windows, token_bytes)
    bits_per_byte = score.nats / math.log(2) / texts.val.n_bytes  # an unknown character has its own bytes, not one
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "val_bytes": texts.val.n_bytes,
        **budget.facts(spent, bits_per_byte, batch_size * context),
    }


class CharacterGPT(nn.Module):
    """A GPT-2 without biases: learned positions, LayerNorm before each sub-layer, GELU, the head tied to the table."""

    def __init__(self, vocab_size: int, context: int, dim: int, layers: int, heads: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, dim), nn.Embedding(context, dim)
        self.blocks = nn.Sequential(*(CharacterBlock(dim, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(dim, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:  # what writes to the residual stream begins smaller (Radford et al. 2019)
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if "out" in name else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]  # (B, T, D)
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight)  # (B, T, V)


class CharacterBlock(nn.Module):
    """Attention, then feed-forward, each added to the residual stream."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim, bias=False), nn.LayerNorm(dim, bias=False)
        self.qkv, self.attention_out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.up, self.mlp_out = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, C)
        x = x + self.attention_out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp_out(F.gelu(self.up(self.mlp_norm(x))))


def trainer(options: argparse.Namespace) -> dict[str, Any]:
    """gptlite's shape and vocabulary in `transformers`, trained by its `Trainer` with its defaults and a given rate.

    Defaults that are not: the rate and its warm-up over 5 % of the run, weight decay and dropout as asked, the
    schedule's length (the clock's), no cache of keys and values, and no reports, saves or evaluations, which only cost
    time.
    """
    budget = Budget(options.began, options.seconds)
    import transformers

    info, best, tokenizer = read_run(options.run)
    shape, batch_size = ModelConfig(**info["plan"]["model"]), info["plan"]["train"]["batch_size"]
    context = shape.context_length
    texts = read_texts(options)
    ids = torch.from_numpy(token_files.tokenize(texts.train, tokenizer).ids().astype(np.int64))
    blocks = [{"input_ids": block, "labels": block} for block in ids[: len(ids) // context * context].view(-1, context)]
    val_ids = token_files.tokenize(texts.val, tokenizer).ids()
    windows = scoring.sliding_windows(len(val_ids), context)
    few = a_few(windows, texts.val.n_bytes)
    token_bytes = torch.tensor(tokenizer.byte_lengths(shape.vocab_size))
    transformers.set_seed(options.seed)
    model = their_model(best, options.dropout)

    def score(windows: list[scoring.Window]) -> scoring.Score:
        model.eval()
        result = scoring.score(lambda tokens: model(input_ids=tokens).logits, val_ids, windows, token_bytes)
        model.train()
        return result

    class Timekeeper(transformers.TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            budget.begin()

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            control.should_training_stop = budget.step_done(lambda: score(few).bits_per_byte)

    class TimedTrainer(transformers.Trainer):
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            """The linear schedule, over the seconds instead of a number of steps."""
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, lambda _: min(1.0, budget.share() / 0.05, (1 - budget.share()) / 0.95)
            )
            return self.lr_scheduler

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            bf16=bf16_in_hardware("cpu"),
            seed=options.seed,
            per_device_train_batch_size=batch_size,
            learning_rate=options.rate,
            weight_decay=options.weight_decay,
            max_steps=1_000_000_000,  # the clock is quicker
            dataloader_drop_last=True,
            dataloader_pin_memory=False,
            report_to="none",
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        loop = TimedTrainer(model=model, args=arguments, train_dataset=blocks, callbacks=[Timekeeper()])
        loop.remove_callback(transformers.PrinterCallback)  # it writes to standard output
        loop.train()
    spent = budget.spent()
    result = score(windows)
    return {
        "parameters": model.num_parameters(),
        "val_bytes": result.bytes,
        **budget.facts(spent, result.bits_per_byte, batch_size * context),
    }


def their_model(step: Path, dropout: float = 0.0) -> Any:
    """An untrained model of `transformers` with the configuration that gptlite wrote beside its own.

    - `dropout`: where gptlite has it too, after attention and feed-forward, which this architecture lacks there.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(step)
    config.use_cache = False
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float()
    if dropout:
        for layer in model.model.layers:
            layer.self_attn.o_proj = torch.nn.Sequential(layer.self_attn.o_proj, torch.nn.Dropout(dropout))
            layer.mlp.down_proj = torch.nn.Sequential(layer.mlp.down_proj, torch.nn.Dropout(dropout))
    return model


# ----------------------------------------------------------------------------------------------------- the machine


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """The best rate of several large fp32 matrix products, in operations a second, and what computed it."""
    best = 0.0
    for rows, inner, columns in PRODUCTS:
        a, b = torch.randn(rows, inner), torch.randn(inner, columns)
        for _ in range(6):
            began = time.perf_counter()
            a @ b
            best = max(best, 2 * rows * inner * columns / (time.perf_counter() - began))
    packages = [name for name in ("transformers", "accelerate") if importlib.util.find_spec(name)]
    return {
        "matmul_per_second": best,
        "chip": f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {"torch": torch.__version__, **{name: importlib.metadata.version(name) for name in packages}},
    }


def steps(options: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of gptlite's training step and of the same architecture in `transformers`, by turns.

    All get the same batches. Theirs is what the `Trainer` does without its loop around it: the loss of the model,
    gradients clipped at 1, and AdamW, fused. Where the processor multiplies bf16, both are timed in either precision.
    """
    info, best, tokenizer = read_run(options.run)
    shape, config = ModelConfig(**info["plan"]["model"]), TrainConfig(**info["plan"]["train"])
    tokens = token_files.tokenize(read_texts(options).train, tokenizer)
    batches = Batches(tokens, context=shape.context_length, batch_size=config.batch_size, seed=config.seed)
    before = info["machine"]
    dtypes = ("fp32", "bf16") if bf16_in_hardware("cpu") else ("fp32",)
    contenders: dict[str, Callable[[Tensor], object]] = {}
    for dtype in dtypes:
        hardware = choose_hardware("cpu", dtype, compile=before["compile"])
        contenders[f"gptlite {dtype}"] = our_step(shape, config, hardware)
        contenders[f"transformers {dtype}"] = their_step(best, hardware)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(3 + STEPS):
        batch = batches.batch(number)
        for name, step in contenders.items():
            began = time.perf_counter()
            step(batch)
            if number >= 3:
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "parameters": shape.n_params,
        "compiled": before["compile"] == "on",
        "dtype": before["dtype"],
        "tokens_per_step": config.batch_size * shape.context_length,
        "seconds_per_step": {
            "gptlite": medians[f"gptlite {before['dtype']}"],  # as the run was
            "transformers": min(medians[f"transformers {dtype}"] for dtype in dtypes),
        },
        "all_seconds": seconds,
    }


def our_step(shape: ModelConfig, config: TrainConfig, hardware: Hardware) -> Callable[[Tensor], object]:
    torch.manual_seed(config.seed)
    model = GPT(shape, dropout=config.dropout)
    initialise(model, config.seed)
    model.train()
    optimizers = optim.make_optimizers(model, config)
    loss_of, hardware = compile.make_loss(model, config, hardware)
    optim.set_learning_rate(optimizers, 0.1 * config.lr)
    return lambda batch: optim.training_step(model, optimizers, batch, hardware, config.clip, loss_of)


def their_step(step: Path, hardware: Hardware) -> Callable[[Tensor], object]:
    model = their_model(step)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def take(batch: Tensor) -> None:
        with hardware.autocast():
            loss = model(input_ids=batch[:, :-1], labels=batch[:, :-1]).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.zero_grad()
        loss.item()

    return take


if __name__ == "__main__":
    main()
