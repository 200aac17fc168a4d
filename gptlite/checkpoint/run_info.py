"""What `run.json` says: where a run came from, what was planned, and what came of it; checked when it is read.

Everything may be missing at the top, because older versions did not write it; who needs a field asks `require`. What is
there has the type that stands here, so no reader of a run has to look twice. Fields that are not known pass.

A list longer than `LARGEST_INLINE` bytes (thousands of input files, arguments or changes) is kept outside, as lines of
`lists-<digest>.jsonl`, one object for each item with the name of its list. `run.json` then says how many items there
are, and the size and digest of that file. So the bound of `run.json` is one number for writer and reader, and the bound
of the lists is what was written.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

from gptlite.config import ModelConfig, TrainConfig
from gptlite.errors import CheckpointError, LimitError, UsageError
from gptlite.storage import schema
from gptlite.storage.durable import json_bytes
from gptlite.storage.reader import Reader
from gptlite.storage.schema import Rule
from gptlite.storage.validation import parse_object, shown

NAME, FORMAT = "run.json", 1
LARGEST = 4 << 20  # bytes of run.json
LARGEST_INLINE = 64 << 10  # bytes of a list that stays in run.json
LARGEST_LISTS = 256 << 20  # bytes of the file beside it: about a million input files
FORMER = {  # names of fields in earlier versions
    "yardsticks": "baselines", "parameters": "n_parameters", "params": "n_parameters",
    "tokens_seen": "n_tokens_seen", "train_tokens": "n_train_tokens", "val_tokens": "n_val_tokens",
    "text_limits": "text_limits_bytes", "memory": "memory_bytes",
    "train_loss": "train_loss_nats", "val_loss": "val_loss_nats",
    "xz": "xz_bits_per_byte", "unigram": "unigram_bits_per_byte", "ngram": "ngram_bits_per_byte",
}  # fmt: skip
RENAMED_WITHIN = {"result", "expected", "baselines", "init_from"}  # the objects that have some of these fields
LISTS = re.compile(r"lists-[0-9a-f]{16}\.jsonl")


def _is_share_or_path(text: str) -> bool:
    try:
        return 0 < float(text.removesuffix("%")) <= 90 if text.endswith("%") else os.path.isabs(text)
    except ValueError:
        return os.path.isabs(text)


Count = Annotated[int, Rule(lambda n: n >= 0, "zero or more")]
Members = Annotated[int, Rule(lambda n: n >= 1, "one or more")]
Digest = Annotated[str, Rule(lambda text: re.fullmatch("[0-9a-f]{64}", text) is not None, "a sha256")]
TextPath = Annotated[str, Rule(lambda text: text == "-" or os.path.isabs(text), "an absolute path or -")]
HeldOut = Annotated[str, Rule(_is_share_or_path, "a share of the text or an absolute path")]
Split = Annotated[
    str, Rule(lambda text: text in ("documents", "ends", "records", "tail"), "documents, ends, records or tail")
]
NotEmpty = Rule(lambda items: len(items) > 0, "a list of one or more")
Limits = Annotated[list[Count], Rule(lambda limits: len(limits) == 2, "two numbers of bytes")]


class Source(TypedDict):
    """One input file."""

    path: str
    bytes: Count
    sha256: Digest


class Reading(TypedDict, total=False):
    """How the text was read: fields of `TextOptions`."""

    lossy: bool
    encoding: str | None
    keep_line_ends: bool
    separator: str | None
    as_text: bool
    keep_copies: bool
    text_field: str | None
    pairs: list[str] | None
    given: list[str] | None


class TextFacts(TypedDict):
    bytes: Count
    sha256: Digest


class Texts(TypedDict):
    train: TextFacts
    val: TextFacts


class TokenDigests(TypedDict):
    train: Digest
    val: Digest


class _Plan(TypedDict):
    model: dict[str, Any]  # of `ModelConfig`
    train: dict[str, Any]  # of `TrainConfig`


class Plan(_Plan, total=False):
    reasons: list[str]
    given: list[str]


class Machine(TypedDict, total=False):
    """The arguments of `choose_hardware` that ask for the machine that was used."""

    device: str
    dtype: str
    threads: Count
    compile: str
    processes: Count


class Numerics(TypedDict, total=False):
    """What else the last bits of a result depend on (training/numerics.py)."""

    variables: dict[str, str]
    instructions: str
    processors: Count


class TokenizerSource(TypedDict):
    path: str
    sha256: Digest


class ModelSource(TokenizerSource):
    architecture: str
    n_parameters: Count


class Companion(TypedDict, total=False):
    """Text beside the run's own, background or replayed text, without passages of the held-out text."""

    path: str  # of the run whose text is replayed
    bytes: Count
    sha256: Digest
    removed_passages: Count
    removed_bytes: Count
    n_tokens: Count
    token_digest: Digest


