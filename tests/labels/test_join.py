"""Labels joined over graphs: which are compared, and what is said of the others."""

from __future__ import annotations

import pytest

from mll_hf.errors import InputError
from mll_hf.graph.probe_counts import ProbeCounts
from mll_hf.labels.join import join_labels
from worlds import make_graph, make_label

BASE = make_graph(name="base")
LETTERS = make_graph({"letter": ("thing",), "a": ("letter",), "b": ("letter",)}, "letters")  # "thing" is in no graph
SIGNS = make_graph({"sign": ("vehicle",), "stop": ("sign",), "car": ()}, "signs")  # "car" and "vehicle" are in BASE
GRAPHS = (BASE, LETTERS, SIGNS)
PHOTOS, DRAWINGS = "1" * 40, "2" * 40


def label(name, graph=BASE, probes=PHOTOS, **fields):
    place = {PHOTOS: "photos", DRAWINGS: "drawings"}[probes]
    fields = {"probes_digest": probes, "probes_location": place, **fields}
    return make_label(graph, repo_id=f"org/{name}", **fields)


def table(joined):
    """{graph: models with a label on it}, in order."""
    return {
        graph.name: [model.short_name for model, row in zip(joined.models, joined.labels, strict=True) if row[g]]
        for g, graph in enumerate(joined.union.graphs)
    }


def test_each_model_has_one_label_per_graph():
    labels = {(name, graph.name): label(name, graph) for name, graph in
              [("x", BASE), ("y", BASE), ("z", BASE), ("y", LETTERS), ("z", LETTERS), ("x", SIGNS)]}  # fmt: skip
    joined = join_labels(labels.values(), GRAPHS)
    assert [graph.name for graph in joined.union.graphs] == ["base", "letters", "signs"]
    assert joined.labels == tuple(tuple(labels.get((name, graph.name)) for graph in GRAPHS) for name in ("x", "y", "z"))
    assert len(joined) == 3
    assert joined.reference == tuple(labels[name, "base"] for name in ("x", "y", "z"))
    assert joined.models == tuple(each.model for each in joined.reference)
    assert joined.on_graph(1) == (None, labels["y", "letters"], labels["z", "letters"])
    assert joined.left_out == ()
    assert joined.subset([2, 0]).labels == (joined.labels[2], joined.labels[0])
    assert joined.subset([2, 0]).union is joined.union


def test_graphs_that_form_a_cycle_together():
    # each is a graph by itself; the one that comes later by name is left out, and the others are as they were
    ours, theirs = make_graph({"p": ("q",)}, "ours"), make_graph({"q": ("p",)}, "theirs")
    labels = [label(name, graph) for graph in (BASE, LETTERS, ours, theirs) for name in ("x", "y")]
    joined = join_labels(labels, [theirs, *GRAPHS, ours])
    assert table(joined) == {"base": ["x", "y"], "letters": ["x", "y"], "ours": ["x", "y"]}
    assert joined.left_out == (
        "org/x, org/y on graph theirs: its hypernyms form a cycle with those of the other graphs; correct the graph",
    )


# ---- groups


def test_only_labels_on_the_same_probe_images_are_compared():
    labels = [label("x"), label("y"), label("z", probes=DRAWINGS), label("w", probes=DRAWINGS)]
    joined = join_labels([*labels, label("u")], GRAPHS)
    assert table(joined) == {"base": ["u", "x", "y"]}
    assert joined.left_out == ("org/w, org/z on graph base: measured on other probe images (drawings) than the rest",)


def test_of_two_labels_of_one_model_that_with_most_images_counts():
    few, many, other = label("x", support=5), label("x"), label("y")
    for labels in ([few, many, other], [other, many, few]):
        joined = join_labels(labels, GRAPHS)
        assert joined.reference == (many, other)
        assert joined.left_out == ()


# ---- the reference graph


def test_the_graph_with_the_most_labels_is_the_reference():
    digits = make_graph({f"{d}": () for d in range(10)}, "digits")
    labels = [label("x"), label("y"), label("x", digits)]
    assert table(join_labels(labels, [BASE, digits])) == {"base": ["x", "y"], "digits": ["x"]}
    assert (
        next(iter(table(join_labels([*labels, label("y", digits)], [BASE, digits])))) == "digits"
    )  # has more concepts
    # graphs whose hypernyms are in others come last, however many labels they have
    labels += [label(name, LETTERS) for name in ("x", "y", "z")]
    joined = join_labels(labels, [BASE, digits, LETTERS])
    assert table(joined) == {"base": ["x", "y"], "digits": ["x"], "letters": ["x", "y"]}
    assert table(join_labels([label("x", LETTERS)], GRAPHS)) == {"letters": ["x"]}


