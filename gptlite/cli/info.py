"""gptlite info: what a model is and where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlite.cli.shared import console, models, options, schemas
from gptlite.errors import CheckpointError

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Description
    from gptlite.config import ModelConfig

MOST_INPUTS = 100  # files that are shown to a person
LONGEST_COMMAND = 2000  # characters
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


def info(
    directory: options.ModelArgument = None,
    model: models.RunOption = None,
    json: options.JsonOption = False,
) -> None:
    """Shapes, parameters, tokenizer and provenance of a model.

    [bold]gptlite info checkpoints/corpus[/bold]
    """
    from gptlite.checkpoint import runs, saved_step

    found = runs.read_model(models.choose(directory, model), saved_step.describe)
    path = found.path
    run = runs.Run(path.parent)
    facts: dict[str, Any] = {
        "path": str(path),
        "n_parameters": found.config.n_params,
        "config": found.config.to_dict(),
        "tokenizer": {
            "vocab_size": found.tokenizer.vocab_size,
            "sha256": found.tokenizer.digest,
            "cut": found.tokenizer.cut,
            "separator": found.tokenizer.separator,
            "end": found.tokenizer.end,
        },
        "tensors": {name: list(shape) for name, shape in found.tensors.items()},
        "weights": found.weights,
        "source": found.source,
        "manifest": {k: v for k, v in found.manifest.items() if k != "files"},
        "run": run.read_info() if run.is_run() else None,
        "table_history": _table_history(run.path) if run.is_run() else None,
    }
    if json:
        console.write_json(schemas.named("info", facts))
        return
    rows = _shape(found)
    if facts["run"]:
        try:
            rows += _provenance(facts["run"], facts["manifest"])
        except KeyError as error:
            raise CheckpointError(f"{run.path / 'run.json'} does not say {error}.") from error
        if kept := facts["table_history"]:
            steps = kept["steps"]
            rows.append(
                [
                    "token tables kept",
                    f"of {console.plural(len(steps), 'step')}, {steps[0]:,} to {steps[-1]:,} "
                    f"({console.count(kept['n_bytes'])}B)",
                ]
            )
    else:
        rows.append(["made", _elsewhere(found)])
    console.print_table(["fact", "value"], rows)


def _table_history(run: Path) -> dict[str, Any] | None:
    """The steps whose token table the run keeps, and the size of that file."""
    from gptlite.checkpoint import table_history

    kept = table_history.read(run)
    if kept is None:
        return None
    size = (run / table_history.NAME).stat().st_size
    return {"steps": [table.step for table in kept[1]], "n_tokens": len(kept[0]), "n_bytes": size}


def _shape(found: Description) -> list[list[str]]:
    config, tokenizer, weights = found.config, found.tokenizer, found.weights
    files = weights["files"][0] if len(weights["files"]) == 1 else console.plural(len(weights["files"]), "file")
    kinds = ", ".join(DTYPES.get(name or "", str(name)) for name in weights["dtypes"])
    unused = config.vocab_size - tokenizer.vocab_size
    cut = "in its own way" if tokenizer.cut == "its own way" else f"as {tokenizer.cut} does"
    separators = f"{tokenizer.separator} before each document"
    if tokenizer.end != tokenizer.separator:
        separators += f", {tokenizer.end} at its end"
    return [
        ["path", str(found.path)],
        ["architecture", config.architecture],
        ["in Hugging Face's words", _named(found.source.get("architectures"))],
        ["parameters", f"{config.n_params:,}"],
        ["weights", f"{files}, {console.count(weights['n_bytes'])}B, {kinds}"],
        ["layers, dim, hidden dim", f"{config.n_layers}, {config.dim}, {config.hidden_dim}"],
        ["heads, key-value heads, head dim", f"{config.n_heads}, {config.n_kv_heads}, {config.head_dim}"],
        ["context", f"{config.context_length:,} tokens"],
        ["vocabulary", f"{config.vocab_size:,} tokens" + (f", {unused:,} of them unused" if unused else "")],
        ["tokenizer", f"BPE, text cut {cut}"],
        ["documents", separators],
        [
            "norm, positions, activation",
            f"{config.norm} ({config.norm_position}), {config.position}, {config.activation}",
        ],
        *([["rotary positions", _rotation(config)]] if config.position == "rope" else []),
        ["embeddings", "tied to the head" if config.tie_embeddings else "apart from the head"],
    ]


def _named(architectures: Any) -> str:
    return ", ".join(map(str, architectures)) if isinstance(architectures, list) else str(architectures or "unnamed")


def _rotation(config: ModelConfig) -> str:
    if (scaling := config.rope_scaling) is None:
        return f"theta {config.rope_theta:,.0f}"
    longer = f"{scaling.factor:g} times {scaling.original_context:,} tokens"
    return f"theta {config.rope_theta:,.0f}, scaled as {scaling.kind} for {longer}"


def _elsewhere(found: Description) -> str:
    """Of a model without a run: what its config says."""
    name, version = (found.source.get(key) for key in ("_name_or_path", "transformers_version"))
    return (
        f"elsewhere{f', as {name}' if name else ''}{f', with transformers {version}' if version else ''}; "
        f"{'its digests are right' if found.manifest else 'there are no digests to compare'}"
    )


def _provenance(run: dict[str, Any], manifest: dict[str, Any]) -> list[list[str]]:
    command = " ".join(run["command"])
    rows = [["step", f"{manifest['step']:,}"]] if "step" in manifest else []
    if (members := run.get("plan", {}).get("train", {}).get("members", 1)) > 1:
        rows.append(["members", f"{members} models side by side, whose mean it predicts"])
    if (bits := manifest.get("val_bits_per_byte")) is not None:
        rows.append(["bits per byte when saved", f"{bits:.4f}"])
    result = run.get("result")
    if result:
        rows.append(["bits per byte at the end", f"{result['val_bits_per_byte']:.4f} on {result['val_bytes']:,} bytes"])
    if base := run.get("init_from"):
        rows.append(["begun with", f"{base['path']} ({base['architecture']}), sha256 {base['sha256'][:16]}…"])
    if taken := run.get("tokenizer_from"):
        rows.append(["tokenizer of", taken["path"]])
    for source in run["inputs"][:MOST_INPUTS]:
        rows.append(
            ["text", f"{Path(source['path']).name}, {source['bytes']:,} bytes, sha256 {source['sha256'][:16]}…"]
        )
    if (more := len(run["inputs"]) - MOST_INPUTS) > 0:
        rows.append(["text", f"and {more:,} more files, which --json lists"])
    for name in ("background", "replay"):
        if beside := run.get(name):
            where = f"text of {beside['path']}" if "path" in beside else _names(run.get("background_inputs", []))
            rows.append([name, f"{where}, {beside['bytes']:,} bytes used, sha256 {beside['sha256'][:16]}…"])
    rows += [
        ["command", command if len(command) <= LONGEST_COMMAND else f"{command[:LONGEST_COMMAND]}…"],
        ["made", f"{run['created']} with gptlite {run['gptlite']}, torch {run['versions']['torch']}"],
        ["hardware", run["hardware"]],
    ]
    return rows


def _names(sources: list[dict[str, Any]]) -> str:
    """The first files by name, and how many more there are."""
    names = ", ".join(Path(source["path"]).name for source in sources[:3])
    return f"{names} and {len(sources) - 3:,} more" if len(sources) > 3 else names
