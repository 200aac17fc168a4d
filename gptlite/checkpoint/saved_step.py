"""Saved steps: complete Hugging Face model directories, written so that a crash leaves all of one or nothing.

Everything is safetensors or JSON; nothing is ever unpickled. `durable.py` knows how to write, `reader.py` how to read;
what a step consists of stands here. What needs no model needs no torch, which takes seconds to import.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlite.checkpoint import hf, word_vectors
from gptlite.config import CORRECTIONS, MOST_COMPONENTS, ModelConfig
from gptlite.errors import CheckpointError, LimitError, NumericsError
from gptlite.storage.durable import MANIFEST, json_bytes, write_directory
from gptlite.storage.reader import LARGEST_JSON, LARGEST_TOKENIZER, Reader, not_finite
from gptlite.storage.validation import LARGEST_HEADER, Entry, Table, header_bytes, is_count, parse_object
from gptlite.text.pairs import PairFormat, has_boundaries
from gptlite.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from gptlite.model import GPT

EMBEDDING_STATISTICS, WORDS = "embedding/statistics.safetensors", "embedding/words.json"
OLDER_TOKENIZERS = ("vocab.json", "tokenizer.model", "merges.txt")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SHARD_NAME = re.compile(r"[\w.-]+\.safetensors")
MOST_SHARDS = 1000
LARGEST_WORDS = 32 << 20  # bytes: 50,000 words of 100 letters, each of four bytes, and their counts
FLOATS = ("F32", "F16", "BF16", "F64")  # that others keep weights in
SKIPPED_AT_MOST = 64 << 20  # bytes besides twice those of the weights: masks and tables that others store
ALWAYS_THERE = 256 << 20  # bytes of memory that are not worth a question


# Groups of statistics that not every step has: the scales of sentences, of vectors that know both sides, and of such
# vectors as older versions made them, which none of now is compared with.
OPTIONAL_STATISTICS = (
    ("sentence_unrelated", "sentence_unrelated_quantiles"),
    ("around_unrelated", "around_unrelated_quantiles", "around_same_word", "around_same_word_quantiles"),
    ("both_unrelated", "both_unrelated_quantiles", "both_same_word", "both_same_word_quantiles"),
)


@dataclass(frozen=True)
class Checkpoint:
    """A model that was read from a directory, with its tokenizer and what its manifest says (if it has one)."""

    path: Path
    config: ModelConfig
    model: GPT
    tokenizer: Tokenizer
    manifest: dict[str, Any] = field(default_factory=dict)


def save_step(
    directory: Path,
    model: GPT,
    tokenizer: Tokenizer,
    facts: Mapping[str, Any],
    *,
    training_state: Mapping[str, bytes] | None = None,
    embedding: Mapping[str, Tensor] | None = None,
    words: Sequence[tuple[str, int]] = (),
    word_vectors_file: bytes | None = None,
    encoder_files: Mapping[str, bytes] | None = None,
    at: int | None = None,
) -> None:
    """Write everything a step consists of to `directory`. An intact step of that name is never overwritten.

    - `facts` go into the manifest; `training_state` and `embedding` into folders of these names, because some loaders
      read every safetensors file beside the model's.
    - `words` of the text that was trained on, with their counts, stand beside the `embedding` statistics.
    - `word_vectors_file`: the bytes of `embedding/words.safetensors`, from `word_vectors.to_bytes`.
    - `encoder_files`: those of a context encoder, by name, from `context_encoder.to_bytes`.
    - `at`: the descriptor of the run directory to write through (storage/durable.py, which has the commit point).
    Raises `StorageError` and `CheckpointError`, and `LimitError` for a file that `load` would not read back.
    """
    config = model.config
    described = hf.to_hf_config(config, tokenizer.separator_id, sorted(tokenizer.end_ids))
    ids = {name: described[name] for name in ("bos_token_id", "eos_token_id")}
    files: dict[str, bytes] = {
        "config.json": json_bytes(described),
        "generation_config.json": json_bytes({**ids, "do_sample": True, "temperature": 0.8, "top_p": 0.95}),
        "model.safetensors": tensors_to_bytes(hf.to_hf_tensors(config, model.state_dict())),
        **tokenizer.files(config.context_length),
    }
    files |= {f"training_state/{name}": content for name, content in (training_state or {}).items()}
    if embedding:
        files[EMBEDDING_STATISTICS] = tensors_to_bytes(embedding)
        files[WORDS] = json.dumps({"words": words}, ensure_ascii=False, separators=(",", ":")).encode()
    if word_vectors_file is not None:
        files[word_vectors.NAME] = word_vectors_file
    files |= encoder_files or {}
    for name, content in files.items():
        if not name.endswith(".safetensors") and len(content) > largest(name):
            raise LimitError(
                f"{directory / name} would have {len(content):,} bytes, more than the {largest(name):,} read."
            )
    write_directory(directory, files, facts, is_intact, at)


def largest(name: str) -> int:
    """The most bytes of a JSON file of a step, which its writer and its reader share."""
    return {"tokenizer.json": LARGEST_TOKENIZER, WORDS: LARGEST_WORDS}.get(name, LARGEST_JSON)


def check_limits(tokenizer: Tokenizer, config: ModelConfig, optimizer_shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Before training: raises `LimitError` where a step of this model could be written but not read back."""
    size = len(tokenizer.to_json().encode())
    if size > LARGEST_TOKENIZER:
        raise LimitError(
            f"the tokenizer would have {size:,} bytes, more than the {LARGEST_TOKENIZER:,} of a file that is read; "
            "choose a smaller `vocab_size`."
        )
    shapes = hf.expected_shapes(config)
    if max(map(header_bytes, (shapes, optimizer_shapes))) > LARGEST_HEADER:
        raise LimitError(
            f"a model of {config.n_layers:,} layers has more tensors than a file that is read can list; "
            "choose fewer `n_layers`."
        )
    hf.check_shapes(config, shapes, "the model")


