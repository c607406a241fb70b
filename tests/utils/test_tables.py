"""Tables for the terminal and in Markdown."""

from __future__ import annotations

from mll_hf.utils.tables import markdown_table, table


def test_control_characters_never_reach_the_terminal():
    text = table(["\x1b[2Jname"], [["two\nlines"], ["\u202eright to left"], ["bell\a"]])
    assert text.splitlines() == ["?[2Jname", "two?lines", "?right to left", "bell?"]


def test_markdown_tables_align_numbers_to_the_right():
    rows = [["x", "1.5", "–", "", "+0.1"], ["2y", "-3 M", "–", "7 %", "0.2 [–, 1]"]]
    assert markdown_table(["a", "b", "c", "d", "e"], rows) == [
        "| a | b | c | d | e |",
        "| --- | ---: | --- | ---: | ---: |",
        "| x | 1.5 | – |  | +0.1 |",
        "| 2y | -3 M | – | 7 % | 0.2 [–, 1] |",
    ]
