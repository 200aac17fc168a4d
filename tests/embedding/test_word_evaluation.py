"""Judging word vectors: each figure against its definition, each published format of questions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gptlite.embedding.word_evaluation import (
    Analogies,
    Pairs,
    compare_analogies,
    compare_pairs,
    evaluate_analogies,
    evaluate_pairs,
    paired_interval,
    parse_questions,
    share_interval,
    spearman,
)
from gptlite.errors import CorpusError


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of mean ranks, each counted out."""
    ranks = [[(v < w).sum() + ((v == w).sum() + 1) / 2 for w in v] for v in (x, y)]
    return float(np.corrcoef(ranks)[0, 1])


# -- Spearman


@pytest.mark.parametrize("n", [3, 10, 200])
@pytest.mark.parametrize("n_values", [3, 1000], ids=["many ties", "few ties"])
def test_rank_correlation_is_that_of_the_definition(n: int, n_values: int) -> None:
    rng = np.random.default_rng(n)
    x = np.append(rng.integers(n_values, size=n - 1), n_values)
    y = np.append(rng.integers(n_values, size=n - 1), -1)
    assert spearman(x, y)[0] == pytest.approx(by_definition(x, y), abs=1e-12)
    assert spearman(x, np.exp(x / n_values))[0] == pytest.approx(1)
    assert spearman(x, -x)[0] == pytest.approx(-1)


def test_a_resample_is_a_list_in_which_pairs_repeat() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(8, size=(2, 30))
    counts = rng.integers(3, size=(5, 30))
    expected = [by_definition(np.repeat(x, n), np.repeat(y, n)) for n in counts]
    assert spearman(x, y, counts) == pytest.approx(expected, abs=1e-12)


def test_nothing_agrees_with_what_never_changes() -> None:
    assert np.isnan(spearman(np.ones(4), np.arange(4.0))).all()


# -- Pairs of words


def space(n: int, dim: int = 5, seed: int = 0) -> tuple[dict[str, int], np.ndarray]:
    return {f"w{i}": i for i in range(n)}, np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def judged(words: dict[str, int], vectors: np.ndarray, noise: float, n: int = 150) -> Pairs:
    """Pairs scored as the vectors have it, but for noise."""
    rng = np.random.default_rng(1)
    pairs = rng.permutation(list(itertools.combinations(words, 2)))[:n]
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = np.array([rows[words[a]] @ rows[words[b]] for a, b in pairs])
    return Pairs(tuple((str(a), str(b)) for a, b in pairs), cosines + rng.normal(size=len(pairs)) * noise)


def test_pairs_are_judged_by_cosine() -> None:
    words, vectors = space(30)
    exact = evaluate_pairs(words, 7 * vectors, judged(words, vectors, 0))
    assert exact.spearman == pytest.approx(1, abs=1e-3)
    pairs = judged(words, vectors, 0.5)
    noisy = evaluate_pairs(words, vectors, pairs)
    assert noisy.spearman == pytest.approx(by_definition(noisy.cosines, pairs.scores), abs=1e-9)
    assert noisy.interval and noisy.interval.low < noisy.spearman < noisy.interval.high


def test_intervals_hold_the_figure_of_all_questions_as_often_as_they_say() -> None:
    """Of 60 samples of pairs, 95 % intervals hold the figure of very many pairs in most."""
    rng = np.random.default_rng(0)
    words, vectors = space(400, dim=3)
    a, b = rng.integers(400, size=(2, 20_000))
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = (rows[a] * rows[b]).sum(axis=1) + rng.normal(size=len(a))
    truth = spearman((rows[a] * rows[b]).sum(axis=1), scores)[0]
    held = 0
    for some in rng.integers(len(a), size=(60, 80)):
        pairs = Pairs(tuple((f"w{a[i]}", f"w{b[i]}") for i in some), scores[some])
        interval = evaluate_pairs(words, vectors, pairs).interval
        assert interval
        held += interval.low < truth < interval.high
    assert 50 <= held <= 60


def test_words_without_a_vector_are_left_out() -> None:
    words, vectors = space(30)
    pairs = judged(words, vectors, 0)
    fewer = {word: row for word, row in words.items() if row >= 10}
    result = evaluate_pairs(fewer, vectors, pairs)
    assert result.used.tolist() == [a in fewer and b in fewer for a, b in pairs.words]
    assert len(result.cosines) == result.used.sum() > 3 and result.spearman == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("n", [0, 2])
def test_too_few_pairs_have_no_figure(n: int) -> None:
    words, vectors = space(4)
    few = Pairs((("w0", "w1"), ("w1", "w2"))[:n], np.arange(n))
    result = evaluate_pairs(words, vectors, Pairs((*few.words, ("x", "y")), np.append(few.scores, 1.0)))
    assert (result.spearman, result.interval, result.used.sum()) == (None, None, n)


