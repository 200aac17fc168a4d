"""A complete saved step for tests to damage, and a manifest that an attacker made fit the damage."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from conftest import random_model, tiny_config

from gptlite.checkpoint import saved_step
from gptlite.config import TrainConfig
from gptlite.device import choose_hardware
from gptlite.embedding import statistics
from gptlite.model import GPT
from gptlite.storage.durable import MANIFEST, json_bytes
from gptlite.storage.reader import Reader
from gptlite.text.tokenizer import Tokenizer
from gptlite.training import optimizer
from gptlite.training.state import State, restore_training_state

STEP = "step-000000007"
MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
OTHER_FILES = (
    "embedding/statistics.safetensors",
    "embedding/words.json",
    "training_state/optimizer.safetensors",
    "training_state/rng.safetensors",
    "training_state/state.json",
)
FILES = (*MODEL_FILES, *OTHER_FILES)


def save_whole_step(parent: Path, tokenizer: Tokenizer, architecture: str = "qwen3", seed: int = 0) -> Path:
    """A step with all that training writes, as training writes it."""
    model = random_model(tiny_config(architecture, vocab_size=tokenizer.vocab_size), seed)
    optimizers = optimizer.make_optimizers(model, TrainConfig())
    batch = torch.randint(tokenizer.vocab_size, (2, 9), generator=torch.Generator().manual_seed(seed))
    ids = batch.flatten().numpy()
    optimizer.training_step(model, optimizers, batch, choose_hardware("cpu"), 1.0)
    state = {
        "optimizer.safetensors": saved_step.tensors_to_bytes(optimizer.optimizer_tensors(model, optimizers)),
        "rng.safetensors": saved_step.tensors_to_bytes({"cpu": torch.get_rng_state()}),
        "state.json": json_bytes(dataclasses.asdict(State(step=7, train_loss=5.5, history={7: 1.5}))),
    }
    saved_step.save_step(
        parent / STEP,
        model.eval(),
        tokenizer,
        {"step": 7, "val_bits_per_byte": 1.5},
        training_state=state,
        embedding={
            **statistics.measure_statistics(model, tokenizer, ids),
            "token_counts": statistics.count_tokens(ids, tokenizer.vocab_size),
        },
        words=[("Ada", 3), ("river", 2)],
    )
    seal(parent / STEP)
    return parent / STEP


def read_everything(step: Path) -> saved_step.Checkpoint:
    """All that gptlite ever reads of a step."""
    loaded = saved_step.load(step)
    saved_step.read_embedding_statistics(loaded)
    with Reader(step) as reader:
        saved_step.read_words(reader)
    model = GPT(loaded.config)
    restore_training_state(loaded, model, optimizer.make_optimizers(model, TrainConfig()))
    return loaded


def seal(step: Path, /, **changes: Any) -> None:
    """Make the manifest fit whatever lies in the step now, but for `changes` to its facts; None removes one."""
    manifest = json.loads((step / MANIFEST).read_text())
    for name in manifest["files"]:
        content = (step / name).read_bytes() if (step / name).is_file() else b""
        manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = {name: value for name, value in {**manifest, **changes}.items() if value is not None}
    (step / MANIFEST).write_bytes(json_bytes(with_digest(manifest)))


def with_digest(manifest: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {**rest, "sha256": hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()}


def split_safetensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def join_safetensors(header: dict[str, Any] | str | bytes, data: bytes) -> bytes:
    """The file with this header, whatever it is."""
    text = json.dumps(header) if isinstance(header, dict) else header
    head = text.encode() if isinstance(text, str) else text
    return len(head).to_bytes(8, "little") + head + data
