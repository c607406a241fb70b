"""Class names, domains, and prompts for vision-language models.

Results show class names as given by the user; only prompts use the cleaned form. A prompt template has one ``{}`` for
the class. ``a(n)`` becomes "an" before a vowel, else "a". All other words are unchanged, so
:data:`DEFAULT_TEMPLATE` gives exactly the prompts of published figures ("a photo of a apple.").
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mll_hf.errors import InputError
from mll_hf.utils.text import abridged, normalized_name

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_NAME_LENGTH = 200
DEFAULT_TEMPLATE = "a photo of a {}."

_NUMBERING = re.compile(r"^\d+(?:\.\s*|_+|\s+-\s+)(?=[^\W\d])")
# Two lower-case letters before the boundary, so as not to split "iPhone" and "McDonald"; two after it, for "BMWs".
_CAMEL_BORDER = re.compile(r"(?<=[a-z]{2})(?=[A-Z])|(?<=[A-Z]{2})(?=[A-Z][a-z]{2})")
_NO_TEXT = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, and bytes that are not UTF-8
_CSV_HEADERS = frozenset({"class", "classes", "class_name", "classname", "label", "labels", "name"})
_LIST_SUFFIXES = frozenset({".txt", ".json", ".csv", ".tsv"})
_BULLET = re.compile(r"^[-*•]\s+|\s*[,;]$")  # and the comma at the end of a line
_SEPARATORS = ";|、，；"  # of class names, besides commas
_SHOWN_LENGTH = 30


def clean_class_name(name: str) -> str:
    """Convert an identifier to words: ``001.Black_footed_Albatross`` -> ``Black footed Albatross``.

    Underscores become spaces, the numbering of dataset folders ("001.", "12_", "0 - ") is removed, and CamelCase is
    split if the name has no spaces. Plain numbers ("7"), "3d printer" and case are unchanged.
    """
    words = " ".join(_NUMBERING.sub("", name.strip()).replace("_", " ").split())
    return words if " " in words else _CAMEL_BORDER.sub(" ", words)


def check_class_names(names: Sequence[str] | Mapping[int, str]) -> tuple[str, ...]:
    """Normalize class names and check that they are usable and distinct; names by number are taken in that order.

    An InputError lists the first ten errors: an empty list, names that are empty, too long, not strings, with control
    characters, or equal apart from case, underscores and their spelling in Unicode.
    """
    if isinstance(names, Mapping):
        names = names_by_number(names) or list(names)  # other mappings: a class per key
    if isinstance(names, str):
        raise InputError(f"{_show(names)} is a single string, not a list of class names; put it in a list")
    if not isinstance(names, Iterable):
        raise InputError(f"{_show(str(names))} is not a list of class names; give a list with at least one")
    names = list(names)
    if not names:
        raise InputError("no class names given; name at least one class")
    errors, seen = list[str](), dict[str, str]()
    for number, given in enumerate(names, 1):
        if not isinstance(given, str):
            errors.append(f"name {number} is not a string ({given!r:.30})")
            continue
        name = normalized_name(given)
        key = clean_class_name(name).casefold()
        if _NO_TEXT.search(given.strip()):
            errors.append(f"{_show(given)} has a character that is not text")
        elif not key:
            errors.append(f"name {number} is empty")
        elif len(name) > MAX_NAME_LENGTH:
            errors.append(f"{_show(name)} is longer than {MAX_NAME_LENGTH} characters")
        elif key in seen:
            reading = "" if key == name.casefold() else f" (both are read as {_show(clean_class_name(name))})"
            errors.append(f"{_show(name)} repeats {_show(seen[key])}{reading}")
        else:
            seen[key] = name
    if errors:
        problem = abridged(errors, 10, "; ")
        raise InputError(f"class names cannot be used: {problem}; give each class a short, distinct name")
    return tuple(seen.values())


def names_by_number(names: Mapping[Any, Any]) -> list[Any]:
    """Names by number, like ``id2label`` of transformers, in that order; none if a key is not a number."""
    if not all(str(number).isdecimal() for number in names):
        return []
    return [names[number] for number in sorted(names, key=lambda number: int(str(number)))]


def parse_class_names(text: str) -> tuple[str, ...]:
    """Read class names from a command-line value: a list, also in JSON, or the path of a file.

    A name with a comma must be in double quotes. A ``.json`` file contains a list, names by number like ``id2label``
    of transformers, or an object with either as ``classes``. Of a ``.csv`` or ``.tsv`` file, the column with a header
    such as "class" is read, else the first one. Any other file has one name per line, or one line that is a list; blank
    lines, ``#`` comments and bullets are skipped. An InputError if the file is missing or unreadable, quotes are not
    closed, or :func:`check_class_names` fails.
    """
    path = Path(os.path.expanduser(text)) if "\n" not in text else None
    if path is not None and os.path.isfile(path):  # unlike Path.is_file, does not raise if the path is too long
        try:
            return check_class_names(_read_names(path))
        except InputError as error:
            raise InputError(f"{text}: {error}") from None
        except UnicodeDecodeError:
            raise InputError(f"{text}: this is not text in UTF-8; save it as such") from None
        except (OSError, ValueError, RecursionError, csv.Error) as error:  # ValueError: JSON errors
            raise InputError(f"{text}: {error}; correct the file") from None
    if text.lstrip().startswith(("[", "{")):
        try:
            return check_class_names(_names_in_json(text))
        except InputError:
            raise
        except (ValueError, RecursionError) as error:
            raise InputError(f"the class names are no valid JSON ({error}); list them with commas") from None
    if _looks_like_path(text):
        raise InputError(f"there is no file of class names at '{text}'; check the path, or list the names with commas")
    return split_class_names(text)


def split_class_names(text: str) -> tuple[str, ...]:
    """Parse class names separated by commas or line breaks; a name with a comma must be in double quotes.

    Semicolons, bars and Asian commas separate, too. No file is read, so this is safe for untrusted input. An InputError
    if quotes are not closed, or :func:`check_class_names` fails.
    """
    try:
        # strict CSV allows no space after a quote
        spaced = re.sub(rf'"[^\S\n]+(?=[,{_SEPARATORS}]|$)', '"', text, flags=re.MULTILINE)
        mark = next((mark for mark in _SEPARATORS if mark in re.sub('"[^"]*"', "", text)), ",")
        rows = list(csv.reader(spaced.splitlines(), delimiter=mark, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise InputError(f"cannot split the class names {_show(text)} ({error}); close every quote") from None
    return check_class_names([name for row in rows for name in row])


def _read_names(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".json" or text.lstrip().startswith(("[", "{")):
        return _names_in_json(text)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _names_in_table(text)
    lines = [line.strip() for line in text.splitlines()]
    names = [_BULLET.sub("", line) for line in lines if line and not line.startswith("#")]
    return list(split_class_names(names[0])) if len(names) == 1 else names


def _names_in_table(text: str) -> list[str]:
    mark = max(",;\t", key=text.partition("\n")[0].count)
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=mark) if any(row)]
    header = [cell.strip().lower() in _CSV_HEADERS for cell in rows[0]] if rows else []
    column = header.index(True) if any(header) else 0
    return [row[column] for row in rows[any(header) :] if len(row) > column and row[column].strip()]


def _names_in_json(text: str) -> list[str]:
    content = json.loads(text)
    names = content.get("classes", content) if isinstance(content, dict) else content
    names = names_by_number(names) if isinstance(names, dict) else names
    if not isinstance(names, list) or not names:
        raise InputError('has no list of class names; write ["a", "b"], {"0": "a", "1": "b"} or {"classes": [...]}')
    return names


def _looks_like_path(text: str) -> bool:
    if "," in text or "\n" in text:
        return False
    has_folder = re.search(r"[/\\]", text) is not None and not re.search(r"\s", text)
    return has_folder or text.startswith(("~", "./", "../")) or Path(text).suffix.lower() in _LIST_SUFFIXES


def _show(name: str) -> str:
    return repr(name if len(name) <= _SHOWN_LENGTH else name[: _SHOWN_LENGTH - 3] + "...")


# Short, plain wording: adjectives ("pencil sketch", "blurry photo") lower the accuracy of small models.
_STYLES: Mapping[str, tuple[str, ...]] = {
    "photo": ("a photo of a(n) {}.", "a photo of one {}.", "a close-up photo of a(n) {}.", "a picture of a(n) {}."),
    "sketch": ("a sketch of a(n) {}.", "a drawing of a(n) {}.", "a line drawing of a(n) {}."),
    "drawing": ("a drawing of a(n) {}.", "an illustration of a(n) {}.", "a cartoon of a(n) {}."),
    "painting": ("a painting of a(n) {}.", "an oil painting of a(n) {}.", "a painted picture of a(n) {}."),
    "icon": ("an icon of a(n) {}.", "a symbol of a(n) {}.", "a pictogram of a(n) {}."),
    "emoji": ("an emoji of a(n) {}.", "the {} emoji.", "an icon of a(n) {}."),
    "render": ("a render of a(n) {}.", "a 3d model of a(n) {}.", "a computer-generated image of a(n) {}."),
}
_SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "texture": ("a photo of a(n) {} texture.", "a(n) {} texture.", "a(n) {} surface."),
    "satellite": ("a satellite image of a(n) {}.", "an aerial photo of a(n) {}.", "a satellite photo of a(n) {}."),
    "digit": ("a handwritten digit {}.", "an image of the digit {}.", "a photo of the digit {}."),
    "letter": ("the letter {}.", "an image of the letter {}.", "a photo of the letter {}."),
    "sign": ("a photo of a(n) {} sign.", "an image of a(n) {} sign.", "a(n) {} traffic sign."),
    "flag": ("the flag of {}.", "a photo of the flag of {}.", "an icon of the flag of {}."),
    "medical": ("a medical image of {}.", "a medical image that shows {}.", "a scan of {}."),
    "screenshot": ("a screenshot of a(n) {}.", "a screenshot that shows a(n) {}.", "a picture of a(n) {} on a screen."),
    "face": ("a photo of a(n) {} face.", "a photo of a(n) {} looking person.", "a portrait of a(n) {} person."),
}

TEMPLATES: Mapping[str, tuple[str, ...]] = MappingProxyType({**_STYLES, **_SUBJECTS})
"""Prompt templates by domain. The first seven domains are styles of images, the others are subjects."""

DOMAIN_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "photo": ("photo", "photograph"),
    "sketch": ("sketch", "outline"),
    "drawing": ("drawing", "illustration", "cartoon", "clipart", "clip art", "comic", "line art"),
    "painting": ("painting", "painted", "art", "artwork", "watercolor", "watercolour"),
    "icon": ("icon", "pictogram", "symbol", "logo"),
    "emoji": ("emoji", "emoticon", "smiley"),
    "render": ("render", "rendering", "rendered", "3d", "cgi", "synthetic", "simulated"),
    "texture": ("texture", "textured", "material", "surface", "pattern", "fabric"),
    "satellite": ("satellite", "aerial", "remote sensing", "overhead", "land use", "land cover"),
    "digit": ("digit", "number", "numeral"),
    "letter": ("letter", "character", "alphabet", "glyph", "font"),
    "sign": ("traffic sign", "road sign", "street sign", "sign recognition", "signage"),
    "flag": ("flag",),
    "medical": ("medical", "histopathology", "pathology", "histology", "x-ray", "xray", "mri", "ct", "ultrasound",
                "endoscopy", "dermatology", "dermoscopy", "retina", "fundus", "microscopy", "clinical"),
    "screenshot": ("screenshot", "screen", "user interface", "gui", "web page"),
    "face": ("face", "facial", "expression", "emotion", "portrait"),
})  # fmt: skip
"""Words that name each domain of :data:`TEMPLATES`, in lower case."""


def templates_for(domain: str | None = None, task: str | None = None) -> tuple[str, ...]:
    """Choose prompt templates for how the images look ("satellite image") and what is recognized ("traffic signs").

    Subjects (digits, signs, land from above) matter more than styles (photo, icon). In order of preference: a subject
    in ``task``, a subject in ``domain``, a style in ``domain``, a style in ``task``, photo.
    """
    look, purpose = domain or "", task or ""
    for text, keys in ((purpose, _SUBJECTS), (look, _SUBJECTS), (look, _STYLES), (purpose, _STYLES)):
        for key in keys:
            if mentions(text, DOMAIN_WORDS[key]):
                return TEMPLATES[key]
    return TEMPLATES["photo"]


def named_domain(names: Sequence[str], domain: str | None) -> int | None:
    """Position of the domain in ``names`` that a user's text mentions ("photograph"), by name or else by synonym.

    None if the text mentions no domain in ``names``, or several.
    """
    exact = [{name.lower()} for name in names]
    known = [{key, *words} for key, words in DOMAIN_WORDS.items()]
    synonyms = [set[str]().union(*(words for words in known if words & name)) for name in exact]
    for words_of in (exact, synonyms):
        mentioned = [s for s, words in enumerate(words_of) if words and mentions(domain or "", words)]
        if mentioned:
            return mentioned[0] if len(mentioned) == 1 else None
    return None


def mentions(text: str, words: Iterable[str]) -> bool:
    """Whether a text contains any of the lower-case words or phrases, singular or plural, ignoring case."""
    pattern = "|".join(re.escape(word) for word in words)
    return re.search(rf"\b(?:{pattern})(?:s|es)?\b", text.lower()) is not None


def fill(templates: Iterable[str], class_name: str) -> tuple[str, ...]:
    """Write the prompts of one class, one per template, which has exactly one ``{}``, or raise an InputError.

    The class name is cleaned. ``a(n)`` becomes "an" before a vowel, else "a"; it is removed if the name has an article.
    Words directly before ``{}`` that also start the name are not repeated: "the flag of {}" and "flag of Peru" give
    "the flag of Peru". A plain "a" is not changed: ``DEFAULT_TEMPLATE`` gives "a photo of a apple.".
    """
    name = clean_class_name(class_name)
    return tuple(_fill_one(template, name) for template in templates)


def _fill_one(template: str, name: str) -> str:
    if template.count("{}") != 1:
        raise InputError(f"template {template!r} must have exactly one {{}} for the class; correct the template")
    before, after = template.split("{}")
    before = _drop_overlap(before, name)
    after = _drop_overlap(after[::-1], name[::-1])[::-1]
    if before.endswith("a(n) ") and re.match(r"(?:an?|the)\s", name, re.IGNORECASE):
        before = before.replace("a(n) ", "")  # the name has its own article
    elif "a(n) " in before:
        following = before.split("a(n) ", 1)[1] + name
        before = before.replace("a(n) ", "an " if following[0].lower() in "aeiou" else "a ")
    return before + name + after


def _drop_overlap(before: str, name: str) -> str:
    """Remove the words at the end of ``before`` that ``name`` starts with; also works on reversed texts."""
    words = name.split(" ")
    for count in range(len(words), 0, -1):
        shared = " ".join(words[:count])
        found = re.search(rf"(?<!\w){re.escape(shared)} $", before, re.IGNORECASE)
        if found and shared.lower() not in ("a", "an"):  # a plain "a" is not changed
            return before[: found.start()]
    return before
