"""The colours of the pages: what is written on them can be read, and a projector can tell them apart."""

from __future__ import annotations

import itertools
import re

import pytest

from gptlite.report import components
from gptlite.report.page import HERE, VARIABLE

READABLE = 4.5  # WCAG 2.2, 1.4.3
SEEN = 1.25  # of grounds beside each other, on a screen in a lit room
BITS = [f"--bits-{i}" for i in range(5)]
COSINES = [f"--cosine-{i}" for i in range(1, 6)]


def palette(scheme: str) -> dict[str, str]:
    """The variables of the style sheets by day or by night."""
    found: dict[str, str] = {}
    for sheet in (HERE / "page.css", components.HERE / "components.css"):
        text = sheet.read_text(encoding="utf-8")
        found |= dict(VARIABLE.findall(re.split(r"@media", text)[0]))
        if scheme == "dark":
            night = re.search(r"@media \(prefers-color-scheme: dark\) \{\s*:root \{([^}]*)\}", text)
            assert night
            found |= dict(VARIABLE.findall(night[1]))
    return found


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(one: str, other: str, share: float) -> str:
    pairs = [(int(one[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_every_colour_of_a_scale(scheme: str) -> None:
    """White stood on orange with a contrast of 2.29."""
    colours = palette(scheme)
    grounds = [colours[name] for name in (*BITS, *COSINES, "--paper", "--raised")]
    for low, high in (("--paper", "--attention"), *itertools.pairwise(BITS), *itertools.pairwise(COSINES)):
        grounds += [mixed(colours[low], colours[high], i / 20) for i in range(21)]
    assert min(contrast(colours["--ink"], ground) for ground in grounds) >= READABLE
    for name in ("--accent", "--same", "--static", "--quiet", "--above", "--below", "--probability"):
        assert contrast(colours[name], colours["--paper"]) >= READABLE, name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tints_can_be_told_from_the_ground_and_from_each_other(scheme: str) -> None:
    """The palest had a contrast of 1.09 with the ground."""
    colours = palette(scheme)
    for one, other in (("--paper", BITS[1]), *itertools.pairwise(BITS[1:])):
        assert contrast(colours[one], colours[other]) >= SEEN, (one, other)
    assert contrast(colours["--paper"], colours["--attention"]) >= 3
    assert contrast(colours["--paper"], mixed(colours["--paper"], colours["--attention"], 0.1**0.5)) >= SEEN
    levels = [luminance(colours[name]) for name in COSINES]
    assert levels == sorted(levels, reverse=scheme == "light")


def test_each_quantity_has_one_scale() -> None:
    """Surprisal had three palettes. No style sheet but that of all pages names a colour, and text has one colour."""
    sheets = [path for path in HERE.rglob("*.css") if path.name not in ("page.css", "components.css")]
    for sheet in sheets:
        assert not re.findall(r"#[0-9a-fA-F]{3,8}\b(?![^{]*\{)", sheet.read_text(encoding="utf-8")), sheet.name
    for script in HERE.rglob("*.js"):
        assert not re.findall(r"[\"'`]#[0-9a-fA-F]{3,8}\b", script.read_text(encoding="utf-8")), script.name
    parts = (components.HERE / "components.css").read_text(encoding="utf-8")
    for i in range(1, 5):
        assert parts.count(f"--bits-{i}") == 1
    assert parts.count("--attention)") == 2  # the scale, and what canvases take their colour from
