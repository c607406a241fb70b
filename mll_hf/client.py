"""The front door: from class names to models, and from models to predictions."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mll_hf import describe
from mll_hf.errors import InputError
from mll_hf.matching import ConceptIndex
from mll_hf.prompts import check_class_names
from mll_hf.selection import Candidates, SelectionConfig, Strategy, select
from mll_hf.store import LabelStore
from mll_hf.text_encoder import CachedEncoder, default_encoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mll_hf.describe import Description
    from mll_hf.embeddings import ProbeEmbeddings
    from mll_hf.ensemble.run import Ensemble
    from mll_hf.matching import ClassMatch
    from mll_hf.selection import Selection
    from mll_hf.text_encoder import TextEncoder


class Client:
    """Choose models by their labels and use them.

    Example:
        >>> client = Client("labels")
        >>> selection = client.select(["corroded pipe", "intact pipe", "weld"], SelectionConfig(k=3))
        >>> client.load(selection).predict(["a.jpg", "b.jpg"]).labels
        ('weld', 'intact pipe')

    Args:
        labels: Folder of labels.
        encoder: Text encoder that matches classes to concepts; by default all-MiniLM-L6-v2, its embeddings kept on
            disk.
        device: Where chosen models run: ``cuda``, ``mps``, ``cpu``, or None for the best that is there.
    """

    def __init__(self, labels: str | Path, *, encoder: TextEncoder | None = None, device: str | None = None) -> None:
        self.store = LabelStore(Path(labels))
        self._encoder = encoder
        self._device = device

    @cached_property
    def index(self) -> ConceptIndex:
        """The graph's concepts, embedded for matching."""
        return ConceptIndex.build(self.store.graph, self._encoder or CachedEncoder(default_encoder()))

    def select(
        self,
        classes: Sequence[str],
        config: SelectionConfig | None = None,
        *,
        domain: str | None = None,
        task: str | None = None,
        descriptions: Sequence[Description] | None = None,
    ) -> Selection:
        """Choose models for a list of classes. Nothing is downloaded and no model is run.

        Args:
            classes: Class names; at least one, all different.
            config: Strategy, k and caps.
            domain: How the images look ("photo", "sketch", "satellite image").
            task: What they are for ("traffic sign recognition").
            descriptions: Texts for the classes, in their order; by default made from templates and glosses.

        Raises:
            InputError: The classes are empty or repeated, or there is no label that fits.
            LabelError: A label of the folder is damaged or of another graph.
            MissingExtraError: The text encoder is not installed.
        """
        names, config = check_class_names(classes), config or SelectionConfig()
        if descriptions is None:
            descriptions = describe.from_templates(names, self.store.graph, domain, task)
        if tuple(d.class_name for d in descriptions) != names:
            raise InputError("the descriptions are not those of the classes; give one for each, in their order")
        if untold := [d.class_name for d in descriptions if not d.texts]:
            raise InputError(f"the description of '{untold[0]}' has no text; give each class at least one")
        labels = self.store.labels
        candidates = Candidates(
            labels=labels,
            graph=self.store.graph,
            match=self._match(descriptions, config.strategy),
            domain=domain,
            embeddings=self._embeddings() if config.strategy is Strategy.PAPER else (),
        )
        return select(candidates, config, task)

    def load(self, selection: Selection, templates: Sequence[str] | None = None) -> Ensemble:
        """Make the chosen models ready to classify; they are fetched and loaded when first used.

        Args:
            selection: From :meth:`select` or :meth:`Selection.from_json`.
            templates: Prompt templates with one ``{}`` each; by default those that fit the selection's domain and task.
        """
        from mll_hf.ensemble.run import Ensemble

        return Ensemble(selection, self._device, tuple(templates) if templates else None)

    def _embeddings(self) -> tuple[ProbeEmbeddings, ...]:
        """Probe embeddings of all models, or nothing if some have none."""
        found = []
        for label in self.store.labels:
            embeddings = self.store.embeddings_of(label.model)
            if embeddings is None:
                return ()
            found.append(embeddings)
        return tuple(found)

    def _match(self, descriptions: Sequence[Description], strategy: Strategy) -> ClassMatch:
        if strategy is Strategy.PAPER:
            return self.index.match_captions(descriptions)
        return self.index.match(descriptions)
