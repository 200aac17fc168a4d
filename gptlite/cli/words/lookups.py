"""The look-ups of `gptlite embed`: questions to static vectors, answered without torch.

    --static [WORD...] -o FILE   the vectors themselves, of these words or of all
    --nearest WORD               which words have the most similar vectors
    --analogy A B C              A - B + C
    --odd WORD...                which word does not belong
    --eval FILE                  how well the vectors agree with people

With `--vectors FILE` each question goes to the vectors of other programs too. With `--static-from average` the model
itself is loaded, and torch with it, to read a text.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gptlite.cli.shared import console, options
from gptlite.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gptlite.embedding.static import TokenTable, Word, WordVectors
    from gptlite.embedding.word_evaluation import Analogies, Difference, Interval, Pairs

ALWAYS = {"model", "json", "quiet", "correct", "min_count", "static_from", "corpus", "device", "threads"}
SOURCES = ("table", "average")
LOOKUPS = {  # and what each has a use for besides
    "static": {"texts", "out", "normalize"},
    "nearest": {"k", "others"},
    "analogy": {"k", "others"},
    "odd": {"texts", "others"},
    "evaluate": {"others"},
}
ONLY_HERE = {"others", "min_count", "static_from"}


def asked(context: typer.Context) -> str | None:
    """Which look-up the options ask for, if any. Raises `UsageError` for options that do not go together."""
    source = context.get_parameter_source
    given = [name for name in context.params if getattr(source(name), "name", "") == "COMMANDLINE"]
    flag = {parameter.name: "/".join(parameter.opts) for parameter in context.command.params}
    flag["texts"] = "a text"
    kinds = [name for name in given if name in LOOKUPS]
    if len(kinds) > 1:
        raise UsageError(f"{flag[kinds[0]]} and {flag[kinds[1]]} are two questions; ask one at a time.")
    if not kinds:
        if useless := [name for name in given if name in ONLY_HERE]:
            known = ", ".join(flag[name] for name in LOOKUPS)
            raise UsageError(f"{flag[useless[0]]} goes with a look-up: one of {known}.")
        return None
    if useless := [name for name in given if name not in ALWAYS | LOOKUPS[kinds[0]] | set(kinds)]:
        raise UsageError(f"{flag[useless[0]]} does not go with {flag[kinds[0]]}, which is about words alone.")
    return kinds[0]


def answer(context: typer.Context, kind: str) -> None:
    """Answer the look-up `kind` on standard output, as JSON if that is wanted."""
    wanted = context.params
    if wanted["static_from"] == "table":
        # Matrices of this size gain nothing from threads, and to start them takes NumPy longer than to multiply.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from gptlite.embedding import static

    if wanted["static_from"] not in SOURCES:
        raise UsageError(f"--static-from must be one of {', '.join(SOURCES)}, not '{wanted['static_from']}'.")
    if wanted["corpus"] is not None and wanted["static_from"] != "average":
        raise UsageError("--corpus goes with --static-from average, which reads a text, or with --versus.")
    if kind == "static":
        return _save(wanted)
    _check_words(wanted, kind)
    table = static.read_table(wanted["model"])
    spaces = _spaces(wanted, table)
    question = {"nearest": _nearest, "analogy": _analogy, "odd": _odd, "evaluate": _evaluate}[kind]
    result = question(wanted, table, spaces)
    if wanted["json"]:
        least = table.words(wanted["min_count"])[1]
        about = [_about(space) for space in spaces]
        console.write_json({"model": str(table.path), "min_count": least, "vectors": about, **result})
    else:
        _print_captions(table, spaces, wanted["min_count"], chosen=kind in ("nearest", "analogy"))


def _spaces(wanted: Mapping[str, Any], table: TokenTable) -> list[WordVectors]:
    """The vectors that are asked: the model's own, then those of other programs, corrected in the same way."""
    from gptlite.embedding.static import WordVectors
    from gptlite.embedding.word2vec_format import read_word2vec

    correction = wanted["correct"]
    spaces = [_own(wanted, table)]
    for name in wanted["others"] or ():
        with options.open_text(name, "vectors") as file:
            spaces.append(
                WordVectors(name, *read_word2vec(file, name, lossy=bool(wanted.get("lossy"))), correction=correction)
            )
    return spaces


