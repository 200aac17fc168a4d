"""Writing text: stop strings, streaming, windows, and samples that do not depend on each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import pytest
import torch
from conftest import make_text, random_model, tiny_config

from gptlite.config import ARCHITECTURES, ModelConfig, SamplingConfig
from gptlite.errors import UsageError
from gptlite.generation import generate as generation
from gptlite.generation import reproducible
from gptlite.generation.decoding import EagerDecoder
from gptlite.generation.generate import Generation, generate, generate_ids, generate_together, rows_at_once
from gptlite.generation.reproducible import make_sampler
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer

CONTEXT = 32
GREEDY = SamplingConfig(temperature=0.0)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size, context_length=CONTEXT))


def wild(n: int, n_samples: int = 1) -> SamplingConfig:
    """All tokens are possible, those of half characters too."""
    return SamplingConfig(temperature=1.5, top_p=1.0, min_p=0.0, max_new_tokens=n, num_samples=n_samples)


class Script:
    """Stands in for `generate_ids`: the rows write what they are told."""

    def __init__(self, *rows: Sequence[int]) -> None:
        self.rows = rows
        self.asked = 0

    def __call__(self, *_: object) -> Iterator[list[int]]:
        for i in range(max(map(len, self.rows))):
            self.asked += 1
            yield [row[i] if i < len(row) else 0 for row in self.rows]


def write(
    monkeypatch: pytest.MonkeyPatch, model: GPT, tokenizer: Tokenizer, rows: Sequence[Sequence[int]], **more: Any
) -> tuple[Generation, list[generation.Chunk]]:
    """What becomes of rows of ids that a model might have written."""
    monkeypatch.setattr(generation, "generate_ids", Script(*rows))
    config = SamplingConfig(max_new_tokens=max(map(len, rows)), num_samples=len(rows))
    work = Generation(model, tokenizer, "Ada", config, seed=0, **more)
    return work, list(work)


def byte_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of single bytes, so that each character of several bytes arrives in pieces."""
    return [tokenizer.token_bytes.index(bytes([byte])) for byte in text.encode()]


# -- Stop strings


