"""What is known about a graph's images once they are gathered: the file ``build.json``, and the card. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import yaml  # type: ignore[import-untyped]

from mll_hf.errors import InputError
from mll_hf.harvest.gathering import HarvestConfig, Tally
from mll_hf.hub.card import graph_tag
from mll_hf.utils.text import markdown_table

if TYPE_CHECKING:
    from collections.abc import Sequence

BUILD_FILE = "build.json"
SPLIT = "test"
TEXT_COLUMNS = ("node", "style", "source", "image_id")
_SOURCE_HEADER = (
    "source", "data set", "commit", "domain", "images taken", "concepts", "images seen", "without a concept here",
    "undecodable",
)  # fmt: skip
_SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """What a source gave.

    Attributes:
        name: The source.
        repo_id: Its dataset repo.
        revision: The commit.
        domain: How its images look.
        license: What they may be used for.
        is_gated: Whether one must accept terms before the Hub gives it.
        images: How many of its images were taken.
        concepts: How many concepts have any of them.
        tally: What was met on the way.
    """

    name: str
    repo_id: str
    revision: str
    domain: str
    license: str
    is_gated: bool
    images: int
    concepts: int
    tally: Tally


@dataclass(frozen=True, slots=True)
class Build:
    """A graph with its images, as it was built.

    Attributes:
        key: Digest of all that decided the images.
        graph_name: The graph.
        graph_digest: Its digest.
        concepts: How many concepts it has.
        concepts_with_images: How many have images filed under them.
        concepts_tested: How many have images filed under them, or under what is below them.
        config: How many images were kept, and how.
        sources: One for each source.
        files: The image files.
        bytes: Their size.
    """

    key: str
    graph_name: str
    graph_digest: str
    concepts: int
    concepts_with_images: int
    concepts_tested: int
    config: HarvestConfig
    sources: tuple[SourceRecord, ...]
    files: tuple[str, ...]
    bytes: int

    @property
    def images(self) -> int:
        """How many images there are."""
        return sum(source.images for source in self.sources)

    @property
    def is_gated(self) -> bool:
        """Whether images come from a source that is gated."""
        return any(source.is_gated and source.images for source in self.sources)


def build_to_bytes(build: Build) -> bytes:
    """The file ``build.json``; :func:`build_from_bytes` gives the same build back."""
    return (json.dumps(asdict(build), indent=1, ensure_ascii=False) + "\n").encode()


def build_from_bytes(content: bytes) -> Build:
    """Read the file ``build.json``.

    Raises:
        InputError: It is not one.
    """
    try:
        document = json.loads(content)
        sources = tuple(SourceRecord(**{**source, "tally": Tally(**source["tally"])}) for source in document["sources"])
        config, files = HarvestConfig(**document["config"]), tuple(document["files"])
        return Build(**{**document, "sources": sources, "config": config, "files": files})
    except (ValueError, LookupError, TypeError, RecursionError):
        raise InputError(f"{BUILD_FILE} is not of this version of mll_hf; choose an empty folder") from None


def dataset_card(build: Build) -> str:
    """The ``README.md`` of a dataset repo that holds a graph and its images."""
    metadata = yaml.safe_dump(_metadata(build), sort_keys=False, allow_unicode=True, width=10_000)
    return "\n".join([f"---\n{metadata}---", "", *_text(build), ""])


def _metadata(build: Build) -> dict[str, Any]:
    size = next((f"n<{most // 1000}K" if most == _SIZES[0] else f"{_short(most // 10)}<n<{_short(most)}"
                 for most in _SIZES if build.images < most), "n>10M")  # fmt: skip
    return {
        "pretty_name": f"{build.graph_name}: concepts and probe images",
        "license": "other",
        "license_name": "licenses-of-the-sources",
        "license_link": "README.md#licenses",
        "task_categories": ["zero-shot-image-classification"],
        "size_categories": [size],
        "tags": ["mll-graph", graph_tag(build.graph_digest), "wordnet"],
        "source_datasets": [source.repo_id for source in build.sources],
        "dataset_info": {
            "features": [
                {"name": "image", "dtype": "image"},
                *({"name": name, "dtype": "string"} for name in TEXT_COLUMNS),
            ],
            "splits": [{"name": SPLIT, "num_bytes": build.bytes, "num_examples": build.images}],
            "download_size": build.bytes,
            "dataset_size": build.bytes,
        },
        "configs": [{"config_name": "default", "data_files": [{"split": SPLIT, "path": "images-*.parquet"}]}],
    }


def _short(number: int) -> str:
    return f"{number // 1_000_000}M" if number >= 1_000_000 else f"{number // 1000}K"


def _text(build: Build) -> Sequence[str]:
    config = build.config
    of_sources = [
        [f"{source.name}", f"[{source.repo_id}](https://huggingface.co/datasets/{source.repo_id})",
         f"`{source.revision[:12]}`", source.domain, f"{source.images:,}", f"{source.concepts:,}",
         f"{source.tally.seen:,}", f"{source.tally.outside:,}", f"{source.tally.undecodable:,}"]
        for source in build.sources
    ]  # fmt: skip
    domains = sorted({source.domain for source in build.sources})
    of_domains = [[domain, f"{sum(s.images for s in build.sources if s.domain == domain):,}"] for domain in domains]
    untouched = "All"
    if config.max_side:
        untouched = f"Images with a side over {config.max_side} pixels were made smaller; all others"
    return [
        f"# {build.graph_name}: visual concepts, and images that test them",
        "",
        f"`graph.json`: {build.concepts:,} concepts of WordNet 3.0 with their hypernyms (digest "
        f"`{build.graph_digest}`). {build.images:,} images in {len(build.files)} files: {build.concepts_with_images:,} "
        f"concepts have images of their own, {build.concepts_tested:,} with those of what is below them. `mll_hf` "
        "labels vision-language models on it:",
        "",
        "```bash",
        "mll-hf label MODEL --graph hf://datasets/THIS/REPO",
        "```",
        "",
        "| column | meaning |",
        "| --- | --- |",
        "| `image` | the picture |",
        "| `node` | WordNet 3.0 id of the concept it is filed under; it is a picture of everything above that, too |",
        "| `style` | its domain |",
        "| `source` | the data set that it is from |",
        "| `image_id` | the start of the sha256 of the picture as its data set has it |",
        "",
        "## Where the images are from",
        "",
        *markdown_table(_SOURCE_HEADER, ["---"] * 4 + ["---:"] * 5, of_sources),
        "",
        *markdown_table(["domain", "images"], ["---", "---:"], of_domains),
        "",
        f"Every concept has at most {config.images_per_concept} images of its own, the sources in turn, those of each "
        f"source by a number that is drawn from the picture and the seed {config.seed}. {untouched} are as they "
        "were encoded. `build.json` says the same to programs.",
        "",
        "## Licenses",
        "",
        "The images keep the licenses of their sources; whoever uses them has to follow these. Names and glosses of "
        "the concepts are from WordNet 3.0, copyright 2006 by Princeton University, under the WordNet license.",
        "",
        *(f"- {source.name}: {source.license}" + (" (gated)" if source.is_gated else "") for source in build.sources),
    ]