def _own(wanted: Mapping[str, Any], table: TokenTable, correction: str | None = None) -> WordVectors:
    """The static vectors of the model itself: the rows of its table, or averages of contexts."""
    if wanted["static_from"] == "average":
        from gptlite.cli.words.averaged import read_averages

        return read_averages(wanted, table, console.Messages(wanted["quiet"]))
    return table.word_vectors(wanted["min_count"], wanted["correct"] or correction)


def _check_words(wanted: dict[str, Any], kind: str) -> None:
    """Make the words of a question text without spaces around them. Raises `UsageError`."""
    for name in {"nearest": ["nearest"], "analogy": ["analogy"], "odd": ["texts"], "static": ["texts"]}.get(kind, []):
        words = [options.check_text(word, "a word").strip() for word in wanted[name] or ()]
        if not all(words):
            raise UsageError("a word is empty; name one that is not.")
        wanted[name] = words


def _about(space: WordVectors) -> dict[str, Any]:
    return {
        "name": space.name,
        "words": len(space.words),
        "answers": len(space.answers),
        "dim": space.vectors.shape[1],
        "correct": space.correction,
        "unrelated": [round(x, 4) for x in space.unrelated],
    }


def _print_captions(table: TokenTable, spaces: Sequence[WordVectors], min_count: int | None, *, chosen: bool) -> None:
    """What was compared, and what a cosine is worth there; `chosen` if answers were chosen among words."""
    _, least = table.words(min_count)
    console.write("\n")
    for i, space in enumerate(spaces):
        n, n_answers = len(space.words), len(space.answers)
        seen = f" seen at least {least:,} times" if least else ", all that are one token"
        which = f"{n:,} words{seen if i == 0 else ''}"
        if chosen and n_answers < n:
            which += f", answers from the {n_answers:,} that are one token"
        correction = "raw cosines" if space.correction == "none" else f"cosines after {space.correction}"
        mean, deviation = (_decimals(x) for x in space.unrelated)
        console.write(f"{space.name}: {which}; {correction}, of two words at random {mean} ± {deviation}\n")


# -- Vectors to a file


def _save(wanted: dict[str, Any]) -> None:
    from gptlite.embedding import similarity, static, vector_files

    out, messages = wanted["out"], console.Messages(wanted["quiet"])
    if out is None or wanted["json"]:
        raise UsageError("--static writes vectors: give -o words.vec, or -o - for a JSON object a line.")
    if out != "-":
        vector_files.check_format(Path(out))
    _check_words(wanted, "static")
    table = static.read_table(wanted["model"])
    everything = _own(wanted, table, "none")
    words = wanted["texts"] or everything.words
    if missing := [word for word in words if not everything.has(word)]:
        raise UsageError(f"{everything.name} has no vector for '{missing[0]}', which is too rare in the text.")
    raw = table.vectors(words) if everything.spell else everything.vectors[[everything.index[word] for word in words]]
    vectors = similarity.correct(raw, everything.correction, everything.space)
    meta = {"model": str(table.path), "vectors": everything.name, "correct": everything.correction}
    if out == "-":
        for word, vector in zip(words, vectors, strict=True):
            facts = {"word": word, "seen": everything.seen(word), "tokens": list(table.tokens(word))}
            console.write_json({**facts, **meta, "static": [float(str(x)) for x in vector]})
        return
    vector_files.save_table(Path(out), words, vectors, meta, normalize=wanted["normalize"])
    kind = "raw" if everything.correction == "none" else everything.correction
    messages.say(f"{len(words):,} {kind} vectors of {vectors.shape[1]} numbers in {out}")
    for word in wanted["texts"] or ():
        for note in _notes(table, everything, word):
            messages.notice(note)


# -- Neighbours


