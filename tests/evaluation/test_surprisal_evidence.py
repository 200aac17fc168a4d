"""Evidence for surprisals: `transformers` and minicons give the same; who learned agreement solves minimal pairs."""

from __future__ import annotations

import csv
import io
import itertools
import math
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, Command, make_text, random_model, tiny_config

from gptlite.checkpoint import saved_step
from gptlite.device import choose_hardware
from gptlite.evaluation.boundaries import WORD
from gptlite.evaluation.surprisals import Scorer, tokens_of, words_of
from gptlite.text.tokenizer import Tokenizer

TEXTS = [
    "Ada finds the river and the bank .",
    "Bela doesn't open it: 3,000 windows!",
    "a",
    "naïve café, 银行旁边的河。",
]


@pytest.mark.hf
@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gpt2"])
def test_transformers_has_the_same_surprisals(architecture: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = random_model(tiny_config(architecture, vocab_size=VOCABULARY, context_length=64))
    saved_step.save_step(tmp_path / "step", model, tokenizer, {})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "step").eval()
    ours = saved_step.load(tmp_path / "step", torch.device("cpu"))
    scored = Scorer(ours.model, ours.tokenizer, choose_hardware("cpu", "fp32")).score(TEXTS)
    for text, each in zip(TEXTS, scored, strict=True):
        ids = torch.tensor([[tokenizer.separator_id, *tokenizer.encode(text)]])
        with torch.inference_mode():
            logp = theirs(ids).logits[0, :-1].double().log_softmax(-1)
        expected = -logp.gather(1, ids[0, 1:, None])[:, 0].numpy() / math.log(2)
        assert np.abs(np.array([unit.surprisal for unit in tokens_of(each)]) - expected).max() < 1e-4  # bits


@pytest.mark.hf
def test_minicons_has_the_same_tokens_and_words(gptlite: Command, trained_run: Path) -> None:
    pytest.importorskip("minicons")
    from minicons.scorer import IncrementalLMScorer
    from transformers import AutoTokenizer

    from gptlite.checkpoint import runs

    step = runs.find_model(str(trained_run))
    loaded = runs.load(str(trained_run), torch.device("cpu"))
    # It puts the separator before a text as characters, which gptlite's tokenizers otherwise read as such.
    separator_is_read = AutoTokenizer.from_pretrained(step, split_special_tokens=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it sets the token for padding
        theirs = IncrementalLMScorer(str(step), "cpu", tokenizer=separator_is_read)
    scorer = Scorer(loaded.model, loaded.tokenizer, choose_hardware("cpu", "fp32"), "whitespace")
    # It knows no other boundary than a token with a space, which leaves out line breaks and the end of a text.
    theirs.bow_subword_idx = np.flatnonzero(scorer.boundaries.masks[WORD]).tolist()
    texts = make_text(20, seed=5).splitlines()
    options = {"bos_token": True, "surprisal": True, "base_two": True}
    tokens = theirs.token_score(texts, **options)
    words = theirs.word_score_tokenized(texts, str.split, bow_correction=True, **options)
    scored = scorer.score(texts)
    for ours, token_row, word_row in zip(scored, tokens, words, strict=True):
        found = [x for _, x in token_row][-len(ours.ids) :]
        assert np.allclose(ours.surprisal, found, atol=1e-3)
        ours_words = [unit.surprisal for unit in words_of(ours)]
        assert np.allclose(ours_words, [x for _, x in word_row][-len(ours_words) :], atol=1e-3)


# -- Agreement across a clause

NOUNS = ("boy", "girl", "dog", "king", "cat", "friend", "teacher", "bird")
VERBS = (("sings", "sing"), ("runs", "run"), ("sleeps", "sleep"), ("waits", "wait"))
PAST = ("saw", "liked", "met", "heard")


def sentence(rng: random.Random, *, is_plural: bool, is_wrong: bool = False) -> str:
    """The verb agrees with the first noun; a clause with a noun of either number stands between them."""
    noun, other = rng.sample(NOUNS, 2)
    between = f"that {rng.choice(PAST)} the {other}{rng.choice(('', 's'))}"
    return f"the {noun}{'s' * is_plural} {between} {rng.choice(VERBS)[is_plural != is_wrong]} ."


def write_pairs(path: Path, n: int) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["good", "bad"])
        for seed, is_plural in itertools.product(range(n // 2), (False, True)):
            pair = [sentence(random.Random(seed), is_plural=is_plural, is_wrong=wrong) for wrong in (False, True)]
            rows.writerow(pair)


def judge(gptlite: Command, model: str) -> tuple[float, float, float]:
    """Accuracy and the bounds of its interval, as `score --pairs` prints them."""
    outcome = gptlite("score", "--pairs", "pairs.csv", "-m", model, "-q")
    assert outcome.code == 0, outcome.err
    cells = next(line for line in io.StringIO(outcome.out) if line.strip().startswith("all")).split()
    return float(cells[1]), float(cells[2]), float(cells[4])


SHAPE = ("--layers", "2", "--dim", "64", "--heads", "4", "--context", "64", "--vocab-size", "320", "-q")
SELDOM = ("--save-every", "1000", "--eval-every", "1000", "--batch-size", "16")


def write_corpus(n: int) -> None:
    rng = random.Random(-1)
    lines = (sentence(rng, is_plural=rng.random() < 0.5) for _ in range(n))
    Path("corpus.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.slow
def test_a_model_that_learned_agreement_solves_its_pairs(gptlite: Command) -> None:
    write_corpus(6000)
    write_pairs(Path("pairs.csv"), 200)
    assert gptlite("train", "corpus.txt", "-o", "learned", "--time", "60s", *SHAPE).code == 0
    accuracy, low, high = judge(gptlite, "learned")
    assert accuracy >= 0.95 and low <= accuracy <= high


def test_a_model_of_short_sentences_solves_their_pairs(gptlite: Command) -> None:
    """The same without a clause between, which is learned in seconds."""
    rng = random.Random(-1)

    def short(noun: str, verb: int, *, is_plural: bool) -> str:
        return f"the {noun}{'s' * is_plural} {VERBS[verb][is_plural]} ."

    lines = (short(rng.choice(NOUNS), rng.randrange(4), is_plural=rng.random() < 0.5) for _ in range(1500))
    Path("corpus.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = ["good,bad"]
    for noun, verb, is_plural in itertools.product(NOUNS, range(4), (False, True)):
        good = short(noun, verb, is_plural=is_plural)
        rows.append(f"{good},{good.replace(VERBS[verb][is_plural], VERBS[verb][not is_plural])}")
    Path("pairs.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert gptlite("train", "corpus.txt", "-o", "learned", "--steps", "50", *SELDOM, *SHAPE).code == 0
    accuracy, low, high = judge(gptlite, "learned")
    assert accuracy >= 0.95 and low <= accuracy <= high


def test_an_untrained_model_is_at_chance(gptlite: Command) -> None:
    write_corpus(200)
    write_pairs(Path("pairs.csv"), 200)
    line = ("train", "corpus.txt", "-o", "untrained", "--steps", "1", "--init", "random")
    assert gptlite(*line, *SHAPE).code == 0
    accuracy, low, high = judge(gptlite, "untrained")
    assert low <= 0.5 <= high and abs(accuracy - 0.5) < 0.1
