"""Load models, and embed images with them batch by batch. Each image is decoded once for all models.

Embeddings of a task's images and zero-shot heads are kept in a folder, so that the next trial need not compute them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from huggingface_hub.utils.tqdm import tqdm
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from mll_hf.errors import ModelError
from mll_hf.models import load_model
from mll_hf.models.batches import encode, in_threads
from mll_hf.selection.answer import most_parameters
from mll_hf.selection.head import Head
from mll_hf.utils.files import digest_of, write_atomically
from mll_hf.utils.images import open_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import torch
    from numpy.typing import NDArray

    from mll_hf.labels.label import ModelRef
    from mll_hf.models import VisionLanguageModel
    from mll_hf.selection.candidates import SelectedModel
    from mll_hf.utils.images import ImageLike

    Inputs = tuple[torch.Tensor, ...]  # of one image, for each model

Result = TypeVar("Result")
_BAR_SECONDS = 1.0  # delay of the progress bar, so that it is not shown for a few images
_LARGE_BATCH = 128  # images per batch if models are loaded one at a time for each batch


@dataclass(eq=False)
class Residents:
    """Models that stay loaded if the weights of all fit in half of the memory; otherwise one model at a time is loaded.

    ``device``, ``dtype`` and ``token`` are as for :func:`~mll_hf.models.load_model`.
    """

    device: str | None
    dtype: str | None
    token: str | None = field(repr=False)
    keeps_one: bool = False  # set when memory is short
    _loaded: dict[SelectedModel, VisionLanguageModel] = field(default_factory=dict)
    _known: dict[SelectedModel, VisionLanguageModel] = field(default_factory=dict)  # every model, loaded or closed

    def __contains__(self, model: SelectedModel) -> bool:
        """Whether a model is loaded."""
        return model in self._loaded

    def use(
        self, model: SelectedModel, work: Callable[[VisionLanguageModel], Result], *, texts: bool = False
    ) -> Result:
        """Call ``work`` with a model, whose text tower is loaded if ``texts``.

        If it fails while other models are loaded, memory may be short: all models are evicted, ``work`` is called
        again, and one model at a time is loaded from then on. Raises like :func:`~mll_hf.models.load_model`.
        """
        try:
            return work(self._get(model, texts))
        except ModelError:
            if not self._loaded.keys() - {model}:
                self.close()
                raise
        self.keeps_one = True  # after the except block, in which the exception keeps tensors alive
        self.close()
        return self.use(model, work, texts=texts)

    def loaded_once(self, model: SelectedModel) -> VisionLanguageModel:
        """A model that may be closed by now; it still preprocesses images. Raises like :meth:`use`."""
        return self._known.get(model) or self.use(model, lambda loaded: loaded)

    def close(self) -> None:
        """Evict all models."""
        for model in list(self._loaded):
            self._loaded.pop(model).close()

    def _get(self, model: SelectedModel, texts: bool) -> VisionLanguageModel:
        found = self._loaded.get(model)
        if found and (found.has_texts or not texts):
            return found
        if sum(each.cost.parameters for each in {*self._loaded, model}) > most_parameters():
            self.keeps_one = True
        if self.keeps_one:
            self.close()
        elif found:
            self._loaded.pop(model).close()
        loaded = load_model(model.ref, self.device, token=self.token, dtype=self.dtype, texts=texts)
        if not np.isfinite([loaded.logit_scale, loaded.logit_bias]).all():
            loaded.close()
            reason = "logit scale or bias is not finite; its files may be damaged: use another model"
            raise ModelError(model.ref.repo_id, reason)
        self._loaded[model] = self._known[model] = loaded
        return loaded


def zero_shot_head(model: VisionLanguageModel, prompts: Sequence[Sequence[str]]) -> Head:
    """The head whose class vectors are the mean embeddings of each class's prompts, at unit norm.

    Classes have equally many prompts. The model's logit scale and bias become part of the head.
    """
    embeddings = model.encode_texts([text for texts in prompts for text in texts])
    means = embeddings.reshape(len(prompts), len(prompts[0]), -1).mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return Head.zero_shot(means, model.logit_scale, model.logit_bias)


def embed_images(
    residents: Residents,
    models: Sequence[SelectedModel],
    images: Iterable[ImageLike],
    batch_size: int | None = None,
) -> Iterator[list[NDArray[np.float32]]]:
    """Embeddings [n, D] by each model of the next n images, batch by batch; NaN if an image cannot be decoded.

    The size of batches is by default chosen to keep the device busy.
    """
    known, remaining = [residents.loaded_once(model) for model in models], iter(images)
    largest = max(model.batch_size for model in known)
    batches = iter(
        lambda: list(islice(remaining, batch_size or (_LARGE_BATCH if residents.keeps_one else largest))), []
    )
    progress = tqdm(  # type: ignore[no-untyped-call]
        total=len(images) if isinstance(images, Sized) else None,
        desc=models[0].name if len(models) == 1 else None,
        unit="image",
        name="mll_hf.predict",
        disable=None,
        leave=False,
        delay=_BAR_SECONDS,
    )

    def prepare(item: ImageLike) -> Inputs | None:
        try:
            image = open_image(item)
            return None if image is None else tuple(model.preprocess(image) for model in known)
        except MemoryError:
            return None

    with progress, closing(in_threads(prepare, batches)) as prepared:
        for batch in prepared:
            progress.update(len(batch))
            found = {}
            for row in sorted(range(len(models)), key=lambda row: models[row] not in residents):
                inputs = [None if each is None else each[row] for each in batch]
                size = batch_size or known[row].batch_size
                found[row] = residents.use(models[row], partial(encode, inputs=inputs, batch_size=size))
            yield [found[row] for row in range(len(models))]


@dataclass(frozen=True)
class EmbeddingCache:
    """A folder with a file per model: embeddings [D] by digest of the image, and zero-shot heads."""

    folder: Path

    def read(self, model: ModelRef, dtype: str | None) -> dict[str, NDArray[Any]]:
        """What is kept of a model; nothing if its file is missing or damaged."""
        try:
            return load_file(self._path(model, dtype))
        except (OSError, SafetensorError):
            return {}

    def write(self, model: ModelRef, dtype: str | None, kept: dict[str, NDArray[Any]]) -> None:
        """Replace what is kept of a model; a StorageError if the folder cannot be written."""
        content = save({name: np.ascontiguousarray(each) for name, each in kept.items()})
        write_atomically(self._path(model, dtype), content)

    def _path(self, model: ModelRef, dtype: str | None) -> Path:
        return self.folder / f"{digest_of([model.key, model.revision, model.backend, dtype])}.safetensors"


def image_digest(image: ImageLike) -> str:
    """Digest of an image's content: of the file, the bytes, or the pixels."""
    if isinstance(image, str | os.PathLike):
        try:
            image = Path(image).read_bytes()
        except OSError:
            image = os.fsencode(image)  # unreadable; the path names it
    content = image if isinstance(image, bytes) else f"{image.mode} {image.size}".encode() + image.tobytes()
    return hashlib.sha256(content).hexdigest()[:32]