def _nearest(wanted: Mapping[str, Any], table: TokenTable, spaces: Sequence[WordVectors]) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    for i, word in enumerate(wanted["nearest"]):
        answers = _ask(spaces, [word], lambda space, word=word: space.nearest(word, wanted["k"]))
        if wanted["json"]:
            found.append({**_facts(table, spaces[0], word), "answers": _listed(spaces, answers, "neighbours")})
            continue
        seen = spaces[0].seen(word)
        console.write("\n" if i else "")
        console.write(f'nearest to "{word}"{"" if seen is None else f", seen {_times(seen)}"}\n')
        _print_ranking(spaces, answers)
        _print_notes(table, spaces[0], [word], variants=True)
    return {"nearest": found}


def _analogy(wanted: Mapping[str, Any], table: TokenTable, spaces: Sequence[WordVectors]) -> dict[str, Any]:
    a, b, c = wanted["analogy"]
    answers = _ask(spaces, [a, b, c], lambda space: space.analogy(a, b, c, wanted["k"]))
    if wanted["json"]:
        given = [_facts(table, spaces[0], word) for word in (a, b, c)]
        return {"analogy": {"given": given, "answers": _listed(spaces, answers, "neighbours")}}
    console.write(f'{a} - {b} + {c}: what is to "{c}" as "{a}" is to "{b}"?\n')
    _print_ranking(spaces, answers)
    _print_notes(table, spaces[0], [a, b, c])
    return {}


def _odd(wanted: Mapping[str, Any], table: TokenTable, spaces: Sequence[WordVectors]) -> dict[str, Any]:
    words = list(dict.fromkeys(wanted["texts"] or ()))
    if len(words) < 3:
        raise UsageError("--odd takes three or more words, such as: gptlite embed --odd breakfast lunch dinner river")
    answers = _ask(spaces, words, lambda space: space.odd(words))
    if wanted["json"]:
        given = [_facts(table, spaces[0], word) for word in words]
        return {"odd": {"given": given, "answers": _listed(spaces, answers, "by_cosine_to_others")}}
    for space, ranking in zip(spaces, answers, strict=True):
        which = f" ({space.name})" if len(spaces) > 1 else ""
        console.write(f'"{ranking[0].word}" belongs least{which}\n' if ranking else f"no answer{which}\n")
    _print_ranking(spaces, answers, "mean cosine to the others")
    _print_notes(table, spaces[0], words)
    return {}


def _ask(
    spaces: Sequence[WordVectors], words: Sequence[str], question: Callable[[WordVectors], list[Word]]
) -> list[list[Word] | None]:
    """The answer of each of the vectors; None of those that lack one of the words."""
    return [question(space) if all(map(space.has, words)) else None for space in spaces]


def _print_ranking(spaces: Sequence[WordVectors], answers: Sequence[list[Word] | None], cosine: str = "cosine") -> None:
    """Rankings side by side."""
    head, right = ["#"], {0}
    for space in spaces:
        counted = bool(space.counts)
        right |= {len(head) + 1, len(head) + 2} if counted else {len(head) + 1}
        head += ["word" if len(spaces) == 1 else space.name, cosine, *(["seen"] if counted else [])]
    rows: list[list[str]] = []
    for i in range(max(len(ranking or ()) for ranking in answers)):
        row = [str(i + 1)]
        for space, ranking in zip(spaces, answers, strict=True):
            word = ranking[i] if ranking and i < len(ranking) else None
            cells = [word.word, _decimals(word.cosine)] if word else ["", ""]
            row += cells + ([_number(word.seen) if word else ""] if space.counts else [])
        rows.append(row)
    console.print_table(head, rows, right=frozenset(right))
    for space, ranking in zip(spaces, answers, strict=True):
        if ranking is None:
            console.write(f"note   {space.name} lacks a word of the question.\n")


def _print_notes(table: TokenTable, space: WordVectors, words: Sequence[str], *, variants: bool = False) -> None:
    for word in words:
        for note in _notes(table, space, word, variants=variants):
            console.write(f"note   {note}\n")


