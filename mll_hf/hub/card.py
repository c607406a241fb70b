"""Cards of models, collections and graphs. The texts are templates in ``data``.

Names in graphs and labels are untrusted: everything that Markdown, HTML or YAML would interpret is escaped. A README is
edited as text, and every byte that is not ours is kept. Loading and dumping front matter, as
``huggingface_hub.ModelCard`` does, drops comments and turns ``language: [no]`` into false. An edit that would change
anything else of the metadata is refused.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]
from huggingface_hub import DatasetCardData

from mll_hf.errors import CardError
from mll_hf.labels.summary import SUMMARY_PATH
from mll_hf.utils.text import abridged, escaped, one_line, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import Label

LABEL_TAG = "mll-label"
COLLECTION_TAG = "mll-labels"
GRAPH_TAG = "mll-graph"
IMAGES_TAG = "mll-probe-images"
METADATA_KEY = "mll"
LABEL_PATH = "mll/label.safetensors"  # in a model's own repo
_MAX_NAME_LENGTH = 200
_WORDNET = (
    "Names and glosses of the concepts are from WordNet 3.0, copyright 2006 by Princeton University, under the WordNet "
    "license."
)
_NEEDED = "They are needed only to measure models: labels can be read, compared and used without access to them."
_SYNSET = re.compile(r"n\d{8}", re.ASCII)
_FRONT = re.compile(r"(\ufeff?\s*---[ \t]*\r?\n)((?:.*?\n)??)(---[ \t]*(?:\r?\n|\Z))", re.DOTALL)
_OPENING = re.compile(r"\ufeff?\s*---[ \t]*(?:[\r\n]|\Z)")
_BETWEEN = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\r?\n)+\Z")  # the end of a line, and blank lines and comments after it
_INVALID = (yaml.YAMLError, ValueError, OverflowError, RecursionError)  # the last three: numbers, dates, nesting


def graph_tag(digest: str) -> str:
    """The tag of all repos that belong to a graph, by which the Hub finds them."""
    return f"mll-graph-{digest[:12]}"


def add_label(readme: str, label: Label, path: str = LABEL_PATH) -> str:
    """Add a label, at ``path`` in the repo, to a model's card: two tags, an entry of the metadata, and a section.

    Replaces those of an earlier label on the same graph and keeps every other byte of the README, which may be empty.
    Idempotent. A CardError if the card cannot be edited safely.
    """
    short = label.graph_digest[:12]
    lines = _filled(  # no link to the paper: the Hub would tag the model with it
        "label",
        graph=_shown(label.graph_name),
        digest=short,
        location=_shown(label.graph_location),
        concepts=f"{label.n_tested:,}",
        path=path,
        images=f"{_shown(label.probes_name)} (`{label.probes_digest[:12]}`)",
        domains=_shown(abridged(label.domain_names, 10)),
        revision=label.model.revision[:12],
        recall=f"{label.mean_recall:.1%} ± {label.mean_recall_margin:.1%}",
        repo_id=label.model.repo_id,
        owner=label.model.repo_id.partition("/")[0],
    )
    entries = _parse(_split(readme)[1]).get(METADATA_KEY) or {}
    if not isinstance(entries, dict):
        raise CardError(f"the card's '{METADATA_KEY}' was written by others; give it another name")
    entry = {"file": path, "concepts": label.n_tested, "recall": round(label.mean_recall, 4)}
    entries = dict(sorted({**{str(key): each for key, each in entries.items()}, short: entry}.items()))
    readme = edit_metadata(readme, [LABEL_TAG, graph_tag(label.graph_digest)], {METADATA_KEY: entries})
    return put_section(readme, f"mll-label-{short}", lines)


def _shown(text: str) -> str:
    return escaped(printable(text)[:_MAX_NAME_LENGTH])


def _filled(template: str, **values: str) -> list[str]:
    """The lines of a section."""
    text = resources.files("mll_hf.hub").joinpath("data", f"{template}.md").read_text(encoding="utf-8")
    return Template(text).substitute(values).rstrip("\n").split("\n")


def collection_card(repo_id: str, readme: str = "") -> str:
    """The README of a dataset repo of labels; the Hub's viewer shows its summary. Errors as in :func:`put_section`."""
    lines = _filled("collection", source=f"hf://datasets/{repo_id}")
    configs = [{"config_name": "default", "data_files": SUMMARY_PATH}]
    return _dataset_card(readme, COLLECTION_TAG, [], "Model labels", lines, license="apache-2.0", configs=configs)