def test_a_reference_that_is_asked_for():
    labels = [label("x"), label("y"), label("y", SIGNS), label("z", SIGNS)]
    joined = join_labels(labels, GRAPHS, reference=SIGNS.digest)
    assert table(joined) == {"signs": ["y", "z"], "base": ["y"]}
    assert joined.left_out == ("org/x on graph base: the model has no label on the reference graph signs",)
    with pytest.raises(InputError, match=f"no model has a label on the reference graph .{LETTERS.digest[:12]}"):
        join_labels(labels, GRAPHS, reference=LETTERS.digest)


# ---- what else may be there


def test_labels_on_unknown_graphs_are_left_out():
    joined = join_labels([label("x"), label("x", SIGNS), label("y", LETTERS)], [BASE])
    assert table(joined) == {"base": ["x"]}
    assert sorted(joined.left_out) == [
        "org/x on graph signs: the graph cannot be read; its publisher must make it public, or give it with --graph",
        "org/y on graph letters: the graph cannot be read; its publisher must make it public, or give it with --graph",
    ]
    with pytest.raises(InputError, match="no label can be used: org/x on graph base: the graph cannot be read"):
        join_labels([label("x")], [SIGNS])
    with pytest.raises(InputError, match="there are no labels to select from; label models first"):
        join_labels([], GRAPHS)


# ---- whose probe images


def by_owner(publishers):
    """`publisher_of` from {name of model: publisher}."""
    return lambda each: publishers.get(each.model.short_name)


def probes_chosen(labels, **settings):
    joined = join_labels(labels, GRAPHS, **settings)
    return {each.probes_digest for each in joined.reference}


def test_probe_images_of_most_publishers_are_taken_then_of_most_labels_then_most_images():
    honest = [label("x"), label("y")]
    many = [label(name, probes=DRAWINGS) for name in "abc"]
    assert probes_chosen([*honest, *many]) == {DRAWINGS}  # nobody knows who published them
    one = dict.fromkeys("abc", "carol")
    assert probes_chosen([*honest, *many], publisher_of=by_owner({"x": "alice", "y": "bob", **one})) == {PHOTOS}
    assert probes_chosen([*honest, *many], publisher_of=by_owner({"x": "alice", "y": "alice", **one})) == {DRAWINGS}
    few = label("z", probes=DRAWINGS, support=9)
    assert probes_chosen([few, label("x")]) == {PHOTOS}
    assert probes_chosen([label("z", probes=DRAWINGS), label("x", support=9)]) == {DRAWINGS}


def test_the_default_graph_comes_before_publishers():
    default = BASE.with_probes(ProbeCounts("", (), (), {}))
    mine = label("x", probes_digest=default.probes.digest, probes_location="mine", support=0)
    own = [mine, label("x", SIGNS)]
    others = [label(name, graph) for name in "abc" for graph in (BASE, SIGNS)]
    settings = {"publisher_of": lambda each: each.model.short_name}
    assert probes_chosen([*own, *others], **settings) == {PHOTOS}
    assert probes_chosen([*own, *others], default=default, **settings) == {default.probes.digest}
    joined = join_labels([label("x", SIGNS), *others], GRAPHS, default=SIGNS)
    assert joined.union.graphs[0] is SIGNS
    assert join_labels([label("x", SIGNS), *others], GRAPHS, default=LETTERS).union.graphs[0] is BASE  # nobody is on it


def test_a_label_with_other_numbers_of_images_than_its_probe_images_have_is_left_out():
    graph = BASE.with_probes(ProbeCounts("", (), (("photo", "mine"),), {"car": ((0, 9),)}))
    support = graph.probe_pools.sum(axis=0)
    honest = label("x", probes_digest=graph.probes.digest, support=support)
    false = [label(name, probes_digest=graph.probes.digest) for name in "yz"]
    joined = join_labels([*false, honest], [graph])
    assert table(joined) == {"base": ["x"]}
    (left_out,) = joined.left_out
    assert left_out.startswith("org/y, org/z on graph base: was not measured on the probe images that it names")
    assert "it has 70 tests instead of 18" in left_out
    with pytest.raises(InputError, match="no label can be used: org/y, org/z on graph base: was not measured on the"):
        join_labels(false, [graph])
