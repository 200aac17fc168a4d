"""Several runs on one page: what differs in their settings, and which was better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlite.cli.report import lines
from gptlite.cli.shared import console, pages, schemas
from gptlite.errors import UsageError

if TYPE_CHECKING:
    from gptlite.checkpoint.runs import Run
    from gptlite.evaluation.run_differences import Group, ScoredRun

DEFAULT_OUT = "report.html"  # in the current folder
LONGEST_VALUE = 40  # characters of a setting
FACTS = ("n_parameters", "tokenizer", "hardware", "gptlite")  # of run.json that count as settings, besides the plan


def write(
    paths: Sequence[str], out: str | None, figures: str | None, *, json: bool, messages: console.Messages
) -> None:
    """Write the page about these runs, and what `--json` prints. Raises the errors of reading them."""
    from gptlite.checkpoint import check
    from gptlite.evaluation import run_differences
    from gptlite.report import runs as page

    found = [_whole_run(check.find_run(path)) for path in paths]
    _refuse_repeats(found)
    infos = [run.read_info() for run in found]
    names = _names(found)
    finished = [
        run_differences.ScoredRun(name, _settings(info), result["val_bits_per_byte"])
        for name, info in zip(names, infos, strict=True)
        if (result := info.get("result"))
    ]
    same_text = len({info["text"]["val"]["sha256"] for info in infos if "text" in info}) <= 1
    groups = run_differences.group(finished) if same_text else []
    differs = run_differences.differing(
        [run_differences.ScoredRun(name, _settings(info), 0.0) for name, info in zip(names, infos, strict=True)]
    )
    verdict = _verdict(groups, same_text, [name for name in names if name not in {run.name for run in finished}])
    shown = page.Runs(
        metrics={name: lines.read(run, info) for name, run, info in zip(names, found, infos, strict=True)},
        result=_in_words(finished) if same_text else "",
        verdict=verdict,
        results=[
            ["", "bits per byte", "interval", "a choice among", "best step", "seconds", "parameters", "tokens read"]
        ]
        + [_result_row(name, info) for name, info in zip(names, infos, strict=True)],
        settings=[["", *names]] + [[name, *map(_short, values)] for name, values in differs.items()],
    )
    path = Path(out or DEFAULT_OUT)
    pages.write(path, page.render(shown))
    if figures is not None:
        pages.write_figures(Path(figures), page.figures(shown), messages)
    for sentence in verdict:
        messages.say(sentence)
    messages.say(f"{console.plural(len(found), 'run')} in {path}: open it in a browser")
    if json:
        facts = _facts(found, infos, differs, groups, same_text)
        console.write_json(schemas.named("report-runs", {**facts, "page": str(path), "figures": figures}))


def _whole_run(found: Run) -> Run:
    """The run that a step belongs to."""
    parent = type(found)(found.path.parent)
    return parent if not found.is_run() and parent.is_run() else found


def _refuse_repeats(found: Sequence[Run]) -> None:
    places = [run.path.resolve() for run in found]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise UsageError(f"RUN: {found[i].path} is named twice; name each run once.")


def _names(found: Sequence[Run]) -> list[str]:
    """The name of each run's folder, with that of the folder above where two are the same."""
    short = [run.path.resolve().name for run in found]
    return [
        pages.model_name(run.path.resolve()) if short.count(name) > 1 else name
        for run, name in zip(found, short, strict=True)
    ]


def _settings(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a result depends on, by name: the plan, the text, the vocabulary and the machine."""
    plan = info.get("plan") or {}
    settings = {**(plan.get("model") or {}), **(plan.get("train") or {})}
    settings |= {name: info[name] for name in FACTS if name in info}
    for part, facts in (info.get("text") or {}).items():
        settings[f"{part} text"] = facts["sha256"]
    return settings


def _short(value: Any) -> str:
    text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12]
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def _result_row(name: str, info: Mapping[str, Any]) -> list[str]:
    result = info.get("result")
    if not result:
        return [name, "not finished", "", "", "", "", f"{info.get('n_parameters', 0):,}", ""]
    interval = result.get("val_bits_per_byte_interval")
    return [
        name,
        f"{result['val_bits_per_byte']:.4f}",
        f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "",
        f"{lines.choice(result['val_bits_per_byte'])} bytes",
        f"{result['best_step']:,}",
        f"{result['seconds']:,.0f}",
        f"{info.get('n_parameters', 0):,}",
        f"{result.get('n_tokens_seen', 0):,}",
    ]


def _in_words(finished: Sequence[ScoredRun]) -> str:
    """The best run and the worst, as choices among bytes; "" where there are no two."""
    if len(finished) < 2:
        return ""
    best, worst = (choose(finished, key=lambda run: run.bits_per_byte) for choose in (min, max))
    return (
        f"{best.name} is as uncertain as a choice among {lines.choice(best.bits_per_byte)} bytes, "
        f"{worst.name} among {lines.choice(worst.bits_per_byte)}"
    )


def _verdict(groups: Sequence[Group], same_text: bool, unfinished: Sequence[str]) -> list[str]:
    """Which was better, and whether by more than seeds explain, in sentences."""
    from gptlite.evaluation.run_differences import compare_groups, seed_spread

    sentences: list[str] = []
    if unfinished:
        verb = "is" if len(unfinished) == 1 else "are"
        sentences.append(f"{console.listing(unfinished)} {verb} not finished, and not compared.")
    if not same_text:
        return [*sentences, "The runs held out different texts, so their scores cannot be compared."]
    if not groups:
        return sentences
    spread = seed_spread(groups)
    if spread is not None:
        sentences.append(f"The spread of seeds, a standard deviation, is {spread[0]:.4f} bits per byte.")
    if len(groups) == 1 and len(groups[0].runs) > 1:
        sentences.append("The runs differ in no setting but the seed.")
    for difference in compare_groups(groups):
        better, worse = _called(difference.better), _called(difference.worse)
        start = f"{better} is better than {worse} by {difference.bits_per_byte:.4f} bits per byte"
        match difference.exceeds_seeds:
            case None:
                why = "with one seed for each setting, whether that exceeds the spread of seeds cannot be told."
            case True:
                why = f"that exceeds the spread of seeds (± {difference.error:.4f})."
            case False:
                why = f"that does not exceed the spread of seeds (± {difference.error:.4f}), so it may be chance."
        sentences.append(f"{start}; {why}")
    return sentences


def _called(group: Group) -> str:
    names = console.listing([run.name for run in group.runs])
    return names if len(group.runs) == 1 else f"the mean of {names}"


def _facts(
    found: Sequence[Run],
    infos: Sequence[Mapping[str, Any]],
    differs: Mapping[str, list[Any]],
    groups: Sequence[Group],
    same_text: bool,
) -> dict[str, Any]:
    from gptlite.evaluation.run_differences import compare_groups, seed_spread

    spread = seed_spread(groups)

    def listed(runs: Sequence[ScoredRun]) -> list[str]:
        return [run.name for run in runs]

    return {
        "runs": [
            {"run": str(run.path), "val_bits_per_byte": (info.get("result") or {}).get("val_bits_per_byte")}
            for run, info in zip(found, infos, strict=True)
        ],
        "same_held_out_text": same_text,
        "settings": dict(differs),
        "seed_spread_bits_per_byte": None if spread is None else spread[0],
        "differences": [
            {
                "better": listed(difference.better.runs),
                "worse": listed(difference.worse.runs),
                "bits_per_byte": difference.bits_per_byte,
                "error_bits_per_byte": difference.error,
                "exceeds_seeds": difference.exceeds_seeds,
            }
            for difference in compare_groups(groups)
        ],
    }
