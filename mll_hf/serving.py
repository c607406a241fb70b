"""Serve a pipeline over HTTP.

Requests and responses have the format of Hugging Face Inference Endpoints, so their clients work with this server.
URLs of images are not fetched, to prevent server-side request forgery.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub.utils.tqdm import disable_progress_bars

from mll_hf.errors import InputError, MissingExtraError, MLLError
from mll_hf.pipelines import decoded, listed
from mll_hf.utils.images import installed, open_header, why_unreadable
from mll_hf.utils.text import abridged, one_line

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from mll_hf.pipelines import Pipeline


_MAX_BYTES = 32 * 2**20  # per request
_MAX_IMAGES = 32  # per request
_MAX_PIXELS = 50 * 10**6  # per image
_MAX_CLASSES = 100  # in candidate_labels; the selection itself may have more
_MAX_REQUESTS = 64  # concurrent; others get status 503
_RECEIVE_SECONDS = 30
_STOP_SECONDS = 60  # for finishing requests on shutdown
# for other formats, Pillow may run external programs
_FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_PARAMETERS = ("candidate_labels", "hypothesis_template", "top_k", "reject")
_NOT_JSON = 'not JSON with "inputs"; send {"inputs": an image in base64 or a list of them, "parameters": an object}'
_log = logging.getLogger(__name__)


class _Request(NamedTuple):
    """A parsed request."""

    images: list[bytes]
    is_list: bool  # whether the response is a list with an item per image
    parameters: dict[str, Any]  # of the pipeline, which checks them


def _parse(kind: str, body: bytes) -> _Request:
    """Parse the body of a request: JSON, or the bytes of one image. Raises InputError if it is invalid."""
    if kind != "application/json":
        return _Request([body], is_list=False, parameters={})
    try:
        document = json.loads(body)
        inputs, parameters = document["inputs"], {**(document.get("parameters") or {})}
        if isinstance(inputs, dict):  # as some clients send it: with the parameters
            inputs, parameters = inputs["image"], {**inputs, **parameters}
            del parameters["image"]
        n_classes = len(listed(parameters.get("candidate_labels") or []))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise InputError(_NOT_JSON) from None
    if unknown := sorted(parameters.keys() - set(_PARAMETERS)):
        raise InputError(f"unknown parameters: {abridged(unknown, 5)}; give any of {', '.join(_PARAMETERS)}")
    images = inputs if isinstance(inputs, list) else [inputs]
    if not 1 <= len(images) <= _MAX_IMAGES:
        raise InputError(f"{len(images)} images in one request; send 1 to {_MAX_IMAGES}")
    if n_classes > _MAX_CLASSES:
        raise InputError(f"candidate_labels must be a list of at most {_MAX_CLASSES} class names")
    return _Request([_content(image) for image in images], isinstance(inputs, list), parameters)


def _content(image: object) -> bytes:
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        raise InputError("URLs are not fetched; send the image itself, encoded in base64")
    if content := decoded(image) if isinstance(image, str) else b"":
        return content
    raise InputError("an image is given as something that is not base64; encode the file in base64")


def _answer(classifier: Pipeline, request: _Request) -> Any:  # noqa: ANN401 - JSON
    """The response. Failed images in a list have an ``error``; raises MLLError if the only image or all failed."""
    errors = [_refused(image) for image in request.images]
    try:
        readable = [image for image, error in zip(request.images, errors, strict=True) if not error]
        found = iter(classifier(readable, **request.parameters))
    except InputError:
        raise
    except Exception as error:
        _log.error("%d images failed: %s", len(request.images), one_line(error))
        raise MLLError("classification failed; try again later") from None
    answers = [
        error or next(found) or InputError(f"cannot be read as an image: {why_unreadable(image)}")
        for error, image in zip(errors, request.images, strict=True)
    ]
    if not request.is_list and isinstance(answers[0], MLLError):
        raise answers[0]
    items = [{"error": str(answer)} if isinstance(answer, MLLError) else answer for answer in answers]
    return items if request.is_list else items[0]


def _refused(image: bytes) -> InputError | None:
    """The error of an image according to its header, or None; the image is not decoded."""
    from PIL import Image

    try:
        width, height = open_header(image, _FORMATS).size
    except Image.DecompressionBombError:
        return InputError("the image has too many pixels; send a smaller one")
    except Exception:  # Pillow may raise anything on untrusted headers
        formats = ", ".join(installed(_FORMATS))
        return InputError(f"cannot be read as an image; send a complete file in one of the formats {formats}")
    if width * height <= _MAX_PIXELS:
        return None
    most = f"{_MAX_PIXELS / 1e6:.0f} million"
    return InputError(f"the image has {width} x {height} pixels, over {most}; send a smaller one")


# --- HTTP -------------------------------------------------------------------------------------------------------------


def serve(classifier: Pipeline, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve HTTP requests until SIGTERM or SIGINT, then finish pending requests.

    ``POST /`` accepts the bytes of one image, or JSON ``{"inputs": base64 or a list, "parameters": {...}}``. The
    response is that of the pipeline, as a list if there is a list of images. ``GET /health`` and ``GET /ready`` return
    status 200. The server listens when the models are loaded. Requests are received concurrently and classified one
    after another.

    Args:
        classifier: Result of :func:`~mll_hf.pipelines.pipeline`.
        host: Address to listen on; by default only local connections are accepted.
        port: Port to listen on; 0 for any free port, which is logged.

    Raises:
        InputError: The server cannot listen on this host and port.
        MLLError: The models cannot be loaded.
        MissingExtraError: uvicorn or starlette is not installed.
    """
    from PIL import Image

    try:
        import uvicorn

        app = make_app(classifier)
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "serve") from error
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_STOP_SECONDS))
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except (OSError, OverflowError) as error:
            raise InputError(f"cannot listen on {host}, port {port} ({error}); choose another") from None
        disable_progress_bars("mll_hf.predict")  # shown per request otherwise
        classifier([Image.new("RGB", (64, 64))])  # loads the models; connections are refused until then
        _log.warning("listening on http://%s:%d/", host, listening.getsockname()[1])
        server.run([listening])


