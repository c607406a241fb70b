"""The benchmark of nominations."""

from pathlib import Path

import pytest

from benchmark import nominations

RESULTS = Path(nominations.__file__).parent / "results" / "nominations.md"


def test_committed_lists_are_todays(capsys):
    assert nominations.main([]) == 0
    assert RESULTS.read_text().startswith(capsys.readouterr().out)


def test_losses_of_data_sets_that_are_left_out():
    scores = {"a": {"x": 0.9, "y": 0.5}, "b": {"x": 0.2, "y": 0.8}}
    table = [
        {"domain": "Remote Sensing", "dataset": name, "model": f"{model} B/32", "accuracy_percent": f"{100 * value}"}
        for name, models in scores.items()
        for model, value in models.items()
    ]
    table += [row | {"model": "CLIP-B/32", "accuracy_percent": "0"} for row in table[::2]]
    table += [row | {"model": "CLIP-B/16"} for row in table[-2:]]
    rows = nominations.aerial(table)
    assert [float(row[2]) for row in rows] == pytest.approx([85, 50, 85, 50])  # x is chosen for b, y for a
