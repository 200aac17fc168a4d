"""Texts beside the user's own that batches are mixed with: background text, and the text of an earlier run.

Neither is ever held out, and passages of the held-out text are taken out of both before anything is learned from them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlite.checkpoint import run_info
from gptlite.checkpoint.runs import Run
from gptlite.config import TrainConfig
from gptlite.errors import CheckpointError, CorpusError, UsageError, plural
from gptlite.paths import cache_directory
from gptlite.text import corpus, overlap
from gptlite.text.mixture import Ingredient, Share
from gptlite.text.options import TextOptions
from gptlite.text.token_files import TokenFile
from gptlite.training import mixing
from gptlite.training.dataset import Inputs, reopen
from gptlite.training.mixing import BACKGROUND, REPLAY
from gptlite.training.request import Request
from gptlite.training.watcher import Watcher

MOST_RUNS = 100  # that have started from one another, whose texts are replayed together


@dataclass(frozen=True)
class Companion:
    """A companion text without the passages of the held-out text, and what run.json says of it.

    - `facts`: fields of run.json, by their names there.
    """

    name: str
    text: corpus.Text
    facts: Mapping[str, Any]


def read(
    request: Request, texts: Inputs, options: TextOptions, limits: Sequence[int] | None, stack: ExitStack, *,
    start: Path | None = None, previous: Mapping[str, Any] | None = None,
) -> tuple[Companion, ...]:  # fmt: skip
    """The companion texts of a run, without copies of `texts.val`, which the user is told of.

    - `start`: the step of the model that the run starts from; `previous`: the run.json of a resumed run.
    Raises `UsageError`, `CorpusError`, and `CheckpointError` where a text is not what the resumed run was begun with.
    """
    most = limits[0] if limits else None
    found: list[Companion] = []
    if (arguments := _background_arguments(request, previous)) is not None:
        found.append(_read_background(arguments, texts, options, most, request.watcher, stack))
    replay = request.settings.get(REPLAY) if previous is None else previous["plan"]["train"].get(REPLAY)
    if replay:
        path = start.parent if start is not None else Path(previous[REPLAY]["path"]) if previous else None
        assert path is not None, "a request with `replay` names the model to start from"
        found.append(_read_replay(path, texts, most, request.watcher))
    for companion in found if previous is not None else ():
        was, now = (previous or {}).get(companion.name, {}), companion.facts[companion.name]
        if any(was.get(key) != now[key] for key in ("bytes", "sha256")):
            raise CheckpointError(
                f"the text for `{companion.name}` is not the one that the run was begun with: then "
                f"{was.get('bytes', 0):,} bytes, now {now['bytes']:,}, or others; give that text, or start a new run."
            )
    return tuple(found)


def _background_arguments(request: Request, previous: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """The names of the background's files, absolute in a resumed run."""
    given = request.background
    if given is not None and "-" in given and "-" in request.inputs:
        raise UsageError("standard input (-) can be the text or the `background`, not both.")
    if previous is None:
        return given
    before = previous.get("background_arguments")
    if given is not None and before is None:
        raise UsageError("`background` was not given when the run was started; leave it out, or start a new run.")
    return given or (None if before is None else tuple(before))


def _read_background(
    arguments: Sequence[str], texts: Inputs, options: TextOptions, most: int | None, watcher: Watcher, stack: ExitStack
) -> Companion:
    watcher.phase("reading the background", 0.0)
    opened = corpus.opened(
        list(arguments), cache_directory(), notice=watcher.notice, options=options, was_read_before=True
    )
    text = stack.enter_context(opened)
    others = _without_own(text.pieces, texts, BACKGROUND, watcher)
    if not others:
        raise CorpusError("the `background` has no other text than the text to train on; leave it out.")
    sources = Inputs(corpus.Text(others), corpus.Text(())).documents()
    kept, facts = _without_held_out(corpus.Text(others), BACKGROUND, texts, most, watcher)
    return Companion(
        BACKGROUND,
        kept,
        {
            BACKGROUND: facts,
            "background_arguments": [a if a == "-" else str(Path(a).absolute()) for a in arguments],
            "background_inputs": sources,
        },
    )


def _without_held_out(
    text: corpus.Text, name: str, texts: Inputs, most: int | None, watcher: Watcher
) -> tuple[corpus.Text, dict[str, Any]]:
    """The text, or parts of it with about `most` bytes, without passages of the held-out text; facts for run.json."""
    whole = text.n_bytes
    if most is not None and whole > most:
        text = text.spread(most)
        watcher.notice(
            f"there is no time to read all {whole / 1e6:,.0f} MB of the text for `{name}`; "
            f"{text.n_bytes / 1e6:,.0f} MB spread over the whole are used."
        )
    removal = overlap.remove_copies(text, texts.val)
    if removal.first is not None:
        document, line = removal.first
        watcher.notice(
            f"removed {plural(removal.passages, 'passage')} ({removal.n_bytes:,} bytes) from the text for `{name}` "
            f"that the held-out text has too, exactly or nearly so; the first is at line {line:,} of {document.name}."
        )
    kept = removal.text
    if kept.n_bytes < corpus.SMALLEST_TEXT:
        raise CorpusError(
            f"{kept.n_bytes:,} bytes are left of the text for `{name}` without the passages of the held-out text, too "
            f"few to learn from; leave `{name}` out."
        )
    return kept, {
        "bytes": kept.n_bytes,
        "sha256": kept.digest,
        "removed_passages": removal.passages,
        "removed_bytes": removal.n_bytes,
    }


