"""What an installation offers: a package that editors and type checkers find, and a clone that runs by itself."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gptlite import distribution

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_commands_lie_in_the_package_and_are_linked_at_the_top() -> None:
    link = ROOT / "cli"
    if not os.path.lexists(link):
        pytest.skip("an sdist has no links")
    if not link.is_symlink():  # a checkout on a system without links has a file that holds the target's name
        assert link.read_text(encoding="utf-8").strip() == "gptlite/cli"
        return
    assert link.resolve() == (ROOT / "gptlite" / "cli").resolve()


@pytest.mark.parametrize("module", ["gptlite", "gptlite.cli"])
def test_a_clone_runs_without_being_installed(tmp_path: Path, module: str) -> None:
    shutil.copytree(ROOT / "gptlite", tmp_path / "gptlite", ignore=shutil.ignore_patterns("__pycache__"))
    package = tmp_path / "gptlite" / "__init__.py"
    source = package.read_text(encoding="utf-8")
    assert '__version__ = "' in source
    package.write_text(source.replace('__version__ = "', '__version__ = "9.'), encoding="utf-8")
    ended = run(sys.executable, "-m", module, "--version", cwd=tmp_path)
    assert ended.stdout.startswith("gptlite 9."), ended.stderr


def test_every_folder_with_code_is_a_package() -> None:
    """Folders without an `__init__.py` would be left out of what is installed."""
    for path in (ROOT / "gptlite").rglob("*.py"):
        assert (path.parent / "__init__.py").exists(), path.parent


# -- The package


def test_hints_name_the_distribution_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`gptlite` on the index is another project, which nobody must be told to install."""
    for provided, name in (
        ({"gptlite": ["gptlite-lm"]}, "gptlite-lm"),
        ({"gptlite": ["gptlite-fork"]}, "gptlite-fork"),
        ({"gptlite": ["gptlite", "gptlite-lm"]}, "gptlite-lm"),
        ({}, "gptlite-lm"),
    ):
        monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda provided=provided: provided)
        assert distribution.install_hint("report") == f"pip install '{name}[report]'"


def test_every_hint_is_made_in_one_place() -> None:
    for path in (ROOT / "gptlite").rglob("*.py"):
        assert path.name == "distribution.py" or "pip install" not in path.read_text(encoding="utf-8"), path


def test_every_extra_of_a_hint_exists() -> None:
    listed = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("optional-dependencies]")[2]
    extras = set(re.findall(r"^(\w+) = \[", listed.partition("\n[")[0], re.MULTILINE))
    for path in (ROOT / "gptlite").rglob("*.py"):
        used = set(re.findall(r"install_hint\([\"'](\w+)", path.read_text(encoding="utf-8")))
        assert used <= extras, path


def test_documents_name_the_distribution() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        if page.name != "log.md":
            assert not re.search(r"pip install '?gptlite(?!-lm)\b", page.read_text(encoding="utf-8")), page


def test_the_workflow_calls_what_the_makefile_has() -> None:
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    called = [word for line in commands for word in line.split()[1:] if "=" not in word]
    assert called and all(line.startswith("make ") for line in commands)
    assert set(called) <= targets
    assert "3.10" in workflow["jobs"]["test"]["strategy"]["matrix"]["python"]


@pytest.mark.parametrize(("system", "folder"), [("Windows_NT", "Scripts"), ("", "bin")])
def test_the_makefile_finds_the_programs_of_a_virtual_environment(system: str, folder: str) -> None:
    """On Windows they are in Scripts, and the workflow passes no folder."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("there is no make")
    command = [make, "--dry-run", "test-portable", f"OS={system}", "VENV=nowhere"]
    environment = {name: value for name, value in os.environ.items() if name not in ("BIN", "PYTHON", "MAKEFLAGS")}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert f"nowhere/{folder}/pytest tests/platforms tests/storage" in ended.stdout
    assert f"{'python' if system else 'python3'} -m venv nowhere" in ended.stdout


def script(name: str) -> Any:
    """A file of packaging/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "packaging" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_dependency_has_a_lower_bound_that_can_be_tried() -> None:
    tried = script("try_install")
    needed, optional = tried.dependencies(), tried.dependencies(extras=True)
    assert {"torch", "numpy", "typer"} <= {each.partition(">=")[0] for each in needed}
    assert {"altair", "starlette", "gguf"} <= {each.partition(">=")[0] for each in optional}
    for each in (*needed, *optional):
        assert re.fullmatch(r"[a-z0-9-]+>=[\d.]+", each), each
        assert tried.lowest(each) == each.replace(">=", "==")
    assert all((ROOT / "tests" / name).exists() for name in tried.CORE)


