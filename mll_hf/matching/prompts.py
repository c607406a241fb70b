"""Class names as users write them, and the prompts a vision-language model reads.

A class name is the user's own identifier and is never changed in results; only prompts use its cleaned form.
A prompt template holds one ``{}`` for the class. Where it writes ``a(n)``, the article follows the class; any other
word stands as written, so that :data:`DEFAULT_TEMPLATE` gives the very prompts behind published numbers ("a photo of
a apple.").
"""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from mll_hf.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_NAME_LENGTH = 200
DEFAULT_TEMPLATE = "a photo of a {}."

_NUMBERING = re.compile(r"^\d+(?:\.\s*|_+|\s+-\s+)(?=[^\W\d])")
# Two lower-case letters before the border keep "iPhone" and "McDonald" whole; two after it keep "BMWs" whole.
_CAMEL_BORDER = re.compile(r"(?<=[a-z]{2})(?=[A-Z])|(?<=[A-Z]{2})(?=[A-Z][a-z]{2})")
_CSV_HEADERS = frozenset({"class", "classes", "class_name", "classname", "label", "labels", "name"})
_LIST_SUFFIXES = frozenset({".txt", ".json", ".csv"})
_SHOWN_LENGTH = 30


def clean_class_name(name: str) -> str:
    """Turn an identifier into words: ``001.Black_footed_Albatross`` -> ``Black footed Albatross``.

    Underscores become blanks, the numbering of dataset folders goes ("001.", "12_", "0 - "), and CamelCase is split
    where nothing else separates the words. Plain numbers ("7"), "3d printer" and the case of letters stay.
    """
    words = " ".join(_NUMBERING.sub("", name.strip()).replace("_", " ").split())
    return words if " " in words else _CAMEL_BORDER.sub(" ", words)


