"""Installs the wheel and the sdist into fresh environments and runs the commands there, from another folder.

    python packaging/try_install.py python3.10 python3.12        the versions that pip chooses within constraints.txt
    python packaging/try_install.py python3.11 --lowest          the lowest version that pyproject.toml allows of each
    python packaging/try_install.py python3.13 --without-torch   without torch: the commands that do not need it

Needs setuptools in the environment that runs it. Options after `--` go to pip, such as `-- --find-links wheels`.
`--lowest` leaves torch at the version of constraints.txt unless `--lowest-torch` is given, because old versions of
torch for Linux have several gigabytes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TINY = ("--steps", "20", "--layers", "1", "--dim", "32", "--heads", "2", "--context", "32", "--vocab-size", "320")


def dependencies() -> list[str]:
    """What pyproject.toml requires of every installation; Python 3.10 has no reader of TOML."""
    listed = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.M | re.S)
    assert listed is not None
    return re.findall(r'"(.*?)"', listed[1])


def lowest(requirement: str) -> str:
    """The requirement as its lowest version: "rich>=13.8" becomes "rich==13.8"."""
    return requirement.replace(">=", "==")


def build(folder: Path) -> tuple[Path, Path]:
    """The wheel and the sdist of a copy of the sources, so that nothing is written beside them."""
    copy = folder / "sources"
    ignored = shutil.ignore_patterns("__pycache__", ".venv*", ".git", "build", "*.egg-info", "results", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=ignored, symlinks=True)
    code = (
        "from setuptools import build_meta as made; import sys; folder = sys.argv[1]; "
        "print(made.build_sdist(folder), made.build_wheel(folder))"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], cwd=copy, check=True, capture_output=True, text=True)
    sdist, wheel = done.stdout.split()[-2:]
    return folder / wheel, folder / sdist


def call(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command without what this environment sets; its output. Ends the script where it fails."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "GPTLITE_MODEL")}
    done = subprocess.run(command, cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def install(python: str, what: Path, folder: Path, options: argparse.Namespace) -> Path:
    """A fresh environment with the wheel or sdist `what`; its folder of programs."""
    call(python, "-m", "venv", folder, cwd=folder.parent)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    pip = [programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options.pip]
    pins = ROOT / "constraints.txt"
    needed = dependencies()
    if options.lowest:
        pinned = [line for line in pins.read_text("utf-8").splitlines() if line.startswith("torch==")]
        lines = [lowest(each) for each in needed if options.lowest_torch or not each.startswith("torch")]
        pins = folder / "lowest.txt"
        pins.write_text("\n".join([*lines, *([] if options.lowest_torch else pinned)]) + "\n", "utf-8")
    if options.without_torch:
        call(*pip, "--constraint", pins, *(each for each in needed if not each.startswith("torch")), cwd=folder)
        call(*pip, "--no-deps", what, cwd=folder)
    else:
        call(*pip, "--constraint", pins, what, cwd=folder)
    return programs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="+")
    parser.add_argument("--lowest", action="store_true")
    parser.add_argument("--lowest-torch", action="store_true")
    parser.add_argument("--without-torch", action="store_true")
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:cut])
    options.pip = arguments[cut + 1 :]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = build(folder)
        for python in options.pythons:
            for what in made:
                there, elsewhere = folder / "environment", folder / "elsewhere"
                elsewhere.mkdir()
                programs = install(python, what, there, options)
                gptlite, own = programs / "gptlite", {"GPTLITE_CACHE": str(elsewhere / "cache")}
                said = [call(gptlite, "--version", cwd=elsewhere, **own).strip()]
                call(programs / "python", "-m", "gptlite", "--help", cwd=elsewhere, **own)
                if options.without_torch:
                    call(gptlite, "train", "--help", cwd=elsewhere, **own)
                    call(programs / "python", "-c", "import gptlite.cli.words.command", cwd=elsewhere, **own)
                else:
                    call(gptlite, "train", "--demo", "-q", *TINY, cwd=elsewhere, **own)
                    call(gptlite, "generate", "The", "--max-new-tokens", "5", cwd=elsewhere, **own)
                    call(gptlite, "embed", "the [value] is", "a [value] of", cwd=elsewhere, **own)
                    call(gptlite, "words", "nearest", "value", cwd=elsewhere, **own)
                    said.append("train, generate, embed and words")
                print(f"{python}: {what.name}: {', '.join(said)}", flush=True)
                shutil.rmtree(there)
                shutil.rmtree(elsewhere)


if __name__ == "__main__":
    main()