def test_a_package_can_name_its_public_address() -> None:
    build = script("build")
    pyproject = build.with_urls((ROOT / "pyproject.toml").read_text(encoding="utf-8"), "https://a.example/b", "v1")
    table = pyproject.partition("[project.urls]\n")[2].partition("\n\n[project.scripts]")[0]
    assert 'Changelog = "https://a.example/b/blob/v1/CHANGELOG.md"' in table.splitlines()
    assert all(re.fullmatch(r'\w+ = "https://\S+"', line) for line in table.splitlines())
    readme = build.with_absolute_links((ROOT / "README.md").read_text(encoding="utf-8"), "https://a.example/b", "v1")
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", readme)
    assert links and all(link.startswith("https://") for _, link in links)
    assert any(link.startswith("https://a.example/b/raw/v1/docs/pictures/") for picture, link in links if picture)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist and the wheel of a copy of the sources; the wheel of an editable installation is in `editable`."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "sources"
    ignored = shutil.ignore_patterns("__pycache__", ".venv*", ".git", "build", "*.egg-info", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=ignored, symlinks=True)
    (copy / "checkpoints" / "own").mkdir()
    (copy / "checkpoints" / "own" / "run.json").write_text("{}", encoding="utf-8")
    code = (
        "from setuptools import build_meta; import sys; folder = sys.argv[1]; build_meta.build_sdist(folder); "
        "build_meta.build_wheel(folder); build_meta.build_editable(folder + '/editable')"
    )
    (folder / "editable").mkdir()
    ended = run(sys.executable, "-c", code, folder, cwd=copy)
    assert ended.returncode == 0, ended.stderr
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def test_the_sdist_has_what_its_tests_need(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert built[0].name.startswith("gptlite_lm-")
    for top in ("gptlite", "tests", "docs", "benchmarks", "packaging", ".github"):
        for path in (ROOT / top).rglob("*"):
            if path.is_file() and not {"__pycache__"} & set(path.parts) and path.suffix not in (".pyc", ".pyo"):
                assert path.relative_to(ROOT).as_posix() in names, path
    pages = {path.name for path in ROOT.glob("*.md")}
    ours = {name for name in names if name.startswith("checkpoints/")}
    assert ours == {"checkpoints/README.md", "checkpoints/.gitignore"}  # not the runs of whoever builds it
    assert {"Makefile", "constraints.txt", "LICENSE", "pyproject.toml", "MANIFEST.in", *pages} <= names


@pytest.mark.slow
def test_tests_run_from_the_sdist(built: tuple[Path, Path], tmp_path: Path) -> None:
    """Some of those that read files beside the package. That all files are there, the test above knows."""
    with tarfile.open(built[0]) as archive:
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (folder,) = tmp_path.iterdir()
    chosen = ["tests/test_errors.py", "tests/docs/test_chinese_pages.py", "tests/reliability/test_matrix.py"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_wheel_has_the_library_and_the_manual_page(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        names = set(archive.namelist())
        (described,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "gptlite").rglob("*") if p.is_file()}
    assert {name for name in files if "__pycache__" not in name} <= names
    assert not [name for name in names if name.startswith(("tests/", "docs/", "cli/"))]
    assert any(name.endswith("data/share/man/man1/gptlite.1") for name in names)
    assert "\nName: gptlite-lm\n" in described and "\nClassifier: Typing :: Typed\n" in described


def test_an_installed_wheel_runs_from_another_folder(built: tuple[Path, Path], tmp_path: Path) -> None:
    """Unpacked, which is what pip does with it, beside the packages that it needs."""
    with zipfile.ZipFile(built[1]) as archive:
        archive.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    code = "import gptlite, sys; print(gptlite.__file__); from gptlite.cli.process import start; start()"
    command = [sys.executable, "-P", "-c", code, "--version"]
    if sys.version_info < (3, 11):
        command.remove("-P")
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout.startswith(str(tmp_path / "site")) and "gptlite 0." in ended.stdout, ended.stderr


USER = """
import gptlite
from gptlite.cli.main import main
from gptlite.model import GPT

samples = gptlite.load("checkpoints/corpus").generate("Once", n=3, seed=1)
reveal_type(samples)
reveal_type(samples[0].text)
reveal_type(gptlite.load().embed(["the [bank] of"]).vectors)
reveal_type(gptlite.train("corpus.txt", time="3m"))
reveal_type(main)
reveal_type(GPT.forward)
gptlite.load().generate(3)  # wrong
gptlite.load(mode="x")  # wrong
"""


@pytest.mark.parametrize("way", [pytest.param("editable", marks=pytest.mark.slow), "wheel"])
def test_type_checkers_know_the_package_once_it_is_installed(
    built: tuple[Path, Path], tmp_path: Path, way: str
) -> None:
    """In an empty project, with an environment that has nothing else of ours."""
    pyright = shutil.which("pyright", path=os.path.dirname(sys.executable))
    if pyright is None:
        pytest.skip("pyright is not installed beside this Python")
    venv.create(tmp_path / "environment", with_pip=False)
    programs = tmp_path / "environment" / ("Scripts" if os.name == "nt" else "bin")
    site = Path(
        run(
            programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path
        ).stdout.strip()
    )
    (wheel,) = (built[1].parent / "editable").glob("*.whl") if way == "editable" else [built[1]]
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")  # torch and the others
    project = tmp_path / "project"
    project.mkdir()
    (project / "user.py").write_text(USER, encoding="utf-8")
    said = run(pyright, "--pythonpath", programs / "python", "user.py", cwd=project).stdout
    found = re.findall(r'Type of ".*" is "(.*)"', said)
    starts = (
        "list[Sample]",
        "str",
        "ndarray[",
        "dict[str, Any]",
        "(arguments: list[str]",
        "(self: GPT, tokens: Tensor,",
    )
    assert len(found) == len(starts) and all(map(str.startswith, found, starts)), said
    assert "Unknown" not in said and "could not be resolved" not in said, said
    wrong = [number for number, line in enumerate(USER.splitlines(), 1) if "# wrong" in line]
    assert [int(number) for number in re.findall(r"user\.py:(\d+):\d+ - error", said)] == wrong, said


def test_the_pins_are_for_every_python() -> None:
    """A version that needs a newer Python than 3.10 has an older one beside it."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins: dict[str, set[str]] = {}
    for line in lines:
        if not line.startswith("#"):
            name, _, rest = line.partition("==")
            pins.setdefault(name, set()).add(rest.partition("; ")[2])
    newer, older = 'python_version >= "3.11"', 'python_version < "3.11"'
    alone = {"exceptiongroup", "pytz", "six", "tomli"}  # of Python 3.10 alone
    assert {name for name, markers in pins.items() if markers == {older}} == alone
    assert all(markers in ({""}, {newer, older}) for name, markers in pins.items() if name not in alone), pins


@pytest.mark.parametrize(
    "shell", ["bash", *(pytest.param(x, marks=pytest.mark.slow) for x in ("zsh", "fish", "powershell"))]
)
def test_shells_complete_commands_and_options(shell: str, tmp_path: Path) -> None:
    asks = {
        "_GPTLITE_COMPLETE": f"complete_{shell}", "COMP_WORDS": "gptlite train --resu", "COMP_CWORD": "2",
        "_TYPER_COMPLETE_ARGS": "gptlite train --resu", "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": "--resu",
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-m", "gptlite"], cwd=ROOT, env=os.environ | asks, capture_output=True, text=True, check=False
    )
    assert "--resume" in ended.stdout, ended.stderr
