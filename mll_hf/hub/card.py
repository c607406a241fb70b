"""Cards of models, collections and graphs. The texts are templates in ``data``.

Names in graphs and labels are untrusted: everything that Markdown, HTML or YAML would interpret is escaped.
"""

from __future__ import annotations

import re
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCardData

from mll_hf.hub.readme import add_tags, put_entry, put_section, split_card
from mll_hf.labels.summary import SUMMARY_PATH
from mll_hf.utils.package import library_in_markdown
from mll_hf.utils.text import abridged, escaped, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        library=library_in_markdown(),
        repo_id=label.model.repo_id,
        owner=label.model.repo_id.partition("/")[0],
    )
    tagged = add_tags(readme, [LABEL_TAG, graph_tag(label.graph_digest)])
    entry = {"file": path, "concepts": label.n_tested, "recall": round(label.mean_recall, 4)}
    return put_section(put_entry(tagged, METADATA_KEY, short, entry), f"mll-label-{short}", lines)


def _shown(text: str) -> str:
    return escaped(printable(text)[:_MAX_NAME_LENGTH])


def _filled(template: str, **values: str) -> list[str]:
    """The lines of a section."""
    text = resources.files("mll_hf.hub").joinpath("data", f"{template}.md").read_text(encoding="utf-8")
    return Template(text).substitute(values).rstrip("\n").split("\n")


def collection_card(repo_id: str, readme: str = "") -> str:
    """The README of a dataset repo of labels; the Hub's viewer shows its summary. Errors as in :func:`put_section`."""
    lines = _filled("collection", library=library_in_markdown(), source=f"hf://datasets/{repo_id}")
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
    metadata, text = split_card(own)
    lines = text.strip().splitlines() or _filled("images", graph=graph_repo)
    if metadata and not readme.strip():
        return put_section(metadata, IMAGES_TAG, lines)
    files = [{"config_name": "default", "data_files": [{"split": "test", "path": "images*.parquet"}]}]
    title = f"{graph.name}: probe images"
    return _dataset_card(readme, IMAGES_TAG, [graph_tag(graph.digest)], title, lines, configs=files)


def _dataset_card(readme: str, tag: str, tags: list[str], title: str, lines: Sequence[str], **fields: Any) -> str:  # noqa: ANN401
    """A README with our section; an empty one gets metadata, for the Hub and its viewer, and a title."""
    if not readme.strip():
        metadata = DatasetCardData(pretty_name=title, tags=[tag, *tags], **fields)
        readme = f"---\n{metadata.to_yaml()}\n---\n\n# {escaped(title)}\n"
    return put_section(readme, tag, lines)
