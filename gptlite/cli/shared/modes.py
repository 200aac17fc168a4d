"""Which options act in which mode of a command. An option given where it would do nothing is refused.

A command with several modes declares one table beside its function, in the names of the function's parameters:

    MODES = modes.Modes(
        everywhere={"model", "json", "quiet"},
        only={
            "a prompt": {"temperature", "top_k", "out"},    # a mode, as a message names it after "with"
            "--choice": {"per_token"},
        },
        needs={"force": "out", "top_k": ("temperature", "seed")},   # acts only beside another option, or one of several
        exclusive=[("interactive", "choice")],                      # at most one of these
    )

and calls it first, before anything is read:

    def generate(call: typer.Context, ...):
        MODES.check(call, "--choice" if choice else "a prompt")

A command with one mode has `only={}` and calls `MODES.check(call)`; one that is in several modes at once, such as
`-o FILE` beside `--sentence`, names them all, and an option may act in any of them. A module with several commands has
a dict of tables, by the name of the function. Every parameter of the function but `call` is named in
`everywhere` or in at least one mode: `test_modes.py` reads the tables of all commands, checks that, and tries each
option in each mode.

Only options on the command line count as given: a default, or a value from the environment, is never refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import typer

from gptlite.errors import UsageError


@dataclass(frozen=True)
class Modes:
    """The options of one command, by mode.

    - `everywhere`: parameters that act in every mode.
    - `only`: for each mode, the other parameters that act in it. A key completes the sentence "--x does nothing with".
    - `needs`: parameters that act only when another one is given, or one of several.
    - `exclusive`: groups of parameters of which at most one may be given.
    """

    everywhere: Collection[str]
    only: Mapping[str, Collection[str]] = field(default_factory=dict[str, Collection[str]])
    needs: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict[str, "str | tuple[str, ...]"])
    exclusive: Sequence[tuple[str, ...]] = ()

    def acts(self, name: str, *modes: str) -> bool:
        """Does the parameter `name` do anything in one of these modes?"""
        return name in self.everywhere or any(name in self.only[mode] for mode in modes)

    def check(self, call: typer.Context, *modes: str) -> None:
        """Raises `UsageError` for an option that was given and does nothing in `modes`, or does not go with another.

        The message names the first of the modes.
        """
        spelled = spellings(call)
        given = given_options(call)
        for group in self.exclusive:
            first, *others = [name for name in group if name in given] or [""]
            if others:
                raise UsageError(f"give only one of {spelled[first]} and {spelled[others[0]]}.")
        for name in given:
            if not self.acts(name, *modes):
                raise UsageError(f"{spelled[name]} does nothing with {modes[0]}{self._elsewhere(name)}.")
        for name in given:
            others = self.needs.get(name, ())
            others = (others,) if isinstance(others, str) else others
            if others and not any(other in given for other in others):
                listed = " or ".join(spelled[other] for other in others)
                raise UsageError(f"{spelled[name]} does nothing without {listed}.")

    def _elsewhere(self, name: str) -> str:
        modes = [mode for mode, names in self.only.items() if name in names]
        return f"; it goes with: {', '.join(modes)}" if modes else ""

    def parameters(self) -> set[str]:
        """Every parameter that the table names."""
        return set(self.everywhere).union(*self.only.values())


def given_options(call: typer.Context) -> list[str]:
    """The parameters that were given on the command line, in the order of the help page."""
    source = call.get_parameter_source
    return [p.name for p in call.command.params if p.name and getattr(source(p.name), "name", "") == "COMMANDLINE"]


def spellings(call: typer.Context) -> dict[str, str]:
    """How each parameter is written on the command line: --top-k, or the name of an argument."""
    return {
        p.name: p.opts[-1] if p.param_type_name == "option" else str(p.metavar or p.name)
        for p in call.command.params
        if p.name
    }