def _notes(table: TokenTable, space: WordVectors, word: str, *, variants: bool = False) -> list[str]:
    """What should be known of the vector of a word."""
    notes: list[str] = []
    tokens, seen = table.tokens(word), space.seen(word)
    rare = seen is not None and word not in space.index
    if len(tokens) > 1:
        spelled = "  ".join(token.replace(" ", "_") for token in tokens)
        notes.append(
            f'"{word}"{f", seen {_times(seen)}," if rare else ""} is {len(tokens)} tokens: {spelled}; their mean tells '
            "more of its spelling than of its meaning"
        )
    elif rare:
        notes.append(f'"{word}" was seen {_times(seen)}, hardly often enough to learn from')
    if others := space.case_variants(word) if variants else []:
        listed = ", ".join(
            f'"{v.word}" ({f"seen {_times(v.seen)}, " if v.seen else ""}cosine {_decimals(v.cosine)})' for v in others
        )
        notes.append(f"to the model {listed} {'is another word' if len(others) == 1 else 'are other words'}")
    return notes


def _times(seen: int | None) -> str:
    return console.plural(seen, "time") if seen else "at most once"


def _number(seen: int | None) -> str:
    return "" if seen is None else f"{seen:,}" if seen else "≤ 1"


def _facts(table: TokenTable, space: WordVectors, word: str) -> dict[str, Any]:
    return {
        "word": word,
        "seen": space.seen(word),
        "tokens": list(table.tokens(word)),
        "case_variants": [_row(variant) for variant in space.case_variants(word)],
    }


def _listed(spaces: Sequence[WordVectors], answers: Sequence[list[Word] | None], name: str) -> list[dict[str, Any]]:
    return [
        {"vectors": space.name, name: None if ranking is None else [_row(word) for word in ranking]}
        for space, ranking in zip(spaces, answers, strict=True)
    ]


def _row(word: Word) -> dict[str, Any]:
    return {"word": word.word, "cosine": round(word.cosine, 6), "seen": word.seen}


# -- Agreement with people


def _evaluate(wanted: Mapping[str, Any], table: TokenTable, spaces: Sequence[WordVectors]) -> dict[str, Any]:
    from gptlite.embedding import word_evaluation

    files: list[dict[str, Any]] = []
    for name in wanted["evaluate"]:
        with options.open_text(name, "pairs of words") as file:
            questions = word_evaluation.parse_questions(file.read(word_evaluation.LARGEST_FILE + 1), name)
        if isinstance(questions, word_evaluation.Pairs):
            result, show = _evaluate_pairs(questions, spaces), _print_pairs
        else:
            result, show = _evaluate_analogies(questions, spaces), _print_analogies
        files.append({"file": name, **result})
        if not wanted["json"]:
            console.write("\n" if len(files) > 1 else "")
            show(files[-1])
    return {"eval": files}


def _evaluate_pairs(pairs: Pairs, spaces: Sequence[WordVectors]) -> dict[str, Any]:
    from gptlite.embedding.word_evaluation import compare_pairs, evaluate_pairs

    rows: list[dict[str, Any]] = []
    corrected = [evaluate_pairs(space.index, space.directions, pairs) for space in spaces]
    for space, result in zip(spaces, corrected, strict=True):
        found = [(space.correction, result)]
        if space.correction != "none":
            found.append(("none", evaluate_pairs(space.index, space.vectors, pairs)))
        rows += [
            {
                "vectors": space.name,
                "correct": correction,
                "used": int(r.used.sum()),
                "unknown": round(1 - float(r.used.mean()), 4),
                "spearman": _rounded(r.spearman),
                "interval": _interval(r.interval),
            }
            for correction, r in found
        ]
    differences = [
        _difference(spaces[i], spaces[j], compare_pairs(corrected[i], corrected[j]))
        for i, j in itertools.combinations(range(len(spaces)), 2)
    ]
    return {"kind": "pairs", "questions": len(pairs.words), "results": rows, "differences": differences}


