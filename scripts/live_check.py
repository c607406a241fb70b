"""Acceptance test on the real Hub: first user, second user, anonymous visitor, attacker, private data, many writers.

First lists what it will create and download, and asks. All repos get new names in your namespace (of the second
account, one in its own) and are deleted at the end, also after a failure or Ctrl+C. The report, in Markdown, goes to
stdout; the transcript, every command with what it printed, to a file that can be sent: one JSON object per line,
without tokens and paths. Exit status: 0 if every step succeeded, 1 if not, 2 if you declined, 130 after Ctrl+C.

The graph has 50 concepts, colored shapes that this script draws. Two published models are labeled, and a copy of a tiny
model of the demo, which gets its labels in its own repo. The visitor is this process without token and with empty
caches. The second account is that of the token in $MLL_SECOND_TOKEN; without it, its steps are skipped, and you are the
attacker.

    python scripts/live_check.py > live_check.md
    MLL_SECOND_TOKEN=... python scripts/live_check.py --yes --namespace $ORG --model $ORG/A > live_check.md
    python scripts/live_check.py --known-models > known_models.md

The last creates nothing: it compares the table of known models with the Hub, one request per model.

Needs a login (hf auth login) with a token that can write, and the extra mll-hf[models].
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from unittest import mock

import numpy as np
from huggingface_hub import constants

import live_others
import mll_hf
from command_line import script_parser
from known_models import check_hub
from live_others import expect
from mll_hf.cli import main as mll_hf_command
from mll_hf.cli.output import confirm
from mll_hf.errors import HubError, InputError, MLLError
from mll_hf.graph.authoring import NewConcept, NewImage, make_graph
from mll_hf.graph.concepts import Concept
from mll_hf.hub.connection import connect, hub_errors
from mll_hf.hub.locations import graph_with_images
from mll_hf.models.known import known_models, usable_models
from mll_hf.utils.tables import markdown_table
from mll_hf.utils.text import gigabytes, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

AUTHOR, VISITOR, SECOND, ATTACKER = "author", "visitor", "second user", "attacker"
SECOND_TOKEN = "MLL_SECOND_TOKEN"  # noqa: S105 - the name of a variable
TRANSCRIPT = "mll-hf live check 1"  # of the file's lines
TINY_MODEL = Path(__file__).parent / "demo_world" / "models" / "demo-generalist"
COLORS = ("red", "green", "blue", "yellow", "purple", "black")
SHAPES = {  # number of sides, rotation in degrees
    "circle": (60, 0), "triangle": (3, 0), "square": (4, 0), "diamond": (4, 45), "pentagon": (5, 0), "hexagon": (6, 0),
    "octagon": (8, 0),
}  # fmt: skip
CLASSES = ("red circle", "blue square", "green triangle", "yellow diamond")
IMAGES_PER_CONCEPT, IMAGES_PER_CLASS = 6, 4
OPEN_LICENSES = ("mit", "apache-2.0")
LISTED_WITHIN = 60.0  # seconds until the Hub's search shows a new tag
ENCODER_BYTES, GRAPH_BYTES = 91_000_000, 1_000_000  # roughly, for the question
PACKAGES = ("mll-hf", "huggingface_hub", "hf-xet", "torch", "open_clip_torch", "transformers")


# --- the steps --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One run: a method for each step, which returns its finding."""

    namespace: str  # user or organization
    models: tuple[str, ...]  # ids of the published models
    folder: Path  # local folder for everything
    stem: str  # prefix of the names of all repos, unused so far
    second: str = ""  # user of the second account; empty if there is none
    record: list[dict[str, object]] = field(default_factory=list)  # what was run, for the transcript
    tiny_model: Path = TINY_MODEL

    def repo(self, name: str) -> str:
        return f"{self.namespace}/{self.stem}-{name}"

    def dataset(self, name: str) -> str:
        return f"hf://datasets/{self.repo(name)}"

    @property
    def repos(self) -> list[tuple[str, str, str]]:
        """All repos that may be created: id, type, and who may read it."""
        access = {"graph": "public", "images": "private", "labels": "public", "many": "public"}
        access |= {"private-labels": "private"}
        datasets = [(self.repo(name), "dataset", readers) for name, readers in access.items()]
        models = [(self.repo(name), "model", "public") for name in ("model", "classifier")]
        return [*datasets, *models, (self.repo("private"), "model", "private"), (self.hostile, "model", "public")]

    @property
    def hostile(self) -> str:
        """The repo of the attacker."""
        return f"{self.second or self.namespace}/{self.stem}-hostile"

    def command(self, *words: object) -> str:
        """Run a command of mll-hf in this process and record it; returns its output.

        Raises:
            MLLError: It failed.
        """
        given, start = [str(word) for word in words], time.monotonic()
        output, complaints = io.StringIO(), io.StringIO()
        with redirect_stdout(output), redirect_stderr(complaints):
            status = mll_hf_command(given)
        said, complained = output.getvalue(), complaints.getvalue()
        seconds = round(time.monotonic() - start, 1)
        ran = {"command": ["mll-hf", *given], "status": status, "seconds": seconds}
        self.record.append({**ran, "stdout": said, "stderr": complained})
        sys.stderr.write(complained)
        if status == 130:
            raise KeyboardInterrupt
        if status:
            errors = re.findall("^mll-hf: error: (.*)", complained, re.MULTILINE)
            raise MLLError("; ".join(errors) or one_line(said))
        return said

    def draw(self) -> str:
        def concepts() -> Iterator[NewConcept]:
            yield Concept("check-shape", ("shape",), "", ()), ()
            for shape in SHAPES:
                yield Concept(f"check-{shape}", (shape,), "", ("check-shape",)), ()
                for color in COLORS:
                    name = f"{color} {shape}"
                    drawn = (picture(name, serial) for serial in range(IMAGES_PER_CONCEPT))
                    images = tuple(NewImage(each, name, "drawing", "live_check") for each in drawn)
                    yield Concept(f"check-{color}-{shape}", (name,), "", (f"check-{shape}",)), images

        graph = make_graph(self.folder / "graph", concepts())
        return f"{len(graph)} concepts, {graph.probes.total} images, {megabytes(size_of(self.folder / 'graph'))}"

    def push_graph(self) -> str:
        to = ["--to", self.dataset("graph"), "--images-to", self.dataset("images")]
        self.command("graph", "push", self.folder / "graph", *to)
        again = self.command("graph", "push", self.folder / "graph", *to)
        expect(again.count("published already") == 2, "the same graph was published twice")
        return "again: nothing changed"

    def upload_model(self) -> str:
        api, repo_id = connect(), self.repo("model")
        with hub_errors(repo_id):
            api.create_repo(repo_id)
            api.upload_folder(repo_id=repo_id, folder_path=TINY_MODEL, commit_message="Add a tiny model")
        return f"{TINY_MODEL.name}, {megabytes(size_of(TINY_MODEL))}"

    def label(self) -> str:
        models = [*self.models, self.repo("model")]
        words = ["label", *models, "--graph", self.dataset("graph"), "--labels", self.folder / "labels", "--json"]
        rows = [json.loads(line) for line in self.command(*words).splitlines()]
        recalls = (f"{row['recall']:.3f} ({row['repo_id']}@{row['revision'][:12]})" for row in rows)
        return f"mean recall {', '.join(recalls)}"

    def push_labels(self) -> str:
        self.command("push", "--all", "--labels", self.folder / "labels", "--to", self.dataset("labels"))
        return self.dataset("labels")

    def push_own(self) -> str:
        self.command("push", self.repo("model"), "--labels", self.folder / "labels")
        return self.repo("model")

    def read(self) -> str:
        rows = json.loads(self.command("labels", "ls", "--labels", self.dataset("labels"), "--json"))
        expect(len(rows) == 1 + len(self.models), f"the collection has {len(rows)} labels")
        try:
            graph_with_images(self.dataset("graph"))
        except HubError as error:
            expect("private" in str(error), f"the private images are refused for another reason: {error}")
        else:
            raise InputError("the private images are public")
        return f"{len(rows)} labels; the private images are refused"

    def find(self) -> str:
        start = time.monotonic()
        while True:
            try:
                self.command("labels", "show", self.repo("model"), "--labels", "hub")
                return f"listed after {time.monotonic() - start:.0f} s"
            except MLLError as error:
                if "no label of" not in str(error) or time.monotonic() - start > LISTED_WITHIN:
                    raise
                time.sleep(5)

    def select(self) -> str:
        said = []
        for source in (self.dataset("labels"), "hub", "published"):
            on_graph = () if source == "published" else ("--graph", self.dataset("graph"))
            owner = self.repo("model").partition("/")[0]
            named = (*on_graph, "--trust", owner, "--json")
            chosen = self.command("select", "--classes", ", ".join(CLASSES), "--labels", source, *named)
            if not said:
                (self.folder / "choice.json").write_text(chosen, encoding="utf-8")
            said.append(f"{json.loads(chosen)['answer']['best']} ({source.replace(self.dataset('labels'), 'labels')})")
        return ", ".join(said)

    def predict(self) -> str:
        for n, path in enumerate(self.pictures):
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(picture(path.stem.rpartition(" ")[0], 1000 + n))
        words = ["predict", "--selection", self.folder / "choice.json", *self.pictures, "--json"]
        answers = [json.loads(line)["label"] for line in self.command(*words).splitlines()]
        (self.folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
        right = sum(path.stem.startswith(answer) for path, answer in zip(self.pictures, answers, strict=True))
        return f"{right} of {len(answers)} new images are classified correctly"

    @property
    def pictures(self) -> list[Path]:
        return [self.folder / "pictures" / f"{name} {n}.png" for name in CLASSES for n in range(IMAGES_PER_CLASS)]

    def push_selection(self) -> str:
        self.command("push", "--selection", self.folder / "choice.json", "--to", self.repo("classifier"))
        return self.repo("classifier")

    def pipeline(self) -> str:
        answers = mll_hf.pipeline(self.repo("classifier"))([str(path) for path in self.pictures], top_k=1)
        expected = json.loads((self.folder / "answers.json").read_text(encoding="utf-8"))
        expect([one[0]["label"] for one in answers] == expected, "its answers differ from those of predict")
        return "the same answers as predict"

    def verify(self) -> str:
        return one_line(self.command("labels", "verify", self.repo("model"), "--labels", self.dataset("labels")))


class Step(NamedTuple):
    """A step: its function, the steps that must have succeeded before, and who runs it."""

    name: str
    run: Callable[[Check], str]
    needs: tuple[str, ...] = ()
    by: str = AUTHOR

    @property
    def title(self) -> str:
        return self.name if self.by == AUTHOR else f"{self.name} ({self.by})"


STEPS = (
    Step("draw a graph", Check.draw),
    Step("push the graph", Check.push_graph, ("draw a graph",)),
    Step("upload a model", Check.upload_model),
    Step("label", Check.label, ("push the graph", "upload a model")),
    Step("push labels to a collection", Check.push_labels, ("label",)),
    Step("push a label to its model", Check.push_own, ("label",)),
    Step("read labels", Check.read, ("push labels to a collection", "push a label to its model"), by=VISITOR),
    Step("find the label by its tag", Check.find, ("push a label to its model",), by=VISITOR),
    Step("select", Check.select, ("push labels to a collection", "find the label by its tag"), by=VISITOR),
    Step("predict", Check.predict, ("select",), by=VISITOR),
    Step("push the selection", Check.push_selection, ("select",)),
    Step("use it as a pipeline", Check.pipeline, ("predict", "push the selection"), by=VISITOR),
    Step("verify a label", Check.verify, ("push labels to a collection",)),
    Step("publish a first label", live_others.first_label, ("push a label to its model", "select")),
    Step("select and be refused", live_others.other_user, ("publish a first label",), by=SECOND),
    Step("keep private models private", live_others.stay_private, ("push labels to a collection",)),
    Step("write together", live_others.write_together, ("label",)),
    Step("attack", live_others.attack, ("label",), by=ATTACKER),
    Step("withstand the attack", live_others.withstand, ("attack", "select")),
)


def picture(name: str, serial: int) -> bytes:
    """A PNG of a colored shape on gray, such as "red circle", at a position that depends on the serial number."""
    from PIL import Image, ImageDraw

    color, shape = name.split()
    sides, turn = SHAPES[shape]
    x, y, radius = np.random.default_rng([serial, *name.encode()]).integers((90, 90, 45), (134, 134, 80)).tolist()
    image = Image.new("RGB", (224, 224), "lightgray")
    ImageDraw.Draw(image).regular_polygon((x, y, radius), sides, rotation=turn, fill=color)
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


# --- running them -----------------------------------------------------------------------------------------------------


class Result(NamedTuple):
    """Outcome of a step."""

    name: str
    outcome: str
    said: str
    seconds: float = 0.0


@contextmanager
def acting_as(who: str, check: Check) -> Iterator[None]:
    """Act as a user with separate caches; the attacker has the second account, if there is one."""
    home = check.folder / who
    caches = {f"HF_{name}_CACHE": str(home / name.lower()) for name in ("HUB", "ASSETS")}
    token = {"HF_TOKEN": os.environ[SECOND_TOKEN]} if check.second and who in (SECOND, ATTACKER) else {}
    hidden = {"HF_HUB_DISABLE_IMPLICIT_TOKEN": who == VISITOR}
    with mock.patch.multiple(constants, **hidden, **caches), mock.patch.dict(os.environ, token):
        yield


def run_steps(check: Check, results: list[Result]) -> None:
    """Run the steps one after the other; appends their results."""
    outcomes: dict[str, str] = {}
    for step in STEPS:
        if missing := [name for name in step.needs if outcomes[name] != "ok"]:
            outcomes[step.name] = "not run"
            results.append(Result(step.title, "not run", f"needs: {', '.join(missing)}"))
            continue
        if step.by == SECOND and not check.second:
            results.append(Result(step.title, "skipped", f"needs a second account: ${SECOND_TOKEN}"))
            outcomes[step.name] = "skipped"
            continue
        check.record.append({"step": step.name, "by": step.by})
        start, outcome, said = time.monotonic(), "interrupted", ""
        print(f"{step.title} ...", file=sys.stderr, flush=True)
        try:
            with acting_as(step.by, check):
                outcome, said = "ok", step.run(check)
        except MLLError as error:
            outcome, said = "failed", str(error)
        except Exception as error:  # errors that escape the library are what this looks for
            outcome, said = "failed", f"{type(error).__name__}: {one_line(error)}"
        finally:
            outcomes[step.name] = outcome
            results.append(Result(step.title, outcome, said, time.monotonic() - start))
            print(f"    {outcome}: {said}", file=sys.stderr, flush=True)


def clean_up(check: Check) -> Result:
    """Delete all repos of this run."""
    start, left = time.monotonic(), []
    for repo_id, kind, _ in check.repos:
        try:
            with acting_as(ATTACKER if repo_id == check.hostile else AUTHOR, check), hub_errors(repo_id):
                api = connect()
                if api.repo_exists(repo_id, repo_type=kind):
                    api.delete_repo(repo_id, repo_type=kind)
        except (MLLError, KeyboardInterrupt) as error:
            left.append(f"{one_line(error)}: hf repo delete {repo_id} --repo-type {kind}")
    said = f"left behind: {'; '.join(left)}" if left else f"{check.stem}-* deleted"
    return Result("clean up", "failed" if left else "ok", said, time.monotonic() - start)


# --- question and report ----------------------------------------------------------------------------------------------


def plan(check: Check, user: str, keep: bool) -> str:
    """A description of what the check will do."""
    known = {model.hub_id: model.download_bytes for model in known_models()}
    sizes = {model: known.get(model) or 0 for model in check.models}
    models = [f"{model} ({megabytes(size) if size else 'size unknown'})" for model, size in sizes.items()]
    total = gigabytes(sum(sizes.values()) + max(sizes.values()) + ENCODER_BYTES)
    end = "kept" if keep else "deleted at the end"
    return "\n".join(
        [
            f"This check of mll_hf, by {user} on {constants.ENDPOINT}, will",
            f"- create repos, {end}:",
            *(f"    {repo_id} ({readers} {kind})" for repo_id, kind, readers in check.repos),
            f"- upload about {megabytes(size_of(TINY_MODEL) + GRAPH_BYTES)},",
            f"- download {' and '.join(models)}, one of them twice, and a text encoder to {check.folder}, {end}: "
            f"about {total}, not counting sizes that are unknown,",
            f"- measure these models on {len(SHAPES) * len(COLORS) * IMAGES_PER_CONCEPT} images on this machine.",
        ]
    )


def report(check: Check, results: Sequence[Result]) -> str:
    """The report, in Markdown."""
    installed = {package.name: package.version for package in distributions() if package.name in PACKAGES}
    versions = ", ".join(f"{name} {installed.get(name, 'missing')}" for name in PACKAGES)
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    rows = []
    for each in results:
        said = each.said.replace("|", "\\|").replace("\n", " ")
        rows.append([each.name, each.outcome, "" if each.outcome == "not run" else f"{each.seconds:.1f}", said])
    return "\n".join(
        [
            "# Live check of mll_hf\n",
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {constants.ENDPOINT}, {machine}; {versions}.",
            f"Models: {', '.join(check.models)}. {sum(each.outcome == 'ok' for each in results)} of {len(results)} "
            f"steps ok in {sum(each.seconds for each in results):.0f} s.\n",
            *markdown_table(["step", "result", "seconds", ""], rows),
        ]
    )


def write_transcript(file: Path, check: Check, results: Sequence[Result]) -> None:
    """Write what was run and how the steps ended, one JSON object per line, without tokens and paths."""
    installed = {package.name: package.version for package in distributions() if package.name in PACKAGES}
    head = {"format": TRANSCRIPT, "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "hub": constants.ENDPOINT, **installed}
    lines = [head, *check.record, *(result._asdict() for result in results)]
    text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    for private, shown in (
        (str(check.folder), "FOLDER"),
        (str(Path(__file__).parents[1]), "SOURCE"),
        (str(Path.home()), "HOME"),
    ):
        text = text.replace(private, shown)
    file.write_text(re.sub(r"\bhf_\w{4,}", "hf_...", text), encoding="utf-8")


def megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB"


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder; links do not count."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def default_models() -> tuple[str, ...]:
    """The two smallest models with an open license that can be selected without labels."""
    known = [
        m for m in usable_models() if m.weights == "safetensors" and m.license in OPEN_LICENSES and m.download_bytes
    ]
    return tuple(model.hub_id for model in sorted(known, key=lambda model: (model.download_bytes, model.hub_id))[:2])


def second_user(first: str) -> str:
    """The user of the second account; empty if there is none."""
    if not (token := os.environ.get(SECOND_TOKEN)):
        return ""
    with hub_errors("hub"):
        name = str(connect(token).whoami()["name"])
    if name == first:
        raise InputError(f"${SECOND_TOKEN} is of the same account, {name}; give that of another one, or none")
    return name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit status."""
    parser = script_parser(str(__doc__))
    parser.add_argument("--namespace", metavar="NAME", help="user or organization of the repos (default: you)")
    parser.add_argument(
        "--model", action="append", metavar="ID", help="model to label; may be repeated (default: two small ones)"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--transcript", type=Path, default=Path("live_check.jsonl"), metavar="FILE", help="its file")
    parser.add_argument("--keep", action="store_true", help="delete nothing: neither the repos nor the local folder")
    parser.add_argument("--known-models", action="store_true", help="only compare the known models with the Hub")
    args = parser.parse_args(arguments)
    if args.known_models:
        text, is_right = check_hub.report(connect())
        print(text)
        return 0 if is_right else 1
    try:
        with hub_errors("hub"):
            user = connect().whoami()
        owned = [user["name"], *(organization["name"] for organization in user.get("orgs", ()))]
        if (namespace := args.namespace or owned[0]) not in owned:
            raise InputError(f"{namespace} is not your namespace; give one of: {', '.join(owned)}")
        stem = f"mll-hf-live-check-{secrets.token_hex(3)}"
        folder = Path(tempfile.gettempdir()) / stem
        second = second_user(owned[0])
        check = Check(namespace, tuple(args.model or default_models()), folder, stem, second)
        print(plan(check, owned[0], args.keep), file=sys.stderr)
        if not args.yes and not confirm("Continue?", "cannot ask without a terminal; add --yes"):
            print("nothing was created", file=sys.stderr)
            return 2
    except MLLError as error:
        print(f"live_check: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nnothing was created", file=sys.stderr)
        return 130
    results: list[Result] = []
    is_interrupted = False
    try:
        check.folder.mkdir(mode=0o700)
        run_steps(check, results)
    except KeyboardInterrupt:
        is_interrupted = True
    finally:
        if not args.keep:
            results.append(clean_up(check))
            shutil.rmtree(check.folder, ignore_errors=True)
    print(report(check, results))
    write_transcript(args.transcript, check, results)
    return 130 if is_interrupted else int(any(result.outcome not in ("ok", "skipped") for result in results))


if __name__ == "__main__":
    sys.exit(main())