class Change(TypedDict):
    """What a resumed run changed: field -> [before, after]."""

    step: Count
    plan: dict[str, list[Any]]


class _Baselines(TypedDict):
    xz_bits_per_byte: float
    unigram_bits_per_byte: float
    ngram_bits_per_byte: float


class Baselines(_Baselines, total=False):
    """Bits per byte of the held-out text by simple methods, and how many bytes each of them was given."""

    val_bytes: Count
    train_bytes: Count
    xz_train_bytes: Count


class _Result(TypedDict):
    run: str
    step: Count
    best_step: Count
    n_parameters: Count
    vocab_size: Count
    n_tokens_seen: Count
    tokens_per_second: float
    seconds: float
    train_loss_nats: float | None
    val_loss_nats: float
    val_bits_per_byte: float
    val_bytes: Count


class Result(_Result, total=False):
    """What `train` returns."""

    baselines: Baselines | None
    val_bits_per_byte_interval: list[float] | None
    held_out_bytes: Count
    epochs: float
    members: Members
    processor_share: float | None
    val_exact_match: float
    own_text_bits_per_byte: float  # expected without the background


class RunInfo(TypedDict, total=False):
    format: int
    gptlite: str  # version
    command: list[str]
    created: str
    arguments: Annotated[list[TextPath], NotEmpty]
    val: HeldOut
    lossy: bool  # in versions without `reading`
    reading: Reading
    split: Split | None
    vocab_size_asked: Count | None
    size_asked: str | None
    text_limits_bytes: Limits | None
    init_from: ModelSource
    tokenizer_from: TokenizerSource
    background: Companion
    background_arguments: Annotated[list[TextPath], NotEmpty]
    background_inputs: Annotated[list[Source], NotEmpty]
    replay: Companion
    expected: dict[str, float | None]
    baselines: Baselines | None
    inputs: Annotated[list[Source], NotEmpty]
    text: Texts
    tokenizer: Digest
    n_train_tokens: Count
    n_val_tokens: Count
    token_digests: TokenDigests
    n_parameters: Count
    plan: Plan
    hardware: str
    machine: Machine
    numerics: Numerics
    versions: dict[str, str]
    resumed_at: list[Count]
    changes: list[Change]
    result: Result


class _ListFile(TypedDict):
    """Where the lists are that are too long for run.json."""

    file: Annotated[str, Rule(lambda name: LISTS.fullmatch(name) is not None, "the name of a file of lists")]
    bytes: Annotated[int, Rule(lambda n: 0 < n <= LARGEST_LISTS, f"at most {LARGEST_LISTS:,}")]
    sha256: Digest
    items: dict[str, Count]


def check(info: Mapping[str, Any], where: object) -> RunInfo:
    """`info` where it has the types above. Settings that an older plan lacks have their defaults.

    Raises `CheckpointError` that names file and field.
    """
    if (version := info.get("format", FORMAT)) != FORMAT or isinstance(version, bool):
        raise CheckpointError(f"{where} has format {shown(version)}; this gptlite reads format {FORMAT}.")
    schema.check(info, RunInfo, where)
    if "plan" in info:
        plan = {"reasons": [], "given": [], **info["plan"]}
        if all(plan["train"].get(budget) is None for budget in ("steps", "epochs", "seconds")):
            raise CheckpointError(f"{where}: its plan has no budget: 'plan.train' names no steps, epochs or seconds.")
        for name, kind in (("model", ModelConfig), ("train", TrainConfig)):
            schema.check(plan[name], kind, where, f"plan.{name}")
            try:
                plan[name] = kind(**plan[name]).to_dict()
            except UsageError as error:
                raise CheckpointError(f"{where}: its plan is not one that this gptlite makes: {error}") from error
        info = {**info, "plan": plan}
    return info  # type: ignore[return-value]


