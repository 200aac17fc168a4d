"""How samples are written: streamed or whole, tinted, with a table of probabilities, as JSON, or into a file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlite.cli.shared import console, outputs, schemas
from gptlite.cli.shared.memorisation import NoCheck
from gptlite.errors import UsageError
from gptlite.evaluation.surprisal import STEP_NAMES, bits_of, step_of

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint
    from gptlite.generation.generate import Generation, Sample
    from gptlite.generation.logprobs import Alternative
    from gptlite.text.tokenizer import Tokenizer

MOST_ALTERNATIVES = 1000
WIDEST_TOKEN = 24  # columns of a token in a table that leaves room for others
DELIMITER = "=" * 20  # between samples in a file; gpt-2-simple's, so that its users' scripts go on working


@dataclass(frozen=True)
class Form:
    """What samples are to look like, and where they go.

    - `logprobs`: how many alternatives are shown beside each token; None shows no probabilities.
    - `color`: none or surprise.
    - `out`: a file, or None for standard output.
    Raises `UsageError`.
    """

    echo: bool = True
    stream: bool = True
    json: bool = False
    logprobs: int | None = None
    color: str = "none"
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_ALTERNATIVES:
            raise UsageError(f"--logprobs must be between 0 and {MOST_ALTERNATIVES:,}, not {self.logprobs}.")
        if self.color not in ("none", "surprise"):
            raise UsageError(f"--color must be none or surprise, not '{self.color}'.")
        if self.color != "none" and self.json:
            raise UsageError("--color tints text on a terminal; leave it out with --json.")


FORMATS = {".txt": "text", ".md": "text", ".jsonl": "jsonl", ".json": "json"}  # a name without a suffix is of text


def make_form(out: str | None, *, json: bool, **more: Any) -> Form:
    """The form whose file's suffix decides the format. Raises `UsageError` for a suffix of another one."""
    path = None if out in (None, "-") else Path(out)
    kind = outputs.format_of(path, FORMATS) if path is not None and path.suffix else "text"
    if path is not None and json and kind == "text":
        raise UsageError(f"-o {out} with --json: the name must end in .jsonl or .json.")
    return Form(out=path, json=json or kind == "json", **more)