def check_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Strip a user's class names and make sure that they are usable and distinct.

    Args:
        names: C class names.

    Returns:
        The C names, stripped, otherwise unchanged, in the same order.

    Raises:
        InputError: The list is empty, or names are empty, too long, no texts, or the same in a prompt (case and
            underscores do not tell classes apart). One line lists all faults.
    """
    if isinstance(names, str):
        raise InputError(f"one text {_show(names)} is no list of class names; put it in a list")
    if len(names) == 0:
        raise InputError("no class names given; name at least one class")
    faults = [f"name {at} is no text ({name!r:.30})" for at, name in enumerate(names, 1) if not isinstance(name, str)]
    stripped = [name.strip() if isinstance(name, str) else "" for name in names]
    faults += [f"name {at} is empty" for at, name in enumerate(names, 1) if isinstance(name, str) and not _key(name)]
    faults += [
        f"{_show(name)} is longer than {MAX_NAME_LENGTH} characters" for name in stripped if len(name) > MAX_NAME_LENGTH
    ]
    faults += _repetitions(stripped)
    if faults:
        raise InputError(f"class names cannot be used: {'; '.join(faults)}; give each class one short name of its own")
    return tuple(stripped)


def parse_class_names(text: str) -> tuple[str, ...]:
    """Read class names from a command-line value: a comma separated list, or the path of a file.

    A name with a comma goes in double quotes. A ``.json`` file holds a list, or an object with a list ``classes``;
    of a ``.csv`` file the first column counts (a heading such as "class" is skipped); any other file has one name per
    line, with blank lines and ``#`` comments skipped.

    Raises:
        InputError: The file is missing or unreadable, quotes are not closed, or :func:`check_class_names` objects.
    """
    path = Path(os.path.expanduser(text)) if "\n" not in text else None
    if path is not None and os.path.isfile(path):  # unlike Path.is_file, never raises on names too long for a path
        try:
            return check_class_names(_read_names(path))
        except (
            OSError,
            ValueError,
            RecursionError,
            csv.Error,
        ) as error:  # JSON and Unicode errors too
            raise InputError(
                f"{text}: {error}" + ("" if isinstance(error, InputError) else "; mend the file")
            ) from None
    if _looks_like_path(text):
        raise InputError(f"there is no file of class names at '{text}'; check the path, or list the names with commas")
    return split_class_names(text)


def split_class_names(text: str) -> tuple[str, ...]:
    """Read class names from a text alone: separated by commas or line breaks, a name with a comma in double quotes.

    No file is ever read, so the text may be a stranger's.

    Raises:
        InputError: Quotes are not closed, or :func:`check_class_names` objects.
    """
    try:
        lines = re.sub(
            r'"[^\S\n]+(?=,|$)', '"', text, flags=re.MULTILINE
        ).splitlines()  # a quote may stand before blanks
        rows = list(csv.reader(lines, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise InputError(f"cannot split the class names {_show(text)} ({error}); close every quote") from None
    return check_class_names([name for row in rows for name in row])


def _read_names(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".json":
        content = json.loads(text)
        names = content.get("classes") if isinstance(content, dict) else content
        if not isinstance(names, list):
            raise InputError('holds no list of class names; write ["a", "b"] or {"classes": ["a", "b"]}')
        return names
    if path.suffix.lower() == ".csv":
        cells = [row[0] for row in csv.reader(text.splitlines()) if row and row[0].strip()]
        return cells[1:] if cells and cells[0].strip().lower() in _CSV_HEADERS else cells
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _looks_like_path(text: str) -> bool:
    if "," in text or "\n" in text:
        return False
    has_folder = re.search(r"[/\\]", text) is not None and not re.search(r"\s", text)
    return has_folder or text.startswith(("~", "./", "../")) or Path(text).suffix.lower() in _LIST_SUFFIXES


def _repetitions(names: Iterable[str]) -> list[str]:
    seen: dict[str, str] = {}
    faults = []
    for name in names:
        key = _key(name)
        if key and key in seen:
            faults.append(f"{_show(name)} repeats {_show(seen[key])}")
        seen.setdefault(key, name)
    return faults


def _key(name: str) -> str:
    return clean_class_name(name).casefold()


def _show(name: str) -> str:
    return repr(name if len(name) <= _SHOWN_LENGTH else name[: _SHOWN_LENGTH - 3] + "...")


# Plain, short wording: ornaments ("pencil sketch", "blurry photo") cost small models accuracy.
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
"""Prompt templates by domain. The first seven domains say how an image was made, the others what it is about."""

_WORDS: Mapping[str, tuple[str, ...]] = {
    "photo": ("photo", "photograph"),
    "sketch": ("sketch", "outline"),
    "drawing": ("drawing", "illustration", "cartoon", "clipart", "clip art", "comic", "line art"),
    "painting": ("painting", "painted", "art", "artwork", "watercolor", "watercolor"),
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
}  # fmt: skip


def templates_for(domain: str | None = None, task: str | None = None) -> tuple[str, ...]:
    """Choose prompt templates by what the images are and what they are for.

    What the images are about (digits, signs, land from above) decides more than how they were made (photo, icon): a
    subject named in ``task`` or else in ``domain`` wins, then a style named in ``domain`` or else in ``task``, then
    photo.

    Args:
        domain: How the images look, for example "satellite image".
        task: What is recognized, for example "handwritten digit recognition".

    Returns:
        Templates, each with exactly one ``{}``; see :func:`fill`.
    """
    look, purpose = domain or "", task or ""
    for text, keys in ((purpose, _SUBJECTS), (look, _SUBJECTS), (look, _STYLES), (purpose, _STYLES)):
        for key in keys:
            if mentions(text, _WORDS[key]):
                return TEMPLATES[key]
    return TEMPLATES["photo"]


def mentions(text: str, words: Iterable[str]) -> bool:
    """Whether a text holds one of some lower-case words or phrases, in whatever case, in the singular or plural."""
    pattern = "|".join(re.escape(word) for word in words)
    return re.search(rf"\b(?:{pattern})(?:s|es)?\b", text.lower()) is not None


def fill(templates: Iterable[str], class_name: str) -> tuple[str, ...]:
    """Write the prompts of one class.

    The class name is cleaned. ``a(n)`` becomes "a" or "an", or goes where the name brings its own article. Words that
    the template and the name share where they meet are said once: "the flag of {}" and "flag of Peru" give "the flag
    of Peru". A plain "a" stays as it is: ``DEFAULT_TEMPLATE`` gives "a photo of a apple.".

    Args:
        templates: Texts with one ``{}`` each.
        class_name: The class as the user named it.

    Returns:
        One prompt per template.

    Raises:
        InputError: A template does not have exactly one ``{}``.
    """
    name = clean_class_name(class_name)
    return tuple(_fill_one(template, name) for template in templates)


def _fill_one(template: str, name: str) -> str:
    if template.count("{}") != 1:
        raise InputError(f"template {template!r} must have exactly one {{}} for the class; correct the template")
    before, after = template.split("{}")
    before = _drop_overlap(before, name)
    after = _drop_overlap(after[::-1], name[::-1])[::-1]
    if "a(n) " in before:
        before = before.replace("a(n) ", _article(before, name))
    return before + name + after


def _drop_overlap(before: str, name: str) -> str:
    """Cut from the end of ``before`` the words that ``name`` starts with; works on reversed texts just as well."""
    words = name.split(" ")
    for count in range(len(words), 0, -1):
        shared = " ".join(words[:count])
        said = re.search(rf"(?<!\w){re.escape(shared)} $", before, re.IGNORECASE)
        if said and shared.lower() not in ("a", "an"):  # a plain "a" stays as written
            return before[: said.start()]
    return before


def _article(before: str, name: str) -> str:
    if re.match(r"(?:an?|the)\s", name, re.IGNORECASE) and before.endswith("a(n) "):
        return ""
    following = (before.split("a(n) ", 1)[1] + name).strip()
    return "an " if _starts_with_vowel_sound(following) else "a "


def _starts_with_vowel_sound(phrase: str) -> bool:
    word = re.split(r"[\s-]", phrase)[0]
    if re.fullmatch(r"[A-Z]{1,4}|[a-z]", word):  # spelled out: an x-ray, an SUV, a USB stick
        return word[0].upper() in "AEFHILMNORSX"
    if re.match(r"8|1[18]\b", word):
        return True
    if re.match(r"(?:eu|ewe|one\b|once\b|uni(?!m|n)|us[ae]|ut[ei]|uk|ura)", word, re.IGNORECASE):
        return False
    return re.match(r"[aeiou]|hour|honest|heir|hono", word, re.IGNORECASE) is not None


def named_domain(names: Sequence[str], domain: str | None) -> int | None:
    """Position of the one domain among some that a text names."""
    named = [s for s, name in enumerate(names) if mentions(domain or "", [name.lower()])]
    return named[0] if len(named) == 1 else None
