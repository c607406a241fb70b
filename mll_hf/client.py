"""The Python interface: choose models for class names, and load them for prediction."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mll_hf.ensemble.embedding import EmbeddingCache
from mll_hf.ensemble.trial import try_models
from mll_hf.errors import HubError, InputError, MissingExtraError, ModelError, NoLabelsError
from mll_hf.graph.concepts import GraphUnion
from mll_hf.labels.join import JoinedLabels
from mll_hf.labels.label import UNPINNED
from mll_hf.matching import describe
from mll_hf.matching.concept_index import ConceptIndex
from mll_hf.matching.lint import lint
from mll_hf.matching.text_encoder import CachedEncoder, DefaultEncoder
from mll_hf.models.known import ids_of, known_models, spec_of, usable_models
from mll_hf.models.published import DEFAULT_LABELS, PUBLISHED, open_labels, published_graph, split_location
from mll_hf.selection import STRATEGIES, Candidates, SelectionConfig, Task, select, shortlist_config
from mll_hf.selection.candidates import unmatched
from mll_hf.selection.comparison import IMAGENET_CLASSES, comparable_to_published
from mll_hf.selection.select import mention_claims
from mll_hf.selection.strategies import configured
from mll_hf.utils.reach import hub_error, is_cached, why_unreachable
from mll_hf.utils.text import abridged, listed_reasons

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from mll_hf.ensemble.run import Ensemble, ImageLike
    from mll_hf.graph.concepts import SemanticGraph
    from mll_hf.labels.label import ModelRef, ProbeEmbeddings
    from mll_hf.labels.store import LabelStore
    from mll_hf.matching.describe import Description
    from mll_hf.matching.text_encoder import TextEncoder
    from mll_hf.models.known import KnownModel
    from mll_hf.selection import Selection
    from mll_hf.selection.budget import TrialPlan
    from mll_hf.utils.examples import Example

_MOST_REPLACED = 3  # choices from names alone with models that the Hub does not give
_log = logging.getLogger(__name__)


class Client:
    """Choose models by their labels, and load them.

    Example:
        >>> client = Client()
        >>> selection = client.select(["corroded pipe", "intact pipe", "weld"], max_parameters="500M")
        >>> client.load(selection).predict(["a.jpg", "b.jpg"]).classes
        ('weld', 'intact pipe')

    Args:
        labels: Source of labels: ``hub`` for all tagged models on the Hub, ``hf://datasets/org/name[@revision]`` for a
            collection, a local folder, or ``published`` for published figures. With the suffix ``,published`` a source
            is joined with published figures, which are then used alone if it has no labels.
        graph: Folder or dataset of the reference graph, if the source has labels on several graphs; by default
            ``$MLL_GRAPH``, if there are labels on it.
        trust: Users and organizations, besides those in ``$MLL_TRUST``, whose labels in their models' repos are ranked.
        token: Hub token, for labels and models; None for the token of the logged-in user.
        encoder: Text encoder for matching classes to concepts; by default all-MiniLM-L6-v2 with a cache on disk.
        device: Device of the chosen models: ``cuda``, ``mps`` or ``cpu``; by default the best available one.
    """

    def __init__(
        self,
        labels: str | Path = DEFAULT_LABELS,
        *,
        graph: str | Path | None = None,
        trust: Sequence[str] = (),
        token: str | None = None,
        encoder: TextEncoder | None = None,
        device: str | None = None,
    ) -> None:
        self._location, self._with_published = split_location(labels)
        self._graph, self._trust = graph, tuple(trust)
        self._token = token
        self._encoder = encoder
        self._device = device
        self._unreachable = False  # set if the Hub could not be reached for labels

    @cached_property
    def source(self) -> LabelStore:
        """The source of the labels."""
        return open_labels(self._location, self._graph, self._token, self._trust)

    @cached_property
    def labels(self) -> JoinedLabels:
        """The labels of the source, joined; of no model if there are none and published figures are used.

        Raises:
            InputError: There are no labels, or none on the requested graph or probe images.
            HubError: The labels cannot be read, and published figures were not requested.
        """
        none = JoinedLabels(GraphUnion.of([published_graph()]), ())
        if self._location == PUBLISHED:
            return none
        try:
            is_default = self._location == split_location(DEFAULT_LABELS)[0]
            if is_default and (reason := why_unreachable()):
                raise HubError(str(self._location), reason)
            if not self.source.labels():
                if is_default and self._with_published:
                    return none  # as usual; the answer says that it rests on published figures
                instead = f"; to use published figures: --labels {self._location},{PUBLISHED}"
                raise NoLabelsError(f"{self.source.name} has no labels{'' if self._with_published else instead}")
            from mll_hf.hub.sources import join_source  # slow import, 0.25 s

            joined = join_source(self.source, self._graph, self._token)
        except (HubError, NoLabelsError) as error:
            if not self._with_published:
                raise
            _log.warning("only published figures are used: %s", error)
            self._unreachable = isinstance(error, HubError)
            return none
        reference = joined.union.graphs[0]
        if self._with_published and not comparable_to_published(joined) and not self._can_replace_imagenet(reference):
            _log.warning(
                "left out: %s on graph %s: none of these models has a published ImageNet accuracy, which is needed to "
                "compare them with others; name a graph of at least 1,000 concepts with --graph, or use only these "
                "labels: --labels %s",
                abridged([model.repo_id for model in joined.models], 3), reference.name, self._location,
            )  # fmt: skip
            return none
        return joined

    @cached_property
    def known_models(self) -> tuple[KnownModel, ...]:
        """Known models without a label, if published figures are used."""
        if self._location != PUBLISHED and not self._with_published:
            return ()
        labeled = {model.repo_id for model in self.labels.models}
        return tuple(model for model in usable_models() if not labeled & ids_of(model.hub_id))

    @cached_property
    def index(self) -> ConceptIndex:
        """The concepts of all graphs, embedded for matching."""
        return ConceptIndex.build(self.labels.union.graph, self._encoder or CachedEncoder(DefaultEncoder()))

    def _can_replace_imagenet(self, graph: SemanticGraph) -> bool:
        """Whether recall on a graph may replace ImageNet accuracy: it is large, and given by the user or default."""
        if len(graph) < IMAGENET_CLASSES:
            return False
        if self._graph is not None:
            return True
        from mll_hf.hub.locations import fetch_default_graph

        default = fetch_default_graph(self._token)
        return default is not None and default.digest == graph.digest

    def select(
        self,
        classes: Sequence[str] | Mapping[int, str],
        config: SelectionConfig | None = None,
        *,
        domain: str | None = None,
        task: str | None = None,
        descriptions: Sequence[Description] | None = None,
        **options: object,
    ) -> Selection:
        """Choose models for a list of classes by their names. No model is downloaded or run.

        If ``licenses`` are given, licenses are read from labels, and confirmed by the Hub for the chosen models with a
        small request each.

        Args:
            classes: Class names, or names by number like ``id2label`` of transformers; at least one, all different.
            config: Strategy, k, limits and licenses.
            domain: Style of the images ("photo", "sketch", "satellite image").
            task: Purpose ("traffic sign recognition").
            descriptions: Descriptions of the classes, in their order; by default from templates and glosses.
            **options: Fields of :class:`SelectionConfig`, which override those of ``config``: ``k=3``,
                ``max_parameters="500M"``, ``licenses=["mit"]``.

        Raises:
            InputError: The classes are empty or repeated, or no model is within the limits or has an allowed license.
            LabelError: A label in a folder is damaged or of another graph.
            HubError: The labels cannot be read, or no label names a license and the Hub cannot be reached.
            MissingExtraError: The text encoder is not installed.
        """
        config = configured(config or SelectionConfig(), options)
        given = Task.of(classes, domain=domain, task=task, descriptions=descriptions)
        return self._from_names(given, config)

    def fit(
        self,
        classes: Sequence[str] | Mapping[int, str],
        images: Sequence[ImageLike] = (),
        config: SelectionConfig | None = None,
        *,
        examples: Sequence[Example] = (),
        domain: str | None = None,
        task: str | None = None,
        shares: str | Mapping[str, float] | Sequence[float] | None = None,
        descriptions: Sequence[Description] | None = None,
        approve: Callable[[TrialPlan], bool] | None = None,
        cache: str | Path | None = None,
        **options: object,
    ) -> Selection:
        """Choose models for a list of classes, fit them to images of the task, and say how good they are.

        Models are tried on the images one by one: the two with the highest expected gain, then those with the highest
        expected gain per gigabyte, until no other is likely to be better or ``max_download`` is reached. All are fitted
        together. Only examples make the accuracy known, by cross-validation.

        Args:
            classes: As for :meth:`select`; ``config``, ``domain``, ``task``, ``descriptions`` and ``options`` too.
            images: Unlabeled images of the task (paths, encoded bytes or PIL images); 256 are good.
            config: See :meth:`select`.
            examples: Random images with class names; 25 are useful. At least 10 images in total are required.
            domain: See :meth:`select`.
            task: See :meth:`select`.
            shares: Class shares among the images by name, or ``equal``; by default estimated.
            descriptions: See :meth:`select`.
            approve: Called with the plan of the trial before anything is downloaded; returns False to decline it.
            cache: Folder that keeps embeddings of the images, so that fitting again with more examples is fast.
            **options: See :meth:`select`.

        Raises:
            InputError: There are too few images, or a reason of :meth:`select`, whose other errors are raised, too.
            ModelError: No model can be tried.
        """
        config = configured(config or SelectionConfig(), options)
        given = Task.of(
            classes, domain=domain, task=task, shares=shares, descriptions=descriptions, images=images,
            examples=examples, most_images=config.most_images,
        )  # fmt: skip
        if not given.has_images:
            raise InputError("there are no images to fit to; give images or examples, or use select")
        ensemble, kept = self.load(self.shortlist(given, config)), EmbeddingCache(Path(cache)) if cache else None
        selection = try_models(ensemble, config, given, approve=approve, cache=kept)
        return selection if config.licenses else self._with_licenses(selection, config)[0]

    def shortlist(self, task: Task, config: SelectionConfig) -> Selection:
        """The models to try on the task's images, those made for its domain or language first. Raises like select.

        Where the Hub cannot be reached, of known models those that are in the local cache, if there are any.
        """
        ids = {model.hub_id for model in known_models() if model.hub_id} if hub_error() else set[str]()
        absent = {id for id in ids if not is_cached(id)}
        if not absent.issuperset(model.hub_id for model in self.known_models):
            config = replace(config, without=config.without | absent)
        return self._from_names(task, shortlist_config(config), for_trial=True)

    def _from_names(self, task: Task, config: SelectionConfig, for_trial: bool = False) -> Selection:
        """Choose without images, and confirm the licenses of the chosen models with the Hub, since labels are claims.

        Models that the Hub does not give, or whose license it refutes if the user asked for one, are left out, and the
        next ones are chosen. For a trial, licenses that do not matter are not confirmed.
        """
        candidates = self._candidates(task, config)
        if len(candidates.labels):
            mention_claims(self.source, candidates, config)

        first: Selection | None = None
        for _ in range(1 + _MOST_REPLACED):
            selection, refused = self._pinned(select(candidates, config, task.task, for_trial=for_trial))
            if for_trial:
                refused = []  # others are tried
            if not refused and (config.licenses or not for_trial):
                selection, refused = self._with_licenses(selection, config)
            first = first or selection
            if not refused or len(refused) == len(selection.models):
                break
            config = replace(config, without=config.without.union(refused))
        if refused and config.licenses:
            names = abridged(refused, 5)
            raise InputError(f"the Hub does not confirm the licenses that the labels of {names} claim; leave them out")
        return first if refused and first else selection

    def _candidates(self, task: Task, config: SelectionConfig) -> Candidates:
        """The models to choose from, and the concepts of the classes; says what may be wrong with their names."""
        for line in lint(task.classes, self.labels.union.graph):
            _log.warning(line)
        labels, as_in_paper, match = self.labels, STRATEGIES[config.strategy].as_in_paper, unmatched(task.classes)
        embeddings: tuple[ProbeEmbeddings, ...] = ()
        try:
            known = task.descriptions
            texts = known or describe.from_templates(task.classes, labels.union.graph, task.domain, task.task)
            match = self.index.match_captions(texts) if as_in_paper else self.index.match(texts)
        except MissingExtraError as error:
            if as_in_paper or len(labels):
                raise
            _log.warning("models are compared only by ImageNet accuracy, regardless of the class names: %s", error)
        if as_in_paper and len(labels):
            embeddings = labels.embeddings(self.source.embeddings_of)
            labels = labels if embeddings else labels.read_rivals(self.source.rivals_of)
        return Candidates(labels, match, task.domain, embeddings, self.known_models)

    def load(
        self,
        selection: Selection,
        templates: str | Sequence[str] | None = None,
        *,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        batch_size: int | None = None,
    ) -> Ensemble:
        """Create an ensemble of the chosen models for prediction.

        Models are fetched and loaded when first used, and stay loaded while memory allows.

        Args:
            selection: From :meth:`select` or :meth:`Selection.from_json`.
            templates: Prompt templates with one ``{}`` each; by default those for the selection's domain and task.
            device: Device of the models; by default that of the client.
            dtype: Precision of the image towers: ``float32``, ``float16`` or ``bfloat16``; by default half on CUDA
                and float32 elsewhere.
            batch_size: Images per batch; by default chosen to keep the device busy.

        Raises:
            InputError: A number is below 1, or a template has no place for the class.
        """
        from mll_hf.ensemble.run import Ensemble, for_names

        if templates:
            selection = for_names(selection, templates=(templates,) if isinstance(templates, str) else tuple(templates))
        return Ensemble(
            selection,
            device or self._device,
            token=self._token,
            dtype=None if dtype is None else str(dtype).removeprefix("torch."),
            batch_size=batch_size,
        )

    def _with_licenses(self, selection: Selection, config: SelectionConfig) -> tuple[Selection, list[str]]:
        """The selection with the Hub's licenses of the chosen models, and the ids of those that are not allowed.

        Labels in a local folder are trusted unless licenses are asked for, and all labels if the Hub cannot be reached.
        """
        models, refuted = list(selection.models), dict[str, str]()
        chosen = {m: models[m].ref.repo_id for m in selection.chosen_models if not models[m].ref.is_local}
        is_trusted = not (self.known_models or config.licenses) and self.source.is_local
        if self._unreachable or not chosen or is_trusted:
            return selection, []
        from mll_hf.hub.repos import licenses_of  # slow import

        try:
            licenses = licenses_of(list(chosen.values()), self._token)
        except HubError as error:
            log = _log.warning if config.licenses else _log.info
            log("the licenses of the chosen models are from their labels and not confirmed: %s", error)
            return selection, []
        for m, id in chosen.items():
            model, found = models[m], licenses.get(id)
            if config.licenses and found not in config.licenses:
                refuted[id] = f"{model.name} ({found or 'unknown'}, not {model.license})"
            elif model.license and found and found != model.license:
                message = "the Hub reports another license for %s (%s) than its label or published figures (%s)"
                _log.warning(message, model.name, found, model.license)
            models[m] = replace(model, license=found or model.license)
        if refuted:
            _log.warning("left out because of another license on the Hub: %s", abridged(list(refuted.values()), 5))
        return replace(selection, models=tuple(models)), list(refuted)

    def _pinned(self, selection: Selection) -> tuple[Selection, list[str]]:
        """Resolve chosen models without a label to a commit, with one request each.

        Also returns the ids of those that the Hub does not give: missing, gated, or not to be loaded.
        """
        from mll_hf.hub.connection import is_final, map_parallel  # slow imports
        from mll_hf.models.source import check_access, resolve_model

        def resolved(id: str) -> ModelRef | ModelError:
            if reason := why_unreachable(id):
                return ModelError(id, reason)
            try:
                ref = resolve_model(spec_of(id), self._token)
                check_access(ref, self._token)
                return ref
            except ModelError as error:
                return error

        models = list(selection.models)
        unpinned = [m for m in selection.chosen_models if models[m].ref.revision == UNPINNED]
        failed: dict[str, ModelError] = {}
        for m, found in zip(unpinned, map_parallel(resolved, [models[m].ref.repo_id for m in unpinned]), strict=True):
            if isinstance(found, ModelError):
                failed[models[m].ref.repo_id] = found
            else:
                models[m] = replace(models[m], ref=found)
        refused = [id for id, error in failed.items() if is_final(error.__cause__) and not why_unreachable(id)]
        if refused:
            _log.warning("cannot be used: %s", listed_reasons([failed[id] for id in refused]))
        if unreached := [error for id, error in failed.items() if id not in refused]:
            more = f" (and {len(unreached) - 1} more)" if len(unreached) > 1 else ""
            _log.warning("to load the choice, select again online: %s%s", unreached[0], more)
        return replace(selection, models=tuple(models)), refused
