"""Texts that begin and end at any time are those that `generate` writes, in any company."""

from __future__ import annotations

import random
import shutil

import pytest
from conftest import VOCABULARY, random_model, tiny_config

from gptlite.config import SamplingConfig
from gptlite.generation import continuous
from gptlite.generation.constraints import Constraints
from gptlite.generation.continuous import SideBySide, Text, begin_text
from gptlite.generation.decoding import Decoding, choose_decoding
from gptlite.generation.generate import Generation
from gptlite.generation.stopping import Stopping
from gptlite.kernels import build
from gptlite.randomness import derive
from gptlite.text.tokenizer import Tokenizer

needs_a_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
CONFIGS = (
    SamplingConfig(max_new_tokens=20),
    SamplingConfig(max_new_tokens=60, temperature=1.3, top_p=1.0, min_p=0.0),
    SamplingConfig(max_new_tokens=9, temperature=0.0),
    SamplingConfig(max_new_tokens=30, top_k=5, repetition_penalty=1.3, frequency_penalty=0.2),
    SamplingConfig(max_new_tokens=30, typical_p=0.7, logit_bias=((7, 3.0), (" the", 1.0)), bans=("bank",)),
    SamplingConfig(max_new_tokens=12, no_repeat_ngram=2, min_new_tokens=12),
)


@pytest.fixture
def decoding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Decoding:
    model = random_model(tiny_config("qwen3", vocab_size=VOCABULARY))
    if request.param == "eager":
        return Decoding(model)
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-O0"))
    chosen = choose_decoding(model, 1, dtype=request.param, compile="on")
    assert chosen.packed is not None
    return chosen


every_decoder = pytest.mark.parametrize(
    "decoding",
    ["eager", *(pytest.param(name, marks=needs_a_compiler) for name in ("fp32", "int8"))],
    indirect=True,
)


def alone(decoding: Decoding, tokenizer: Tokenizer, prompt: str, number: int, logprobs: int | None) -> Generation:
    written = Generation(
        decoding.model, tokenizer, prompt, CONFIGS[number % len(CONFIGS)], seed=number, stop=("q",),
        logprobs=logprobs, decoding=decoding,
    )  # fmt: skip
    for _ in written:
        pass
    return written


@every_decoder
def test_texts_of_any_company_are_those_written_alone(decoding: Decoding, tokenizer: Tokenizer) -> None:
    """Prompts shorter and longer than the context, texts that outgrow it, different settings, three rows."""
    prompts = ["", "Ada", "Ada finds the river and the bank . " * 5, "Chidi opens", "x" * 31, "y" * 32]
    rng = random.Random(0)
    expected: list[Generation] = []
    waiting: list[Text] = []
    for i in range(18):
        logprobs = 2 if i % 3 == 0 else None
        expected.append(alone(decoding, tokenizer, rng.choice(prompts), i, logprobs))
        config, (seed,) = expected[-1].config, expected[-1].seeds
        made = begin_text(
            expected[-1].prompt_ids, seed, tokenizer, config, Constraints(config, tokenizer), Stopping(("q",)), logprobs
        )
        waiting.append(made)
    texts, side_by_side = list(waiting), SideBySide(decoding, 3)
    while waiting or side_by_side.texts:
        while waiting and side_by_side.free and rng.random() < 0.4:
            side_by_side.add(waiting.pop(0))
        if side_by_side.texts:
            side_by_side.advance()
    for text, written in zip(texts, expected, strict=True):
        sample, (known,) = text.row.sample, written.samples
        assert (sample.text, sample.tokens, sample.finish_reason) == (known.text, known.tokens, known.finish_reason)
        assert sample.logprobs == pytest.approx(known.logprobs, abs=1e-4)
        assert [[token for token, _ in top] for top in sample.top] == [[token for token, _ in top] for top in known.top]


@every_decoder
def test_a_long_prompt_delays_the_others_by_no_more_than_a_part(
    decoding: Decoding, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continuous, "PROMPT_PART", 4)
    side_by_side = SideBySide(decoding, 2)
    side_by_side.decoder.n_at_once = 6
    config = SamplingConfig(max_new_tokens=30, min_new_tokens=30)
    first, second = (
        begin_text([65] * n, n, tokenizer, config, Constraints(config, tokenizer), Stopping()) for n in (2, 30)
    )
    side_by_side.add(first)
    side_by_side.advance()
    side_by_side.add(second)
    for n in range(2, 7):
        side_by_side.advance()
        assert first.row.n_tokens == n and second.row.n_tokens == 0
    side_by_side.advance()
    assert second.row.n_tokens == 1


@every_decoder
def test_a_text_that_nobody_wants_any_more_leaves_its_row_to_another(decoding: Decoding, tokenizer: Tokenizer) -> None:
    config = CONFIGS[0]
    side_by_side = SideBySide(decoding, 1)

    def begin() -> Text:
        return begin_text([65, 66, 67], derive(5, 0), tokenizer, config, Constraints(config, tokenizer), Stopping())

    first, second = begin(), begin()
    side_by_side.add(first)
    side_by_side.advance()
    side_by_side.remove(first)
    assert side_by_side.free == [0]
    side_by_side.add(second)
    while side_by_side.texts:
        side_by_side.advance()
    known = Generation(decoding.model, tokenizer, "", config, seed=5, prompt_ids=[65, 66, 67], decoding=decoding)
    for _ in known:
        pass
    assert second.row.sample.tokens == known.samples[0].tokens