def make_app(classifier: Pipeline) -> Starlette:
    """The ASGI application for :func:`serve`."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    places, one_at_a_time = asyncio.Semaphore(_MAX_REQUESTS), asyncio.Lock()

    async def classify(request: Request) -> Response:
        if places.locked():
            raise HTTPException(503, "too many concurrent requests; try again later", {"Retry-After": "1"})
        async with places:
            try:
                async with asyncio.timeout(_RECEIVE_SECONDS):
                    body = await received(request)
            except TimeoutError:
                raise HTTPException(408, f"the request took over {_RECEIVE_SECONDS} s to arrive") from None
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            parsed = await asyncio.to_thread(_parse, kind, body)
            async with one_at_a_time:
                return JSONResponse(await asyncio.to_thread(_answer, classifier, parsed))

    async def received(request: Request) -> bytes:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > _MAX_BYTES:
                most = f"{_MAX_BYTES / 2**20:.4g} MB"
                raise HTTPException(413, f"the request is larger than {most}; send fewer or smaller images")
        return bytes(body)

    def health(_: Request) -> Response:
        return JSONResponse({"ok": True})

    def error_response(_: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return JSONResponse({"error": error.detail}, error.status_code, error.headers)
        if isinstance(error, ClientDisconnect):
            return Response(status_code=400)  # not received by anyone
        return JSONResponse({"error": str(error)}, 400 if isinstance(error, InputError) else 503)

    return Starlette(
        routes=[Route("/", classify, methods=["POST"]), Route("/health", health), Route("/ready", health)],
        exception_handlers=dict.fromkeys((HTTPException, ClientDisconnect, MLLError), error_response),
    )
