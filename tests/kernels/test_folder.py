"""Machine code is kept only where nobody else can have written: the folder and every folder above it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import make_text

import gptlite
from gptlite.kernels import folder
from gptlite.kernels.folder import Untrusted, is_private, opened, use_private_inductor_cache

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
only_root = pytest.mark.skipif(sys.platform != "win32" and os.geteuid() != 0, reason="only root gives files away")


def refused(path: Path) -> str:
    with pytest.raises(Untrusted) as caught, opened(path):
        pass
    return str(caught.value)


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    path = tmp_path / "a" / "b" / "c"
    path.mkdir(parents=True)
    return path


def test_a_missing_folder_is_made_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with pytest.raises(FileNotFoundError), opened(path):
        pass
    with opened(path, make=True) as descriptor:
        assert os.path.samestat(os.fstat(descriptor), path.stat())
    assert [p.stat().st_mode & 0o777 for p in (path, path.parent)] == [0o700, 0o700]


@pytest.mark.row("S19")
@pytest.mark.parametrize("mode", [0o707, 0o702, 0o777])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_others_may_write_to_none_of_its_parents(deep: Path, level: int, mode: int) -> None:
    wrong = [deep, *deep.parents][level]
    wrong.chmod(mode)
    assert refused(deep) == f"others may write to {wrong}"
    assert not is_private(deep)
    wrong.chmod(0o755)
    assert is_private(deep)


def test_a_parent_with_the_sticky_bit_is_fine_but_not_the_folder(deep: Path) -> None:
    deep.parent.chmod(0o1777)
    assert is_private(deep)
    deep.chmod(0o1777)
    assert not is_private(deep)


def test_a_group_counts_as_others_unless_it_is_this_users_own(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep.chmod(0o770)
    for own in (True, False):
        monkeypatch.setattr(folder, "_is_own_group", lambda group, own=own: own)
        assert is_private(deep) is own


@pytest.mark.row("S19")
def test_a_folder_of_another_owner_is_refused(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever we are, these folders are not ours then; root's own may stand above."""
    if deep.stat().st_uid != 0:
        monkeypatch.setattr(os, "geteuid", lambda: deep.stat().st_uid + 1)
        assert "others may write" in refused(deep)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        assert refused(deep) == f"others may write to {deep}"


@pytest.mark.row("S19")
@only_root
@pytest.mark.parametrize("level", [0, 1, 2])
def test_nor_may_a_parent_belong_to_another(deep: Path, level: int) -> None:
    wrong = [deep, *deep.parents][level]
    os.chown(wrong, 12345, -1)
    assert refused(deep) == f"others may write to {wrong}"


@pytest.mark.row("S19")
def test_links_are_followed_to_what_they_name_and_that_is_checked(deep: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(deep)
    assert is_private(link)
    deep.parent.chmod(0o777)
    assert not is_private(link)


def test_a_folder_that_may_be_passed_but_not_listed_is_no_obstacle(deep: Path) -> None:
    deep.parent.chmod(0o711)
    assert is_private(deep)


# -- torch's compiler


@pytest.mark.row("S20")
def test_torchs_compiler_keeps_its_code_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "1")
    for chosen in (None, "/tmp/torchinductor_somebody"):  # torch sets the second one itself when it is loaded
        monkeypatch.delenv(folder.TORCH_FOLDER, raising=False)
        if chosen:
            monkeypatch.setenv(folder.TORCH_FOLDER, chosen)
        assert use_private_inductor_cache() == tmp_path / "cache" / "inductor"
        assert os.environ[folder.TORCH_FOLDER] == str(tmp_path / "cache" / "inductor")


@pytest.mark.row("S20")
def test_a_folder_that_the_user_chose_is_kept_if_it_is_private(
    monkeypatch: pytest.MonkeyPatch, deep: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv(folder.TORCH_FOLDER, str(deep))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert use_private_inductor_cache() == deep
    deep.parent.chmod(0o777)
    other = use_private_inductor_cache()
    assert other.parent == tmp_path and other.stat().st_mode & 0o777 == 0o700
    assert os.environ[folder.TORCH_FOLDER] == str(other)


@pytest.mark.row("S20")
@only_root
def test_a_folder_of_another_owner_is_not_used(monkeypatch: pytest.MonkeyPatch, deep: Path) -> None:
    monkeypatch.setenv(folder.TORCH_FOLDER, str(deep))
    os.chown(deep, 12345, -1)
    assert use_private_inductor_cache() != deep


TRAIN = (
    "train", "text.txt", "-o", "run", "-q", "--layers", "1", "--dim", "32", "--heads", "2", "--context", "32",
    "--vocab-size", "320", "--steps", "4",
)  # fmt: skip


@pytest.mark.row("S20")
@pytest.mark.parametrize(
    "more", [(), pytest.param(("--arch", "gpt2", "--compile", "on"), marks=pytest.mark.slow)], ids=["plain", "compiled"]
)
def test_training_leaves_nothing_in_the_temporary_folder(tmp_path: Path, more: tuple[str, ...]) -> None:
    """Where another user could have put code; an optimizer is enough for torch to look there."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    Path("text.txt").write_text(make_text())
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(Path(gptlite.__file__).parent.parent)}
    environment.pop(folder.TORCH_FOLDER, None)
    subprocess.run([sys.executable, "-m", "gptlite", *TRAIN, *more], env=environment, check=True, timeout=300)
    assert not list(temporary.glob("torchinductor*")), [*temporary.rglob("*")]
    assert bool(list(Path("cache", "inductor").rglob("*.so"))) == bool(more)
