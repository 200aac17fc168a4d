"""gptlite check: is a run what was saved, and does resuming lose nothing?"""

from __future__ import annotations

import dataclasses
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptlite.cli.shared import console, models, options, schemas
from gptlite.errors import CheckpointError

if TYPE_CHECKING:
    from gptlite.checkpoint.check import RunReport
    from gptlite.training.resume_proof import ResumeProof


def check(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run or a step.", show_default=options.NEWEST)
    ] = None,
    model: models.RunOption = None,
    resume_proof: Annotated[
        bool,
        typer.Option(
            "--resume-proof",
            help="Train a tiny model with and without an interruption, and compare.",
            show_default="off",
        ),
    ] = False,
    json: options.JsonOption = False,
) -> None:
    """Read every byte of a run and compare it with what was saved.

    [bold]gptlite check checkpoints/corpus[/bold]
    """
    from gptlite.checkpoint import check as checking

    run = models.choose(run, model)
    report = proof = None
    if run is not None or not resume_proof:
        report = checking.check_run(checking.find_run(run))
    if resume_proof:
        from gptlite.training.resume_proof import prove_resume

        with tempfile.TemporaryDirectory(prefix="gptlite-") as folder:
            proof = prove_resume(Path(folder))
    if json:
        console.write_json(schemas.named("check", _facts(report, proof)))
    else:
        if report:
            _show(report)
        if proof:
            _show_proof(proof)
    if report and not report.intact:
        raise CheckpointError(_verdict(report))
    if proof and not proof.equal:
        console.error("the resumed run differs from the one that was not interrupted; please report this as a bug.")
        raise typer.Exit(1)


def _facts(report: RunReport | None, proof: ResumeProof | None) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if report:
        facts |= {**dataclasses.asdict(report), "path": str(report.path), "intact": report.intact}
    if proof:
        facts["resume_proof"] = {**dataclasses.asdict(proof), "equal": proof.equal}
    return facts


def _show(report: RunReport) -> None:
    rows = []
    for step in report.steps:
        bits = "" if step.val_bits_per_byte is None else f"{step.val_bits_per_byte:.4f}"
        rows.append([step.name, f"{step.n_files}", f"{step.n_bytes:,}", bits, step.problem or "intact"])
    console.print_table(["step", "files", "bytes", "bits per byte", "state"], rows, right=frozenset({1, 2, 3}))
    for problem in report.problems:
        console.write(f"{problem}\n")


def _show_proof(proof: ResumeProof) -> None:
    rows = [
        [name, digest[:32], proof.resumed[name][:32], "equal" if digest == proof.resumed[name] else "DIFFERENT"]
        for name, digest in proof.straight.items()
    ]
    console.print_table(["sha256 of", "not interrupted", "interrupted, then resumed", ""], rows)


def _verdict(report: RunReport) -> str:
    damaged = [step for step in report.steps if step.problem]
    if not damaged:
        return report.problems[0]
    others = "" if len(damaged) == 1 else f" (and {len(damaged) - 1} more)"
    intact = [step.name for step in report.steps if not step.problem]
    last = f" Use {shlex.quote(str(report.path / intact[-1]))} instead." if intact else ""
    return f"{damaged[0].problem}{others}{last}"
