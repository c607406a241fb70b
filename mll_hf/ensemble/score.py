"""Compare predictions with the true classes of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mll_hf.labels.counts import wilson_interval
from mll_hf.utils.arrays import ArrayFields

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Score(ArrayFields):
    """How good predictions are.

    Attributes:
        class_names: The C class names.
        confusion: [C, C] number of images by true class (rows) and predicted class (columns).
        without: Number of rejected and unreadable images; they are not in ``confusion``.
    """

    class_names: tuple[str, ...]
    confusion: NDArray[np.int64]
    without: int

    @classmethod
    def of(cls, class_names: tuple[str, ...], pairs: Iterable[tuple[str, str | None]]) -> Score:
        """The score from pairs of the true and the predicted class of an image; None without a prediction."""
        position = {name: y for y, name in enumerate(class_names)}
        confusion, without = np.zeros((len(class_names),) * 2, np.int64), 0
        for true, predicted in pairs:
            if predicted is None:
                without += 1
            else:
                confusion[position[true], position[predicted]] += 1
        return cls(class_names, confusion, without)

    @property
    def images(self) -> NDArray[np.int64]:
        """[C] number of images of each class."""
        return np.asarray(self.confusion.sum(axis=1))

    @property
    def correct(self) -> int:
        """Number of correct predictions."""
        return int(np.trace(self.confusion))

    @property
    def accuracy(self) -> float:
        """Share of correct predictions; NaN without images."""
        return self.correct / n if (n := int(self.images.sum())) else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy (Wilson, 1927)."""
        return wilson_interval(self.correct, int(self.images.sum()))

    @property
    def recall(self) -> NDArray[np.float64]:
        """[C] share of the images of each class that are recognized; NaN without images."""
        return np.where(self.images > 0, np.diag(self.confusion) / np.maximum(self.images, 1), np.nan)

    def to_json(self) -> dict[str, Any]:
        """The score as JSON, with None for NaN."""
        classes = zip(self.class_names, self.images.tolist(), self.recall.tolist(), strict=True)
        return {
            "images": int(self.images.sum()),
            "without": self.without,
            "accuracy": self.accuracy if self.images.any() else None,
            "interval": list(self.interval),
            "classes": [{"class": name, "images": n, "recall": share if n else None} for name, n, share in classes],
            "confusion": self.confusion.tolist(),
        }
