"""Serve a pipeline over HTTP and on Inference Endpoints. Images of concurrent requests are classified in batches.

Requests and responses have the format of Hugging Face Inference Endpoints, so their clients work with this server.
URLs of images are not fetched, to prevent server-side request forgery.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub.utils.tqdm import disable_progress_bars

from mll_hf.errors import InputError, MissingExtraError, MLLError
from mll_hf.matching.prompts import check_class_names, fill
from mll_hf.pipelines import pipeline
from mll_hf.utils.text import abridged, one_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from PIL import Image
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.types import Message, Receive

    from mll_hf.pipelines import Answers, Pipeline

    Picture = bytes | Image.Image  # encoded, or opened by the toolkit of Inference Endpoints
    Answer = Answers | MLLError  # of one image


@dataclass(frozen=True)
class Limits:
    """Limits on requests."""

    bytes: int = 32 * 2**20  # per request
    images: int = 32  # per request
    pixels: int = 50 * 10**6  # per image
    classes: int = 100  # in candidate_labels; the selection itself may have more
    requests: int = 64  # concurrent; others get status 503
    seconds: int = 30  # to receive a request


_LIMITS = Limits()
_BATCH_SIZE = 64
_WAIT_SECONDS = 0.005  # for more images in a batch
_STOP_SECONDS = 60  # for finishing requests on shutdown
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # for others, Pillow may run external programs
_PARAMETERS = ("candidate_labels", "hypothesis_template", "top_k")
_UNREADABLE = f"cannot be read as an image; send a complete file in one of the formats {', '.join(_FORMATS)}"
_FAILED = "classification failed; try again later"
_NOT_JSON = 'not JSON with "inputs"; send {"inputs": an image in base64, or a list of them}'
_NOT_BASE64 = "an image is given as a string that is not base64; encode the file in base64"
_log = logging.getLogger(__name__)


# --- requests ---------------------------------------------------------------------------------------------------------


class _Options(NamedTuple):
    """Options of a request; images with equal options are classified together."""

    classes: tuple[str, ...] | None = None
    template: str | None = None


@dataclass(frozen=True)
class _Request:
    """A parsed request."""

    images: Sequence[Picture]
    is_list: bool  # whether the response is a list with an item per image
    options: _Options
    top_k: int | None  # maximum number of classes to return; None for all

    def response(self, answers: Sequence[Answer]) -> Any:  # noqa: ANN401 - JSON
        """The response. Failed images in a list have an ``error``; raises MLLError if the only image failed."""
        if not self.is_list and isinstance(answers[0], MLLError):
            raise answers[0]
        items = [{"error": str(a)} if isinstance(a, MLLError) else a[: self.top_k] for a in answers]
        return items if self.is_list else items[0]


def _parse(inputs: object, parameters: object, limits: Limits) -> _Request:
    """Parse a request; raises InputError if it is invalid.

    The inputs are an image or a list of images: bytes, base64 or PIL images. The parameters are None, or a mapping with
    some of `_PARAMETERS`.
    """
    images = inputs if isinstance(inputs, list) else [inputs]
    if not 1 <= len(images) <= limits.images:
        raise InputError(f"{len(images)} images in one request; send 1 to {limits.images}")
    parameters = {} if parameters is None else parameters
    if not isinstance(parameters, dict) or parameters.keys() - set(_PARAMETERS):
        shown = abridged(list(parameters), 5) if isinstance(parameters, dict) else repr(parameters)[:50]
        raise InputError(f"parameters are {shown}; give an object with any of {', '.join(_PARAMETERS)}")
    classes, template, top_k = map(parameters.get, _PARAMETERS)
    if classes is not None:
        if not isinstance(classes, list) or len(classes) > limits.classes:
            raise InputError(f"candidate_labels must be a list of at most {limits.classes} class names")
        classes = check_class_names(classes)
    if template is not None:
        if not isinstance(template, str):
            raise InputError("hypothesis_template must be a string with one {} for the class")
        fill([template], "class")
    if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
        raise InputError(f"top_k is {top_k!r:.20}; give a whole number, at least 1")
    return _Request([_picture(image) for image in images], isinstance(inputs, list), _Options(classes, template), top_k)


def _picture(given: object) -> Picture:
    if isinstance(given, bytes) or hasattr(given, "getbands"):
        return given  # type: ignore[return-value]
    if not isinstance(given, str):
        raise InputError(f"an image is given as {type(given).__name__}; encode the file in base64")
    if given.startswith(("http://", "https://")):
        raise InputError("URLs are not fetched; send the image itself, encoded in base64")
    try:
        return base64.b64decode(given.rpartition(",")[2] if given.startswith("data:") else given, validate=True)
    except ValueError:
        raise InputError(_NOT_BASE64) from None


def _refused(image: Picture, limits: Limits) -> InputError | None:
    """The error of an image according to its header, or None; the image is not decoded."""
    from PIL import Image

    try:
        size = Image.open(io.BytesIO(image), formats=_FORMATS).size if isinstance(image, bytes) else image.size
    except Image.DecompressionBombError:
        return InputError("the image has too many pixels; send a smaller one")
    except Exception:  # Pillow may raise anything on untrusted headers
        return InputError(_UNREADABLE)
    if size[0] * size[1] <= limits.pixels:
        return None
    return InputError(
        f"the image has {size[0]} x {size[1]} pixels, over {limits.pixels / 1e6:.0f} million; send a smaller one"
    )


# --- classification ---------------------------------------------------------------------------------------------------


def _load(classifier: Pipeline) -> None:
    """Load the models; raises MLLError if that fails."""
    from PIL import Image

    disable_progress_bars("mll_hf.predict")  # shown per batch otherwise
    classifier([Image.new("RGB", (64, 64))])


def _classified(classifier: Pipeline, images: Sequence[Picture], options: _Options, limits: Limits) -> list[Answer]:
    """The result of each image; those that their header rules out are not decoded."""
    refused = [_refused(image, limits) for image in images]
    found = iter(_run(classifier, [i for i, error in zip(images, refused, strict=True) if not error], options))
    return [error or next(found) for error in refused]


def _run(classifier: Pipeline, images: Sequence[Picture], options: _Options) -> list[Answer]:
    """The result of each image. If memory is too small for a batch, its images are classified one by one."""
    try:
        found = classifier(images, options.classes, hypothesis_template=options.template)
        return [answers or InputError(_UNREADABLE) for answers in found]
    except InputError as error:
        return [error] * len(images)
    except Exception as error:
        reason, is_ours = one_line(error), isinstance(error, MLLError)
    if len(images) > 1 and not is_ours:
        return [answer for image in images for answer in _run(classifier, [image], options)]
    _log.error("%d images failed: %s", len(images), reason)
    return [MLLError(_FAILED)] * len(images)


class _Job(NamedTuple):
    image: Picture
    options: _Options
    answer: asyncio.Future[Answer]


class _Worker:
    """Runs the classifier in one thread at a time; all waiting images form the next batch."""

    def __init__(self, classifier: Pipeline, limits: Limits, batch_size: int) -> None:
        self._classifier, self._limits, self._batch_size = classifier, limits, batch_size
        self._queue: asyncio.Queue[_Job] = asyncio.Queue()

    async def answers(self, request: _Request) -> list[Answer]:
        """The result of each image of a request."""
        loop = asyncio.get_running_loop()
        jobs = [_Job(image, request.options, loop.create_future()) for image in request.images]
        for job in jobs:
            self._queue.put_nowait(job)
        return await asyncio.gather(*(job.answer for job in jobs))

    async def run(self) -> None:
        """Classify until it is cancelled."""
        while True:
            batch = [await self._queue.get()]
            await asyncio.sleep(_WAIT_SECONDS)
            while len(batch) < self._batch_size and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            for options in dict.fromkeys(job.options for job in batch):
                jobs = [job for job in batch if job.options == options]
                images = [job.image for job in jobs]
                answers = await asyncio.to_thread(_classified, self._classifier, images, options, self._limits)
                for job, answer in zip(jobs, answers, strict=True):
                    if not job.answer.done():  # cancelled
                        job.answer.set_result(answer)


# --- HTTP -------------------------------------------------------------------------------------------------------------


def serve(
    classifier: Pipeline,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    limits: Limits = _LIMITS,
    batch_size: int = _BATCH_SIZE,
) -> None:
    """Serve HTTP requests until SIGTERM or SIGINT, then finish pending requests.

    ``POST /`` accepts the bytes of one image, several images as ``multipart/form-data``, or JSON ``{"inputs": base64 or
    a list, "parameters": {...}}``; parameters may also be in the query or the form. The response is that of the
    pipeline, as a list if there is a list of images. ``GET /health`` and ``GET
    /ready`` return status 200. The server listens when the models are loaded.

    Args:
        classifier: Result of :func:`~mll_hf.pipelines.pipeline`.
        host: Address to listen on; by default only local connections are accepted.
        port: Port to listen on; 0 for any free port, which is logged.
        limits: Limits on requests.
        batch_size: Maximum number of images per batch.

    Raises:
        InputError: The server cannot listen on this host and port.
        MLLError: The models cannot be loaded.
        MissingExtraError: uvicorn or starlette is not installed.
    """
    try:
        import uvicorn

        app = make_app(classifier, limits, batch_size)
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "serve") from error
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_STOP_SECONDS))
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except (OSError, OverflowError) as error:
            raise InputError(f"cannot listen on {host}, port {port} ({error}); choose another") from None
        _load(classifier)  # connections are refused until the server listens
        _log.warning("listening on http://%s:%d/", host, listening.getsockname()[1])
        server.run([listening])


def make_app(classifier: Pipeline, limits: Limits = _LIMITS, batch_size: int = _BATCH_SIZE) -> Starlette:
    """The ASGI application for :func:`serve`."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    worker, places = _Worker(classifier, limits, batch_size), asyncio.Semaphore(limits.requests)

    async def classify(request: Request) -> Response:
        if places.locked():
            raise HTTPException(503, "too many concurrent requests; try again later", {"Retry-After": "1"})
        async with places:
            try:
                async with asyncio.timeout(limits.seconds):
                    parsed = await _read(Request(request.scope, limited(request.receive)), limits)
            except TimeoutError:
                raise HTTPException(408, f"the request took over {limits.seconds} s to arrive") from None
            return JSONResponse(parsed.response(await worker.answers(parsed)))

    def limited(receive: Receive) -> Receive:
        """Receive a request up to the maximum size."""
        size = 0

        async def receive_part() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limits.bytes:
                most = f"{limits.bytes / 2**20:.4g} MB"
                raise HTTPException(413, f"the request is larger than {most}; send fewer or smaller images")
            return message

        return receive_part

    def health(_: Request) -> Response:
        return JSONResponse({"ok": True})

    def error_response(_: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return JSONResponse({"error": error.detail}, error.status_code, error.headers)
        if isinstance(error, ClientDisconnect):
            return Response(status_code=400)  # not received by anyone
        return JSONResponse({"error": str(error)}, 400 if isinstance(error, InputError) else 503)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(worker.run())
        yield
        task.cancel()

    return Starlette(
        routes=[Route("/", classify, methods=["POST"]), Route("/health", health), Route("/ready", health)],
        exception_handlers=dict.fromkeys((HTTPException, ClientDisconnect, MLLError), error_response),
        lifespan=lifespan,
    )


async def _read(request: Request, limits: Limits) -> _Request:
    """Read and parse a request in any format; raises InputError if it is invalid."""
    from starlette.datastructures import UploadFile

    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    query = request.query_params.multi_items()
    if kind == "multipart/form-data":
        async with request.form(max_files=limits.images, max_fields=limits.classes + len(_PARAMETERS)) as form:
            parts = form.multi_items()
            images = [await part.read() for _, part in parts if isinstance(part, UploadFile)]
            fields = [(name, text) for name, text in parts if isinstance(text, str)]
        return _parse(images, _parameters([*query, *fields]), limits)
    body = await request.body()
    if kind != "application/json":
        return _parse(body, _parameters(query), limits)
    try:
        document = await asyncio.to_thread(json.loads, body)
        inputs, parameters = document["inputs"], document.get("parameters", _parameters(query))
    except (ValueError, TypeError, LookupError, RecursionError):
        raise InputError(_NOT_JSON) from None
    return await asyncio.to_thread(_parse, inputs, parameters, limits)


def _parameters(texts: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Parameters from a query or a form, in which all values are strings."""
    found: dict[str, Any] = dict(texts)
    if "candidate_labels" in found:
        found["candidate_labels"] = [text for name, text in texts if name == "candidate_labels"]
    if "top_k" in found and found["top_k"].isdecimal() and len(found["top_k"]) < 10:
        found["top_k"] = int(found["top_k"])
    return found


# --- Inference Endpoints ----------------------------------------------------------------------------------------------


class EndpointHandler:
    """Custom handler of Inference Endpoints, imported by the ``handler.py`` of a pushed selection.

    Args:
        path: Folder with a selection.

    Raises:
        MLLError: This is not a selection, or its models cannot be loaded.
    """

    def __init__(self, path: str = "") -> None:
        self._classifier, self._lock = pipeline(path), Lock()
        _load(self._classifier)

    def __call__(self, data: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
        """Handle a request ``{"inputs": ..., "parameters": ...}`` with images in base64, or PIL images.

        Raises:
            MLLError: The request is invalid or fails.
        """
        request = _parse(data.get("inputs"), data.get("parameters"), _LIMITS)
        with self._lock:
            return request.response(_classified(self._classifier, request.images, request.options, _LIMITS))