def graph_card(repo_id: str, graph: SemanticGraph, readme: str = "") -> str:
    """The README of a dataset repo of a graph; says where its images are. Errors as in :func:`put_section`."""
    is_wordnet = all(_SYNSET.fullmatch(concept.id) for concept in graph.concepts)
    terms = {"license": "other", "license_name": "wordnet"} if is_wordnet else {}
    images = ""
    if probes := graph.probes:
        where = f"in {_shown(probes.location)}" if probes.location else "not on the Hub"
        facts = f"{_shown(abridged(list(probes.by_domain), 10))}; digest `{probes.digest[:12]}`"
        images = f"The {probes.total:,} probe images ({facts}) are {where}. {_NEEDED}\n\n"
    lines = _filled(
        "graph",
        concepts=f"{len(graph):,}",
        digest=graph.digest[:12],
        source=f"hf://datasets/{repo_id}",
        images=images,
        terms=_WORDNET if is_wordnet else "",
    )
    title = f"{graph.name}: visual concepts"
    return _dataset_card(readme, GRAPH_TAG, [graph_tag(graph.digest)], title, lines, viewer=False, **terms)


def images_card(graph: SemanticGraph, graph_repo: str, readme: str = "", own: str = "") -> str:
    """The README of a dataset repo with the probe images of a graph. Errors as in :func:`put_section`.

    ``own`` is the README in the folder of the images, with its metadata: a new card has the metadata, and its text is
    our section.
    """
    head, front, fence, text = _split(own)
    lines = text.strip().splitlines() or _filled("images", graph=graph_repo)
    if front and not readme.strip():
        return put_section(f"{head}{front}{fence}", IMAGES_TAG, lines)
    files = [{"config_name": "default", "data_files": [{"split": "test", "path": "images*.parquet"}]}]
    title = f"{graph.name}: probe images"
    return _dataset_card(readme, IMAGES_TAG, [graph_tag(graph.digest)], title, lines, configs=files)


def _dataset_card(readme: str, tag: str, tags: list[str], title: str, lines: Sequence[str], **fields: Any) -> str:  # noqa: ANN401
    """A README with our section; an empty one gets metadata, for the Hub and its viewer, and a title."""
    if not readme.strip():
        metadata = DatasetCardData(pretty_name=title, tags=[tag, *tags], **fields)
        readme = f"---\n{metadata.to_yaml()}\n---\n\n# {escaped(title)}\n"
    return put_section(readme, tag, lines)


# --- a README as text -------------------------------------------------------------------------------------------------


def edit_metadata(readme: str, tags: Sequence[str], fields: Mapping[str, Any]) -> str:
    """Put those tags first that a README lacks, and set fields, each on one line; None removes a field.

    The README may be empty. A CardError if it cannot be edited safely.
    """
    head, front, fence, body = _split(readme)
    old, end = _parse(front), _line_break(readme)
    present = old.get("tags") or []
    if not isinstance(present, list):
        raise CardError("the card's tags are not a list; write them as a list")
    missing = [tag for tag in tags if tag not in present]
    expected = {**old, "tags": [*missing, *present], **fields}
    expected = {key: value for key, value in expected.items() if value is not None or key not in fields}
    with contextlib.suppress(CardError, TypeError, *_INVALID):  # dates are no JSON
        edited = _with_tags(front, missing, end)
        for key, value in fields.items():
            edited = _with_field(edited, key, value, end)
        if yaml.safe_dump(_parse(edited)) == yaml.safe_dump(expected):  # as text, since 1 == True and nan != nan
            return head + edited + fence + body
    raise CardError(f"the card cannot be edited safely; set by hand: {', '.join(['tags', *fields])}")


