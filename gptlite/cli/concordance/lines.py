"""The lines of a concordance: which are shown, in which order, in groups by sense or in one list."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gptlite.cli.shared import console, schemas
from gptlite.cli.shared.texts import Found
from gptlite.errors import UsageError
from gptlite.text.words import Occurrence

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.embedding.senses import Senses

Sort = Literal["text", "left", "right", "sense"]
SHOWN = 40  # lines, unless --limit says otherwise
HELD = 20_000  # places kept in memory, drawn from more
CLUSTERED = 1000  # places whose vectors are grouped
REACH = 400  # characters of context that a line can need on each side
EXPECTED = 4  # tokens that the model expects next, for each place

Read = Callable[[], "tuple[Checkpoint, dict[str, Any] | None]"]


@dataclass(frozen=True)
class View:
    """What is shown: how many senses (None for one list), and the lines' order, number and width."""

    senses: int | Literal["auto"] | None = None
    sort: Sort | None = None
    limit: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        if self.sort == "sense" and self.senses is None:
            raise UsageError("--sort sense needs senses to sort by; add --senses 2.")
        if isinstance(self.senses, int) and self.senses < 2:
            raise UsageError(f"--senses must be 2 or more, or auto, not {self.senses}.")


def show(
    found: Iterable[Found], view: View, read: Read, *, layer: str, pool: str, correct: str, context: str,
    json: bool, messages: console.Messages,
) -> None:  # fmt: skip
    """Print the places that `found` yields. `read` gives model and statistics, and is called for senses only.

    - `context`: "left", or "auto" for vectors that know both sides where the model has what they take.
    """
    places, n_found = _draw(place for place in (item.place for item in found) if place)
    limit = view.limit or SHOWN
    if view.senses is None:
        shown = sort_places(_spread(places, limit), view.sort or "text")
        if json:
            console.write_json(schemas.named("concordance", {"n_found": n_found, "lines": [_line(p) for p in shown]}))
            return
        console.print_concordance([_columns(place) for place in shown], view.width)
        _say_how_many(len(shown), n_found, messages)
        return
    clustered = _spread(places, CLUSTERED)
    induced, facts = _induce(clustered, view.senses, read, layer, pool, correct, context, messages)
    groups = _groups(clustered, induced, view, limit)
    if json:
        lines = [_line(p, label, fit) for label, group in enumerate(groups) for p, fit in group]
        found_facts = {"n_found": n_found, "n_grouped": len(clustered), **facts, "lines": lines}
        console.write_json(schemas.named("concordance", found_facts))
        return
    console.write(_verdict(facts, len(clustered)) + "\n")
    if induced.n_senses == 1 or (not facts["clear"] and view.sort != "sense"):
        order = view.sort if view.sort in ("left", "right") else "text"
        mixed = sort_places(_spread(clustered, limit), order)
        console.print_concordance([_columns(place) for place in mixed], view.width)
    else:
        for number, (group, summary) in enumerate(zip(groups, facts["groups"], strict=True), 1):
            console.write(f"\nsense {number}   {console.plural(summary['n_places'], 'place')}{_about(summary)}\n")
            console.print_concordance([_columns(place) for place, _ in group], view.width)
    _say_how_many(min(limit, len(clustered)), n_found, messages)


def sort_places(places: Sequence[Occurrence], order: str) -> list[Occurrence]:
    """In the order of the text, or of the words to the right, or of those to the left, nearest first."""
    if order == "right":
        return sorted(places, key=lambda p: (p.text[p.end : p.end + REACH].casefold().split(), _position(p)))
    if order == "left":
        return sorted(
            places, key=lambda p: (p.text[max(0, p.start - REACH) : p.start].casefold().split()[::-1], _position(p))
        )
    return sorted(places, key=_position)


def _draw(places: Iterable[Occurrence]) -> tuple[list[Occurrence], int]:
    """At most 20,000 of the places, each as likely as any other (reservoir sampling), and how many there are."""
    kept: list[Occurrence] = []
    rng, n = random.Random(0), 0
    for n, place in enumerate(places, 1):
        if len(kept) < HELD:
            kept.append(place)
        elif (slot := rng.randrange(n)) < HELD:
            kept[slot] = place
    return sorted(kept, key=_position), n


