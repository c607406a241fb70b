"""Known models and what others have published about them: sizes, costs, licenses, ImageNet accuracies.

The table is ``data/known_models.csv``, with further columns, such as sources; ``scripts/known_models`` adds models.

Where sources disagree about a model, `KnownModel` shows one figure (``scripts/known_models/figures`` has all of them):

- ImageNet accuracy: open_clip's results first, since they cover most models under one protocol; then those of
  ml-mobileclip (the same protocol), then READMEs and papers, then the mean recall over ImageNet's classes with 80
  templates. MTEB's figures are never shown here: its prompts differ from open_clip's.
- Parameters: open_clip's results and profile first, then our own count with open_clip, then READMEs (rounded), then
  mteb. Our counts match the sizes of files on the Hub; figures from READMEs are up to 31 % lower.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

from mll_hf.labels.label import Cost

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")
_PARSERS: dict[str, Callable[[str], Any]] = {  # by the annotation of a field
    "str": str,
    "float": float,
    "int": int,
    "bool": "yes".__eq__,
    "bool | None": {"yes": True, "no": False}.get,
    "int | None": lambda text: int(text) if text else None,
    "float | None": lambda text: float(text) if text else None,
    "str | None": lambda text: text or None,
    "tuple[str, ...]": lambda text: tuple(filter(None, text.split("|"))),
}
PICKLE_ONLY, NOT_CHECKED = "pickle only", "not checked"
MANY_LANGUAGES = "many"
_AT_REFERENCE = "safetensors at "


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One model. Weights that were published under two architectures or activations count as two models.

    Attributes:
        name: Unique name: ``architecture/tag`` of open_clip, else the Hub id; ``research/...`` if never released.
        hub_id: Repo on the Hub; empty if there is none, or none is known.
        twin: Repo with the same weights in another layout (transformers or the authors' own); may be empty.
        tag: Name of the pretrained weights in open_clip; empty for other libraries.
        backend: Library that loads ``hub_id``: ``open_clip``, ``transformers``, or ``other`` for custom code and
            libraries that we do not use.
        loadable: A Hub repo exists, and open_clip or transformers loads it without custom code, once its weights are in
            safetensors.
        weights: How they come: ``safetensors``, ``safetensors at refs/pr/12`` (only in that pull request, see
            `spec`), ``pickle only`` (never loaded) or ``not checked``.
        gated: Whether the Hub asks to accept conditions first; None if not checked.
        domains: What the model was made for, such as ``dermatology``; empty for general models.
        languages: Codes of the languages of its texts, or ``many`` for more than a hundred.
        parameters: Of both towers (for CoCa also of the caption decoder); None if unknown.
        image_gflops: Floating-point operations in 10^9 of the image tower for one image, as in a label's `Cost`.
        download_bytes: Size of the weights: as the Hub shows it, else parameters times bytes per parameter.
        license: Lower-case id of the Hub; None if unknown.
        imagenet: Zero-shot top-1 accuracy on ImageNet, between 0 and 1; None if not published.
        source: Ids of the sources that name the model, separated by spaces.
    """

    name: str
    hub_id: str
    twin: str
    tag: str
    backend: str
    loadable: bool
    weights: str
    gated: bool | None
    domains: tuple[str, ...]
    languages: tuple[str, ...]
    parameters: int | None
    image_gflops: float | None
    download_bytes: int | None
    license: str | None
    imagenet: float | None
    source: str

    @property
    def cost(self) -> Cost:
        """Cost as in a label; 0 where it is unknown."""
        return Cost(self.parameters or 0, self.image_gflops or 0.0)

    @property
    def spec(self) -> str:
        """What loads it: the repo, with the reference of the pull request that has the weights in safetensors."""
        reference = self.weights.partition(_AT_REFERENCE)[2]
        return f"{self.hub_id}@{reference}" if reference else self.hub_id

    @property
    def accuracy(self) -> float:
        """ImageNet accuracy; NaN if it is not published."""
        return float("nan") if self.imagenet is None else self.imagenet


@cache
def known_models() -> tuple[KnownModel, ...]:
    """All known models, those with open_clip's results first."""
    return records(KnownModel, "known_models.csv")


def usable_models() -> tuple[KnownModel, ...]:
    """The models that can be selected without labels: for each repo, the entry that is best on ImageNet.

    They are general models: those of `loadable_models` whose ImageNet accuracy and cost are known.
    """
    usable = [model for model in loadable_models() if model.imagenet and model.parameters and model.image_gflops]
    best: dict[str, KnownModel] = {}
    for model in usable:
        best[model.hub_id] = max(best.get(model.hub_id, model), model, key=lambda each: each.accuracy)
    return tuple(best.values())


def loadable_models() -> tuple[KnownModel, ...]:
    """The models that open_clip or transformers loads without custom code, unless they come as pickles only."""
    return tuple(model for model in known_models() if model.loadable and model.weights != PICKLE_ONLY)


def ids_of(repo_id: str) -> frozenset[str]:
    """All repos with the same weights as a repo, including itself."""
    same = ({model.hub_id, model.twin} for model in known_models() if repo_id in (model.hub_id, model.twin))
    return frozenset({repo_id}.union(*same) - {""})


def spec_of(repo_id: str) -> str:
    """What loads a repo, see `KnownModel.spec`."""
    return next((model.spec for model in known_models() if model.hub_id == repo_id), repo_id)


def family_of(repo_id: str) -> str:
    """What a model was trained on, as far as the name of its weights says; else its owner."""
    tags = (model.tag for model in known_models() if repo_id in (model.hub_id, model.twin) and model.tag)
    family = re.match("[a-z]+", next(tags, ""))
    return family[0] if family else repo_id.partition("/")[0]


@cache
def typical_imagenet() -> float:
    """Median ImageNet accuracy of the usable models."""
    return median(model.accuracy for model in usable_models())


def imagenet_accuracies() -> dict[str, float]:
    """Published zero-shot accuracy on ImageNet by repo, including twins; the best of several entries."""
    found: dict[str, float] = {}
    for model in known_models():
        for id in (model.hub_id, model.twin):
            if id and model.imagenet is not None:
                found[id] = max(model.imagenet, found.get(id, 0.0))
    return found


def data_file(name: str) -> str:
    """Text of a file that comes with this room."""
    return resources.files("mll_hf.models").joinpath("data", name).read_text(encoding="utf-8")


def records(kind: type[Record], name: str) -> tuple[Record, ...]:
    """A dataclass instance per row of a table; the columns are its fields."""
    parsers = {field.name: _PARSERS[str(field.type)] for field in fields(kind)}
    rows = csv.DictReader(data_file(name).splitlines())
    return tuple(kind(**{name: parse(row[name]) for name, parse in parsers.items()}) for row in rows)
