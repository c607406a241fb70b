"""The 49 models of the paper, with the figures that were published for them.

Sources: the choice of models and their order are those of Tan et al., "Vision-Language Model Selection and Reuse for
Downstream Adaptation", ICML 2025 (arXiv 2501.18271), Table 6. Parameters, GFLOPs and accuracies stand there and in
open_clip's ``docs/openclip_results.csv`` (commit 89fb801), which agree on all of them; repository ids are those of the
table of pretrained models in open_clip 3.3. GFLOPs of the image tower are from open_clip's ``docs/model_profile.csv``;
it lacks ``ViT-H-14-378-quickgelu`` and ``nllb-clip-base-siglip``, whose towers were counted with
:func:`mll_hf.models.torch_model.count_flops`. That function reproduces all the others.

The 49 entries are 47 repositories. ``openai`` and ``yfcc15m`` stand under ``RN101`` and ``RN101-quickgelu`` alike: the
same weights with another activation. The two ``openai`` entries were one network when they were measured, equal on all
data sets. The weights of ``RN101/yfcc15m`` and ``RN50/cc12m`` were trained with QuickGELU, and the published accuracies
are with plain GELU: 0.8 and 0.6 points below those that open_clip has for the ``quickgelu`` architectures.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """One of the paper's models.

    Attributes:
        architecture: Name of the architecture in open_clip.
        tag: Name of the pretrained weights in open_clip.
        repo_id: Repository on the Hub that open_clip loads the weights from; two repositories have two entries each.
        parameters: Number of parameters of both towers (of CoCa also its caption decoder), rounded to 10,000.
        gflops: Floating-point operations in 10^9 as published; a multiply-add counts as two. They are of one image
            *and* one text as long as the text tower takes (77 tokens; 514 for RoBERTa, 1,024 for NLLB), for CoCa also
            of the caption decoder. Not to be compared with the cost of a label.
        imagenet: Zero-shot top-1 accuracy on ImageNet as published, between 0 and 1.
        image_gflops: The image tower's part of ``gflops``, in the same unit; this is what a label's
            :class:`~mll_hf.labels.label.Cost` counts. The part is anything from 2 to 98 percent, so no factor converts.
    """

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
    table = resources.files("mll_hf.models").joinpath("data", "published_models.csv").read_text(encoding="utf-8")
    return tuple(
        PublishedModel(
            architecture=row["architecture"],
            tag=row["tag"],
            repo_id=row["repo_id"],
            parameters=int(row["parameters"]),
            gflops=float(row["gflops"]),
            imagenet=float(row["imagenet"]),
            image_gflops=float(row["image_gflops"]),
        )
        for row in csv.DictReader(table.splitlines())
    )


def best_published() -> tuple[PublishedModel, ...]:
    """The published models, one entry for each repository: the better one."""
    best: dict[str, PublishedModel] = {}
    for model in published_models():
        if model.repo_id not in best or model.imagenet > best[model.repo_id].imagenet:
            best[model.repo_id] = model
    return tuple(best.values())