class Writer:
    """Writes what `n_prompts` requests make one after the other, `n_samples` each. A file gets all of it in `close`.

    - `streams`: is the text shown while it is written? Beside a file, only to someone who watches.
    - `keeps` and `recorded` are for `Generation`: is the text needed after it was shown, and how many alternatives of
      each token; None for no log-probabilities.
    """

    def __init__(
        self, form: Form, loaded: Checkpoint, messages: console.Messages, copy_check: NoCheck | None = None, *,
        n_prompts: int = 1, n_samples: int = 1, columns: Sequence[Mapping[str, Any]] = (),
    ) -> None:  # fmt: skip
        if n_prompts > 1 and form.out is not None and form.out.suffix.lower() == ".json":
            raise UsageError("a .json file holds the samples of one prompt; give -o a name that ends in .jsonl.")
        self.columns = columns  # of each prompt, what stands beside it in its file
        self.form, self.messages, self.n_prompts = form, messages, n_prompts
        self.copy_check = copy_check or NoCheck()
        self.texts: list[str] = []  # that are to be checked when there are no more
        self.model, self.tokenizer = str(loaded.path), loaded.tokenizer
        self.content: list[str] = []  # of the file
        self.n_prompts_written = self.n_written = 0
        self.streams = (
            n_prompts == n_samples == 1
            and form.stream
            and not form.json
            and (form.out is None or console.is_terminal())
        )
        is_shown = self.streams or (form.out is None and not form.json)
        tint = console.Tint() if form.color == "surprise" and is_shown else None
        self.tint = tint if tint and tint.is_wanted else None
        self.lists_tokens = form.json or form.logprobs is not None
        self.recorded = (form.logprobs or 0) if self.lists_tokens or self.tint else None
        self.keeps = not self.streams or form.out is not None or self.recorded is not None or self.copy_check.wanted
        if self.tint:
            messages.key("surprise in bits", STEP_NAMES)

    def write(self, work: Generation) -> None:
        """Write the samples of `work`, which is complete unless they are streamed.

        Of an interrupted one stays what was shown, its line ended.
        """
        if self.streams:
            self._stream(work)
        self.n_prompts_written += 1
        self.n_written += len(work.samples)
        if self.form.out is not None:
            self.content += self._for_file(self.form.out, work)
        elif self.form.json:
            console.write_json(self._as_json(work))
        if self.form.json:
            return
        if self.copy_check.wanted:
            self.texts += [sample.text for sample in work.samples]
        for number, sample in zip(work.numbers, work.samples, strict=True):
            if self.form.out is None and not self.streams:
                which = [f"prompt {self.n_prompts_written:,} of {self.n_prompts:,}"] * (self.n_prompts > 1)
                which += [f"sample {number + 1} of {len(work.samples)}"] * (len(work.samples) > 1)
                if which:
                    self.messages.say(f"-- {', '.join(which)} --", "dim")
                self._show_whole(sample, work.prompt)
            if self.form.logprobs is not None:
                self.print_table(sample)

    def show(self, work: Generation) -> Iterator[str]:
        """Show the only sample of `work` as it comes, and yield what was shown."""
        (sample,) = work.samples
        painter = Painter(self.tint, self.tokenizer)
        for chunk in work:
            painter.write(chunk.text, sample)
            yield chunk.text

    def print_table(self, sample: Sample) -> None:
        """For each token its probability, its surprise, and the likeliest alternatives that there is room for."""
        columns = ["token", "probability", "bits"] + ["likeliest"] * bool(self.form.logprobs)
        listed = list(self._listed(sample))
        names = [self._readable(token) for token, _, _ in listed]
        room = console.width() - max((min(console.columns_of(name), WIDEST_TOKEN) for name in names), default=0) - 24
        rows = [
            [name, _percent(logprob), f"{bits_of(logprob):.1f}", self._likeliest(top, room)][: len(columns)]
            for name, (_, logprob, top) in zip(names, listed, strict=True)
        ]
        console.write("\n")
        console.print_table(columns, rows, right=frozenset({1, 2}))

    def _likeliest(self, top: Sequence[Alternative], room: int) -> str:
        """The alternatives to a token; on a terminal as many as fit into `room` columns, but one at least."""
        shown = ""
        for i, p in top:
            more = f"{'   ' if shown else ''}{self._readable(i)} {_percent(p)}"
            if shown and console.is_terminal() and console.columns_of(shown + more) > room:
                return f"{shown} …"
            shown += more
        return shown

    def close(self) -> None:
        """There are no more samples."""
        if self.form.out is not None:
            write_file(self.form.out, "".join(self.content))
            self.messages.say(f"{console.plural(self.n_written, 'sample')} in {self.form.out}", "dim")
        if self.texts:
            self.copy_check.show(self.texts)

    def _stream(self, work: Generation) -> None:
        try:
            console.write(work.prompt if self.form.echo else "")
            for _ in self.show(work):
                pass
        except KeyboardInterrupt:
            console.write("\n")
            raise
        console.write("\n")

    def _show_whole(self, sample: Sample, prompt: str) -> None:
        console.write(prompt if self.form.echo else "")
        Painter(self.tint, self.tokenizer).write(sample.text, sample)
        console.write("\n")

    def _for_file(self, out: Path, work: Generation) -> Iterator[str]:
        if out.suffix.lower() == ".jsonl":
            for number, sample in zip(work.numbers, work.samples, strict=True):
                facts = {"model": self.model, "prompt": work.prompt, "seed": work.seed, "sample": number}
                facts |= {**self._columns(), **self._sample_as_json(sample)}
                yield console.json_line(schemas.named("sample", facts))
        elif self.form.json:
            yield console.json_line(self._as_json(work))
        else:
            for i, sample in enumerate(work.samples):
                between = f"{DELIMITER}\n" if self.content or i else ""
                yield f"{between}{work.prompt if self.form.echo else ''}{sample.text}\n"

    def _as_json(self, work: Generation) -> dict[str, Any]:
        n_tokens = sum(len(sample.tokens) for sample in work.samples)  # those behind a stop string were work too
        facts = {
            "model": self.model,
            "prompt": work.prompt,
            **self._columns(),
            "seed": work.seed,
            "samples": [self._sample_as_json(sample) for sample in work.samples],
            "usage": {"n_prompt_tokens": len(work.prompt_ids), "n_completion_tokens": n_tokens},
        }
        return schemas.named("generate", self.copy_check.add(facts, [sample.text for sample in work.samples]))

    def _columns(self) -> dict[str, Any]:
        """What stood beside the prompt that was written last."""
        columns = self.columns[self.n_prompts_written - 1] if self.columns else {}
        return {"columns": dict(columns)} if columns else {}

    def _sample_as_json(self, sample: Sample) -> dict[str, Any]:
        entry: dict[str, Any] = {"text": sample.text, "finish_reason": sample.finish_reason}
        if self.lists_tokens:
            entry["tokens"] = [
                {**self._as_entry(token, logprob), **self._alternatives(top)}
                for token, logprob, top in self._listed(sample)
            ]
        return entry

    def _alternatives(self, top: Sequence[Alternative]) -> dict[str, Any]:
        return {"top": [self._as_entry(i, p) for i, p in top]} if self.form.logprobs else {}

    def _as_entry(self, token: int, logprob: float) -> dict[str, Any]:
        text, raw = spell(self.tokenizer, token)
        halves = {} if raw is None else {"bytes": list(raw)}
        return {
            "id": token,
            "text": text,
            **halves,
            "logprob_nats": round(logprob, 6) + 0.0,
        }  # without the sign of -0.0

    def _listed(self, sample: Sample) -> Iterator[tuple[int, float, Sequence[Alternative]]]:
        """The tokens that spell the text of a sample, and none that a stop string has cut off."""
        from gptlite.generation.logprobs import count_spelling

        n = count_spelling(self.tokenizer, sample.tokens, sample.text)
        return zip(sample.tokens[:n], sample.logprobs[:n], sample.top[:n], strict=True)

    def _readable(self, token: int) -> str:
        """A token in a table: its spaces as "_", so that they can be seen."""
        return console.one_line(spell(self.tokenizer, token)[0].replace(" ", "_"))