def _with_tags(front: str, tags: Sequence[str], end: str) -> str:
    _, node = _field(front, "tags")
    if not tags:
        return front
    at, flow = node.start_mark.index if node else len(front), ", ".join(tags)
    if node is None:
        new = end.join(["tags:", *(f"- {tag}" for tag in tags), ""])
    elif not isinstance(node, yaml.SequenceNode):
        new = f" [{flow}]"
    elif node.flow_style:
        at, new = at + 1, f"{flow}, " if node.value else flow
    else:
        new = "".join(f"- {tag}{end}{' ' * node.start_mark.column}" for tag in tags)
    return front[:at] + new + front[at:]


def _with_field(front: str, key: str, value: object, end: str) -> str:
    first, node = _field(front, key)
    line = "" if value is None else f"{key}: {json.dumps(value, ensure_ascii=False)}"
    if isinstance(value, str):
        line = yaml.safe_dump({key: value}, allow_unicode=True, width=math.inf).strip()
    if node is None:
        return front + line + end if line else front
    before, after = front[: first.start_mark.index], front[node.end_mark.index :]
    last = _BETWEEN.search(front[: node.end_mark.index])  # a list or mapping ends where the next field begins
    after = (last[0] if last and getattr(node, "flow_style", None) is False else "") + after
    return before + (line + after if line else after.partition("\n")[2])


def _field(front: str, key: str) -> tuple[Any, Any]:
    """Key and value of a field as nodes of the YAML, which know where they are; None for both if there is none."""
    fields = yaml.compose(front, Loader=yaml.SafeLoader).value if _parse(front) else []
    return next((field for field in fields if field[0].value == key), (None, None))


def put_section(readme: str, name: str, lines: Sequence[str]) -> str:
    """Write a section into a README, between two comments: in place of an earlier one of this name, else at the end."""
    end, start_mark, end_mark = _line_break(readme), f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    section = end.join([start_mark, *lines, end_mark])
    start, stop = readme.find(start_mark), readme.find(end_mark)
    if start == stop == -1:
        return readme + (end if readme.endswith("\n") or not readme else 2 * end) + section + end
    if (readme.count(start_mark), readme.count(end_mark)) != (1, 1) or stop < start:
        raise CardError(f"the card's comments {start_mark} and {end_mark} do not match; remove them")
    return readme[:start] + section + readme[stop + len(end_mark) :]


def _split(readme: str) -> tuple[str, str, str, str]:
    """A README as opening dashes, front matter, closing dashes and body; without front matter, an empty one."""
    if found := _FRONT.match(readme):
        return found[1], found[2], found[3], readme[found.end() :]
    if _OPENING.match(readme):
        raise CardError("the card begins with '---' but its front matter is not closed; add a line of just '---'")
    end = _line_break(readme)
    mark = readme[: readme.startswith("\ufeff")]
    return f"{mark}---{end}", "", f"---{end}", readme[len(mark) :]


def _line_break(readme: str) -> str:
    return "\r\n" if re.match(r"[^\n]*\r\n", readme) else "\n"


def _parse(front: str) -> dict[Any, Any]:
    try:
        data = yaml.safe_load(front)
    except _INVALID as error:
        raise CardError(f"the card's front matter is not valid YAML ({one_line(error)}); correct it first") from None
    if data is not None and not isinstance(data, dict):
        raise CardError("the card's front matter is not a mapping; write lines such as 'license: mit'")
    return data or {}