def test_a_stop_string_ends_its_own_sample_only(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [tokenizer.encode("river. bank and more"), tokenizer.encode("river bank and more text")]
    work, chunks = write(monkeypatch, model, tokenizer, rows, stop=[". b"])
    assert [sample.text for sample in work.samples] == ["river", "river bank and more text"]
    assert [sample.finish_reason for sample in work.samples] == ["stop", "length"]
    assert "".join(chunk.text for chunk in chunks if chunk.sample == 0) == "river"


def test_writing_ends_when_all_samples_have_stopped(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = byte_ids(tokenizer, "ab.xxxxxxxxx")
    script = Script(row, row)
    monkeypatch.setattr(generation, "generate_ids", script)
    generate(model, tokenizer, "", SamplingConfig(max_new_tokens=12, num_samples=2), seed=0, stop=["."])
    assert script.asked == 3


def test_stop_strings_that_never_come_hold_nothing_back(model: GPT, tokenizer: Tokenizer) -> None:
    plain = generate(model, tokenizer, "Ada", wild(40), seed=1)
    assert generate(model, tokenizer, "Ada", wild(40), seed=1, stop=["never"]) == plain


@pytest.mark.row("G10")
def test_an_empty_stop_string_is_a_usage_error(model: GPT, tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="`stop` needs a text"):
        Generation(model, tokenizer, "Ada", wild(40), seed=1, stop=["end", ""])


@pytest.mark.row("G10")
def test_a_stop_string_may_lie_across_characters_of_many_bytes(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, chunks = write(monkeypatch, model, tokenizer, [byte_ids(tokenizer, "河岸🙂。下一")], stop=["🙂。"])
    assert work.samples[0].text == "河岸"
    assert "".join(chunk.text for chunk in chunks) == "河岸"


# -- Streaming


@pytest.mark.row("G07")
@pytest.mark.parametrize(
    "text", ["naïve café", "河岸上的银行", "🙂👩‍👩‍👧🏳️‍🌈", "ɐ\u0301x\u0301", "\ufeffx", "a\x00b", "x\ufffdy"]
)
def test_characters_arrive_whole(model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    work, chunks = write(monkeypatch, model, tokenizer, [byte_ids(tokenizer, text)])
    assert [chunk.text for chunk in chunks] == list(text)
    assert work.samples[0].text == text


@pytest.mark.row("G08")
@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_character_that_never_ends_is_left_out_and_its_tokens_are_kept(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    ids = byte_ids(tokenizer, "ok 🙂")[:-missing]
    work, chunks = write(monkeypatch, model, tokenizer, [ids])
    assert work.samples[0].text == "".join(chunk.text for chunk in chunks) == "ok "
    assert work.samples[0].tokens == ids


@pytest.mark.row("G08")
def test_bytes_that_begin_no_character_are_shown_as_such(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, _ = write(monkeypatch, model, tokenizer, [[*byte_ids(tokenizer, "🙂")[:-1], *byte_ids(tokenizer, "ok")]])
    assert work.samples[0].text == "\ufffdok"


@pytest.mark.row("G07")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stop", [[], ["e"], [" ", "\n"]], ids=str)
def test_chunks_joined_are_the_samples(model: GPT, tokenizer: Tokenizer, seed: int, stop: list[str]) -> None:
    work = Generation(model, tokenizer, "Ada finds", wild(50, 3), seed=seed, stop=stop)
    joined = ["", "", ""]
    for chunk in work:
        assert chunk.text
        joined[chunk.sample] += chunk.text
    assert joined == [sample.text for sample in work.samples]


@pytest.mark.row("G07")
@pytest.mark.parametrize("seed", range(4))
def test_text_is_what_the_tokens_spell(model: GPT, tokenizer: Tokenizer, seed: int) -> None:
    for sample in generate(model, tokenizer, "Ada finds", wild(50, 2), seed=seed):
        assert sample.text == tokenizer.decode(sample.tokens)
        assert (len(sample.tokens) == 50) == (sample.finish_reason == "length")


# -- Samples


@pytest.mark.row("G14")
def test_a_sample_does_not_depend_on_how_many_there_are(model: GPT, tokenizer: Tokenizer) -> None:
    many = generate(model, tokenizer, "Ada", wild(40, 9), seed=5)
    assert len({sample.text for sample in many}) == 9
    for n in (1, 2, 5):
        few = generate(model, tokenizer, "Ada", wild(40, n), seed=5)
        assert few == many[:n]


@pytest.mark.row("G14")
def test_any_sample_can_be_written_alone(model: GPT, tokenizer: Tokenizer) -> None:
    many = generate(model, tokenizer, "Ada", wild(40, 40), seed=5)
    for numbers in ([37], [3, 0, 12]):
        work = Generation(model, tokenizer, "Ada", wild(40, 40), seed=5, numbers=numbers)
        assert "".join(chunk.text for chunk in work if chunk.sample == 0) == many[numbers[0]].text
        assert work.samples == [many[number] for number in numbers]


@pytest.mark.row("G14")
@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"no_repeat_ngram": 4}], ids=str)
def test_rows_that_have_ended_are_computed_no_further(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Which the others do not notice, before the window is full or after."""
    config = dataclasses.replace(wild(3 * CONTEXT, 9), **options)
    prompts = [" ".join(make_text(9).split()[i : 2 * i]) for i in range(9)]  # of one prompt greedy rows are all alike
    ends = [{"stop": [*letter]} for letter in ("e", "t", "a", "o", "i", "n", "s", "h", "")]
    sizes = list[int]()
    step = EagerDecoder.step
    monkeypatch.setattr(EagerDecoder, "step", lambda self, ids: (sizes.append(len(ids)), step(self, ids))[1])
    many = [Generation(model, tokenizer, p, config, seed=5, numbers=[3], **end)
            for p, end in zip(prompts, ends, strict=True)]  # fmt: skip
    assert list(generate_together(many, 9)) == many
    lengths = sorted((len(work.prompt_ids) + len(work.samples[0].tokens) for work in many), reverse=True)
    assert len({work.samples[0].finish_reason for work in many}) == 2 and lengths[0] > 2 * CONTEXT
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) > 3
    assert sum(sizes) < sum(lengths)
    for work, prompt, end in zip(many, prompts, ends, strict=True):
        alone = Generation(model, tokenizer, prompt, config, seed=5, numbers=[3], **end)
        list(alone)
        assert alone.samples == work.samples


def requests(n: int) -> list[tuple[str, int]]:
    """Prompts of all lengths, from none to some that are longer than the window, and a seed for each."""
    words = make_text(400).split()
    return [(" ".join(words[7 * i : 7 * i + i * i % 31]), i % 3) for i in range(n)]


PENALTIES = {"repetition_penalty": 1.2, "frequency_penalty": 0.1, "no_repeat_ngram": 4, "bans": ("river", "e r")}


@pytest.mark.row("G14", "G16")
@pytest.mark.parametrize("n", [7, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("architecture", ["qwen3", pytest.param("gpt2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, PENALTIES], ids=["drawn", "greedy", "penalties"])
def test_a_batch_gives_what_single_prompts_give(
    tokenizer: Tokenizer, architecture: str, n: int, options: dict[str, Any]
) -> None:
    model = random_model(tiny_config(architecture, vocab_size=tokenizer.vocab_size, context_length=CONTEXT))
    config = dataclasses.replace(wild(40, 2), **{"min_new_tokens": 20, **options})
    alone = [generate(model, tokenizer, prompt, config, seed=seed, batch_size=1) for prompt, seed in requests(n)]
    for batch_size in (3, 16):
        works = [Generation(model, tokenizer, prompt, config, seed=seed) for prompt, seed in requests(n)]
        together = list(generate_together(works, batch_size))
        assert together == works, "in the order of the prompts"
        assert [work.samples for work in together] == alone


@pytest.mark.row("G14", "G16")
@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"top_k": 20, "top_p": 0.9}], ids=str)
def test_how_logits_are_rounded_changes_nothing(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Batches and caches that round a thousand times as badly as they do, and a sampler that knows."""
    config = dataclasses.replace(wild(30, 4), **options)

    def ids(noise: float, allowed: float) -> list[list[int]]:
        generator = torch.Generator().manual_seed(0)

        def rough(step: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
            def compute(*arguments: Any) -> torch.Tensor:
                logits = step(*arguments)
                off = torch.rand(logits.shape, generator=generator) * 2 - 1
                return logits + noise * off * logits.abs().amax(dim=-1, keepdim=True)

            return compute

        with monkeypatch.context() as patch:
            for method in ("prefill", "step"):
                patch.setattr(EagerDecoder, method, rough(getattr(EagerDecoder, method)))
            patch.setattr(reproducible, "ROUNDING", allowed)
            return [sample.tokens for sample in generate(model, tokenizer, "Ada finds", config, seed=3)]

    exact = ids(0.0, reproducible.ROUNDING)
    assert ids(0.01, 0.01) == exact
    assert ids(0.01, 0.0) != exact, "else this shows nothing"


def test_of_many_prompts_some_hundred_are_in_memory(model: GPT, tokenizer: Tokenizer) -> None:
    begun = 0

    def works() -> Iterator[Generation]:
        nonlocal begun
        for i in range(200):
            begun += 1
            yield Generation(model, tokenizer, "Ada", wild(1, 2), seed=i)

    finished = 0
    for _ in generate_together(works(), batch_size=2):
        finished += 1
        assert begun - finished < 2 * generation.BATCHES_AT_ONCE
    assert begun == finished == 200


def test_a_batch_of_a_large_model_is_small() -> None:
    shapes = {"tiny": 32, "large": 7}
    assert {size: rows_at_once(ModelConfig.preset("qwen3", size, 320)) for size in shapes} == shapes


def test_no_text_ends_before_its_least_number_of_tokens(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = byte_ids(tokenizer, "one. two. three. four")
    monkeypatch.setattr(generation, "generate_ids", Script(ids))
    config = SamplingConfig(max_new_tokens=len(ids), min_new_tokens=5)
    (sample,) = generate(model, tokenizer, "", config, seed=0, stop_at="sentence")
    assert (sample.text, sample.finish_reason) == ("one. two.", "stop")
    monkeypatch.setattr(generation, "generate_ids", Script(ids))
    (sample,) = generate(model, tokenizer, "", config, seed=0, stop=[". "])
    assert (sample.text, sample.finish_reason) == ("one. two", "stop")


@pytest.mark.parametrize("seed", range(3))
def test_no_document_ends_before_its_least_number_of_tokens(model: GPT, tokenizer: Tokenizer, seed: int) -> None:
    """By a separator, or by an id that the tokenizer does not know."""
    larger = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size + 40, context_length=CONTEXT))
    config = dataclasses.replace(wild(60, 8), min_new_tokens=15)
    lengths = [len(sample.tokens) for sample in generate(larger, tokenizer, "Ada", config, seed=seed)]
    assert min(lengths) >= 15 and min(lengths) < 60


@pytest.mark.parametrize("seed", range(5))
def test_banned_texts_do_not_come(model: GPT, tokenizer: Tokenizer, seed: int) -> None:
    bans = ("e", " the", "an", "\n", "河")
    config = dataclasses.replace(wild(60, 4), bans=bans)
    for prompt in ("Ada finds", "Ada finds th", "river"):
        for sample in generate(model, tokenizer, prompt, config, seed=seed):
            assert not any(ban in sample.text for ban in bans)
            assert not (prompt + sample.text).startswith(prompt + "e")


def test_a_phrase_comes_once(model: GPT, tokenizer: Tokenizer) -> None:
    config = dataclasses.replace(GREEDY, no_repeat_ngram=2, max_new_tokens=100)
    work = Generation(model, tokenizer, "Ada finds the river and the river", config, seed=0)
    list(work)
    ids = work.prompt_ids + work.samples[0].tokens
    there = [pair for i, pair in enumerate(pairwise(ids)) if i >= len(work.prompt_ids) - 1]
    assert len(there) == len({*there}) and not {*there} & {*pairwise(work.prompt_ids)}


@pytest.mark.row("G14")
def test_one_seed_is_one_text_and_another_is_another(model: GPT, tokenizer: Tokenizer) -> None:
    first, again, other = (generate(model, tokenizer, "Ada", wild(40), seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_global_random_numbers_are_left_alone(model: GPT, tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    generate(model, tokenizer, "Ada", wild(5), seed=1)
    assert torch.equal(torch.get_rng_state(), state)


# -- The window


PROMPT = [5, 80, 200]
FORCED = [(7 * i * i + 3 * i) % 290 for i in range(3 * CONTEXT)]


def logits_while_writing(model: GPT, ids: Sequence[int]) -> list[torch.Tensor]:
    """What the model says before each of `ids`, when these are written after `PROMPT` whatever it says."""
    seen: list[torch.Tensor] = []

    def sampler(logits: torch.Tensor, *_: object) -> torch.Tensor:
        seen.append(logits[0].clone())
        return torch.tensor([ids[len(seen) - 1]])

    assert [row[0] for row in islice(generate_ids(model, [PROMPT], sampler), len(ids))] == list(ids)
    return seen


@pytest.mark.row("G16")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_cache_changes_nothing(architecture: str) -> None:
    model = random_model(tiny_config(architecture, context_length=CONTEXT))
    n = CONTEXT - len(PROMPT)
    with torch.no_grad():
        whole = model(torch.tensor([[*PROMPT, *FORCED[:n]]]))[0, len(PROMPT) - 1 : -1]
    assert torch.allclose(torch.stack(logits_while_writing(model, FORCED[:n])), whole, atol=1e-4)


@pytest.mark.row("G16")
@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gpt2"])
@pytest.mark.parametrize("seed", [0, 1])
def test_greedy_text_is_the_one_written_without_a_cache(architecture: str, seed: int) -> None:
    model = random_model(tiny_config(architecture, context_length=CONTEXT), seed)
    n = CONTEXT - len(PROMPT)
    ids = [row[0] for row in islice(generate_ids(model, [PROMPT], make_sampler(GREEDY, [0])), n)]
    assert len(set(ids)) > 2, "a model that repeats itself would prove nothing"
    slow = list(PROMPT)
    with torch.no_grad():
        for _ in range(n):
            slow.append(int(model(torch.tensor([slow]))[0, -1].argmax()))
    assert ids == slow[len(PROMPT) :]


@pytest.mark.row("G16")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_full_window_is_halved_and_writing_goes_on(architecture: str) -> None:
    model = random_model(tiny_config(architecture, context_length=CONTEXT))
    found = logits_while_writing(model, FORCED)
    history, start = [*PROMPT, *FORCED], 0
    with torch.no_grad():
        for i, logits in enumerate(found):
            end = len(PROMPT) + i
            if end - start > CONTEXT:
                start = end - CONTEXT // 2
            assert torch.allclose(model(torch.tensor([history[start:end]]))[0, -1], logits, atol=1e-4), end
    assert start > CONTEXT


@pytest.mark.parametrize("context", [1, 2, 3, 32])
def test_texts_may_be_much_longer_than_the_window(tokenizer: Tokenizer, context: int) -> None:
    model = random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size, context_length=context))
    rows = list(islice(generate_ids(model, [[1, 2, 3]] * 2, make_sampler(wild(1), [1, 2])), 100))
    assert len(rows) == 100 and all(len(row) == 2 for row in rows)


def test_three_contexts_of_text_are_written(model: GPT, tokenizer: Tokenizer) -> None:
    for seed in range(20):
        (sample,) = generate(model, tokenizer, "Ada", wild(3 * CONTEXT), seed=seed)
        if sample.finish_reason == "length":
            assert len(sample.tokens) == 3 * CONTEXT
            return
    pytest.fail("every sample ended early")


@pytest.mark.row("G02")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_of_a_long_prompt_the_end_counts(tokenizer: Tokenizer, architecture: str) -> None:
    model = random_model(tiny_config(architecture, vocab_size=tokenizer.vocab_size, context_length=CONTEXT))
    prompt = "Ada finds the river and the bank . " * 20
    ids = tokenizer.encode(prompt)
    assert len(ids) > 2 * CONTEXT
    with torch.no_grad():
        expected = int(model(torch.tensor([ids[-CONTEXT:]]))[0, -1].argmax())
    (sample,) = generate(model, tokenizer, prompt, SamplingConfig(temperature=0.0, max_new_tokens=1), seed=0)
    assert sample.tokens == [expected] or sample.finish_reason == "stop"
    work = Generation(model, tokenizer, prompt, SamplingConfig(), seed=0)
    assert work.prompt_ids == ids, "the whole prompt is counted"


@pytest.mark.row("G01")
def test_no_prompt_means_a_new_document(model: GPT, tokenizer: Tokenizer) -> None:
    work = Generation(model, tokenizer, "", wild(20), seed=3)
    assert work.prompt_ids == [tokenizer.separator_id]
    assert sum(len(chunk.text) for chunk in work) == len(work.samples[0].text) > 0


@pytest.mark.row("G13")
def test_no_new_tokens_are_no_text(model: GPT, tokenizer: Tokenizer) -> None:
    work = Generation(model, tokenizer, "Ada", wild(0, 2), seed=3)
    assert list(work) == []
    assert [(s.text, s.tokens, s.finish_reason) for s in work.samples] == [("", [], "length")] * 2


def test_a_separator_ends_a_sample(model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = tokenizer.encode("the end"), tokenizer.encode("a new document")
    work, chunks = write(monkeypatch, model, tokenizer, [[*before, tokenizer.separator_id, *after]])
    (sample,) = work.samples
    assert (sample.text, sample.finish_reason, sample.tokens) == ("the end", "stop", before)
    assert "".join(chunk.text for chunk in chunks) == "the end"


def test_a_separator_gives_back_what_was_held(
    model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [*tokenizer.encode("the en"), tokenizer.separator_id]
    work, chunks = write(monkeypatch, model, tokenizer, [ids], stop=["end"])
    assert work.samples[0].text == "the en" == "".join(chunk.text for chunk in chunks)


def test_ids_that_spell_nothing_end_a_sample(model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models made elsewhere may have more rows than their tokenizer has tokens."""
    ids = [*tokenizer.encode("the end"), tokenizer.vocab_size + 3]
    work, _ = write(monkeypatch, model, tokenizer, [ids])
    assert (work.samples[0].text, work.samples[0].finish_reason) == ("the end", "stop")


def test_a_model_in_training_mode_is_not_asked_for_gradients(model: GPT, tokenizer: Tokenizer) -> None:
    for row in islice(generate_ids(model, [[1]], make_sampler(GREEDY, [0])), 2):
        assert isinstance(row[0], int)
    assert all(parameter.grad is None for parameter in model.parameters())