def require(info: Mapping[str, Any], where: object, *names: str) -> None:
    """Raises `CheckpointError` where one of these fields is missing."""
    for name in names:
        if name not in info:
            raise CheckpointError(f"{where} does not say '{name}'.")


def read(reader: Reader) -> RunInfo:
    """What `run.json` in the folder of `reader` says, with its lists. Raises `CheckpointError`."""
    where = reader.directory / NAME
    info = dict(reader.json(NAME, LARGEST))
    if (listed := info.pop("lists", None)) is not None:
        schema.check(listed, _ListFile, where, "lists")
        info |= _read_lists(reader, listed)
    return check(_renamed(info), where)


def _renamed(info: dict[str, Any]) -> dict[str, Any]:
    """`info` with today's names of fields that had others in earlier versions."""
    named = {FORMER.get(name, name): value for name, value in info.items()}
    return {
        name: _renamed(value) if name in RENAMED_WITHIN and isinstance(value, dict) else value
        for name, value in named.items()
    }


def to_files(info: Mapping[str, Any], where: object) -> tuple[bytes, str, bytes]:
    """`run.json`, and the name and content of the file of lists, which are empty where none is long.

    Raises `LimitError` for what would not be read back.
    """
    long = [name for name, value in info.items() if isinstance(value, list) and len(json_bytes(value)) > LARGEST_INLINE]
    rows = b"".join(_row(name, item) for name in long for item in info[name])
    short: dict[str, Any] = {name: value for name, value in info.items() if name not in long}
    file = ""
    if long:
        digest = hashlib.sha256(rows).hexdigest()
        file = f"lists-{digest[:16]}.jsonl"
        items = {name: len(info[name]) for name in long}
        short["lists"] = {"file": file, "bytes": len(rows), "sha256": digest, "items": items}
    content = json_bytes(short)
    if len(content) > LARGEST:
        raise LimitError(
            f"{where} would have {len(content):,} bytes, and {LARGEST:,} are the most; shorten `sample_prompt`."
        )
    if len(rows) > LARGEST_LISTS:
        raise LimitError(
            f"the list of {len(info.get('inputs', [])):,} input files would have {len(rows):,} bytes beside {where}; "
            f"{LARGEST_LISTS:,} are the most, so join some of the files."
        )
    return content, file, rows


def _row(name: str, item: Any) -> bytes:
    return json_bytes({name: item}, indent=None)


def _read_lists(reader: Reader, listed: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The lists in the file that `listed` speaks of, whose bytes are those that were written."""
    file, where = listed["file"], reader.directory / listed["file"]
    content = reader.bytes(file, listed["bytes"])
    if hashlib.sha256(content).hexdigest() != listed["sha256"]:
        raise CheckpointError(f"{where} is damaged: its bytes are not those that {NAME} was written with.")
    lists: dict[str, list[Any]] = {name: [] for name in listed["items"]}
    lines = content.decode(errors="replace").rstrip("\n").split("\n")  # JSON has no line ends within a text
    for number, row in enumerate(parse_object(f'{{"rows": [{",".join(lines)}]}}', where)["rows"], 1):
        if not isinstance(row, dict) or len(row) != 1 or (name := next(iter(row))) not in lists:
            raise CheckpointError(f"{where}, line {number:,}, is no item of a list of {NAME}.")
        lists[name].append(row[name])
    if {name: len(items) for name, items in lists.items()} != listed["items"]:
        raise CheckpointError(f"{where} does not have the items that {NAME} speaks of.")
    return lists