def _evaluate_analogies(analogies: Analogies, spaces: Sequence[WordVectors]) -> dict[str, Any]:
    import numpy as np

    from gptlite.embedding.word_evaluation import compare_analogies, evaluate_analogies

    sections = np.array(analogies.sections)
    rows: list[dict[str, Any]] = []
    for space in spaces:
        r = evaluate_analogies(space.index, space.directions, analogies)
        rows.append(
            {
                "vectors": space.name,
                "correct": space.correction,
                "used": int(r.used.sum()),
                "unknown": round(1 - float(r.used.mean()), 4),
                "accuracy": _rounded(r.accuracy),
                "interval": _interval(r.interval),
                "sections": {
                    name: {"used": int(r.used[sections == name].sum()), "right": int(r.right[sections == name].sum())}
                    for name in dict.fromkeys(analogies.sections)
                },
            }
        )
    differences: list[dict[str, Any]] = []
    for a, b in itertools.combinations(spaces, 2):  # with the same words to choose from
        shared = {word: i for i, word in enumerate(w for w in a.words if w in b.index)}
        first, second = (
            evaluate_analogies(shared, space.directions[[space.index[word] for word in shared]], analogies)
            for space in (a, b)
        )
        differences.append({**_difference(a, b, compare_analogies(first, second)), "words": len(shared)})
    n = len(analogies.questions)
    return {"kind": "analogies", "questions": n, "results": rows, "differences": differences}


def _difference(a: WordVectors, b: WordVectors, found: Difference) -> dict[str, Any]:
    return {
        "of": [a.name, b.name],
        "used": found.n,
        "difference": _rounded(found.difference),
        "interval": _interval(found.interval),
        "shown": found.is_shown,
    }


def _print_pairs(file: Mapping[str, Any]) -> None:
    console.write(f"{_source(file)}: {file['questions']:,} pairs of words that people compared\n")
    rows = [
        [
            r["vectors"], "raw" if r["correct"] == "none" else r["correct"], f"{r['used']:,}",
            f"{100 * r['unknown']:.0f} %", _decimals(r["spearman"]), _between(r["interval"], _decimals),
        ]
        for r in file["results"]
    ]  # fmt: skip
    head = ["vectors", "correction", "pairs used", "unknown", "Spearman", "95 % interval"]
    console.print_table(head, rows, right=frozenset({2, 3, 4}))
    for d in file["differences"]:
        _print_difference(d, "pairs that both know", _decimals)


def _print_analogies(file: Mapping[str, Any]) -> None:
    names = list(file["results"][0]["sections"])
    n = file["questions"]
    console.write(f"{_source(file)}: {n:,} {'analogy' if n == 1 else 'analogies'}\n")
    rows = [
        [name, *(f"{r['sections'][name]['right']:,} of {r['sections'][name]['used']:,}" for r in file["results"])]
        for name in names
    ]
    for title, cells in (
        ("all", [f"{sum(s['right'] for s in r['sections'].values()):,} of {r['used']:,}" for r in file["results"]]),
        ("accuracy", [_percent(r["accuracy"]) for r in file["results"]]),
        ("95 % interval", [_between(r["interval"], _percent) for r in file["results"]]),
        ("unknown words", [_percent(r["unknown"]) for r in file["results"]]),
    ):
        rows.append([title, *cells])
    head = ["section", *(f"{r['vectors']}, {r['correct']}" for r in file["results"])]
    console.print_table(head, rows, right=frozenset(range(1, len(head))))
    for d in file["differences"]:
        _print_difference(d, f"analogies that both know, answered from {d['words']:,} words", _percent)


def _source(file: Mapping[str, Any]) -> str:
    return "standard input" if file["file"] == "-" else file["file"]


def _print_difference(d: Mapping[str, Any], what: str, shown: Any) -> None:
    first, second = d["of"]
    if d["difference"] is None:
        return console.write(f"{first} and {second} have too few questions in common to compare\n")
    if d["difference"] < 0:
        first, second = second, first
        d = {**d, "difference": -d["difference"], "interval": [-x for x in reversed(d["interval"] or ())]}
    verdict = f"{first} is better than {second}" if d["shown"] else f"{first} is not shown to be better than {second}"
    by = f"{shown(d['difference'])} ({_between(d['interval'], shown)})"
    console.write(f"{verdict}: by {by} on the {d['used']:,} {what}\n")


def _between(interval: Sequence[float] | None, shown: Any) -> str:
    return f"{shown(interval[0])} to {shown(interval[1])}" if interval else ""


def _decimals(value: float | None) -> str:
    return "" if value is None else f"{round(value, 2) + 0.0:.2f}"  # never "-0.00"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{round(100 * value, 1) + 0.0:.1f} %"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _interval(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [round(interval.low, 4), round(interval.high, 4)]
