"""The 49 models of the paper under their former names; `mll_hf.models.known` has them and all others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from mll_hf.models.known import paper_models


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model of the paper, all of whose figures are known; see `mll_hf.models.known.KnownModel`."""

    architecture: str
    tag: str
    repo_id: str
    parameters: int
    gflops: float
    imagenet: float
    image_gflops: float


@cache
def published_models() -> tuple[PublishedModel, ...]:
    """The 49 models in the paper's order."""
    return tuple(
        PublishedModel(
            model.architecture,
            model.tag,
            model.hub_id,
            int(model.parameters or 0),
            float(model.gflops or 0),
            float(model.imagenet or 0),
            float(model.image_gflops or 0),
        )
        for model in paper_models()
    )


def best_published() -> tuple[PublishedModel, ...]:
    """The published models, one entry for each repository: the better one."""
    best: dict[str, PublishedModel] = {}
    for model in published_models():
        if model.repo_id not in best or model.imagenet > best[model.repo_id].imagenet:
            best[model.repo_id] = model
    return tuple(best.values())
