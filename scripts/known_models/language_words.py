"""Write mll_hf/models/data/language_words.txt.gz: everyday words, and the languages that have them.

    python scripts/known_models/language_words.py

The words are the names and keywords of emoji of one word in Unicode's CLDR, for the languages of languages.csv that no
script of their own tells. Needs npm, for the package with CLDR's annotations, whose license is written beside the
words.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from graph.build_emoji_graph import npm_package
from known_models import build
from mll_hf.models.language import SHARED_SCRIPTS, WORDS, languages, unaccented

CLDR = "cldr-annotations-full@48.2.0"
CODES = {"tl": "fil", "sh": "sr-Latn"}  # in CLDR, where they differ


def main() -> None:
    """Write the files."""
    folder = npm_package(CLDR, Path(tempfile.gettempdir()) / "emoji-packages")
    spoken = defaultdict(list)
    for code in sorted(each.code for each in languages() if not SHARED_SCRIPTS.isdisjoint(each.scripts)):
        path = folder / "annotations" / CODES.get(code, code) / "annotations.json"
        for word in _words(path) if path.exists() else ():
            spoken[word].append(code)
    lines = (f"{word} {','.join(codes)}" for word, codes in sorted(spoken.items()))
    WORDS.write_bytes(gzip.compress("\n".join(lines).encode(), 9, mtime=0))
    (build.DATA / "language_words.license.txt").write_bytes((folder / "LICENSE").read_bytes())


def _words(path: Path) -> set[str]:
    annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"]["annotations"].values()
    names = (unaccented(name) for each in annotations for name in (*each.get("tts", ()), *each.get("default", ())))
    return {name for name in names if len(name) > 1 and name.isalpha()}


if __name__ == "__main__":
    main()
