"""The server of `lightbsr serve`: a local page to upscale pictures.

It listens only on this machine and answers only its own pages. The page sends a picture
to /upscale, which answers in lines of JSON: the progress, and finally the results. One
picture is upscaled at a time; other uploads wait, unread. Results are kept in memory
for some minutes, and no file is written.
"""

import contextlib
import errno
import io
import json
import secrets
import select
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, NamedTuple, cast
from urllib.parse import unquote

from PIL import Image

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import conversion, files, photographs
from lightbsr_jax.imaging.photographs import Photograph
from lightbsr_jax.inference import explain
from lightbsr_jax.inference.explain import Bank
from lightbsr_jax.inference.upscaler import Progress, Upscaler

ADDRESS = "127.0.0.1"
_HTTP_PORT = 80
_KEPT_SECONDS = 600  # time for which results can be fetched
_KEPT_BYTES = 1_000_000_000  # limit of all results; the oldest are deleted first
_MOST_WAITING = 16  # limit of waiting uploads
_SILENCE = 30  # seconds without data after which a connection counts as closed
_MOST_BYTES = 100_000_000  # limit of an upload
_PACKAGE = "lightbsr_jax.inference"
_PAGE = {  # files of `static`, and their types
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}

Answer = dict[str, Any]  # sent as JSON


