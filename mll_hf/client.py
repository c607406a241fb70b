"""The front door: from class names to models, and from models to predictions."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, cast

import numpy as np

from mll_hf.errors import InputError, MissingExtraError, ModelError
from mll_hf.labels.join import JoinedLabels, join_labels
from mll_hf.labels.label import UNPINNED
from mll_hf.matching import describe
from mll_hf.matching.concept_index import ConceptIndex, embed_names
from mll_hf.matching.prompts import check_class_names
from mll_hf.matching.text_encoder import DEFAULT_MODEL, CachedEncoder, default_encoder
from mll_hf.models import bytes_to_fetch, resolve_model
from mll_hf.models.known import usable_models
from mll_hf.selection import (
    Candidates,
    SelectionConfig,
    Strategy,
    select,
    select_by_imagenet,
    shortlisting,
)
from mll_hf.selection.evidence import check_image_count, trial_sample
from mll_hf.selection.indexed import INDEXED_STRATEGIES, select_indexed
from mll_hf.selection.licenses import choose_allowed
from mll_hf.utils.examples import Examples, check_examples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from mll_hf.ensemble.run import Ensemble, ImageLike
    from mll_hf.hub.sources import LabelSource
    from mll_hf.labels.label import LabelSummary
    from mll_hf.matching.concept_index import ClassMatch
    from mll_hf.matching.describe import Description
    from mll_hf.matching.text_encoder import TextEncoder
    from mll_hf.models.known import KnownModel
    from mll_hf.selection import Selection
    from mll_hf.selection.trial import TrialPlan


_log = logging.getLogger(__name__)


class Client:
    """Choose models by their labels and use them.

    Example:
        >>> client = Client("labels")
        >>> selection = client.select(["corroded pipe", "intact pipe", "weld"], SelectionConfig(k=3))
        >>> client.load(selection).predict(["a.jpg", "b.jpg"]).labels
        ('weld', 'intact pipe')

    Args:
        labels: Source of labels: ``hub`` for all tagged models of the Hub, ``hf://datasets/org/name[@revision]`` for a
            collection, or a local folder.
        graph: Folder or dataset of the reference graph, if the source has labels on several graphs.
        probes: Names or revisions of probe images to prefer, where labels of one graph rest on different ones.
        token: Hub token, for labels and models; by default that of the user's login.
        encoder: Text encoder that matches classes to concepts; by default all-MiniLM-L6-v2 with a cache on disk.
        device: Device of the chosen models: ``cuda``, ``mps`` or ``cpu``; by default the best available one.
    """

    def __init__(
        self,
        labels: str | Path,
        *,
        graph: str | Path | None = None,
        probes: Sequence[str] = (),
        token: str | None = None,
        encoder: TextEncoder | None = None,
        device: str | None = None,
    ) -> None:
        self._location, self._graph, self._probes = labels, graph, tuple(probes)
        self._token = token
        self._encoder = encoder
        self._device = device

    @cached_property
    def source(self) -> LabelSource:
        """The source of the labels."""
        from mll_hf.hub.sources import open_source  # takes a quarter of a second

        return open_source(self._location, self._graph, self._token)

    @cached_property
    def labels(self) -> JoinedLabels:
        """Labels of all models, joined over graphs; labels that are left out are logged as warnings.

        Raises:
            InputError: There are no labels.
        """
        reference = None
        if self._graph is not None:
            from mll_hf.hub.locations import fetch_graph

            reference = fetch_graph(self._graph, self._token).digest
        # an index knows the facts of labels, which is all that the join needs
        listed = cast("tuple[LabelSummary, ...]", self.source.indexed or self.source.list())
        joined = join_labels(listed, self.source.graphs, reference=reference, probes=self._probes)
        for left_out in joined.left_out:
            _log.warning("left out: %s", left_out)
        return joined

    @cached_property
    def index(self) -> ConceptIndex:
        """The concepts of all graphs, embedded for matching."""
        return ConceptIndex.build(self.labels.union.graph, self._text_encoder)

    @cached_property
    def _text_encoder(self) -> TextEncoder:
        return self._encoder or CachedEncoder(default_encoder())

    def select(
        self,
        classes: Sequence[str],
        config: SelectionConfig | None = None,
        *,
        domain: str | None = None,
        task: str | None = None,
        descriptions: Sequence[Description] | None = None,
        images: Sequence[ImageLike] = (),
        examples: Sequence[tuple[ImageLike, str]] = (),
        approve: Callable[[TrialPlan], bool] | None = None,
    ) -> Selection:
        """Choose models for a list of classes.

        Without images no model is downloaded, and none is run. With images of the task, models are tried on them one by
        one, the most promising per gigabyte first, until no other is likely to be better or ``config.max_download`` is
        reached; what they answer decides. The images need no labels; a few examples with their class make the choice
        and the estimated accuracy better. If only some licenses are allowed, those that labels name count, and the Hub
        confirms them for the chosen models: a small request for each.

        Args:
            classes: Class names; at least one, all different.
            config: Strategy, k, caps and licenses.
            domain: How the images look ("photo", "sketch", "satellite image").
            task: What they are for ("traffic sign recognition").
            descriptions: Texts for the classes, in their order; by default made from templates and glosses.
            images: Images of the task (paths, encoded bytes or pictures), without labels; 64 already help, 256 are
                better.
            examples: Images of the task with the name of their class, drawn at random; 25 already help. Images and
                examples together must be at least 16.
            approve: Called with the plan of the trial before anything is downloaded; False declines it.

        Raises:
            InputError: The classes are empty or repeated, no model fits the caps or has an allowed license, or there
                are too few images.
            ModelError: No model can be tried.
            LabelError: A label of a folder is damaged or of another graph.
            HubError: The labels cannot be read, or no label names a license and the Hub cannot be reached.
            MissingExtraError: The text encoder is not installed.
        """
        names, config = check_class_names(classes), config or SelectionConfig()
        trial = shortlisting(config) if images or examples else None
        if config.strategy is Strategy.IMAGENET or not (self.source.indexed or self.source.list()):
            if config.strategy is not Strategy.IMAGENET:
                _log.warning("%s has no labels; choosing by published ImageNet accuracy instead", self.source.name)
            if trial:
                _log.warning("the images are not looked at: without labels there is no shortlist of models to try")
            choose = partial(select_by_imagenet, names, domain=domain, task=task, names=self._embedded(names))
            return self._pinned(self._allowed(choose, dict.fromkeys(m.hub_id for m in usable_models()), config))
        if descriptions is None:
            descriptions = describe.from_templates(names, self.labels.union.graph, domain, task)
        if tuple(d.class_name for d in descriptions) != names:
            raise InputError("the descriptions are not those of the classes; give one for each, in their order")
        if untold := [d.class_name for d in descriptions if not d.texts]:
            raise InputError(f"the description of '{untold[0]}' has no text; give each class at least one")
        if trial is None:
            return self._pinned(self._by_labels(descriptions, config, domain, task))
        known = Examples((), np.empty(0, np.int64))
        if examples:
            known = check_examples([examples[n] for n in trial_sample(len(examples), config.most_images)], names)
        _check_images(images, len(known.images))
        shortlist = self._pinned(self._by_labels(descriptions, trial, domain, task))
        return self._tried(shortlist, config, images, known, approve)

    def _by_labels(
        self, descriptions: Sequence[Description], config: SelectionConfig, domain: str | None, task: str | None
    ) -> Selection:
        """The choice by labels alone."""
        match, labels = self._match(descriptions, config.strategy), self.labels
        choose: Callable[..., Selection] = select
        if self.source.indexed and config.strategy in INDEXED_STRATEGIES:
            choose = partial(select_indexed, fetch=self.source.fetch)
        elif self.source.indexed:
            labels = labels.whole(self.source.fetch)
        embeddings = labels.embeddings(self.source.embeddings_of) if config.strategy is Strategy.PAPER else ()
        if config.strategy is Strategy.PAPER and not embeddings:
            labels = labels.whole(self.source.fetch)
        ids = [model.repo_id for model in labels.models]
        published = _without_label(ids, config)
        candidates = Candidates(labels, match, domain, embeddings, published)
        claims = {label.model.repo_id: label.license for label in labels.reference}
        claims |= dict.fromkeys(model.hub_id for model in published)
        return self._allowed(partial(choose, candidates, task=task), claims, config)

    def _allowed(
        self, choose: Callable[[SelectionConfig], Selection], claims: Mapping[str, str | None], config: SelectionConfig
    ) -> Selection:
        """The choice among models with an allowed license, if the configuration says which are.

        Args:
            choose: Makes a selection by a configuration without licenses.
            claims: Licenses of all models as their labels name them.
            config: What to select.
        """
        if not config.licenses:
            return choose(config)
        from mll_hf.hub.licenses import licenses_of  # as long as for a source

        return choose_allowed(choose, partial(licenses_of, token=self._token), claims, config)

    def _tried(
        self,
        shortlist: Selection,
        config: SelectionConfig,
        images: Sequence[ImageLike],
        examples: Examples,
        approve: Callable[[TrialPlan], bool] | None,
    ) -> Selection:
        """The choice among the shortlisted models after a budgeted trial on a sample of images."""
        from mll_hf.ensemble.trial import try_models
        from mll_hf.hub.connection import together

        models = [shortlist.models[m] for m in shortlist.union]
        sizes = together(lambda model: bytes_to_fetch(model.ref, model.cost.parameters, self._token), models)
        sample = [images[n] for n in trial_sample(len(images), config.most_images)]
        return try_models(self.load(shortlist), config, sample, examples, sizes, approve)

    def load(
        self,
        selection: Selection,
        templates: Sequence[str] | None = None,
        *,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        batch_size: int | None = None,
        keep_loaded: int | None = None,
    ) -> Ensemble:
        """Make the chosen models ready to classify.

        They are fetched and loaded when first used, and stay loaded while memory allows.

        Args:
            selection: From :meth:`select` or :meth:`Selection.from_json`.
            templates: Prompt templates with one ``{}`` each; by default those that fit the selection's domain and task.
            device: Device of the models; by default that of the client.
            dtype: Precision of the image towers: ``float32``, ``float16`` or ``bfloat16``; by default float16 on CUDA
                and float32 elsewhere.
            batch_size: Images per batch; by default what keeps the device busy.
            keep_loaded: Models to keep loaded, at most; by default as many as fit into memory.

        Raises:
            InputError: A number is below 1.
        """
        from mll_hf.ensemble.run import Ensemble

        return Ensemble(
            selection,
            device or self._device,
            tuple(templates) if templates else None,
            token=self._token,
            dtype=None if dtype is None else str(dtype).removeprefix("torch."),
            batch_size=batch_size,
            keep_loaded=keep_loaded,
        )

    def _pinned(self, selection: Selection) -> Selection:
        """The selection with those of its chosen models that no label pins resolved to a commit, a request each."""
        models = list(selection.models)
        for m in selection.union:
            if models[m].ref.revision == UNPINNED:
                try:
                    models[m] = replace(models[m], ref=resolve_model(models[m].ref.repo_id, self._token))
                except ModelError as error:
                    _log.warning("not pinned to a commit, so it cannot be used yet: %s", error)
        return replace(selection, models=tuple(models))

    def _embedded(self, classes: Sequence[str]) -> NDArray[np.float64] | None:
        """[C, E] class names, embedded by the default text encoder; None if another one is used, or it is missing."""
        if not self._text_encoder.id.startswith(DEFAULT_MODEL):
            return None
        try:
            return embed_names(self._text_encoder, classes)
        except MissingExtraError as error:
            _log.warning("estimated accuracies do not look at the class names: %s", error)
            return None

    def _match(self, descriptions: Sequence[Description], strategy: Strategy) -> ClassMatch:
        if strategy is Strategy.PAPER:
            return self.index.match_captions(descriptions)
        return self.index.match(descriptions)


def _without_label(labeled: Iterable[str], config: SelectionConfig) -> tuple[KnownModel, ...]:
    """The published models without a label that may be chosen."""
    if not config.unlabeled:
        return ()
    ids = set(labeled)
    return tuple(model for model in usable_models() if model.hub_id not in ids)


def _check_images(images: Sequence[ImageLike], n_examples: int) -> None:
    """Refuse what a trial would refuse, before a model is fetched for it."""
    if isinstance(images, (str, bytes)):
        raise InputError("one image or folder is no list of images; give a list of paths, bytes or pictures")
    check_image_count(len(images) + n_examples)
