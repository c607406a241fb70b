"""ModelGPT, the baseline of LOVM (Zohar et al., NeurIPS 2023 Datasets and Benchmarks, arXiv 2306.08893).

A model's accuracy on a dataset is predicted from features of texts alone, by a linear regression over other datasets.
The authors' script tries all subsets of features and prints the best one *by the test metric*. Here, all given features
are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmark.metrics import Floats

TEXT_FEATURES = ("text-f1", "text-acc1", "intraclass_sim", "inter_close", "intra_close", "superclass_metric")
NOISE = 0.1  # LOVM's sigma


def text_features(
    class_weights: Floats, captions: Sequence[Floats], synonyms: Sequence[Floats], seed: int = 0
) -> NDArray[np.float64]:
    """[6] one model's features of a task of two classes or more, in the order of :data:`TEXT_FEATURES`.

    All embeddings are of unit norm.

    - ``text-f1``, ``text-acc1``: macro F1 and accuracy of classifying the captions, with normal noise of standard
      deviation 0.1 added to each coordinate, by the class weights.
    - ``intraclass_sim``: ``mean_c max_{c' != c} <w_c, w_c'>``.
    - ``inter_close``: ``mean_c mean_i <d_{c,i}, w_c>``.
    - ``intra_close``: ``mean_c max_{c' != c} mean_i <d_{c,i}, w_c'>``.
    - ``superclass_metric``: ``mean_c mean_j <w_c, s_{c,j}>``.

    Args:
        class_weights: [C, D] mean embeddings w_c of each class's prompts.
        captions: For each class [I_c, D], embeddings d of captions of its images.
        synonyms: For each class [J_c, D], embeddings s of its synonyms and superclasses.
        seed: Seed of the noise.
    """
    n_classes = len(class_weights)
    others = ~np.eye(n_classes, dtype=np.bool_)
    of_classes = class_weights @ class_weights.T
    of_captions = np.stack([(of_class @ class_weights.T).mean(axis=0) for of_class in captions])
    labels = np.repeat(np.arange(n_classes), [len(of_class) for of_class in captions])
    whole = np.concatenate(captions).astype(np.float64)
    noise = np.random.default_rng(seed).normal(0, NOISE, whole.shape)
    predicted = ((whole + noise) @ class_weights.T).argmax(axis=1)
    hits = np.bincount(labels[predicted == labels], minlength=n_classes)
    return np.array(
        [
            (2 * hits / (np.bincount(labels) + np.bincount(predicted, minlength=n_classes))).mean(),
            (predicted == labels).mean(),
            np.where(others, of_classes, -np.inf).max(axis=1).mean(),
            np.diagonal(of_captions).mean(),
            np.where(others, of_captions, -np.inf).max(axis=1).mean(),
            np.mean([(of_class @ weight).mean() for of_class, weight in zip(synonyms, class_weights, strict=True)]),
        ]
    )


def predict(known: Floats, accuracies: Floats, features: Floats) -> NDArray[np.float64]:
    """[M] predicted accuracy of each model on a new dataset, by ordinary least squares over other ones.

    Args:
        known: [M, S, F] features of each model on S datasets.
        accuracies: [M, S] accuracy of each model on these datasets.
        features: [M, F] features of each model on the new dataset.
    """
    both = known.reshape(-1, known.shape[-1]), features
    design, new = (np.column_stack([x, np.ones(len(x))]).astype(np.float64) for x in both)
    return new @ np.linalg.lstsq(design, accuracies.astype(np.float64).reshape(-1), rcond=None)[0]


def rank(known: Floats, accuracies: Floats, features: Floats) -> NDArray[np.float64]:
    """[M] scores of each model on a new dataset: like :func:`predict`, relative to the mean of each dataset."""
    return predict(known, accuracies - accuracies.mean(axis=0), features)
