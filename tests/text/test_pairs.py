"""Pairs as tokens: boundaries that no text can spell, what is learned, and batches in which no pair sees another."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_text, random_model, tiny_config

from gptlite.device import choose_hardware
from gptlite.kernels.build import Kernel, NoKernel
from gptlite.kernels.folder import code_directory
from gptlite.kernels.fused import FusedLoss
from gptlite.text.batches import count_targets, read_batch
from gptlite.text.corpus import open_text
from gptlite.text.demo_pairs import MOST_DIGITS, as_records, in_words, make_pairs, not_trained_on, write_pairs
from gptlite.text.pairs import (
    BOUNDARIES,
    Boundaries,
    PairBatches,
    PairFormat,
    answers_of,
    encode_messages,
    has_boundaries,
    learned,
)
from gptlite.text.token_files import TokenFile, tokenize
from gptlite.text.tokenizer import Tokenizer
from gptlite.training.optimizer import mean_loss, training_step

PAIR_FORMAT = PairFormat("pairs")


@pytest.fixture(scope="module")
def pair_tokenizer() -> Tokenizer:
    return Tokenizer.train([make_text()], 320, BOUNDARIES).for_pairs(PAIR_FORMAT)


@pytest.fixture
def tokens(pair_tokenizer: Tokenizer) -> TokenFile:
    rng = random.Random(1)
    records = [(make_text(1, seed=i).strip()[: rng.randrange(3, 40)], f"no {i}") for i in range(200)]
    Path("x.jsonl").write_text(as_records(records))
    return tokenize(open_text(["x.jsonl"]), pair_tokenizer)


def test_text_is_never_a_boundary(pair_tokenizer: Tokenizer) -> None:
    """Of 10,000 random texts that spell boundary tokens."""
    rng = random.Random(0)
    pieces = [*BOUNDARIES, "<|endoftext|>", "<|", "|>", "end", " ", "\n", "Ada", "user", "<", "🙂", "é"]
    texts = ["".join(rng.choices(pieces, k=rng.randint(1, 12))) + rng.choice(BOUNDARIES) for _ in range(10_000)]
    marks = Boundaries.of(pair_tokenizer)
    special = {marks.separator, marks.end, *marks.roles}
    for text, ids in zip(texts, pair_tokenizer.encode_batch(texts), strict=True):
        assert special.isdisjoint(ids)
        assert pair_tokenizer.decode(ids) == text


def test_a_record_as_tokens(pair_tokenizer: Tokenizer) -> None:
    marks = Boundaries.of(pair_tokenizer)
    _, user, answer = marks.roles
    a, b = pair_tokenizer.encode("Ada"), pair_tokenizer.encode("finds")
    ids = encode_messages(pair_tokenizer, [("user", "Ada"), ("assistant", "finds")])
    assert ids == [marks.separator, user, *a, marks.end, answer, *b, marks.end]
    assert encode_messages(pair_tokenizer, [("user", "Ada")], opened="") == ids[: len(a) + 4]
    is_learned = learned(np.array([ids]), marks)[0]
    assert is_learned.sum() == len(b) + 1
    assert is_learned[-len(b) - 1 :].all()
    assert answers_of(np.array(ids), marks, 100).tolist() == [[0, len(a) + 3, len(ids) - 1]]
    assert pair_tokenizer.decode(ids) == "Adafinds"


def test_every_pair_comes_once_in_an_epoch(tokens: TokenFile, pair_tokenizer: Tokenizer) -> None:
    batches = PairBatches(tokens, pair_tokenizer, context=64, batch_size=5, seed=3)
    assert batches.steps_per_epoch == 40
    n_pads = rows = 0
    for step in range(32):  # two whole groups of sorted batches
        batch = batches.batch(step)
        assert torch.equal(batch, batches.batch(step))
        inputs, targets = read_batch(batch)
        assert int(inputs.min()) >= 0
        assert ((targets >= 0).sum(1) > 0).all()
        n_pads += int((inputs == pair_tokenizer.separator_id).sum()) - len(batch)
        rows += inputs.numel()
    assert n_pads < 0.15 * rows
    seen = [batches.pair(position) for position in range(200)]
    assert sorted(seen) == list(range(200))


def test_copies_of_a_pair_do_not_fill_a_batch(pair_tokenizer: Tokenizer) -> None:
    """Where there are few pairs, many epochs would be sorted together, and in them copies lie side by side."""
    Path("few.jsonl").write_text(as_records((make_text(1, seed=i).strip(), f"no {i}") for i in range(30)))
    batches = PairBatches(
        tokenize(open_text(["few.jsonl"], smallest=1), pair_tokenizer),
        pair_tokenizer,
        context=64,
        batch_size=10,
        seed=3,
    )
    for step in range(60):
        rows = [tuple(row) for row in batches.batch(step).tolist()]
        assert max(rows.count(row) for row in rows) <= 2


def packed(rows: list[list[int]], context: int, marks: Boundaries) -> tuple[torch.Tensor, ...]:
    """Records packed into windows, (B, T) each: ids, those that are learned, which record, and positions in it."""
    windows: list[list[list[int]]] = []
    for row in rows:
        room = next((w for w in windows if sum(map(len, w)) + len(row) <= context), None)
        windows.append([row]) if room is None else room.append(row)
    ids = torch.full((len(windows), context), marks.separator)
    targets = torch.full_like(ids, -100)
    record = torch.full_like(ids, -1)
    places = torch.zeros_like(ids)
    for i, window in enumerate(windows):
        at = 0
        for j, row in enumerate(window):
            ids[i, at : at + len(row)] = torch.tensor(row)
            first = row.index(marks.answer) + 1
            targets[i, at + first : at + len(row)] = torch.tensor(row[first:])
            record[i, at : at + len(row)] = j
            places[i, at : at + len(row)] = torch.arange(len(row))
            at += len(row)
    return ids, targets, record, places


@pytest.mark.hf
@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_the_loss_is_that_of_packed_windows(tokens: TokenFile, pair_tokenizer: Tokenizer, architecture: str) -> None:
    """In transformers, with several pairs in each window, a block-diagonal mask and positions that begin anew."""
    from gptlite.checkpoint.saved_step import save_step

    transformers = pytest.importorskip("transformers")
    model = random_model(tiny_config(architecture, vocab_size=pair_tokenizer.vocab_size, context_length=96))
    save_step(Path("step-000000001"), model, pair_tokenizer, {"step": 1})
    theirs = transformers.AutoModelForCausalLM.from_pretrained("step-000000001", attn_implementation="eager")
    batches = PairBatches(tokens, pair_tokenizer, context=96, batch_size=24, seed=1)
    batch = batches.batch(0)
    plain = torch.where(batch < 0, ~batch, batch).tolist()
    separator = batches.marks.separator
    rows = [row[: row.index(separator, 1)] if separator in row[1:] else row for row in plain]
    ids, targets, record, places = packed(rows, 96, batches.marks)
    assert len(ids) < len(rows) / 2
    alike = (record[:, :, None] == record[:, None, :]) & torch.ones(96, 96, dtype=torch.bool).tril()
    mask = torch.zeros(len(ids), 1, 96, 96).masked_fill(~alike[:, None], torch.finfo(torch.float32).min)
    with torch.no_grad():
        logits = theirs(input_ids=ids, attention_mask=mask, position_ids=places).logits
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten()).item()
    with torch.no_grad():
        assert mean_loss(model, batch).item() == pytest.approx(expected, abs=1e-5)
    assert int((targets >= 0).sum()) == count_targets(batch)


def reference_loss(model: torch.nn.Module, batches: PairBatches, batch: torch.Tensor) -> float:
    """Each pair by itself, without padding: the mean over all learned tokens."""
    nats = n = 0
    for row in torch.where(batch < 0, ~batch, batch).tolist():
        ids = row[: row.index(batches.marks.separator, 1)] if batches.marks.separator in row[1:] else row
        first = 1 + ids.index(batches.marks.answer)
        logits = model(torch.tensor([ids[:-1]]))[0, first - 1 :]
        nats += F.cross_entropy(logits, torch.tensor(ids[first:]), reduction="sum").item()
        n += len(ids) - first
    return nats / n


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_the_loss_is_that_of_each_pair_alone(tokens: TokenFile, pair_tokenizer: Tokenizer, architecture: str) -> None:
    model = random_model(tiny_config(architecture, vocab_size=pair_tokenizer.vocab_size, context_length=64))
    batches = PairBatches(tokens, pair_tokenizer, context=64, batch_size=6, seed=1)
    for step in range(3):
        batch = batches.batch(step)
        with torch.no_grad():
            assert mean_loss(model, batch).item() == pytest.approx(reference_loss(model, batches, batch), abs=1e-5)


@pytest.mark.hf
def test_the_loss_is_that_of_transformers(tokens: TokenFile, pair_tokenizer: Tokenizer) -> None:
    from gptlite.checkpoint.saved_step import save_step

    transformers = pytest.importorskip("transformers")
    model = random_model(tiny_config("qwen3", vocab_size=pair_tokenizer.vocab_size, context_length=64))
    save_step(Path("step-000000001"), model, pair_tokenizer, {"step": 1})
    theirs = transformers.AutoModelForCausalLM.from_pretrained("step-000000001")
    batch = PairBatches(tokens, pair_tokenizer, context=64, batch_size=6, seed=1).batch(0)
    labels = torch.where(batch < 0, -100, batch)
    with torch.no_grad():
        loss = theirs(torch.where(batch < 0, ~batch, batch), labels=labels).loss.item()
        assert mean_loss(model, batch).item() == pytest.approx(loss, abs=1e-5)


def test_the_step_in_c_and_one_in_parts_have_the_same_gradients(tokens: TokenFile, pair_tokenizer: Tokenizer) -> None:
    model = random_model(tiny_config("qwen3", vocab_size=pair_tokenizer.vocab_size, context_length=64))
    batch = PairBatches(tokens, pair_tokenizer, context=64, batch_size=6, seed=1).batch(0)
    assert 0 < count_targets(batch) < batch[:, 1:].numel()
    expected = mean_loss(model, batch)
    grads = torch.autograd.grad(expected, list(model.parameters()))
    try:
        library, _ = Kernel("fused", code_directory("kernels")).open()
    except NoKernel:
        pytest.skip("no C compiler")
    value, found = FusedLoss(library, 1).compute(model, batch)
    assert value == pytest.approx(expected.item(), abs=1e-5)
    for ours, theirs in zip(found, grads, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-3)
    norms = []
    for parts in (1, 3):
        hardware = choose_hardware("cpu", "fp32", 1, "off")
        loss, norm = training_step(model, [], batch, hardware, 1e9, mean_loss, parts)
        assert loss == pytest.approx(expected.item(), abs=1e-5)
        norms.append(norm)
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_all_tokens_are_learned_where_that_is_asked_for(tokens: TokenFile, pair_tokenizer: Tokenizer) -> None:
    answers, everything = (
        PairBatches(tokens, pair_tokenizer, context=64, batch_size=6, seed=1, loss=loss).batch(0)
        for loss in ("answer", "all")
    )
    assert count_targets(everything) > 2 * count_targets(answers)
    assert torch.equal(read_batch(answers)[0], read_batch(everything)[0])


def test_the_format_is_written_and_read(pair_tokenizer: Tokenizer) -> None:
    settings = json.loads(pair_tokenizer.files(64)["tokenizer_config.json"])
    assert PairFormat.read(settings) == PAIR_FORMAT
    assert (settings["bos_token"], settings["eos_token"]) == ("<|endoftext|>", "<|end|>")
    assert PairFormat.read({**settings, "chat_template": "other"}) is None
    plain = Tokenizer.train([make_text()], 300)
    extended = plain.with_special(BOUNDARIES).for_pairs(PAIR_FORMAT)
    assert has_boundaries(extended) and not has_boundaries(plain)
    assert extended.vocab_size == plain.vocab_size + len(BOUNDARIES)
    assert extended.encode(make_text(9)) == plain.encode(make_text(9))


def test_made_up_pairs_are_right() -> None:
    assert in_words(907_013) == "nine hundred seven thousand thirteen"
    assert in_words(20_000_040) == "twenty million forty"
    train, held_out, longer = make_pairs()
    assert {p for p, _ in train}.isdisjoint(p for p, _ in held_out)
    assert {a for _, a in train}.isdisjoint(a for _, a in held_out)
    assert all(max(len(p) for p in pair) > 6 for pair in longer)


def test_what_the_demonstration_was_not_trained_on_is_known_by_its_text() -> None:
    train, _, _ = write_pairs(Path("demo"))
    digest = hashlib.sha256(train.read_bytes()).hexdigest()
    own = {"inputs": [{"path": str(train), "sha256": digest}]}
    held_out, longer = not_trained_on(own)
    assert (held_out, longer) == make_pairs()[1:]
    assert min(len(max(pair, key=str.isdigit)) for pair in longer) == MOST_DIGITS + 1
    other = {"inputs": [{"path": str(train), "sha256": "0" * 64}]}
    assert not_trained_on(other) == not_trained_on({}) == not_trained_on({"inputs": []}) == ([], [])
