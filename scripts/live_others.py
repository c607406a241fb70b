"""Steps of the live check with several people: a first label, another user, an attacker, private data, many writers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from mll_hf.errors import HubError, InputError, MLLError
from mll_hf.hub.connection import connect, hub_errors
from mll_hf.hub.publish import publish_to_collection
from mll_hf.hub.sources import open_labels
from mll_hf.labels.store import LabelStore

if TYPE_CHECKING:
    from live_check import Check

WRITERS = 8
JUNK = 20  # files of an attacker, beside damaged ones


def first_label(check: Check) -> str:
    """A label without --graph, pushed: no message may send the user in a circle."""
    model, folder = check.repo("model"), check.folder / "first"
    said = check.command("label", model, "--labels", folder, "--sample", "1")
    check.command("push", model, "--labels", folder)
    again = check.command("push", model, "--labels", folder)
    expect("published already" in again, "the same label was published twice")
    return said.strip()


def other_user(check: Check) -> str:
    """Another user selects by the author's label, and may not publish in the author's repos."""
    named = ("--labels", "hub", "--graph", check.dataset("graph"), "--trust", check.namespace, "--json")
    chosen = json.loads(check.command("select", "--classes", "red circle, blue square", *named))
    ids = [model["id"] for model in chosen["models"]]
    expect(check.repo("model") in ids, f"the author's label is not ranked: {ids}")
    check.command("label", check.repo("model"), "--labels", check.folder / "others", "--sample", "1")
    for to in ((), ("--to", check.dataset("labels"))):
        push = ("push", check.repo("model"), "--labels", check.folder / "others", *to)
        expect("not your repos" in refusal(check, *push), "a push to repos of others is not refused")
    return "selects by the author's label; pushes to the author's repos are refused before work"


def attack(check: Check) -> str:
    """Damaged labels and junk in a repo of the second account."""
    labels = LabelStore(check.folder / "labels")
    whole = labels.path_of(labels.labels()[0]).read_bytes()
    files = {"mll/label.safetensors": whole[: len(whole) // 2], "mll/0123456789ab/label.safetensors": b"\xff" * 1000}
    files |= {f"mll/{number:012x}/label.safetensors": b"x" for number in range(JUNK)}
    api, repo_id = connect(), check.hostile
    with hub_errors(repo_id):
        api.create_repo(repo_id)
        from huggingface_hub import CommitOperationAdd

        card = b"---\ntags:\n- mll-label\n---\n"
        operations = [CommitOperationAdd(path, content) for path, content in {**files, "README.md": card}.items()]
        api.create_commit(repo_id, operations, commit_message="Add labels")
    return f"{len(files)} files in {repo_id}"


def withstand(check: Check) -> str:
    """The attacker's files change nothing, even if the attacker is named."""

    def best(*more: str) -> str:
        words = ("--labels", "hub", "--graph", check.dataset("graph"), "--trust", check.namespace, *more, "--json")
        return json.loads(check.command("select", "--classes", "red circle, blue square", *words))["answer"]["best"]

    before, after = best(), best("--trust", check.hostile.partition("/")[0])
    expect(before == after, f"{before} became {after}")
    return f"still {after}"


def stay_private(check: Check) -> str:
    """A private model's label is refused in a public collection, and enters a private one that nobody else reads."""
    api, repo_id, folder = connect(), check.repo("private"), check.folder / "private"
    with hub_errors(repo_id):
        api.create_repo(repo_id, private=True)
        api.upload_folder(repo_id=repo_id, folder_path=check.tiny_model, commit_message="Add a tiny model")
    check.command("label", repo_id, "--labels", folder, "--sample", "1")
    said = refusal(check, "push", "--all", "--labels", folder, "--to", check.dataset("labels"))
    expect("private" in said, f"a private model's label is refused for another reason: {said}")
    check.command("push", "--all", "--labels", folder, "--to", check.dataset("private-labels"), "--private")
    try:
        open_labels(check.dataset("private-labels"), token=False)  # type: ignore[arg-type]
    except HubError:
        return "refused in a public collection; a private one is not seen without a token"
    raise InputError("a private collection can be read without a token")


def write_together(check: Check) -> str:
    """Many writers publish in one collection at once; none loses a label."""
    store = LabelStore(check.folder / "labels")
    label, graphs = store.labels()[0], store.graphs
    copies = [replace(label, model=replace(label.model, digest=f"{n:02x}" * 32)) for n in range(WRITERS)]

    def publish(n: int) -> None:
        publish_to_collection([copies[n]], graphs, check.dataset("many"))

    publish(0)  # creates it
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(publish, range(1, WRITERS)))
    found = {each.model.digest for each in open_labels(check.dataset("many")).labels()}
    expect(found == {each.model.digest for each in copies}, f"{len(found)} of {WRITERS} labels arrived")
    return f"{WRITERS} labels of {WRITERS} writers"


def refusal(check: Check, *words: object) -> str:
    """The error of a command that must fail."""
    try:
        check.command(*words)
    except MLLError as error:
        return str(error)
    raise InputError(f"was not refused: {' '.join(map(str, words))}")


def expect(condition: bool, problem: str) -> None:
    """Fail a step."""
    if not condition:
        raise InputError(problem)
