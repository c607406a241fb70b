"""Labels of real models from published figures: recall on every class of ImageNet, ImageNet-Sketch and ImageNet-R.

ImageNet's classes are WordNet synsets, so these three columns make a label on the graph of ImageNet's classes and their
hypernyms, in three domains (photo, sketch, rendition). The published table has no:

- Number of images per class: 50, 51 and 150, the means of the three datasets, are used.
- Number of rivals that beat an unrecognized image: these images are spread evenly over the first four bins of ranks
  (1, 2 to 3, 4 to 7, 8 to 15).
- Identity of these rivals: strategy `paper` estimates its Eq. 5 from ranks alone.
- Recall among 1,000 classes on ImageNet-R: its recall is among 200 classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from known_models.figures import imagenet_synsets
from mll_hf.labels.counts import RANK_BINS
from mll_hf.labels.label import UNPINNED, Cost, Environment, Label, ModelRef
from mll_hf.models.published import PUBLISHED, published_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from known_models.figures import ClassRecalls

SOURCES = {"imagenet-1k": 50, "imagenet-sketch": 51, "imagenet-r": 150}  # images per class
DOMAINS = ("photo", "sketch", "rendition")  # of these
_LOST_BINS = 4
_MAX_IMAGES = 60_000


def labels_from_recalls(recalls: ClassRecalls, prompts: str) -> tuple[Label, ...]:
    """Labels of a table's models under one prompt set, on the published graph; hypernyms pool images of hyponyms."""
    graph, synsets = published_graph(), imagenet_synsets()
    ranks = np.zeros((len(recalls.models), len(SOURCES), len(graph), RANK_BINS), np.float32)  # exact below 2^24
    for s, (dataset, n_images) in enumerate(SOURCES.items()):
        _, recall = recalls.of(dataset, prompts)
        hits = np.rint(recall * n_images).astype(np.int64)
        ranks[:, s, [graph.index[id] for id in synsets[dataset]]] = _spread_ranks(hits, n_images)
    shown = np.flatnonzero(ranks.any(axis=(0, 1, 3)))  # the classes
    below = np.eye(len(graph), dtype=np.float32)
    for v, descendants in enumerate(graph.descendants):
        below[v, descendants] = 1
    pooled = np.tensordot(below[:, shown], ranks[:, :, shown, : 1 + _LOST_BINS], axes=(1, 2))
    pooled = np.moveaxis(pooled, 0, 2).astype(np.float64)
    pooled = np.pad(np.rint(pooled), [(0, 0)] * 3 + [(0, RANK_BINS - 1 - _LOST_BINS)])  # [M, S, V, RANK_BINS]
    domain_ranks = pooled.sum(axis=2)
    share = np.minimum(1, _MAX_IMAGES / np.maximum(pooled.sum(axis=(1, 3)), 1))  # the format counts up to 65,535
    pooled = np.floor(pooled * share[:, None, :, None])
    return tuple(
        Label(
            model=ModelRef(model.hub_id or model.name, UNPINNED, model.backend),
            cost=Cost(int(model.parameters or 0), float(model.image_gflops or 0)),
            graph_name=graph.name,
            graph_digest=graph.digest,
            graph_location=PUBLISHED,
            probes_digest=prompts,
            probes_location=recalls.source,
            images_per_concept=sum(SOURCES.values()),
            domain_names=DOMAINS,
            package_version="",
            environment=Environment("", "", "", "", ""),
            license=model.license,
            ranks=pooled[m].sum(axis=0).astype(np.uint16),
            domain_ranks=domain_ranks[m].astype(np.int32),
            temperature=np.ones(1, np.float32),
            domain_hits=pooled[m, :, :, 0].astype(np.uint16),
            domain_support=pooled[m].sum(axis=2).astype(np.uint16),
        )
        for m, model in enumerate(recalls.models)
    )


def _spread_ranks(hits: NDArray[np.int64], n_images: int) -> NDArray[np.int64]:
    """[..., RANK_BINS] ranks of images: ``hits`` [...] were recognized, the others are spread over four bins."""
    ranks = np.zeros((*hits.shape, RANK_BINS), np.int64)
    ranks[..., 0] = hits
    for position in range(_LOST_BINS):
        ranks[..., 1 + position] = (n_images - hits + position) // _LOST_BINS
    return ranks