def test_another_case_stands_in_for_a_word_that_is_missing() -> None:
    words = {"us": 0, "US": 1, "Paris": 2, "PARIS": 3}
    vectors = np.array([(1, 0), (0, 1), (1, 1), (0, -1)])
    pairs = Pairs((("US", "paris"), ("us", "paris"), ("Us", "Us")), np.arange(3.0))
    assert evaluate_pairs(words, vectors, pairs).cosines == pytest.approx([0.5**0.5, 0.5**0.5, 1], abs=1e-5)
    vectors = np.array([(1, 0), (0, 1), (1, 3), (0, -1)])
    first, second, _ = evaluate_pairs(words, vectors, pairs).cosines
    assert first > second, "the word itself comes before another case of it"


def test_two_kinds_of_vectors_are_compared_on_the_same_resamples() -> None:
    words, vectors = space(40)
    pairs = judged(words, vectors, 0.4)
    worse = vectors + np.random.default_rng(2).normal(size=vectors.shape) * 0.7
    good, bad = evaluate_pairs(words, vectors, pairs), evaluate_pairs(words, worse, pairs)
    found = compare_pairs(good, bad)
    assert good.spearman and bad.spearman and found.interval
    assert found.difference == pytest.approx(good.spearman - bad.spearman) and found.is_shown and found.n == 150
    assert compare_pairs(bad, good).interval == pytest.approx((-found.interval.high, -found.interval.low))
    same = compare_pairs(good, good)
    assert (same.difference, same.interval, same.is_shown) == (0, (0, 0), False)


def test_only_pairs_that_both_know_are_compared() -> None:
    words, vectors = space(40)
    pairs = judged(words, vectors, 0.4)
    first = evaluate_pairs({w: i for w, i in words.items() if i > 5}, vectors, pairs)
    second = evaluate_pairs({w: i for w, i in words.items() if i < 30}, vectors, pairs)
    found = compare_pairs(first, second)
    assert found.n == (first.used & second.used).sum() < min(first.used.sum(), second.used.sum())
    assert found.difference == 0, "the same vectors"


# -- Analogies

KINGS = {"man": (1, 0, 0), "woman": (0, 1, 0), "king": (1, 0, 1), "queen": (0, 1, 1), "oak": (-1, 0, 0)}
RIGHT = ("man", "king", "woman", "queen")


def answered(*questions: tuple[str, str, str, str], **more: tuple[float, float, float]) -> list[bool]:
    known = {**KINGS, **more}
    analogies = Analogies(questions, ("all",) * len(questions))
    words = {word: i for i, word in enumerate(known)}
    return evaluate_analogies(words, np.array(list(known.values()), dtype=np.float32), analogies).right.tolist()


def test_analogies_are_answered_by_the_nearest_word() -> None:
    assert answered(RIGHT, ("man", "king", "woman", "oak"), ("man", "woman", "king", "queen")) == [True, False, True]


def test_the_given_words_are_no_answers() -> None:
    assert answered(("man", "king", "king", "queen")) == [True], "king itself is nearest to king - man + king"


def test_an_answer_in_another_case_is_right() -> None:
    assert answered(("man", "king", "woman", "QUEEN"), ("MAN", "King", "woman", "Queen")) == [True, True]
    assert answered(RIGHT, Queen=(0, 2, 2.02)) == [True]


def test_questions_with_unknown_words_are_left_out() -> None:
    words, vectors = {word: i for i, word in enumerate(KINGS)}, np.array(list(KINGS.values()), dtype=np.float32)
    questions = (RIGHT, ("a", "b", "c", "d"), ("man", "king", "woman", "oak"), RIGHT)
    result = evaluate_analogies(words, vectors, Analogies(questions, ("x",) * 4))
    assert result.used.tolist() == [True, False, True, True]
    assert result.accuracy == pytest.approx(2 / 3) and result.interval and result.interval.high > 2 / 3
    nothing = evaluate_analogies({}, np.zeros((0, 3)), Analogies(questions, ("x",) * 4))
    assert (nothing.accuracy, nothing.interval) == (None, None)


def test_many_analogies_are_answered_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    words, vectors = space(50)
    rng = np.random.default_rng(0)
    questions = tuple((f"w{a}", f"w{b}", f"w{c}", f"w{d}") for a, b, c, d in rng.integers(50, size=(200, 4)))
    whole = evaluate_analogies(words, vectors, Analogies(questions, ("x",) * 200))
    monkeypatch.setattr("gptlite.embedding.word_evaluation.AT_ONCE", 150)
    assert np.array_equal(whole.right, evaluate_analogies(words, vectors, Analogies(questions, ("x",) * 200)).right)
    assert whole.right.any()


def test_analogies_are_compared_where_both_know_the_words() -> None:
    questions = (RIGHT,) * 30 + (("man", "king", "woman", "oak"),) * 10
    analogies = Analogies(questions, ("x",) * 40)
    words, vectors = {word: i for i, word in enumerate(KINGS)}, np.array(list(KINGS.values()), dtype=np.float32)
    good = evaluate_analogies(words, vectors, analogies)
    bad = evaluate_analogies(words, vectors[[0, 2, 1, 4, 3]], analogies)
    found = compare_analogies(good, bad)
    assert found.n == 40 and good.accuracy and bad.accuracy is not None
    assert found.difference == pytest.approx(good.accuracy - bad.accuracy) and found.is_shown
    assert not compare_analogies(good, good).is_shown
    assert compare_analogies(good, evaluate_analogies({}, vectors, analogies)).difference is None


