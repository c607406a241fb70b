"""Descriptions of classes, for matching them to the concepts of a graph.

Descriptions come from templates and WordNet glosses (:func:`from_templates`), from a user's file
(:func:`from_file`), or from a language model (:func:`from_llm`). They begin like the captions in the paper:
"The {domain} of {class}, which is ...".
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mll_hf.errors import DescribeError
from mll_hf.graph.concepts import normalize_lemma
from mll_hf.matching.prompts import clean_class_name
from mll_hf.matching.words import number_variants
from mll_hf.utils.text import abridged, normalized_name, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mll_hf.graph.concepts import SemanticGraph

MAX_SENSES = 3
DEFAULT_DOMAIN = "photo"
_TIMEOUT = 60.0  # seconds for one answer
_MAX_REQUESTS = 4  # concurrent requests


@dataclass(frozen=True, slots=True)
class Description:
    """Description of a class.

    Attributes:
        texts: One or more texts; their embeddings are averaged.
        source: Origin of the texts: "gloss", "template", "file" or "llm".
    """

    class_name: str
    texts: tuple[str, ...]
    source: str


# ---------------------------------------------------------------------------------------------- templates and glosses


def from_templates(
    classes: Sequence[str], graph: SemanticGraph, domain: str | None = None, task: str | None = None
) -> tuple[Description, ...]:
    """Describe classes with the glosses of concepts of the same name.

    A class with several senses gets one text per sense, at most :data:`MAX_SENSES`. A class without a concept of its
    name gets two texts: the template with domain and task, and the name. With the template alone, MiniLM tends toward
    photography: among 400 concepts without glosses, it ranked 75 % first, compared to 95 % with both texts.
    """
    descriptions = []
    for class_name in classes:
        opening, name = _opening(class_name, domain), clean_class_name(class_name)
        glosses = [graph.concepts[v].definition for v in _senses(name, graph)]
        if texts := tuple(f"{opening}, which is {gloss}" for gloss in glosses if gloss):
            descriptions.append(Description(class_name, texts, "gloss"))
        else:
            texts = (f"{opening}, in {task}" if task else opening, name)
            descriptions.append(Description(class_name, texts, "template"))
    return tuple(descriptions)


def _opening(class_name: str, domain: str | None) -> str:
    domain = domain or DEFAULT_DOMAIN
    kind = f"{domain} image" if domain.lower() in _IMAGE_ADJECTIVES else domain
    return f"The {kind} of {clean_class_name(class_name)}"


_IMAGE_ADJECTIVES = frozenset({"aerial", "infrared", "medical", "satellite", "thermal"})


def _senses(name: str, graph: SemanticGraph) -> tuple[int, ...]:
    """Concepts with the class name or, if there are none, with its head; the most common senses first."""
    for form in _lookup_forms(name):
        found = graph.concepts_named(form)
        if found:
            # A concept whose first lemma is the name is a more common sense than one with the name as a synonym.
            ordered = sorted(found, key=lambda v: normalize_lemma(graph.concepts[v].name) != normalize_lemma(form))
            return tuple(ordered[:MAX_SENSES])
    return ()


def _lookup_forms(name: str) -> Iterator[str]:
    """Names to look up, in order of preference: the name, its last words, the noun before "of", its last word."""
    words = re.sub(r"\s*\([^)]*\)", "", name).split()
    tails = [words[at:] for at in range(len(words))]
    heads = [words[:at] for at, word in enumerate(words) if at and word.lower() in _PREPOSITIONS]
    for form in [*tails[:-1], *(head[-1:] for head in heads[:1]), *tails[-1:]]:
        if len(form) == len(words) or len(form[-1]) > 1:  # the "A" of "letter A" is not a noun
            yield " ".join(form)
            yield from (" ".join([*form[:-1], noun]) for noun in number_variants(form[-1]))


_PREPOSITIONS = frozenset({"of", "with", "without", "in", "on", "at", "for", "from"})


# -------------------------------------------------------------------------------------------------------------- file


def from_file(path: str | Path, classes: Sequence[str]) -> tuple[Description, ...]:
    """Read descriptions from a JSON object: class name -> a text or a list of texts.

    A key matches a class if both are equal after :func:`clean_class_name`, apart from case. Other keys are ignored. A
    DescribeError if the file cannot be read, or names all classes that are missing or have no usable text.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DescribeError(f"cannot read descriptions from {path} ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise DescribeError(f"{path}: is not valid JSON ({error}); correct the file") from None
    if not isinstance(content, dict):
        raise DescribeError(f'{path}: is not a JSON object; write {{"class": "description", ...}}')
    by_words = {clean_class_name(normalized_name(key)).casefold(): value for key, value in content.items()}
    values = {name: content.get(name, by_words.get(clean_class_name(name).casefold())) for name in classes}
    texts = {name: _texts(value) for name, value in values.items()}
    missing = [name for name in classes if values[name] is None]
    unusable = [name for name in classes if values[name] is not None and not texts[name]]
    errors = [f"no description of {_listed(missing)}"] if missing else []
    errors += [f"no text or list of texts for {_listed(unusable)}"] if unusable else []
    if errors:
        raise DescribeError(f"{path}: {'; '.join(errors)}; give each class a text or a list of texts")
    return tuple(Description(name, texts[name], "file") for name in classes)


def _texts(value: object) -> tuple[str, ...]:
    """The texts in a JSON value; empty if anything in it is not a non-empty string."""
    items = value if isinstance(value, list) else [value]
    texts = tuple(" ".join(item.split()) for item in items if isinstance(item, str) and item.strip())
    return texts if len(texts) == len(items) else ()


def _listed(names: Sequence[str]) -> str:
    return abridged([repr(name) for name in names], 10)


# ---------------------------------------------------------------------------------------------------- language model


def from_llm(
    classes: Sequence[str], domain: str | None, task: str | None, model: str | None = None, base_url: str | None = None
) -> tuple[Description, ...]:
    """Ask a chat model for one caption per class, at temperature 0.

    ``model`` is its id on Hugging Face Inference Providers, or its name on an OpenAI-compatible server at ``base_url``,
    for example "http://localhost:8000/v1", to which the saved Hub token is not sent. A DescribeError if the model
    refuses, cannot be reached, or gives no usable answer.
    """
    from huggingface_hub import InferenceClient
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    if not model and not base_url:
        raise DescribeError("no language model given; name a model, a base URL, or both")
    # with an empty token, the client would use the saved one
    client = InferenceClient(base_url or model, token="none" if base_url else None, timeout=_TIMEOUT)

    def ask(name: str) -> Description:
        messages = [{"role": "user", "content": llm_prompt(name, domain, task)}]
        try:
            answer = client.chat_completion(messages, model=model, temperature=0.0).choices[0].message.content
        except (httpx.HTTPError, httpx.InvalidURL, OfflineModeIsEnabled, OSError, LookupError, TypeError,
                AttributeError, ValueError) as error:  # fmt: skip
            reason = f"no description of '{name}' from {model or base_url} ({one_line(error)})"
            raise DescribeError(f"{reason}; check model, base URL and token") from error
        caption = " ".join(re.sub(r"<think>.*?(?:</think>|\Z)", "", answer or "", flags=re.DOTALL).split()).strip("\"'")
        if not caption:
            raise DescribeError(f"an empty description of '{name}' from {model or base_url}; try another model")
        return Description(name, (caption,), "llm")

    with ThreadPoolExecutor(_MAX_REQUESTS) as pool:
        return tuple(pool.map(ask, classes))


def llm_prompt(class_name: str, domain: str | None = None, task: str | None = None) -> str:
    """The prompt that asks a language model to describe one class."""
    use = f" The caption serves {task}." if task else ""
    return (
        f"Describe in one detailed caption what a {domain or DEFAULT_DOMAIN} of the class "
        f"'{clean_class_name(class_name)}' shows.{use} "
        "Say what kind of thing it is and what can be seen of it: shape, parts, colors, texture, usual surroundings. "
        f'Use at most 50 words. Open with "{_opening(class_name, domain)}, which is". Answer with the caption alone.'
    )