def verify(directory: Path) -> None:
    """Read all that the manifest lists and compare sizes and digests. Raises `CheckpointError`."""
    if directory.is_symlink() or not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory.")
    with Reader(directory) as reader:
        if not reader.manifest:
            raise CheckpointError(f"{directory / MANIFEST} is missing.")
        for name in reader.manifest["files"]:
            reader.verify(name)


def is_intact(directory: Path) -> bool:
    """Does `verify` find nothing wrong?"""
    try:
        verify(directory)
    except CheckpointError:
        return False
    return True


def load(directory: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a saved step, or any Hugging Face model directory of a known family, into a model in `eval()` mode.

    What a manifest covers is verified: the very bytes that are parsed have the digests that were written. What the
    configuration asks for is compared with what the files hold before any of it is allocated.
    Raises `CheckpointError` that names the file and what is wrong with it, `LimitError` where memory does not suffice.
    """
    from gptlite.model import GPT

    with Reader(directory) as reader:
        config = read_config(reader)
        tensors = _model_tensors(reader, config)
        tokenizer = read_tokenizer(reader)
        _check_vocabularies(directory, tokenizer, config)
        model = GPT(config)
        model.load_state_dict(hf.from_hf_tensors(config, tensors, directory / "model.safetensors"))
        return Checkpoint(directory, config, model.eval().to(device), tokenizer, dict(reader.manifest))


@dataclass(frozen=True)
class Description:
    """What a model directory holds, as its headers and small files say.

    - `tensors`: the shapes of our state_dict by name; `weights`: size and dtypes of the files that hold them.
    - `source`: what `config.json` says of where the model came from: `model_type`, `transformers_version`, ...
    """

    path: Path
    config: ModelConfig
    tokenizer: Tokenizer
    manifest: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]
    weights: dict[str, Any]
    source: dict[str, Any]


def describe(directory: Path) -> Description:
    """What `load` would read, without its weights: of a step of ours they are compared with their digests, of any other
    model only the headers are read. Needs no torch. Raises `CheckpointError`.
    """
    with Reader(directory) as reader:
        config = read_config(reader)
        tables, needed = _model_tables(reader, config)
        tokenizer = read_tokenizer(reader)
        _check_vocabularies(directory, tokenizer, config)
        if reader.manifest:
            for name in tables:
                reader.verify(name)
        theirs = reader.json("config.json")
        dtypes = {
            entry.dtype for table in tables.values() for n, entry in table.entries.items() if n in needed.values()
        }
        weights = {
            "files": list(tables),
            "n_bytes": sum(table.size for table in tables.values()),
            "dtypes": sorted(dtypes),
        }
        source = {name: theirs[name] for name in hf.SOURCE_KEYS if theirs.get(name)}
        return Description(directory, config, tokenizer, dict(reader.manifest), hf.our_shapes(config), weights, source)


def read_config(reader: Reader) -> ModelConfig:
    return hf.from_hf_config(reader.json("config.json"), reader.directory / "config.json")


def read_tokenizer(reader: Reader) -> Tokenizer:
    """The tokenizer of a model directory, or of one that holds no model; `hf.document_tokens` separate documents."""
    names = ("tokenizer_config.json", "config.json", *(() if reader.manifest else ("generation_config.json",)))
    settings, *configs = (reader.json(name) if reader.has(name) else {} for name in names)
    if not reader.has("tokenizer.json") and (older := [name for name in OLDER_TOKENIZERS if reader.has(name)]):
        raise CheckpointError(
            f"{reader.directory} has {older[0]} but no tokenizer.json; let transformers make one: "
            f'AutoTokenizer.from_pretrained("{reader.directory}").save_pretrained("{reader.directory}").'
        )
    tokenizer = Tokenizer.from_json(
        reader.text("tokenizer.json", largest("tokenizer.json")),
        reader.directory / "tokenizer.json",
        choose=lambda special: hf.document_tokens(special, settings, configs, reader.directory / names[0]),
    )
    pairs = PairFormat.read(settings)
    tokenizer.pairs = pairs if pairs and has_boundaries(tokenizer) else None
    return tokenizer


def read_token_table(reader: Reader) -> tuple[np.ndarray, Tokenizer]:
    """The embedding table (V, D) alone, as `load` gives it to the model, float32; and the tokenizer of its rows."""
    config = read_config(reader)
    tables, needed = _model_tables(reader, config)
    name = needed[hf.token_table(config)]
    file = next(file for file, table in tables.items() if name in table.entries)
    tokenizer = read_tokenizer(reader)
    _check_vocabularies(reader.directory, tokenizer, config)
    return reader.array(file, tables[file], name), tokenizer


def weights_digest(directory: Path) -> str:
    """sha256 of the file of weights, or of the digests of its shards, one after the other."""
    with Reader(directory) as reader:
        digests = [reader.digest(name) for name in _weight_files(reader)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _check_vocabularies(directory: Path, tokenizer: Tokenizer, config: ModelConfig) -> None:
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens, the model only {config.vocab_size}."
        )


def read_embedding_statistics(loaded: Checkpoint) -> dict[str, Tensor] | None:
    """What `measure_statistics` found when the step was saved; None for models made elsewhere.

    Steps of older versions, and those of texts with few sentences or words, lack the scales of sentences and of
    vectors that know both sides.
    """
    with Reader(loaded.path, loaded.manifest) as reader:
        if not reader.has(EMBEDDING_STATISTICS):
            return None
        entries = _embedding_entries(loaded.config)
        there = reader.table(EMBEDDING_STATISTICS).entries.keys()
        for group in OPTIONAL_STATISTICS:
            if not set(group) & there:
                entries = {name: entry for name, entry in entries.items() if name not in group}
        return reader.tensors(EMBEDDING_STATISTICS, entries)


def read_words(reader: Reader) -> list[tuple[str, int]]:
    """The words of the text that a model was trained on, with their counts; none of a model made elsewhere."""
    if not reader.has(WORDS):
        return []
    where = reader.directory / WORDS
    words = parse_object(reader.text(WORDS, largest(WORDS)), where).get("words")
    if not isinstance(words, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and is_count(pair[1]) for pair in words
    ):
        raise CheckpointError(f"{where} is not a list of words and counts.")
    return [(word, n) for word, n in words]


def _embedding_entries(config: ModelConfig) -> dict[str, Entry]:
    rows, dim, n_corrections = config.n_layers + 1, config.dim, len(CORRECTIONS)
    entries = {"mean": Entry("F32", (rows, dim)), "std": Entry("F32", (rows, dim))}
    entries["components"] = Entry("F32", (rows, min(MOST_COMPONENTS, dim), dim))
    for name in ("unrelated", "same_word", "sentence_unrelated"):
        entries[name] = Entry("F32", (rows, n_corrections, 2))
        entries[f"{name}_quantiles"] = Entry("F32", (rows, n_corrections, 101))
    for name in ("around_unrelated", "around_same_word", "both_unrelated", "both_same_word"):
        entries[name] = Entry("F32", (rows, 2))
        entries[f"{name}_quantiles"] = Entry("F32", (rows, 101))
    entries["token_counts"] = Entry("I64", (config.vocab_size,))
    return entries


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a safetensors file. Raises `NumericsError` where a value is not finite: that is never saved."""
    import safetensors.torch

    if wrong := not_finite(tensors):
        raise NumericsError(f"{wrong}, so nothing is saved; go on from an earlier step with a smaller `lr`.")
    return safetensors.torch.save({n: t.contiguous() for n, t in tensors.items()}, metadata={"format": "pt"})


def _model_tensors(reader: Reader, config: ModelConfig) -> dict[str, Tensor]:
    """All tensors of the model, from the one file or the shards that hold it, after a look at their headers."""
    import torch

    from gptlite.device import available_memory

    tables, _ = _model_tables(reader, config)
    stored = sum(table.size for table in tables.values())
    n_bytes = 2 * stored + 8 * config.n_params
    if n_bytes > ALWAYS_THERE and n_bytes > (available_memory(torch.device("cpu")) or n_bytes):
        raise LimitError(
            f"{reader.directory / 'model.safetensors'}: to read it takes {n_bytes / 1e9:.1f} GB of memory, more than "
            "this machine has free."
        )
    return {key: tensor for name, table in tables.items() for key, tensor in reader.tensors(name, table).items()}


def _model_tables(reader: Reader, config: ModelConfig) -> tuple[dict[str, Table], dict[str, str]]:
    """The table of each file that holds weights, and the name there of each tensor that the model needs."""
    tables = {name: reader.table(name) for name in _weight_files(reader)}
    entries = {name: entry for table in tables.values() for name, entry in table.entries.items()}
    where = reader.directory / "model.safetensors"
    if len(entries) != sum(len(table.entries) for table in tables.values()):
        raise CheckpointError(f"{where}: two shards hold the same tensor.")
    needed = hf.check_shapes(config, {name: entry.shape for name, entry in entries.items()}, where)
    allowed = ("F32",) if reader.manifest else FLOATS
    for name in needed.values():
        if entries[name].dtype not in allowed:
            raise CheckpointError(
                f"{where}: tensor '{name}' is {entries[name].dtype}, which is not {' or '.join(allowed)}."
            )
    stored = sum(table.size for table in tables.values())
    if stored > 2 * sum(entries[name].n_bytes for name in needed.values()) + SKIPPED_AT_MOST:
        raise CheckpointError(f"{where} has {stored:,} bytes, far more than its model needs.")
    return tables, needed


def _weight_files(reader: Reader) -> list[str]:
    """`model.safetensors`, or the shards that an index names."""
    if reader.has("model.safetensors"):
        return ["model.safetensors"]
    index = "model.safetensors.index.json"
    if not reader.manifest and reader.has(index):
        shards = reader.json(index).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
            raise CheckpointError(f"{reader.directory / index} has no weight_map.")
        names = sorted(set(shards.values()))
        if any(not SHARD_NAME.fullmatch(name) for name in names):
            raise CheckpointError(f"{reader.directory / index} names files outside its folder, or that are no shards.")
        if len(names) > MOST_SHARDS:
            raise LimitError(f"{reader.directory / index} names {len(names):,} shards; {MOST_SHARDS} are the most.")
        return names
    pickles = sorted(p.name for p in reader.directory.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise CheckpointError(
            f"{reader.directory} holds its weights as a pickle ({pickles[0]}), which can run code and is never opened; "
            "if you trust where it comes from, convert it with transformers: "
            f'AutoModelForCausalLM.from_pretrained("{reader.directory}").save_pretrained("NEW DIRECTORY"), '
            "and the same with AutoTokenizer."
        )
    raise CheckpointError(f"{reader.directory} has no model.safetensors.")
