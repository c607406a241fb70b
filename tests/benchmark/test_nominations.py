"""The benchmark of nominations."""

from pathlib import Path

from benchmark import nominations

RESULTS = Path(nominations.__file__).parent / "results" / "nominations.md"


def test_committed_lists_are_todays(capsys):
    assert nominations.main([]) == 0
    assert RESULTS.read_text().startswith(capsys.readouterr().out)
