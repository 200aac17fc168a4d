"""How a command is told which model or run, and a model with what was measured about its cosines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptlite.errors import UsageError

if TYPE_CHECKING:
    from gptlite.checkpoint.saved_step import Checkpoint

RunOption = Annotated[
    str | None,
    typer.Option("-m", "--model", metavar="DIR", help="The same, as in other commands.", show_default=False),
]


def choose(argument: str | None, option: str | None) -> str | None:
    """What was named, if anything. Raises `UsageError` where both ways were used."""
    if argument is not None and option is not None:
        raise UsageError(f"name the model once: {argument}, or -m {option}.")
    return argument if option is None else option


class ModelReader:
    """Call it for the model that -m names and what was measured about its cosines."""

    def __init__(self, model: str | None, device: str, threads: int | None) -> None:
        self.model, self.device, self.threads = model, device, threads

    def __call__(self) -> tuple[Checkpoint, dict[str, Any] | None]:
        loaded, statistics, _ = self.read(counted=False)
        return loaded, statistics

    def read(self, *, counted: bool) -> tuple[Checkpoint, dict[str, Any] | None, dict[str, int]]:
        """The same, and if they are `counted`, how often the model has seen which word."""
        from gptlite import device as machine
        from gptlite.checkpoint import runs, saved_step
        from gptlite.storage.reader import Reader

        hardware = machine.choose_hardware(self.device, "fp32", self.threads)

        def read(path: Path) -> tuple[Checkpoint, dict[str, Any] | None, dict[str, int]]:
            loaded = saved_step.load(path, hardware.device)
            counts: dict[str, int] = {}
            if counted:
                with Reader(path) as reader:
                    counts = dict(saved_step.read_words(reader))
            return loaded, saved_step.read_embedding_statistics(loaded), counts

        return runs.read_model(self.model, read)
