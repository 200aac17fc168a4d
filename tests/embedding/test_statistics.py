"""What a saved model knows of its own vectors: the space they lie in, what cosines are worth, the words it saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_text, random_model, tiny_config
from support.measurements import measure_all

from gptlite.embedding.contextual import embed
from gptlite.embedding.similarity import cosine_matrix
from gptlite.embedding.statistics import count_tokens, count_words, measure_statistics
from gptlite.kernels.workers import Workers
from gptlite.model import GPT
from gptlite.text.tokenizer import Tokenizer
from gptlite.text.words import Occurrence
from gptlite.tracing import trace


@pytest.fixture(autouse=True)
def whole_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_all(monkeypatch)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size, context_length=64))


@pytest.fixture(scope="module")
def ids(tokenizer: Tokenizer) -> np.ndarray:
    return np.array([tokenizer.separator_id, *tokenizer.encode(make_text(300, seed=2))], dtype="<u2")


def test_statistics_are_of_the_hidden_states(model: GPT, tokenizer: Tokenizer, ids: np.ndarray) -> None:
    few = ids[: 5 * 64]
    statistics = measure_statistics(model, tokenizer, few)
    windows = torch.from_numpy(few.astype(np.int64)).view(5, 64)
    states = torch.stack(trace(model, windows).hidden)[:, :, 1:].flatten(1, 2)  # first positions are left out
    assert torch.allclose(statistics["mean"], states.mean(dim=1), atol=1e-5)
    assert torch.allclose(statistics["std"], states.std(dim=1, correction=0), atol=1e-5)


def test_statistics_have_a_row_for_each_layer(model: GPT, tokenizer: Tokenizer, ids: np.ndarray) -> None:
    statistics = measure_statistics(model, tokenizer, ids)
    rows, dim = model.config.n_layers + 1, model.config.dim
    pairs = {"unrelated": (rows, 4, 2), "unrelated_quantiles": (rows, 4, 101)}
    pairs |= {"same_word": (rows, 4, 2), "same_word_quantiles": (rows, 4, 101)}
    pairs |= {"sentence_unrelated": (rows, 4, 2), "sentence_unrelated_quantiles": (rows, 4, 101)}
    space = {"mean": (rows, dim), "std": (rows, dim), "components": (rows, 8, dim)}
    assert {name: tuple(tensor.shape) for name, tensor in statistics.items()} == {**space, **pairs}
    assert all(torch.isfinite(tensor).all() for tensor in statistics.values())


def test_standardised_unrelated_words_average_near_0(model: GPT, tokenizer: Tokenizer, ids: np.ndarray) -> None:
    statistics = measure_statistics(model, tokenizer, ids)
    raw, corrected = statistics["unrelated"][:, 0, 0], statistics["unrelated"][:, 2, 0]
    assert (corrected.abs() < 0.08).all()
    assert raw.abs().max() > corrected.abs().max(), "there was something to correct"
    assert (statistics["same_word"][:, 2, 0] > corrected + 0.2).all()
    assert statistics["same_word"][0, 2, 0] == pytest.approx(1.0, abs=1e-4), "below block 1 a word is its token"


def test_numpy_does_not_factorise_on_its_own_threads(
    model: GPT, tokenizer: Tokenizer, ids: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside other programs, they would wait for each other for a minute during a save."""
    expected = measure_statistics(model, tokenizer, ids, [])
    for name in ("eigh", "eig", "svd", "qr"):
        monkeypatch.setattr(np.linalg, name, None)
    found = measure_statistics(model, tokenizer, ids, [])
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_separators_do_not_count_in_statistics(model: GPT, tokenizer: Tokenizer, ids: np.ndarray) -> None:
    windows = ids[: 2 * 64].copy()
    windows[40:60] = tokenizer.separator_id
    mean = measure_statistics(model, tokenizer, windows)["mean"][0]
    kept = [int(i) for w in (windows[:64], windows[64:]) for i in w[1:] if i != tokenizer.separator_id]
    assert torch.allclose(mean, model.transformer.embed.weight.detach()[kept].mean(dim=0), atol=1e-5)


