"""What a program of a user looks like. It runs as a test, and scripts/check_wheel.py checks its types from outside.

Every assignment states the type that the program relies on, so that a public name that lost its type is an error there.
"""

from __future__ import annotations

from mll_hf import Client, MLLError, Rule, Selection, SelectionConfig, Strategy, pipeline


def choose(client: Client, classes: list[str]) -> Selection:
    """The keywords of `select`, as texts and as objects."""
    selection: Selection = client.select(
        classes,
        strategy="mll",
        k=1,
        max_parameters="500M",
        max_gflops=50.0,
        licenses=["mit", "apache-2.0"],
        without={"org/left-out"},
        domain="photo",
    )
    with_objects: Selection = client.select(classes, SelectionConfig(strategy=Strategy.MLL, k=1), task="animal")
    assert with_objects.classes == selection.classes
    return selection


def describe(selection: Selection) -> list[str]:
    """The parts of a selection that a program reads."""
    lines: tuple[str, ...] = selection.answer_lines
    best = selection.models[selection.chosen_models[0]]
    name: str = best.name
    millions: float = best.cost.parameters / 1e6
    license: str | None = best.license
    return [*lines, f"{name}: {millions:.0f} M parameters, {license or 'no known license'}"]


def classify(client: Client, selection: Selection, photos: list[str]) -> list[str]:
    """The chosen models as one classifier; downloads them."""
    classifier = pipeline(selection, device="cpu", batch_size=8)
    answers: list[list[dict[str, object]]] = classifier(photos, top_k=1)
    classes: tuple[str | None, ...] = client.load(selection).predict(photos, rule=Rule.LINEAR_POOL).classes
    return [*(label or "unreadable" for label in classes), *(str(answer[0]["label"]) for answer in answers)]


def main() -> list[str]:
    """Choose from published figures: no network is needed."""
    try:
        return describe(choose(Client("published"), ["golden retriever", "tabby cat", "fire truck"]))
    except MLLError as error:
        return [str(error)]


if __name__ == "__main__":
    print("\n".join(main()))
