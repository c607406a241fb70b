"""Descriptions of classes, for matching them to the concepts of a graph.

Descriptions come from templates and WordNet glosses (:func:`from_templates`), from a user's file
(:func:`from_file`), or from a language model (:func:`from_llm`). They begin like the captions in the paper:
"The {domain} of {class}, which is ...".
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mll_hf.errors import DescribeError, StorageError
from mll_hf.graph.concepts import normalize_lemma
from mll_hf.matching.prompts import clean_class_name
from mll_hf.matching.words import number_variants
from mll_hf.utils.files import asset_path, write_atomically
from mll_hf.utils.text import abridged, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from huggingface_hub import InferenceClient

    from mll_hf.graph.concepts import SemanticGraph

MAX_SENSES = 3
DEFAULT_DOMAIN = "photo"
PROMPT_VERSION = 1  # part of every cache key: increase it when the wording of llm_prompt changes
_TIMEOUT = 60.0  # seconds for one answer
_ATTEMPTS = 5
_BACKOFF = 1.0  # seconds before the second attempt; doubled before each further one
_MAX_WAIT = 60.0  # seconds; limits the server's Retry-After
_MAX_REQUESTS = 4  # concurrent requests

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Description:
    """Description of a class.

    Attributes:
        class_name: The class as named by the user.
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

    Args:
        classes: C class names.
        graph: The graph with the glosses.
        domain: How the images look, for example "photo" or "satellite image".
        task: What is recognized, for example "traffic sign recognition".
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

    A key matches a class if both are equal after :func:`clean_class_name`, apart from case. Other keys are ignored.

    Raises:
        DescribeError: The file cannot be read, or classes are missing or have no usable text; the message lists all
            of them.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DescribeError(f"cannot read descriptions from {path} ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise DescribeError(f"{path}: is not valid JSON ({error}); correct the file") from None
    if not isinstance(content, dict):
        raise DescribeError(f'{path}: is not a JSON object; write {{"class": "description", ...}}')
    by_words = {clean_class_name(key).casefold(): value for key, value in content.items()}
    texts: dict[str, tuple[str, ...]] = {}
    missing, unusable = [], []
    for name in classes:
        value = content.get(name, by_words.get(clean_class_name(name).casefold()))
        if value is None:
            missing.append(name)
        elif found := _texts(value):
            texts[name] = found
        else:
            unusable.append(name)
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


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A chat model on Hugging Face Inference Providers or any OpenAI-compatible server.

    Attributes:
        model: Model id, for example "meta-llama/Llama-3.3-70B-Instruct".
        base_url: Address of an OpenAI-compatible server, for example "http://localhost:8000/v1".
        token: Access token. The default is the saved Hub token, which is never sent to a ``base_url``.
    """

    model: str | None = None
    base_url: str | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.model and not self.base_url:
            raise DescribeError("no language model given; name a model, a base URL, or both")
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            raise DescribeError(f"'{self.base_url}' is not a base URL; start it with http:// or https://")

    def __str__(self) -> str:
        return " at ".join(part for part in (self.model, self.base_url) if part)


def llm_prompt(class_name: str, domain: str | None = None, task: str | None = None) -> str:
    """The prompt that asks a language model to describe one class."""
    use = f" The caption serves {task}." if task else ""
    return (
        f"Describe in one detailed caption what a {domain or DEFAULT_DOMAIN} of the class "
        f"'{clean_class_name(class_name)}' shows.{use} "
        "Say what kind of thing it is and what can be seen of it: shape, parts, colors, texture, usual surroundings. "
        f'Use at most 50 words. Open with "{_opening(class_name, domain)}, which is". Answer with the caption alone.'
    )


def from_llm(
    classes: Sequence[str], domain: str | None, task: str | None, llm: LanguageModel
) -> tuple[Description, ...]:
    """Ask a language model for one caption per class; arguments as for :func:`from_templates`.

    Each answer is cached as soon as it arrives. Requests run concurrently, at temperature 0.

    Raises:
        DescribeError: The model refuses, cannot be reached, or gives no usable answer. Earlier answers stay in the
            cache.
    """
    questions = [_Question(name, _opening(name, domain), llm_prompt(name, domain, task)) for name in classes]
    captions = {question: caption for question in questions if (caption := _cached_caption(llm, question))}
    if new := [question for question in questions if question not in captions]:
        captions |= _ask_all(llm, new)
    return tuple(Description(question.class_name, (captions[question],), "llm") for question in questions)


def tidy_answer(answer: str, opening: str) -> str:
    """Extract the caption from an answer: remove introductions ("Sure! ..."), quotes, reasoning and line breaks.

    ``opening`` is the requested beginning. The caption may be empty.
    """
    text = re.sub(r"<think>.*?(?:</think>|\Z)", "", answer, flags=re.DOTALL).strip()
    found = re.search(rf"[\"“'`*]*{re.escape(opening)}", text, re.IGNORECASE)
    text = text[found.start() :] if found else _CHATTER.sub("", text)
    caption = " ".join(re.split(r"\n\s*\n", text.strip())[0].split())
    quoted = re.match(r"[\"“](.+)[\"”]", caption)
    return (quoted.group(1) if quoted else caption).strip(" \"'`*“”")


# Introductory lines.
_CHATTER = re.compile(r"\A(?:(?:sure|certainly|of course|okay|here)\b[^\n]*[:!]\s*(?:\n\s*|\Z))+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Question:
    class_name: str
    opening: str
    prompt: str


def _ask_all(llm: LanguageModel, questions: Sequence[_Question]) -> dict[_Question, str]:
    from huggingface_hub import InferenceClient
    from huggingface_hub.utils.tqdm import tqdm

    # With an empty token, the client would use the saved Hub token.
    token = llm.token or ("none" if llm.base_url else None)
    client = InferenceClient(llm.base_url or llm.model, token=token, timeout=_TIMEOUT)
    stop, captions = threading.Event(), {}
    with (
        ThreadPoolExecutor(_MAX_REQUESTS) as pool,
        tqdm(total=len(questions), desc="Describing classes", name="mll_hf.matching.describe", disable=None) as bar,  # type: ignore[no-untyped-call]
    ):
        asked = {pool.submit(_ask, client, llm, question, stop): question for question in questions}
        try:
            for future in as_completed(asked):
                captions[asked[future]] = future.result()
                bar.update()
        finally:  # after a failure or Ctrl+C: finish running requests, do not start or retry others
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    return captions


def _ask(client: InferenceClient, llm: LanguageModel, question: _Question, stop: threading.Event) -> str:
    """Request one caption and cache it; retry if the server is busy (429), fails (5xx) or times out."""
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    for attempt in range(_ATTEMPTS):
        try:
            answer = _complete(client, llm.model, question.prompt)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            reason, remedy, wait = _diagnose(error)
            if wait is None or attempt + 1 == _ATTEMPTS or stop.wait(max(_BACKOFF * 2**attempt, wait)):
                break
        else:
            if caption := tidy_answer(answer, question.opening):
                _cache_caption(llm, question, caption)
                return caption
            reason, remedy = "the answer is empty", "try another model"
            break
    raise DescribeError(
        f"language model {llm}: {reason}, for class '{question.class_name}'; {remedy}, then run again (earlier answers "
        "are cached)"
    )


def _complete(client: InferenceClient, model: str | None, prompt: str) -> str:
    """One chat completion; a ValueError if the server returns anything else."""
    output = client.chat_completion([{"role": "user", "content": prompt}], model=model, temperature=0.0)
    choices = output.choices
    if not isinstance(choices, list) or not choices:
        raise ValueError("the answer is not a chat completion")
    content = getattr(getattr(choices[0], "message", None), "content", None)
    return content if isinstance(content, str) else ""


def _diagnose(error: Exception) -> tuple[str, str, float | None]:
    """The reason of a failure, a remedy, and the minimum seconds before a retry; None if a retry is useless."""
    from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    match error:
        case InferenceTimeoutError() | httpx.TimeoutException():
            return "no answer in time", "allow more time or try later", 0.0
        case HfHubHTTPError():
            status, message = error.response.status_code, error.server_message
            reason = f"HTTP {status}" + (f" ({one_line(message)})" if message else "")
            if status in (401, 402, 403):
                return reason, "check the token and its permissions", None
            if status in (408, 425, 429) or status >= 500:
                wait = error.response.headers.get("retry-after", "")
                return reason, "try later", min(float(wait), _MAX_WAIT) if wait.isdecimal() else 0.0
            return reason, "check the model id and the base URL", None
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set", "unset it", None
        case httpx.ConnectError():
            return "cannot connect", "check the base URL and that the server runs", None
        case httpx.TransportError():
            return f"connection failed ({type(error).__name__})", "try later", 0.0
        case _:
            return one_line(error), "check model, base URL and token", None


def _cached_caption(llm: LanguageModel, question: _Question) -> str | None:
    try:
        cached = json.loads(_cache_file(llm, question).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not cached, or a damaged file
        return None
    caption = cached.get("caption") if isinstance(cached, dict) else None
    return caption if isinstance(caption, str) and caption else None


def _cache_caption(llm: LanguageModel, question: _Question, caption: str) -> None:
    content = {"model": llm.model, "class": question.class_name, "prompt": question.prompt, "caption": caption}
    try:
        text = json.dumps(content, ensure_ascii=False, indent=1)
        write_atomically(_cache_file(llm, question), text.encode())
    except StorageError as error:  # the answer can still be used
        logger.warning("cannot cache a description: %s", error)


def _cache_file(llm: LanguageModel, question: _Question) -> Path:
    key = json.dumps([llm.model, llm.base_url, PROMPT_VERSION, question.prompt])
    return asset_path("descriptions", f"{hashlib.sha256(key.encode()).hexdigest()}.json")