class Painter:
    """Shows the text of one sample in as many portions as it comes in, tinted if there is a tint."""

    def __init__(self, tint: console.Tint | None, tokenizer: Tokenizer) -> None:
        from gptlite.generation.logprobs import Attribution

        self.tint, self.attribution = tint, Attribution(tokenizer)
        self.n_seen = 0

    def write(self, text: str, sample: Sample) -> None:
        """The next portion of the text of `sample`, whose tokens are there already."""
        if self.tint is None:
            console.write(text)
            return
        for i in range(self.n_seen, len(sample.tokens)):
            self.attribution.add(sample.tokens[i], sample.logprobs[i])
        self.n_seen = len(sample.tokens)
        self.tint.write((part, step_of(bits_of(p))) for part, p in self.attribution.take(text))


def spell(tokenizer: Tokenizer, token: int) -> tuple[str, bytes | None]:
    r"""The text of a token; and its bytes where it is not made of whole characters, which the text has as \xe6.

    The separator and its like have their names as texts; ids that no token has, which a model may expect, none.
    """
    raw = tokenizer.token_bytes[token] if token < tokenizer.vocab_size else b""
    if not raw:
        return tokenizer.backend.id_to_token(token) or "", None
    try:
        return raw.decode(), None
    except UnicodeDecodeError:
        return raw.decode(errors="backslashreplace"), raw


def _percent(logprob: float) -> str:
    percent = 100 * math.exp(logprob)
    return f"{percent:.1f} %" if percent >= 0.05 else "<0.1 %"


def write_file(path: Path, content: str) -> None:
    """All or nothing. Raises `StorageError`."""
    from gptlite.storage import durable

    with durable.replacing(path) as scratch:
        scratch.write_bytes(content.encode())