def test_measuring_draws_no_random_numbers(model: GPT, tokenizer: Tokenizer, ids: np.ndarray) -> None:
    state = torch.get_rng_state()
    first, second = (measure_statistics(model, tokenizer, ids) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("n", [2, 3, 10, 63, 64, 65])
def test_a_short_text_has_statistics_too(model: GPT, tokenizer: Tokenizer, ids: np.ndarray, n: int) -> None:
    statistics = measure_statistics(model, tokenizer, ids[:n])
    assert all(torch.isfinite(tensor).all() for tensor in statistics.values())


def test_a_language_without_spaces_has_statistics_too(model: GPT) -> None:
    text = "河岸上的银行，河边的花园。" * 30
    chinese = Tokenizer.train([text], 290)
    statistics = measure_statistics(model, chinese, np.array(chinese.encode(text)))
    assert (statistics["same_word"][:, 2, 0] > statistics["unrelated"][:, 2, 0]).all()


def test_quantiles_ascend_around_the_mean(model: GPT, tokenizer: Tokenizer, ids: np.ndarray) -> None:
    statistics = measure_statistics(model, tokenizer, ids)
    for name in ("unrelated", "same_word"):
        quantiles, moments = statistics[f"{name}_quantiles"], statistics[name]
        assert (quantiles.diff(dim=-1) >= 0).all()
        assert ((quantiles[..., 0] <= moments[..., 0] + 1e-5) & (moments[..., 0] <= quantiles[..., -1] + 1e-5)).all()


# -- Words


def test_tokens_are_counted() -> None:
    assert count_tokens(np.array([3, 1, 3, 3], dtype="<u2"), 6).tolist() == [0, 1, 0, 3, 0, 0]


def test_words_that_occur_twice_are_counted() -> None:
    text = "The bank, the bank; 2 banks of Ada's bank_note. école école हिन्दी हिन्दी once"
    tokenizer = Tokenizer.train([text], 300)
    words = dict(count_words(tokenizer, np.array(tokenizer.encode(text))))
    assert words == {"bank": 2, "école": 2, "हिन्दी": 2}


def test_words_come_most_frequent_first(tokenizer: Tokenizer) -> None:
    words = count_words(tokenizer, np.array(tokenizer.encode("b b c c c a a Ada Ada Ada")))
    assert words == [("Ada", 3), ("c", 3), ("a", 2), ("b", 2)]


def test_a_script_without_spaces_has_its_tokens_for_words() -> None:
    text = "我去银行取钱。银行在河边。" * 20
    tokenizer = Tokenizer.train([text], 400)
    words = dict(count_words(tokenizer, np.array(tokenizer.encode(text))))
    assert words and all(n >= 2 and "。" not in word and word in text for word, n in words.items())


def test_an_empty_text_has_no_words(tokenizer: Tokenizer) -> None:
    assert count_words(tokenizer, np.array([], dtype="<u2")) == []


def test_the_scale_of_sentences_is_of_sentences_read_alone(model: GPT, tokenizer: Tokenizer, ids: np.ndarray) -> None:
    text = tokenizer.decode(ids[1:2000].tolist())
    sentences = list(dict.fromkeys(part.strip() for part in text.split("\n")[:-1] if len(part.split()) > 1))[:40]
    prefix = tokenizer.encode("\n")
    short = np.array([tokenizer.separator_id, *tokenizer.encode("\n".join([*sentences, "end"]))])
    statistics = measure_statistics(model, tokenizer, short, prefix=prefix)
    places = [Occurrence(i, text, 0, len(text)) for i, text in enumerate(sentences)]
    vectors = embed(model, tokenizer, places, pool="weighted", n_expected=0, prefix=prefix)
    cosines = cosine_matrix(np.stack([v.contextual[-1] for v in vectors]))[np.triu_indices(len(sentences), 1)]
    assert statistics["sentence_unrelated"][-1, 0, 0] == pytest.approx(float(cosines.mean()), abs=1e-3)
    assert statistics["sentence_unrelated_quantiles"][-1, 0, 100] == pytest.approx(float(cosines.max()), abs=1e-3)


def test_a_text_of_few_sentences_has_no_scale_of_them(model: GPT, tokenizer: Tokenizer, ids: np.ndarray) -> None:
    statistics = measure_statistics(model, tokenizer, ids[:40])
    assert "unrelated" in statistics and "sentence_unrelated" not in statistics


def test_threads_that_divide_the_reading_find_the_same(model: GPT, tokenizer: Tokenizer, ids: np.ndarray) -> None:
    alone = measure_statistics(model, tokenizer, ids)
    divided = measure_statistics(model, tokenizer, ids, workers=Workers(2))
    for name, tensor in alone.items():
        if name != "components":  # whose signs are arbitrary
            torch.testing.assert_close(divided[name], tensor, rtol=1e-4, atol=1e-4)
