"""Passages of a held-out text are found in another text, exactly or nearly so, and nothing else is taken out."""

from __future__ import annotations

import random
from pathlib import Path

from gptlite.text.corpus import Text, open_text
from gptlite.text.overlap import remove_copies

WORDS = [a + b + c for a in ("ka", "lo", "mi", "tu", "se") for b in ("ra", "ne", "vo", "di") for c in ("n", "s", "t")]


def sentence(rng: random.Random, n_words: int = 30) -> str:
    return " ".join(rng.choices(WORDS, k=n_words)).capitalize() + "."


def write(path: Path, lines: list[str]) -> Text:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return open_text([str(path)], smallest=1)


def content(text: Text) -> str:
    return "".join(part for _, part in text.characters())


def test_exact_and_near_copies_go_and_the_rest_stays(tmp_path: Path) -> None:
    rng = random.Random(1)
    held_out = [sentence(rng) for _ in range(20)]
    others = [sentence(rng) for _ in range(200)]
    near = held_out[3].upper().replace(" ", "  ").split("  ")
    near[5], near[15] = "XYZZY", "PLUGH"  # two of thirty words differ
    wrapped = held_out[7].split(" ")
    lines = [
        *others[:50], held_out[0], *others[50:100], " ".join(near), *others[100:150],
        " ".join(wrapped[:15]), " ".join(wrapped[15:]), *others[150:],
    ]  # fmt: skip
    removal = remove_copies(write(tmp_path / "b.txt", lines), write(tmp_path / "v.txt", held_out))
    assert content(removal.text) == "".join(f"{line}\n" for line in others)
    assert removal.passages == 3
    assert removal.first is not None and removal.first[1] == 51
    assert removal.n_bytes == sum(len(line) + 1 for line in lines) - sum(len(line) + 1 for line in others)


def test_a_copied_sentence_inside_a_long_line_takes_only_its_surroundings(tmp_path: Path) -> None:
    rng = random.Random(2)
    held_out = sentence(rng, 40)
    before, after = (" ".join(sentence(rng) for _ in range(60)) for _ in range(2))
    text = write(tmp_path / "b.txt", [f"{before} {held_out} {after}"])
    removal = remove_copies(text, write(tmp_path / "v.txt", [held_out, sentence(rng)]))
    left = content(removal.text)
    assert held_out not in left
    assert len(held_out) <= removal.n_bytes <= 3000
    assert left.startswith(before[:5000]) and left.endswith(after[-5000:] + "\n")


def test_scripts_without_spaces(tmp_path: Path) -> None:
    rng = random.Random(3)
    lines = ["".join(chr(0x4E00 + rng.randrange(3000)) for _ in range(60)) + "。" for _ in range(30)]
    removal = remove_copies(write(tmp_path / "b.txt", lines), write(tmp_path / "v.txt", [lines[4], lines[20]]))
    assert content(removal.text) == "".join(f"{line}\n" for i, line in enumerate(lines) if i not in (4, 20))


def test_a_text_without_copies_is_the_same_text(tmp_path: Path) -> None:
    rng = random.Random(4)
    text = write(tmp_path / "b.txt", [sentence(rng) for _ in range(50)])
    removal = remove_copies(text, write(tmp_path / "v.txt", [sentence(rng) for _ in range(50)]))
    assert removal.text is text and removal.passages == 0
