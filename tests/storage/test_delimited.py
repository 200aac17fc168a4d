"""Tables as text: csv and pandas read back what was written, and no cell is computed by a spreadsheet."""

from __future__ import annotations

import csv
import io

import pytest

from gptlite.storage import delimited

CELLS = [
    ["number", "token", "kind"],
    ["1", ' "', 'a "quoted" word'],
    ["2", '"', "tab\there"],
    ["3", "line\nbreak", "carriage\rreturn"],
    ["4", "NA", "null"],
    ["5", ",", "a, b"],
    ["6", "", "'"],
    ["7", "#", "\\"],
]


@pytest.mark.parametrize("separator", delimited.SEPARATORS.values())
def test_csv_reads_back_what_was_written(separator: str) -> None:
    text = "".join(delimited.lines(CELLS, separator))
    assert list(csv.reader(io.StringIO(text, newline=""), delimiter=separator)) == CELLS


@pytest.mark.parametrize("separator", delimited.SEPARATORS.values())
def test_pandas_reads_back_what_was_written(separator: str) -> None:
    pandas = pytest.importorskip("pandas")
    text = "".join(delimited.lines(CELLS, separator))
    frame = pandas.read_csv(io.StringIO(text, newline=""), sep=separator, dtype=str, na_filter=False)
    assert [list(frame.columns), *frame.values.tolist()] == CELLS


@pytest.mark.row("S05")
@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-a", "@SUM(1)", " =1", "\t=1", "--"])
def test_a_formula_becomes_text_unless_it_is_wanted(text: str) -> None:
    (row,) = csv.reader(io.StringIO(delimited.line([text], ","), newline=""))
    assert row == [f"'{text}"]
    (row,) = csv.reader(io.StringIO(delimited.line([text], ",", raw=True), newline=""))
    assert row == [text]


@pytest.mark.parametrize("value", ["-", "=", "-0.5", "+1", "-1e-05", "a=b", "don't", -0.25, 3, None])
def test_other_cells_are_left_as_they_are(value: object) -> None:
    assert delimited.line([value, "x"], "\t") == f"{'' if value is None else value}\tx\n"
