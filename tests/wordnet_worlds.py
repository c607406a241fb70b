"""A miniature WordNet of our own in WordNet's format: a folder with data.noun."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LICENSE = "  1 Not the license of WordNet: these lines were written for a test.\n  2\n"


def noun_line(
    wnid: str, words: Sequence[str], gloss: str, above: Sequence[str], instance_of: Sequence[str] = ()
) -> str:
    """A line of data.noun; pointers to parts and derived verbs are strewn in, as WordNet has them."""
    pointers = [f"@ {h[1:]} n 0000" for h in above] + [f"@i {h[1:]} n 0000" for h in instance_of]
    pointers = ["#p 09999999 n 0000", *pointers, "+ 00000099 v 0101"]
    names = " ".join(f"{word} {number:x}" for number, word in enumerate(words))
    return f"{wnid[1:]} 05 n {len(words):02x} {names} {len(pointers):03} {' '.join(pointers)} | {gloss}  \n"


def write_nouns(folder: Path, synsets: Mapping[str, tuple]) -> Path:
    """Write data.noun; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [noun_line(wnid, *fields) for wnid, fields in synsets.items()]
    (folder / "data.noun").write_text(LICENSE + "".join(lines))
    return folder


def imagenet_nouns(names: Mapping[str, Sequence[str]]) -> dict[str, tuple]:
    """Synsets for a list of classes that timm has, under a few that we invent."""
    kinds = [f"n0000000{i}" for i in (2, 3, 4)]
    synsets = {"n00000001": (("thingummy",), "all there is", (), ())}
    synsets |= {kind: ((f"kind_{kind[-1]}",), "one of three", ("n00000001",), ()) for kind in kinds}
    for number, (wnid, of_class) in enumerate(names.items()):
        words = tuple(name.replace(" ", "_") for name in of_class)
        synsets[wnid] = (words, f"class number {number}", (kinds[number % 3],), ())
    return synsets
