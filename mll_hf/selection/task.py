"""A task: the classes, and whatever else the user knows or has. Validated once, when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mll_hf.errors import InputError
from mll_hf.matching.prompts import check_class_names
from mll_hf.utils.arrays import ArrayFields
from mll_hf.utils.examples import Examples, check_examples
from mll_hf.utils.images import is_image, is_one_image, open_image, warn_of_unreadable
from mll_hf.utils.text import normalized_name, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mll_hf.matching.describe import Description
    from mll_hf.utils.examples import Example
    from mll_hf.utils.images import ImageLike

EQUAL = "equal"  # class shares
MIN_IMAGES = 10  # images and examples together
_MIN_SHARE = 1e-6


def _no_examples() -> Examples:
    return Examples((), np.empty(0, np.int64), np.empty(0))


@dataclass(frozen=True, eq=False)
class Task(ArrayFields):
    """What to classify."""

    classes: tuple[str, ...]  # the C class names, all different
    domain: str | None = None  # what the images look like ("photo", "sketch", "satellite image")
    task: str | None = None  # what the classes are for ("traffic sign recognition")
    shares: NDArray[np.float64] | None = None  # [C] among the images, summing to one; None to estimate them
    descriptions: tuple[Description, ...] | None = None  # of each class; None for those from templates and glosses
    images: tuple[ImageLike, ...] = ()  # unlabeled, a sample; some may be unreadable
    examples: Examples = field(default_factory=_no_examples)  # images with their class

    @classmethod
    def of(
        cls,
        classes: Sequence[str] | Mapping[int, str],
        *,
        domain: str | None = None,
        task: str | None = None,
        shares: str | Mapping[str, float] | Sequence[float] | None = None,
        descriptions: Sequence[Description] | None = None,
        images: Sequence[ImageLike] = (),
        examples: Sequence[Example] = (),
        most_images: int = 256,
    ) -> Task:
        """Validate a task as the user gives it.

        Names of classes may be by number, like ``id2label`` of transformers. Shares are ``equal``, by class name, or
        one per class. Images are paths, encoded bytes or PIL images; examples also have the name of their class, and a
        weight if they were not drawn with equal chances. More than ``most_images`` of either are a random sample.

        Raises:
            InputError: A class name, share, description, image or example cannot be used, or they are too few.
        """
        names = check_class_names(classes)
        for option, text in (("domain", domain), ("task", task)):
            if not isinstance(text, str | None):
                raise InputError(f"{option} is {shortened(repr(text), 40)}; give a short text, or leave it out")
        described = None if descriptions is None else tuple(descriptions)
        if described is not None and tuple(getattr(each, "class_name", None) for each in described) != names:
            raise InputError("the descriptions do not match the classes; give one per class, in the same order")
        if empty := [each.class_name for each in described or () if not each.texts]:
            raise InputError(f"the description of '{empty[0]}' has no text; give each class at least one")
        examples = list(examples or ())
        known = check_examples(examples, names, most_images) if examples else _no_examples()
        return cls(
            names,
            domain,
            task,
            parse_shares(shares, names),
            described,
            _sample(images, len(known.images), most_images),
            known,
        )

    @property
    def has_images(self) -> bool:
        """Whether there are images or examples to try models on."""
        return bool(self.images or self.examples.images)


def check_image_count(n_images: int, kind: str = "readable") -> None:
    """Raise InputError if there are fewer than ``MIN_IMAGES`` images of a kind."""
    if n_images < MIN_IMAGES:
        raise InputError(f"{n_images} {kind} images are too few to compare models; give at least {MIN_IMAGES}")


def trial_sample(n_images: int, most_images: int) -> NDArray[np.int64]:
    """Ascending positions of a seeded sample of at most ``most_images`` images."""
    return np.sort(np.random.default_rng(0).permutation(n_images)[:most_images])


def parse_shares(
    shares: str | Mapping[str, float] | Sequence[float] | NDArray[np.float64] | None, classes: Sequence[str]
) -> NDArray[np.float64] | None:
    """Class shares [C] that sum to one; None to estimate them. Zeros are raised, as no image could refute them."""
    if shares is None:
        return None
    if isinstance(shares, str):
        if shares != EQUAL:
            raise InputError(f"shares is '{shares}'; give '{EQUAL}', or a share per class")
        shares = np.ones(len(classes))
    if isinstance(shares, Mapping):
        by_name = {normalized_name(str(name)): value for name, value in shares.items()}
        if len(by_name) < len(shares):
            raise InputError("shares: two names are the same class; give one share for every class")
        if wrong := sorted(by_name.keys() ^ set(classes)):
            problem = "has no share" if wrong[0] in classes else "is not a class of the task"
            raise InputError(f"shares: '{shortened(wrong[0], 40)}' {problem}; give a share for every class")
        shares = [by_name[name] for name in classes]
    try:
        values = np.asarray(shares, np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (len(classes),) or not np.isfinite(values).all() or values.min() < 0 or values.max() <= 0:
        raise InputError(f"shares of classes must be {len(classes)} numbers, none below 0 and not all 0")
    values = np.maximum(values / values.sum(), _MIN_SHARE)
    return values / values.sum()


def _sample(images: Sequence[ImageLike], n_examples: int, most_images: int) -> tuple[ImageLike, ...]:
    """A random sample with enough readable images for a trial; no more images are decoded than that takes."""
    if is_one_image(images) or not hasattr(images, "__getitem__"):
        raise InputError("a single image or folder is not a list of images; give a list of paths, bytes or PIL images")
    kept: list[int] = []
    unreadable: list[int] = []
    n_readable = n_examples
    for n in np.random.default_rng(0).permutation(len(images)).tolist():
        if len(kept) == most_images:
            break
        if not is_image(images[n]):
            kind = type(images[n]).__name__
            raise InputError(f"image {n + 1} is of type {kind}; give a path, encoded bytes or a PIL image")
        is_readable = n_readable >= MIN_IMAGES or open_image(images[n]) is not None
        (kept if is_readable else unreadable).append(n)
        n_readable += is_readable
    warn_of_unreadable([images[n] for n in sorted(unreadable)])
    if len(images) or n_examples:
        check_image_count(n_readable)
    return tuple(images[n] for n in sorted(kept))