class _Refusal(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Kept(NamedTuple):
    kind: str  # one of _TYPES
    content: bytes
    since: float  # by time.monotonic


class Server(ThreadingHTTPServer):
    """The server of the page. Port 0 picks a free port; `server_port` holds it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, upscaler: Upscaler, bank: Bank | None, *, port: int, megapixels: float
    ) -> None:
        """Opens the port. Raises OSError if it is in use.

        Pictures larger than `megapixels` are refused. Without a bank the page shows no
        nearest degradations.
        """
        self.upscaler = upscaler
        self.bank = bank
        self.megapixels = megapixels
        self._results: OrderedDict[str, _Kept] = OrderedDict()
        self._keeping = threading.Lock()
        self._working = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)
        super().__init__((ADDRESS, port), _Handler)

    def keep(self, kind: str, content: bytes) -> str:
        """Stores a result for _KEPT_SECONDS; returns the path to fetch it from."""
        path = f"/result/{secrets.token_urlsafe(12)}"
        with self._keeping:
            self._results[path] = _Kept(kind, content, time.monotonic())
            self._forget()
        return path

    def result(self, path: str) -> _Kept | None:
        """The result stored at a path, if it is still kept."""
        with self._keeping:
            self._forget()
            return self._results.get(path)

    def _forget(self) -> None:
        oldest = time.monotonic() - _KEPT_SECONDS
        size = sum(len(kept.content) for kept in self._results.values())
        for path, kept in list(self._results.items()):
            if kept.since >= oldest and size <= _KEPT_BYTES:
                break
            size -= len(kept.content)
            del self._results[path]

    @contextlib.contextmanager
    def turn(self, is_gone: Callable[[], bool]) -> Iterator[None]:
        """Waits until no other picture is being upscaled.

        Raises ConnectionAbortedError if the visitor leaves, _Refusal if too many wait.
        """
        if not self._waiting.acquire(blocking=False):
            message = f"{_MOST_WAITING} pictures are waiting: try again later"
            raise _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, message)
        try:
            while not self._working.acquire(timeout=0.2):
                if is_gone():
                    raise ConnectionAbortedError("the visitor left")
            try:
                yield
            finally:
                self._working.release()
        finally:
            self._waiting.release()

    def read(self, name: str, data: bytes) -> Photograph:
        """Reads the picture of an upload. Raises _Refusal, UserError."""
        height, width = files.size_of_bytes(data, name)
        if height * width > 1e6 * self.megapixels:
            raise _Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"{width} x {height} pixels exceed {self.megapixels:g} megapixels: use "
                "lightbsr upscale, or lightbsr serve --megapixels",
            )
        photograph = photographs.of_bytes(data, name)
        photographs.check_format(_kind(photograph), self._target(photograph), name)
        photographs.check_range(photograph, _kind(photograph), name)
        return photograph

    def upscale(
        self, name: str, photograph: Photograph, on_progress: Progress
    ) -> Answer:
        """Upscales a picture; returns the answer for the page. Raises UserError."""
        kind, target = _kind(photograph), self._target(photograph)
        pixels = conversion.to_network(photograph)
        sr = self.upscaler(pixels, on_progress=on_progress)
        estimated = self.upscaler.estimate(pixels)
        result = conversion.from_network(photograph, sr, target)
        explanation = io.BytesIO()
        Image.fromarray(explain.picture(estimated)).save(explanation, "PNG")
        nearest = self.bank.nearest(estimated.mean) if self.bank is not None else []
        before = photographs.encode(photograph, kind="PNG")
        after = photographs.encode(result, kind=kind)
        return {
            "before": self.keep("PNG", before),
            "after": self.keep(kind, after),
            "idr": self.keep("PNG", explanation.getvalue()),
            "name": f"{Path(name).stem}-x{self.upscaler.scale}.{kind.lower()}",
            "size": [target[1], target[0]],
            "nearest": [
                f"{known.label} (distance {far:.1f})" for known, far in nearest
            ],
        }

    def _target(self, photograph: Photograph) -> tuple[int, int]:
        height, width, _ = photograph.colour.shape
        return height * self.upscaler.scale, width * self.upscaler.scale


def _kind(photograph: Photograph) -> str:
    """The format of the result: that of the picture if browsers show it, else PNG."""
    return photograph.format if photograph.format in _TYPES else "PNG"


def _page_file(name: str, megapixels: float) -> bytes:
    """Reads a file of the page, and fills limits into the HTML."""
    text = resources.files(_PACKAGE).joinpath("static", name).read_text("utf-8")
    if name.endswith(".html"):
        limits = {
            "megapixels": f"{megapixels:g}",
            "most_bytes": _MOST_BYTES,
            "minutes": _KEPT_SECONDS // 60,
        }
        text = Template(text).substitute(limits)
    return text.encode()


@contextlib.contextmanager
def _errors_as_refusals() -> Iterator[None]:
    """Turns errors into a _Refusal, except that of a visitor who left."""
    try:
        yield
    except (ConnectionError, _Refusal):
        raise
    except UserError as error:
        raise _Refusal(HTTPStatus.BAD_REQUEST, str(error)) from error
    except TimeoutError as error:
        message = f"no data arrived for {_SILENCE} seconds: upload the file again"
        raise _Refusal(HTTPStatus.REQUEST_TIMEOUT, message) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = "the disk for temporary files is full: set TMPDIR to another folder"
        raise _Refusal(HTTPStatus.INSUFFICIENT_STORAGE, message) from error
    except MemoryError as error:
        message = "there is not enough memory for this picture"
        raise _Refusal(HTTPStatus.INSUFFICIENT_STORAGE, message) from error
    except Exception as error:
        traceback.print_exc()
        message = "a bug: the terminal shows it"
        raise _Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, message) from error


class _Handler(BaseHTTPRequestHandler):
    timeout = _SILENCE  # of the socket

    @property
    def _server(self) -> Server:
        return cast(Server, self.server)

    def do_GET(self) -> None:
        if self._is_foreign():
            return
        if self.path in _PAGE:
            name, kind = _PAGE[self.path]
            self._send(HTTPStatus.OK, kind, _page_file(name, self._server.megapixels))
        elif (result := self._server.result(self.path)) is not None:
            self._send(HTTPStatus.OK, _TYPES[result.kind], result.content)
        else:
            self._fail(HTTPStatus.NOT_FOUND, "there is nothing here")

    def do_POST(self) -> None:
        if self._is_foreign():
            return
        path, _, name = self.path.partition("?name=")
        name = unquote(name)
        # If the visitor leaves, the work ends as well.
        with contextlib.suppress(ConnectionError, TimeoutError):
            try:
                length = self._length(path)
                with self._server.turn(self._is_gone):
                    with _errors_as_refusals():
                        data = self.rfile.read(length)
                        photograph = self._server.read(name, data)
                    del data
                    self._upscale(name, photograph)
            except _Refusal as refusal:
                self._fail(refusal.status, str(refusal))

    def _upscale(self, name: str, photograph: Photograph) -> None:
        """Sends lines: percentages, and finally the results or an error."""
        self._send_head(HTTPStatus.OK, "application/x-ndjson")
        percent = 0

        def show(done: int, total: int) -> None:
            nonlocal percent
            if self._is_gone():
                raise ConnectionAbortedError("the visitor left")
            if 100 * done // total > percent:
                percent = 100 * done // total
                self._send_line({"percent": percent})

        try:
            with _errors_as_refusals():
                answer = self._server.upscale(name, photograph, show)
        except _Refusal as refusal:
            answer = {"error": str(refusal)}
        self._send_line(answer)

    def _length(self, path: str) -> int:
        """Number of bytes of an upload. Raises _Refusal."""
        if path != "/upscale":
            raise _Refusal(HTTPStatus.NOT_FOUND, "there is nothing here")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            message = "the upload states no Content-Length"
            raise _Refusal(HTTPStatus.LENGTH_REQUIRED, message)
        if len(length) > 15 or int(length) > _MOST_BYTES:
            raise _Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the file is larger than {_MOST_BYTES // 1_000_000} MB",
            )
        return int(length)

    def _is_gone(self) -> bool:
        """Returns whether the visitor has left, if the system reports that."""
        if not hasattr(select, "POLLRDHUP"):
            return False
        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        return bool(poll.poll(0))

    def _is_foreign(self) -> bool:
        """Refuses requests of other pages in the same browser."""
        port = self._server.server_port
        own = {f"{host}:{port}" for host in (ADDRESS, "localhost")}
        if port == _HTTP_PORT:  # browsers omit this port
            own |= {ADDRESS, "localhost"}
        origin = self.headers.get("Origin")
        foreign = self.headers.get("Host") not in own or (
            origin is not None and origin.removeprefix("http://") not in own
        )
        if foreign:
            self._fail(HTTPStatus.FORBIDDEN, "this page is for this machine only")
        return foreign

    def _fail(self, status: HTTPStatus, message: str) -> None:
        self.close_connection = True  # the upload may not have been read
        content = json.dumps({"error": message}).encode() + b"\n"
        self._send(status, "application/x-ndjson", content)

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self._send_head(status, kind, len(content))
        self.wfile.write(content)

    def _send_head(
        self, status: HTTPStatus, kind: str, length: int | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:  # otherwise the body ends with the connection
            self.send_header("Content-Length", str(length))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()

    def _send_line(self, answer: Answer) -> None:
        self.wfile.write(json.dumps(answer).encode() + b"\n")

    def log_message(self, format: str, *arguments: object) -> None:
        pass
