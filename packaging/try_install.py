"""Installs the wheel and the sdist into fresh environments and runs the commands there, from another folder.

    python packaging/try_install.py python3.10 python3.12        the versions that pip chooses within constraints.txt
    python packaging/try_install.py python3.11 --lowest          the lowest version that pyproject.toml allows of each
    python packaging/try_install.py python3.11 --lowest --tests  the tests of the core with them, from the sdist
    python packaging/try_install.py python3.13 --without-torch   without torch: the commands that do not need it

Needs setuptools in the environment that runs it. Options after `--` go to pip, such as `-- --find-links wheels`.
`--lowest` leaves torch at the version of constraints.txt unless `--lowest-torch` is given, because old versions of
torch for Linux have several gigabytes. `--packages FOLDER` adds a folder of installed packages to each environment, so
that a torch which was unpacked before need not be unpacked again.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = ("train", "--demo", "-q", "--time", "20s")
EXTRAS, TEST_TOOLS = "gguf,report,serve,tensorboard,word2vec", ("hypothesis", "pytest", "pyyaml")
CORE = ("test_config.py", "test_errors.py", "test_trained_model.py", "platforms", "text", "storage", "generation")
CORE = (*CORE, "checkpoint", "embedding", "report", "serving")


def dependencies(extras: bool = False) -> list[str]:
    """What pyproject.toml requires of every installation, or of all extras; Python 3.10 has no reader of TOML."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    pattern = r"optional-dependencies\]\n(.*?)\n\n" if extras else r"^dependencies = \[(.*?)^\]"
    listed = re.search(pattern, text, re.M | re.S)
    assert listed is not None
    return [each for each in re.findall(r'"(.*?)"', listed[1]) if not each.startswith("gptlite")]


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
    """Run a command without what this environment sets; its output. Ends the script if it fails."""
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
    if options.packages:
        site = call(
            programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder
        ).strip()
        Path(site, "more.pth").write_text("\n".join(str(path.resolve()) for path in options.packages) + "\n", "utf-8")
    if options.lowest:
        pinned = [line for line in pins.read_text("utf-8").splitlines() if line.startswith("torch==")]
        asked = {*needed, *dependencies(extras=True)}
        lines = [lowest(each) for each in sorted(asked) if options.lowest_torch or not each.startswith("torch")]
        pins = folder / "lowest.txt"
        pins.write_text("\n".join([*lines, *([] if options.lowest_torch else pinned)]) + "\n", "utf-8")
    if options.without_torch:
        call(*pip, "--constraint", pins, *(each for each in needed if not each.startswith("torch")), cwd=folder)
        call(*pip, "--no-deps", what, cwd=folder)
    else:
        asked_for = [f"{what}[{EXTRAS}]", *TEST_TOOLS] if options.tests else [what]
        call(*pip, "--constraint", pins, *asked_for, cwd=folder)
    return programs


def run_commands(programs: Path, elsewhere: Path) -> None:
    """What a new user runs, in another folder than that of the sources."""
    gptlite, own = programs / "gptlite", {"GPTLITE_CACHE": str(elsewhere / "cache")}
    call(gptlite, *DEMO, cwd=elsewhere, **own)
    call(gptlite, "generate", "The", "--max-new-tokens", "5", cwd=elsewhere, **own)
    call(gptlite, "embed", "the [value] is", "a [value] of", cwd=elsewhere, **own)
    call(gptlite, "words", "nearest", "value", cwd=elsewhere, **own)


def run_tests(programs: Path, sdist: Path, elsewhere: Path) -> str:
    """The tests of the core, from the unpacked sdist; what pytest says at the end."""
    with tarfile.open(sdist) as archive:
        archive.extractall(elsewhere, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (folder,) = elsewhere.glob("gptlite_lm-*")
    chosen = [f"tests/{name}" for name in CORE]
    # Old versions of other packages warn of what newer ones mended.
    command = (programs / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", *chosen)
    return call(*command, cwd=folder, PYTHONPATH=str(folder)).strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="+")
    parser.add_argument("--lowest", action="store_true")
    parser.add_argument("--lowest-torch", action="store_true")
    parser.add_argument("--without-torch", action="store_true")
    parser.add_argument("--tests", action="store_true")
    parser.add_argument("--packages", action="append", default=[], type=Path)
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:cut])
    options.pip = arguments[cut + 1 :]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel, sdist = build(folder)
        for python in options.pythons:
            for what in (sdist,) if options.tests else (wheel, sdist):
                began, there, elsewhere = time.monotonic(), folder / "environment", folder / "elsewhere"
                elsewhere.mkdir()
                programs = install(python, what, there, options)
                gptlite, own = programs / "gptlite", {"GPTLITE_CACHE": str(elsewhere / "cache")}
                said = [call(gptlite, "--version", cwd=elsewhere, **own).strip()]
                call(programs / "python", "-m", "gptlite", "--help", cwd=elsewhere, **own)
                if options.without_torch:
                    call(gptlite, "train", "--help", cwd=elsewhere, **own)
                    call(programs / "python", "-c", "import gptlite.cli.words.command", cwd=elsewhere, **own)
                else:
                    run_commands(programs, elsewhere)
                    said.append("train, generate, embed and words")
                if options.tests:
                    said.append(run_tests(programs, sdist, elsewhere))
                print(f"{python}: {what.name}: {', '.join(said)} ({time.monotonic() - began:.0f} s)", flush=True)
                shutil.rmtree(there)
                shutil.rmtree(elsewhere)


if __name__ == "__main__":
    main()
