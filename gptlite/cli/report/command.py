"""gptlite report: a run as a page for a browser, or several on one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptlite.cli.report import lines
from gptlite.cli.report import samples as report_samples
from gptlite.cli.report import several as report_several
from gptlite.cli.shared import console, models, modes, options, outputs, pages, schemas
from gptlite.errors import CheckpointError, UsageError
from gptlite.storage.validation import is_number

if TYPE_CHECKING:
    from gptlite.checkpoint.runs import Run
    from gptlite.embedding.static import TokenTable
    from gptlite.report.training import Training

LONG_TOKENS = 12  # that are shown
MAPPED = 150  # words
EMERGING = 4  # words whose neighbours are shown over the steps
MOST_SAMPLES = 50
BASELINES = {"ngram_bits_per_byte": "5-gram", "xz_bits_per_byte": "xz", "unigram_bits_per_byte": "unigram"}


ONE, SEVERAL = "one run", "several runs"
MODES = modes.Modes(
    everywhere={"run", "out", "figures", "force", "json", "quiet"},
    only={ONE: {"model", "num_samples"}, SEVERAL: set()},
)


def report(
    call: typer.Context,
    run: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="A run, or several to put beside each other.", show_default=options.NEWEST),
    ] = None,
    model: models.RunOption = None,
    out: Annotated[
        str | None,
        typer.Option("-o", "--out", metavar="FILE", help="The page to write.",
                     show_default="report.html in the run; of several, in this folder"),
    ] = None,
    num_samples: Annotated[
        int,
        typer.Option(
            "-n", "--num-samples", metavar="N", min=0, max=MOST_SAMPLES,
            help="Samples to write now, and to look for in the training text.",
        ),
    ] = 4,
    figures: pages.FiguresOption = None,
    force: outputs.ForceOption = False,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
) -> None:  # fmt: skip
    """Write one page about a run: curves, plan and result, text, samples, a map of its words.

    Of several runs: their curves over each other, what differs in their settings, and which was better.

    [bold]gptlite report checkpoints/corpus -o report.html[/bold]
    """
    named = run or []
    several = len(named) > 1
    MODES.check(call, SEVERAL if several else ONE)
    messages = console.Messages(quiet)
    if several:
        pages.check_figures(figures, force=force)
        page_file = out or report_several.DEFAULT_OUT
        outputs.format_of(page_file, {".html": "html", ".htm": "html"})
        outputs.check(page_file, force=force, inputs=named, reads_model=False)
        from gptlite.report import page

        page.check_libraries()
        report_several.write(named, out, figures, json=json, messages=messages)
        return
    from gptlite.checkpoint import check
    from gptlite.report import page, training

    chosen = models.choose(named[0] if named else None, model)
    if force and out is None and figures is None:
        raise UsageError("--force does nothing without --out or --figures.")
    pages.check_figures(figures, force=force)
    if out is not None:
        outputs.format_of(out, {".html": "html", ".htm": "html"})
        outputs.check(out, force=force, model=chosen)
    page.check_libraries()
    found = check.find_run(chosen)
    if not found.is_run() and type(found)(found.path.parent).is_run():  # one step of a run
        found = type(found)(found.path.parent)
    info = found.read_info()
    metrics = lines.read(found, info)
    try:
        shown = _collect(found, info, metrics)
    except KeyError as error:
        raise CheckpointError(f"{found.path / 'run.json'} does not say {error}.") from error
    shown = dataclasses.replace(shown, writing=report_samples.write(found, num_samples, messages))
    path = Path(out) if out is not None else found.path / "report.html"
    pages.write(path, training.render(shown))
    if figures is not None:
        pages.write_figures(Path(figures), training.figures(shown), messages)
    n_logged = sum(line["step"] > 0 for line in metrics)
    messages.say(f"{console.plural(n_logged, 'logged step')} in {path}: open it in a browser")
    if json:
        facts = {"run": str(found.path), "page": str(path), "n_logged_steps": n_logged, "figures": figures}
        console.write_json(schemas.named("report", facts))


def _collect(run: Run, info: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> Training:
    from gptlite.embedding import similarity, static
    from gptlite.report.training import Training

    result, expected = info.get("result") or {}, info.get("expected") or {}
    known = result.get("baselines") or info.get("baselines") or {}
    baselines = {name: known[key] for key, name in BASELINES.items() if is_number(known.get(key))}
    untrained = next((line["val_bits_per_byte"] for line in metrics if line["step"] == 0), None)
    facts: dict[str, list[list[str]]] = {}
    if baselines:
        facts["What it has to beat"] = _baselines(baselines, known, result, untrained)
    facts["The plan, and what happened"] = _plan(info, result, expected, metrics)
    provenance: dict[str, list[list[str]]] = {}
    words: list[str] = []
    places, shares = None, (0.0, 0.0)
    best = run.best()
    provenance["The model"] = _model(info, best.number if best else None)
    if best is not None:
        table = static.read_table(best.path)
        provenance["The vocabulary"] = _vocabulary(table, info)
        words = table.words()[0][:MAPPED]
        if len(words) >= 3:
            places, axes = similarity.principal_axes(similarity.unit(table.vectors(words)))
            shares = (float(axes[0]), float(axes[1]))
    provenance["The text"] = _text(info)
    provenance["Versions and steps"] = _provenance(run, info, metrics)
    samples = [(line["step"], line["sample"]) for line in metrics if "sample" in line]
    more: dict[str, Any] = {"emergence": None if best is None else _emergence(best.path)}
    more |= {} if places is None else {"words": words, "places": places, "shares": shares}
    return Training(
        name=run.path.resolve().name,
        result=f"As uncertain as a choice among {lines.choice(result['val_bits_per_byte'])} bytes" if result else "",
        headline=_headline(result, baselines, metrics, untrained),
        metrics=metrics,
        baselines=baselines,
        expected=expected["bits_per_byte"] if is_number(expected.get("bits_per_byte")) else None,
        facts=facts,
        provenance=provenance,
        headed=frozenset({"The plan, and what happened", "What it has to beat"}),
        samples=samples,
        command=pages.shareable_command(info["command"]),
        **more,
    )


def _emergence(step: Path) -> dict[str, Any] | None:
    """How some frequent words came to be; None where the run kept no token tables, or none that can be read."""
    from gptlite.embedding import emergence

    try:
        found = emergence.read(step)
        words = found.clear_words(EMERGING)
        return found.to_dict(words) if words else None
    except (CheckpointError, UsageError):
        return None


def _headline(
    result: Mapping[str, Any],
    baselines: Mapping[str, float],
    metrics: Sequence[Mapping[str, Any]],
    untrained: float | None,
) -> str:
    if result:
        bits = result["val_bits_per_byte"]
        text = (
            f"Of text that was held out, each byte is as hard to foresee for the model as one of {lines.choice(bits)} "
            f"that are equally likely: {bits:.3f} bits per byte. That is its best step, {result['best_step']:,}, after "
            f"{console.duration(result['seconds'])} in all."
        )
        if untrained is not None:
            text += f" Untrained it was one of {lines.choice(untrained)}."
        return text + _beside(bits, baselines)
    steps = f"step {metrics[-1]['step']:,}" if metrics else "its first step"
    return f"This run is not finished: its log ends with {steps}."


def _beside(bits: float, baselines: Mapping[str, float]) -> str:
    """Which of the baselines a score beats, and which it does not."""
    shown = {name: f"{name} ({lines.choice(other)})" for name, other in baselines.items()}
    beaten = [shown[name] for name, other in baselines.items() if bits < other]
    others = [shown[name] for name, other in baselines.items() if bits >= other]
    if not beaten:
        return " It beats none of the baselines." if others else ""
    text = f" It beats {console.listing(beaten)}"
    return f"{text}, and does not beat {console.listing(others)}." if others else f"{text}."


def _plan(
    info: Mapping[str, Any],
    result: Mapping[str, Any],
    expected: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
) -> list[list[str]]:
    tokens = result.get("n_tokens_seen") or (metrics[-1].get("tokens") if metrics else None)
    epochs = tokens / info["n_train_tokens"] if tokens and info.get("n_train_tokens") else None
    last, members = metrics[-1] if metrics else {}, info["plan"]["train"]["members"]
    pairs = [
        ("bits per byte", expected.get("bits_per_byte"), result.get("val_bits_per_byte"), "{:.3f}"),
        ("seconds", expected.get("seconds"), result.get("seconds", last.get("elapsed")), "{:,.0f}"),
        ("steps", expected.get("steps"), result.get("step", last.get("step")), "{:,.0f}"),
        ("tokens per second", expected.get("tokens_per_second"),
         result.get("tokens_per_second", last.get("tokens_per_second")), "{:,.0f}"),
        (
            "times through the text" + (", each model" if members > 1 else ""),
            *(x / members if is_number(x) else None for x in (expected.get("epochs"), epochs)),
            "{:.2f}",
        ),
        ("bytes of memory", expected.get("memory_bytes"), None, "{:,.0f}"),
    ]  # fmt: skip
    rows = [["", "planned", "happened"]]
    rows += [
        [name, *(form.format(x) if is_number(x) else "" for x in (plan, was))]
        for name, plan, was, form in pairs
        if is_number(plan) or is_number(was)
    ]
    return rows


def _baselines(
    baselines: Mapping[str, float], known: Mapping[str, Any], result: Mapping[str, Any], untrained: float | None
) -> list[list[str]]:
    rows = [["", "bits per byte", "a choice among", "knew"]]
    if "val_bits_per_byte" in result:
        bits = result["val_bits_per_byte"]
        rows.append(["this model", f"{bits:.4f}", f"{lines.choice(bits)} bytes", ""])
    if untrained is not None:
        rows.append(["this model, untrained", f"{untrained:.4f}", f"{lines.choice(untrained)} bytes", ""])
    for name, bits in baselines.items():
        n_bytes = known.get("xz_train_bytes" if name == "xz" else "train_bytes")
        knew = f"{n_bytes:,} bytes" if is_number(n_bytes) else ""
        rows.append([name, f"{bits:.4f}", f"{lines.choice(bits)} bytes", knew])
    return rows


def _model(info: Mapping[str, Any], best: int | None) -> list[list[str]]:
    model, train = info["plan"]["model"], info["plan"]["train"]
    rows = [
        ["architecture", f"{model['architecture']}, {info['n_parameters']:,} parameters"],
        ["shape", f"{console.plural(model['n_layers'], 'layer')} of width {model['dim']}, "
                  f"{console.plural(model['n_heads'], 'head')}, feed-forward {model['hidden_dim']}"],
        ["context", console.plural(model["context_length"], "token")],
        ["optimizer", f"{train['optimizer']}, learning rate {train['lr']:g}, batches of {train['batch_size']}, dropout "
                      f"{train['dropout']:g}, seed {train['seed']}"],
        ["hardware", str(info["hardware"])],
    ]  # fmt: skip
    asked = {name: train[name] for name in info["plan"].get("given", []) if name in train}
    if asked:
        rows.append(["asked for", ", ".join(f"{name} {value}" for name, value in asked.items())])
    rows += [["chosen", reason] for reason in info["plan"]["reasons"]]
    return [*rows, ["best step", f"{best:,}"]] if best is not None else rows


def _vocabulary(table: TokenTable, info: Mapping[str, Any]) -> list[list[str]]:
    tokenizer = table.tokenizer
    spelled = {i: raw for i, raw in enumerate(tokenizer.token_bytes) if raw}
    longest = sorted(spelled, key=lambda i: (-len(spelled[i]), i))[:LONG_TOKENS]
    words = sum(raw[:1] == b" " and raw[1:].isalpha() for raw in spelled.values())
    rows = [
        ["tokens", f"{tokenizer.vocab_size:,}, of which {words:,} are a space and letters"],
        ["longest", "  ".join(tokenizer.decode([i]).replace(" ", "_").replace("\n", "⏎") for i in longest)],
    ]
    for name, part in (("train", "the text"), ("val", "the held-out text")):
        n_tokens = info.get(f"n_{name}_tokens")
        if n_tokens:
            rows.append([f"bytes per token of {part}", f"{info['text'][name]['bytes'] / n_tokens:.2f}"])
    if table.counts:
        rows.append(["words seen twice or more", f"{len(table.counts):,}"])
        common = list(table.counts.items())[:LONG_TOKENS]
        rows.append(["most frequent words", " · ".join(f"{word} {n:,}" for word, n in common)])
    return [*rows, ["sha256", str(info["tokenizer"])]]


def _text(info: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        [Path(source["path"]).name, f"{source['bytes']:,} bytes, sha256 {source['sha256']}"]
        for source in info["inputs"][:100]
    ]
    if len(info["inputs"]) > 100:
        rows.append(["and", f"{len(info['inputs']) - 100:,} more files"])
    for name, part in (("train", "trained on"), ("val", "held out")):
        text, n_tokens = info["text"][name], info.get(f"n_{name}_tokens")
        counted = f", {n_tokens:,} tokens" if n_tokens else ""
        rows.append([part, f"{text['bytes']:,} bytes{counted}, sha256 {text['sha256']}"])
    for name in ("background", "replay"):
        if text := info.get(name):
            rows.append([name, f"{text['bytes']:,} bytes, {text['n_tokens']:,} tokens, sha256 {text['sha256']}"])
    return rows


def _provenance(run: Run, info: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    versions = ", ".join(f"{name} {version}" for name, version in info["versions"].items())
    rows = [["begun", str(info["created"])], ["versions", f"gptlite {info['gptlite']}, {versions}"]]
    result = info.get("result") or {}
    drawn = {line["step"]: line["val_bits_per_byte"] for line in metrics if "val_bits_per_byte" in line}
    for step in run.steps():  # each has one score on the page: that of the curve
        if step.number == result.get("best_step"):
            score = f"{result['val_bits_per_byte']:.4f} bits per byte at the end"
        elif step.val_bits_per_byte is not None:
            bits = drawn.get(step.number, step.val_bits_per_byte)
            score = f"{bits:.4f} bits per byte, from a part while training"
        else:
            score = "not scored"
        rows.append([f"step {step.number:,}", f"{score}, weights sha256 {_weights_digest(step.path)}"])
    return rows


def _weights_digest(step: Path) -> str:
    from gptlite.storage.reader import read_manifest

    return str(read_manifest(step)["files"]["model.safetensors"]["sha256"])
