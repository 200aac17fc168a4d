"""gptlite info: what a model is and where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gptlite.cli import console, options
from gptlite.errors import CheckpointError


def info(
    model: options.ModelArgument = None,
    json: options.JsonOption = False,
) -> None:
    """Shapes, parameters and provenance of a model.

    [bold]gptlite info checkpoints/corpus[/bold]
    """
    from gptlite import runs

    loaded = runs.load(model)
    path = loaded.path
    run = runs.Run(path.parent)
    facts: dict[str, Any] = {
        "path": str(path),
        "parameters": loaded.config.n_params,
        "config": loaded.config.to_dict(),
        "tokenizer": {"tokens": loaded.tokenizer.vocab_size, "sha256": loaded.tokenizer.digest},
        "tensors": {name: list(t.shape) for name, t in loaded.model.state_dict().items()},
        "manifest": {k: v for k, v in loaded.manifest.items() if k != "files"},
        "run": run.read_info() if run.is_run() else None,
    }
    if json:
        console.write_json(facts)
        return
    config = loaded.config
    rows = [
        ["path", str(path)],
        ["architecture", config.architecture],
        ["parameters", f"{config.n_params:,}"],
        ["layers, dim, feed-forward", f"{config.n_layers}, {config.dim}, {config.hidden_dim}"],
        ["heads, key-value heads, head dim", f"{config.n_heads}, {config.n_kv_heads}, {config.head_dim}"],
        ["context", f"{config.context_length} tokens"],
        ["vocabulary", f"{config.vocab_size:,} tokens"],
        [
            "norm, positions, activation",
            f"{config.norm} ({config.norm_position}), {config.position}, {config.activation}",
        ],
        ["embeddings", "tied to the head" if config.tie_embeddings else "apart from the head"],
    ]
    if facts["run"]:
        try:
            rows += _provenance(facts["run"], facts["manifest"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{run.path / 'run.json'} is not as gptlite writes it: {error!r}.") from error
    console.print_table(["fact", "value"], rows)


def _provenance(run: dict[str, Any], manifest: dict[str, Any]) -> list[list[str]]:
    rows = [["step", f"{manifest['step']:,}"]] if "step" in manifest else []
    if (bits := manifest.get("val_bits_per_byte")) is not None:
        rows.append(["bits per byte when saved", f"{bits:.4f}"])
    result = run.get("result")
    if result:
        rows.append(["bits per byte at the end", f"{result['val_bits_per_byte']:.4f} on {result['val_bytes']:,} bytes"])
    for source in run["inputs"]:
        rows.append(
            ["text", f"{Path(source['path']).name}, {source['bytes']:,} bytes, sha256 {source['sha256'][:16]}…"]
        )
    rows += [
        ["command", " ".join(run["command"])],
        ["made", f"{run['created']} with gptlite {run['gptlite']}, torch {run['versions']['torch']}"],
        ["hardware", run["hardware"]],
    ]
    return rows