# -- Files

LOVE = Pairs((("love", "sex"), ("tiger", "cat")), np.array([6.77, 7.35]))


@pytest.mark.parametrize(
    "content",
    [
        "love\tsex\t6.77\ntiger\tcat\t7.35\n",
        "love sex 6.77\ntiger   cat 7.35",
        "# WordSim\n\nWord 1,Word 2,Human (mean)\nlove,sex,6.77\n\ntiger,cat,7.35\n",
        "love;sex;6.77\r\ntiger;cat;7.35\r\n",
        'a,b,score,n\n"love","sex",6.77,1\n"tiger","cat",7.35,2\n',
        "word1\tword2\tPOS\tSimLex999\tconc(w1)\nlove\tsex\tN\t6.77\t2\ntiger\tcat\tN\t7.35\t1\n",
        "love\tsex\tV\t6.77\tSYNONYMS\ntiger\tcat\tV\t7.35\tNONE\n",
        "id,word1,word2,score\n1,love,sex,6.77\n2,tiger,cat,7.35\n",
        "love-n sex-n 6.77\ntiger-n cat-j 7.35\n",
        "\ufefflove\tsex\t6.77\ntiger\tcat\t7.35\n",
    ],
    ids=["tabs", "spaces", "WordSim", "semicolons", "quotes", "SimLex", "SimVerb", "numbered", "MEN", "mark"],
)
def test_pairs_are_read_as_they_are_published(content: str) -> None:
    found = parse_questions(content.encode(), "x")
    assert isinstance(found, Pairs)
    assert found.words == LOVE.words and np.array_equal(found.scores, LOVE.scores)


def test_a_hyphen_is_no_part_of_speech_unless_all_words_have_one() -> None:
    found = parse_questions(b"vitamin-a carrot 5\nlove-n sex-n 6\n", "x")
    assert isinstance(found, Pairs) and found.words == (("vitamin-a", "carrot"), ("love-n", "sex-n"))


@pytest.mark.parametrize(
    ("content", "sections"),
    [
        (": capitals\nAthens Greece Oslo Norway\n: gram1\ngood better bad worse\n", ("capitals", "gram1")),
        ("Athens Greece Oslo Norway\ngood better bad worse\n", ("all", "all")),
    ],
)
def test_analogies_are_read(content: str, sections: tuple[str, ...]) -> None:
    found = parse_questions(content.encode(), "x")
    questions = (("Athens", "Greece", "Oslo", "Norway"), ("good", "better", "bad", "worse"))
    assert found == Analogies(questions, sections)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no pairs"),
        (b"# only a comment\n", "holds no pairs"),
        (b"love sex\n", "two words and a score"),
        (b"word1,word2,score\n", "two words and a score"),
        (b"one two 3\nlove sex\n", "line 2: two words and a score"),
        (b"one two 3\nlove sex nan\n", "line 2: two words and a score"),
        (b"one\ttwo\t3\n\tsex\t4\n", "line 2: two words"),
        (b": capitals\n", "holds none"),
        (b": capitals\nAthens Greece Oslo\n", "line 2: an analogy is four words, not 3"),
        (b"caf\xe9 bar 3\n", "not UTF-8"),
    ],
    ids=repr,
)
def test_other_files_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(CorpusError, match=f"^x.*{message}"):
        parse_questions(content, "x")


@pytest.mark.parametrize(("k", "n", "low", "high"), [(2, 2, 0.342, 1.0), (0, 2, 0.0, 0.658), (8, 10, 0.490, 0.943)])
def test_an_interval_of_a_share_is_wilsons(k: int, n: int, low: float, high: float) -> None:
    """Two right of two say little of others: never the point 1."""
    assert share_interval(k, n) == pytest.approx((low, high), abs=1e-3)


def test_a_difference_of_few_questions_has_a_wide_interval() -> None:
    low, high = paired_interval(0, 0, 2)
    assert low == pytest.approx(-high) and high > 0.6
    assert paired_interval(40, 2, 100).low > 0


def test_pairs_in_perfect_order_tell_nothing_of_others() -> None:
    vectors = np.array([[1, 0], [1, 0.1], [1, 1], [0, 1]], dtype=np.float32)
    pairs = Pairs((("a", "b"), ("a", "c"), ("a", "d")), np.array([3.0, 2.0, 1.0]))
    result = evaluate_pairs({word: i for i, word in enumerate("abcd")}, vectors, pairs)
    assert result.spearman == 1.0 and result.interval is None


def test_accents_are_found_however_they_are_written() -> None:
    pairs = Pairs((("cafe\u0301", "bank"), ("bank", "river"), ("CAF\u00c9", "river")), np.array([1.0, 2.0, 3.0]))
    words = {"caf\u00e9": 0, "bank": 1, "river": 2}
    assert evaluate_pairs(words, np.eye(3, dtype=np.float32), pairs).used.all()
