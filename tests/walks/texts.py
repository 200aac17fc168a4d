"""The texts of the six people, made on the spot."""

from __future__ import annotations

import json
import random
from pathlib import Path

from conftest import make_text

SUBJECTS = ("他", "她", "老师", "学生", "船夫", "邻居")
VERBS = ("看见", "走过", "记得", "离开", "喜欢")
PLACES = ("银行", "河岸", "花园", "学校", "港口", "窗户")


def chinese_text(n_lines: int = 600, seed: int = 0) -> str:
    rng = random.Random(seed)
    lines = (
        f"{rng.choice(SUBJECTS)}{rng.choice(VERBS)}{rng.choice(PLACES)}旁边的{rng.choice(PLACES)}。"
        for _ in range(n_lines)
    )
    return "\n".join(lines) + "\n"


def write_texts() -> None:
    """Write them into the current folder."""
    Path("corpus.txt").write_text(make_text(), encoding="utf-8")
    Path("notes.txt").write_text(make_text(seed=1), encoding="utf-8")
    Path("more.txt").write_text(make_text(seed=2), encoding="utf-8")
    Path("short.txt").write_text("too short\n", encoding="utf-8")
    Path("novel.txt").write_bytes(make_text(800, seed=3).replace("\n", "\r\n").encode())
    Path("study.txt").write_text("The object is new .\nA class of objects .\n", encoding="utf-8")
    rows = (
        "id\tsentence\tword",
        "A1\tThe object is new .\tobject",
        "A2\tno such word\tclass",
        "A3\tA class of it .\tclass",
    )
    Path("study.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    records = (json.dumps({"id": i, "text": line}) for i, line in enumerate(make_text(200).splitlines()))
    Path("records.jsonl").write_text("\n".join(records) + "\n", encoding="utf-8")
    Path("课文.txt").write_text(chinese_text(), encoding="utf-8")
    Path("gbk.txt").write_bytes(chinese_text(seed=1).encode("gb18030"))