def _read_replay(path: Path, texts: Inputs, most: int | None, watcher: Watcher) -> Companion:
    watcher.phase("reading the text of the earlier run", 0.0)
    if not Run(path).is_run():
        raise UsageError(f"{path} is not a run of gptlite, so its text is not known; leave `replay` out.")
    try:
        pieces = _texts_of_run(path)
    except (CorpusError, CheckpointError) as error:
        raise type(error)(
            f"the text of {path} cannot be replayed: {str(error).rstrip('.')}; put it back, or leave `replay` out."
        ) from error
    if any(piece.document.layout and piece.document.layout.has_answers for piece in pieces):
        raise UsageError(f"`replay` does not go with pairs and conversations, which {path} is of; leave it out.")
    pieces = _without_own(pieces, texts, "replayed text", watcher)
    if not pieces:
        raise CorpusError(f"all text of {path} is among the text to train on; leave `replay` out.")
    kept, facts = _without_held_out(corpus.Text(pieces), REPLAY, texts, most, watcher)
    return Companion(REPLAY, kept, {REPLAY: {"path": str(path.absolute()), **facts}})


def _texts_of_run(path: Path) -> tuple[corpus.Piece, ...]:
    """The training text of a run, and of the runs whose text it replayed itself. Raises the errors of `reopen`."""
    pieces: dict[tuple[str, int, int], corpus.Piece] = {}
    for _ in range(MOST_RUNS):
        info = Run(path).read_info()
        for piece in reopen(info).train.pieces:
            pieces.setdefault((piece.document.digest, piece.start, piece.end), piece)
        earlier = info.get(REPLAY)
        if earlier is None or "path" not in earlier:
            break
        path = Path(earlier["path"])
        if not Run(path).is_run():
            raise CorpusError(f"{path}, whose text it was trained on too, is gone.")
    return tuple(pieces.values())


def _without_own(
    pieces: Sequence[corpus.Piece], texts: Inputs, name: str, watcher: Watcher
) -> tuple[corpus.Piece, ...]:
    """`pieces` without the files that the run's own text has too, which the user is told of."""
    own = {d.digest for d in (*texts.sources, *(p.document for p in (*texts.train.pieces, *texts.val.pieces)))}
    others = tuple(piece for piece in pieces if piece.document.digest not in own)
    if len(others) < len(pieces):
        n_files = len({piece.document.digest for piece in pieces} & own)
        watcher.notice(f"left {plural(n_files, 'file')} out of the {name} that the text itself has too.")
    return others


def reopen_all(info: Mapping[str, Any]) -> Inputs:
    """As `reopen`, with the background and the replayed text among what was trained on, copies of `val` included.

    Raises the errors of `reopen`.
    """
    texts = reopen(info)
    pieces = list(texts.train.pieces)
    if "background_inputs" in info:
        run_info.require(info, "the run.json of the model", "background_arguments")
        if "-" in info["background_arguments"]:
            raise CorpusError("the background was standard input, which is not kept.")
        text = corpus.open_text(info["background_arguments"], smallest=1, options=TextOptions.of_run(info))
        found = {piece.document.digest: piece for piece in text.pieces}
        for source in info["background_inputs"]:
            if source["sha256"] not in found:
                raise CorpusError(f"{source['path']} is not what it was when the model was trained.")
            pieces.append(found[source["sha256"]])
    if (earlier := info.get(REPLAY)) is not None and "path" in earlier:
        if not Run(Path(earlier["path"])).is_run():
            raise CorpusError(f"{earlier['path']}, the run whose text was replayed, is gone.")
        pieces += _texts_of_run(Path(earlier["path"]))
    return dataclasses.replace(texts, train=corpus.Text(tuple(pieces)))


def ingredients(files: Mapping[str, TokenFile], config: TrainConfig, own_tokens: int) -> list[Ingredient]:
    """The token files of companions, by name, as a mixture takes them."""
    made: list[Ingredient] = []
    for name, tokens in files.items():
        if name == BACKGROUND:
            share = Share(config.background_share, config.background_end, 1 - config.decay)
        else:
            share = Share(config.replay, config.replay)
        made.append(
            Ingredient(name, tokens, share, mixing.tokens_per_epoch(name, tokens.n_tokens, own_tokens, config.replay))
        )
    return made


def facts(companions: Sequence[Companion], files: Mapping[str, TokenFile]) -> dict[str, Any]:
    """What run.json says of all of them."""
    said = {name: value for companion in companions for name, value in companion.facts.items()}
    for name, tokens in files.items():
        said[name] = {**said[name], "n_tokens": tokens.n_tokens, "token_digest": tokens.digest}
    return said


def check_same_tokens(previous: Mapping[str, Any], files: Mapping[str, TokenFile]) -> None:
    """Raises `CheckpointError` where a companion text, though the same, has become other tokens."""
    for name, tokens in files.items():
        if previous[name].get("token_digest") != tokens.digest:
            raise CheckpointError(
                f"the tokens of the text for `{name}` are not those that the run was trained on, though the text is; "
                "resume with the tokenizers library it was begun with."
            )