def _spread(places: Sequence[Occurrence], n: int) -> list[Occurrence]:
    """At most n of the places, evenly spread over all of them."""
    if len(places) <= n:
        return list(places)
    return [places[i * len(places) // n] for i in range(n)]


def _induce(
    places: list[Occurrence], k: int | Literal["auto"], read: Read, layer: str, pool: str, correct: str, context: str,
    messages: console.Messages,
) -> tuple[Senses, dict[str, Any]]:  # fmt: skip
    """The senses of the places, and what is to be said of them."""
    import numpy as np

    from gptlite.embedding import contextual, senses, similarity
    from gptlite.embedding.embedder import Embedder

    loaded, tensors = read()
    statistics = None if tensors is None else {name: tensor.numpy() for name, tensor in tensors.items()}
    chosen = contextual.resolve_layer(layer, loaded.config.n_layers)
    embedder = Embedder(loaded, statistics, layer=str(chosen), pool=pool, context=context, n_expected=EXPECTED)
    embedded = embedder.embed(places)
    vectors = np.stack([v.at(chosen) for v in embedded])
    if embedder.context == "left":
        if statistics is None:  # a model made elsewhere: the places themselves say what they share
            space = similarity.measure(vectors)
            messages.notice(f"{loaded.path} holds no statistics; the mean of these places is taken off instead.")
        else:
            space = {name: statistics[name][chosen] for name in ("mean", "std", "components")}
        vectors = similarity.correct(vectors, correct, space)
    vectors = senses.centre_forms(vectors, [v.tokens for v in embedded])
    same_word = None
    if embedder.encoder is not None and statistics is not None and "around_same_word_quantiles" in statistics:
        same_word = statistics["around_same_word_quantiles"][chosen]
    if k == "auto":
        induced = senses.choose_senses(vectors, same_word=same_word)
    else:
        induced = senses.induce_senses(vectors, k, same_word=same_word)
    around = senses.typical_words([senses.context_words(p.text, p.start, p.end) for p in places], induced.labels)
    expected = senses.typical_words([[t.strip() for t in v.expected if t.strip()] for v in embedded], induced.labels)
    facts: dict[str, Any] = {
        "model": str(loaded.path), "layer": chosen, "n_layers": loaded.config.n_layers, "pool": pool,
        "context": embedder.context, "correct": correct, "clear": induced.clear,
        "silhouette": round(induced.silhouette, 4), "control": round(induced.control, 4),
        **({} if induced.likeness is None else {"likeness": round(induced.likeness, 4)}),
        "groups": [
            {"n_places": int((induced.labels == group).sum()), "around": around[group], "expected": expected[group]}
            for group in range(induced.n_senses)
        ],
    }  # fmt: skip
    return induced, facts


def _groups(places: list[Occurrence], induced: Senses, view: View, limit: int) -> list[list[tuple[Occurrence, float]]]:
    """The lines of each sense with how typical they are, each sense with its share of the lines; most typical first."""
    groups: list[list[tuple[Occurrence, float]]] = []
    for group in range(induced.n_senses):
        members = [(places[i], float(induced.typical[i])) for i in (induced.labels == group).nonzero()[0]]
        share = max(1, round(limit * len(members) / len(places)))
        members = sorted(members, key=lambda member: -member[1])[:share]
        if view.sort not in (None, "sense"):
            fits = {id(place): fit for place, fit in members}
            members = [(place, fits[id(place)]) for place in sort_places([p for p, _ in members], view.sort)]
        groups.append(members)
    return groups


def _verdict(facts: dict[str, Any], n: int) -> str:
    from gptlite.embedding.senses import SEVERAL

    sides = "both sides" if facts["context"] == "both" else "the left side"
    where = f"block {facts['layer']}/{facts['n_layers']}, {sides}"
    k = len(facts["groups"])
    if "likeness" in facts:
        measured = f"likeness {facts['likeness']:.2f} (below {SEVERAL:.2f}, there are several senses)"
    else:
        of_two = "of two groups " if k == 1 else ""
        measured = f"{of_two}silhouette {facts['silhouette']:.2f}, without any groups up to {facts['control']:.2f}"
    if k == 1:
        return f"one sense of {console.plural(n, 'place')}, {where}: {measured}."
    if facts["clear"]:
        return f"{k} senses of {console.plural(n, 'place')}, {where}: {measured}."
    return (
        f"no clear split of {console.plural(n, 'place')} into {k} senses, {where}: {measured}.\n"
        "--sort sense shows the groups all the same."
    )


def _about(summary: dict[str, Any]) -> str:
    parts = (("around it", summary["around"]), ("the model expects", summary["expected"]))
    return "".join(f"   {name}: {', '.join(words)}" for name, words in parts if words)


def _position(place: Occurrence) -> tuple[int, int]:
    return place.text_index, place.start


def _columns(place: Occurrence) -> tuple[str, str, str, str]:
    """Number of the text, and the text before, at and after the word, on one line."""
    left, right = place.text[max(0, place.start - REACH) : place.start], place.text[place.end : place.end + REACH]
    return str(place.text_index + 1), _flat(left), place.word, _flat(right)


def _flat(text: str) -> str:
    """Runs of white space as one space."""
    return (" " if text[:1].isspace() else "") + " ".join(text.split()) + (" " if text[-1:].isspace() else "")


def _line(place: Occurrence, sense: int | None = None, typical: float | None = None) -> dict[str, Any]:
    left, right = place.text[max(0, place.start - REACH) : place.start], place.text[place.end : place.end + REACH]
    line: dict[str, Any] = {
        "text_index": place.text_index, "span": [place.start, place.end], "left": left, "word": place.word,
        "right": right,
    }  # fmt: skip
    return line if sense is None else {**line, "sense": sense, "typical": round(typical or 0.0, 4)}


def _say_how_many(n_shown: int, n_found: int, messages: console.Messages) -> None:
    if n_shown < n_found:
        messages.say(f"{n_shown:,} of {n_found:,} places shown; --limit {n_found} shows more.")
