"""Builds the sdist and the wheel, with the address of the public repository in both: `make package ADDRESS=https://...`.

The sources do not name their own address, so that a fork builds packages which point at the fork. With an address, a
copy of the sources gets [project.urls], and the links and pictures of README.md, which are relative, become absolute:
the package index shows README.md without the files beside it. Addresses of files are those of GitHub.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".venv*", ".git", "build", "dist", "*.egg-info", ".*_cache")


def with_urls(pyproject: str, address: str, ref: str) -> str:
    """The text of pyproject.toml with a table of addresses."""
    urls = {
        "Homepage": address,
        "Source": address,
        "Documentation": f"{address}/blob/{ref}/docs/README.md",
        "Changelog": f"{address}/blob/{ref}/CHANGELOG.md",
        "Issues": f"{address}/issues",
    }
    table = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    before, header, after = pyproject.partition("[project.scripts]\n")
    return f"{before}[project.urls]\n{table}\n{header}{after}"


def with_absolute_links(readme: str, address: str, ref: str) -> str:
    """The text of README.md whose links to files of the repository, and pictures, are absolute."""

    def absolute(match: re.Match[str]) -> str:
        kind = "raw" if match["picture"] else "blob"
        return f"{match['picture']}[{match['text']}]({address}/{kind}/{ref}/{match['path']})"

    return re.sub(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<path>(?![a-z]+:|#)[^)]+)\)", absolute, readme)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outdir", default="dist", type=Path)
    parser.add_argument("--address", help="of the public repository")
    parser.add_argument("--ref", default="main", help="the tag, commit or branch that links name")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources = ROOT
        if asked.address:
            sources = Path(folder) / "sources"
            shutil.copytree(ROOT, sources, ignore=LEFT_OUT, symlinks=True)
            for name, change in (("pyproject.toml", with_urls), ("README.md", with_absolute_links)):
                text = (sources / name).read_text(encoding="utf-8")
                (sources / name).write_text(change(text, asked.address.rstrip("/"), asked.ref), encoding="utf-8")
        command = [sys.executable, "-m", "build", "--outdir", str(asked.outdir.absolute()), str(sources)]
        raise SystemExit(subprocess.call(command))


if __name__ == "__main__":
    main()
