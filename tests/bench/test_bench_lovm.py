"""ModelGPT and LOVM's metrics give the figures that LOVM published, where its tables are present."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from benchmark.baselines.modelgpt import TEXT_FEATURES, predict, rank
from benchmark.metrics import top_kendall, top_l1, top_overlap
from benchmark.real import EVALUATION_FILE, FEATURES, FEATURES_FILE, read_lovm
from mll_hf.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
TABLES = Path(os.environ.get("MLL_TESTBED", ROOT.parent / "shared" / "testbed")) / "published"
needs_tables = pytest.mark.skipif(
    not (TABLES / FEATURES_FILE).is_file(), reason=f"no published tables at {TABLES}; set MLL_TESTBED to check them"
)
GROUPS = {"INB": ("IN-score",), "C": TEXT_FEATURES[:2], "G": TEXT_FEATURES[2:]}


@pytest.fixture(scope="module")
def published():
    """Features [M, T, F] and accuracies [M, T] of LOVM's models and datasets."""
    truth, given = read_lovm(TABLES / EVALUATION_FILE, ("acc1",)), read_lovm(TABLES / FEATURES_FILE, FEATURES)
    models, datasets = (list(dict.fromkeys(key[side] for key in truth)) for side in (0, 1))
    assert (len(models), len(datasets)) == (35, 23)
    features = np.array([[given[model, dataset] for dataset in datasets] for model in models])
    return features, np.array([[truth[model, dataset][0] for dataset in datasets] for model in models])


def quality(features, accuracies, names):
    """Means over the datasets of R5, tau5, L1 and the accuracy of the model ranked first, each left out in turn."""
    features = features[..., [FEATURES.index(name) for name in names]]
    rows = []
    for t, truth in enumerate(accuracies.T):
        scores = predicted = features[:, t, 0]  # ImageNet accuracy alone is used as it is
        if names != GROUPS["INB"]:
            known = np.delete(features, t, axis=1), np.delete(accuracies, t, axis=1)
            scores, predicted = rank(*known, features[:, t]), predict(*known, features[:, t])
        of_ranking = top_overlap(scores, truth), top_kendall(scores, truth)
        rows.append((*of_ranking, top_l1(predicted, truth), truth[scores.argmax()]))
    return np.mean(rows, axis=0)


@needs_tables
def test_rankings_by_all_features(published):
    assert published[1].max(axis=0).mean() == pytest.approx(0.668, abs=0.0006)
    overlap, kendall, _, selected = quality(*published, GROUPS["INB"])
    assert (overlap, kendall, selected) == pytest.approx((0.452, 0.177, 0.604), abs=0.0006)
    overlap, kendall, _, selected = quality(*published, FEATURES)
    assert (overlap, kendall, selected) == pytest.approx((0.426, 0.046, 0.602), abs=0.0006)


@needs_tables
@pytest.mark.parametrize(
    ("groups", "overlap", "kendall", "l1", "subset"),
    [
        # LOVM prints .220, .176, .143, .176 and .141 for L1
        (("INB",), 0.452, 0.177, 0.220, ("IN-score",)),
        (("C",), 0.226, 0.058, 0.176, ("text-f1",)),
        (("G",), 0.252, -0.014, 0.144, ("intra_close",)),
        (("INB", "C"), 0.452, 0.223, 0.176, ("IN-score", "text-f1")),
        (("INB", "G"), 0.461, 0.096, 0.140, ("IN-score", "inter_close")),
    ],
)
def test_published_rows_are_the_best_subsets(groups, overlap, kendall, l1, subset, published):
    """LOVM's rows are, for each group of features and each metric, the best subset by that metric on the test data."""
    names = [name for group in groups for name in GROUPS[group]]
    subsets = [some for size in range(1, len(names) + 1) for some in itertools.combinations(names, size)]
    found = {some: quality(*published, some) for some in subsets}
    best = max(found, key=lambda some: (round(found[some][0], 9), found[some][1]))
    assert best == subset
    assert tuple(found[best][:2]) == pytest.approx((overlap, kendall), abs=0.0006)
    assert min(of_subset[2] for of_subset in found.values()) == pytest.approx(l1, abs=0.0006)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"\xff\xfe\x00", "can't decode"),
        (b"dataset\n", "no rows"),
        (b"model_fullname,dataset\nm,d\n", "'acc1'"),
        (b"model_fullname,dataset,acc1\nm,d,much\n", "'much"),
    ],
)
def test_other_tables_are_refused_in_one_line(content, message, tmp_path):
    path = tmp_path / EVALUATION_FILE
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_lovm(path, ("acc1",))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
