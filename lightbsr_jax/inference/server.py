"""The server of `lightbsr serve`: a local page to upscale pictures.

It listens only on this machine and answers only its own pages. The page sends a picture
to /upscale, which answers in lines of JSON: the progress, and finally the results. One
picture is upscaled at a time; other uploads wait, unread. Results are kept in memory
for some minutes, and no file is written.

The page opens at once, and the network follows (`Server.prepare`). This module
therefore imports nothing that is slow to import.
"""

from __future__ import annotations

import contextlib
import errno
import json
import select
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl

from lightbsr_jax.errors import UserError
from lightbsr_jax.inference.results import Results
from lightbsr_jax.inference.turns import TooManyWait, Turns

if TYPE_CHECKING:
    from lightbsr_jax.imaging.photographs import Photograph
    from lightbsr_jax.inference.studio import Studio, Wish

ADDRESS = "127.0.0.1"
_HTTP_PORT = 80
_MOST_WAITING = 16  # limit of waiting uploads
_SILENCE = 30  # seconds without data after which a connection counts as closed
_MOST_BYTES = 100_000_000  # limit of an upload
_PIECE = 2**16  # bytes of an answer that are sent at once, within _SILENCE
_PACKAGE = "lightbsr_jax.inference"
_FILE_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
}
# The page loads only files of this server.
_POLICY = "default-src 'self'; img-src 'self' blob:; object-src 'none'"

Answer = dict[str, Any]  # sent as JSON


class _Refusal(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server(ThreadingHTTPServer):
    """The server of the page. Port 0 picks a free port; `server_port` holds it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        weights: Mapping[str, str],
        *,
        port: int,
        megapixels: float = 16,
        host: str = ADDRESS,
    ) -> None:
        """Opens the port. Raises OSError if it is in use.

        `host` is the address to listen on. The page answers to localhost's names alone,
        whatever it is: in a container, the published port must have the same number.
        `weights` maps the names of offered weights, the default first, to their
        purposes. Pictures larger than `megapixels` are refused.
        """
        self.weights = dict(weights)
        self.megapixels = megapixels
        self.results = Results()
        self.turns = Turns(_MOST_WAITING)
        self.failure: BaseException | None = None  # of `prepare`
        self._studio: Studio | None = None
        self._is_there = threading.Event()
        super().__init__((host, port), _Handler)

    def prepare(
        self, make: Callable[[Server], Studio], on_ready: Callable[[], None]
    ) -> None:
        """Makes the networks behind the page, in the background.

        `on_ready` is called when pictures no longer wait for preparation. If `make`
        fails, the server shuts down and `failure` holds the error.
        """

        def work() -> None:
            try:
                studio = make(self)
                self.open(studio)
                studio.prepare(on_ready)
            except BaseException as error:
                self.failure = error
                self.shutdown()

        threading.Thread(target=work, daemon=True).start()

    def open(self, studio: Studio) -> None:
        """Starts to accept pictures."""
        self._studio = studio
        self._is_there.set()

    def studio(self, is_gone: Callable[[], bool]) -> Studio:
        """Waits for the networks behind the page.

        Raises ConnectionAbortedError if the visitor leaves before.
        """
        while not self._is_there.wait(0.2):
            if is_gone():
                raise ConnectionAbortedError("the visitor left")
        return cast("Studio", self._studio)

    def about(self) -> Answer:
        """Lists the options of the page, and the state of the preparation."""
        from lightbsr_jax.imaging import formats

        studio = self._studio
        return {
            "ready": studio is not None and studio.is_ready,
            "said": "starting" if studio is None else studio.said,
            "weights": [
                {
                    "name": name,
                    "purpose": purpose,
                    "scale": None if studio is None else studio.scale(name),
                }
                for name, purpose in self.weights.items()
            ],
            "formats": formats.offered(),
            "suffixes": formats.suffixes(),
            "megapixels": self.megapixels,
            "keeps": "transparency, 16 bits and colour profiles are kept",
            "mostBytes": _MOST_BYTES,
        }

    def service_actions(self) -> None:
        """Frees the memory of old results; the server calls this all the time."""
        self.results.forget()

    @contextlib.contextmanager
    def turn(self, is_gone: Callable[[], bool]) -> Iterator[None]:
        """Waits like `Turns.visitor`; raises _Refusal if too many wait."""
        try:
            with self.turns.visitor(is_gone):
                yield
        except TooManyWait as error:
            message = f"{_MOST_WAITING} pictures are waiting: try again later"
            raise _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, message) from error


def _page_file(path: str) -> tuple[str, bytes] | None:
    """Reads a file of the page: its media type and content; None for others."""
    name = path.removeprefix("/") or "index.html"
    kind = _FILE_TYPES.get(name.rpartition(".")[2])
    folder = resources.files(_PACKAGE).joinpath("static")
    if kind is None or name not in {file.name for file in folder.iterdir()}:
        return None
    return kind, folder.joinpath(name).read_bytes()


@contextlib.contextmanager
def _errors_as_refusals() -> Iterator[None]:
    """Turns errors into a _Refusal, except that of a visitor who left."""
    from lightbsr_jax.inference.studio import TooLarge

    try:
        yield
    except (ConnectionError, _Refusal):
        raise
    except TooLarge as error:
        raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(error)) from error
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

    def handle(self) -> None:
        # If the visitor leaves, the work ends as well.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        if self._is_foreign():
            return
        path = self.path.partition("?")[0]
        if path == "/about":
            content = json.dumps(self._server.about()).encode()
            self._send(HTTPStatus.OK, "application/json", content)
        elif (file := _page_file(path)) is not None:
            self._send(HTTPStatus.OK, *file)
        elif (result := self._server.results.at(path)) is not None:
            self._send(HTTPStatus.OK, result.kind, result.content)
        else:
            self._fail(HTTPStatus.NOT_FOUND, "there is nothing here")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        if self._is_foreign():
            return
        path, _, query = self.path.partition("?")
        wished = dict(parse_qsl(query))
        name = wished.get("name", "picture")
        try:
            length = self._length(path)
            with self._server.turn(self._is_gone):
                studio = self._server.studio(self._is_gone)
                with _errors_as_refusals():
                    data = self.rfile.read(length)
                    wish = studio.wish(wished)
                    photograph = studio.read(name, data, wish)
                del data
                self._upscale(studio, name, photograph, wish)
        except _Refusal as refusal:
            self._fail(refusal.status, str(refusal))

    def _upscale(
        self, studio: Studio, name: str, photograph: Photograph, wish: Wish
    ) -> None:
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

        keep = self._server.results.keep
        try:
            with _errors_as_refusals():
                answer = studio.upscale(name, photograph, wish, keep, show)
        except _Refusal as refusal:
            answer = {"error": str(refusal)}
        self._send_line(answer)

    def _length(self, path: str) -> int:
        """Number of bytes of an upload. Raises _Refusal."""
        if path != "/upscale":
            raise _Refusal(HTTPStatus.NOT_FOUND, "there is nothing here")
        if self.headers.get_content_type() == "multipart/form-data":
            raise _Refusal(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "a form: send the bytes of the file alone (curl --data-binary @FILE)",
            )
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
        self._send(status, "application/json", content)

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self._send_head(status, kind, len(content))
        if self.command == "HEAD":
            return
        for start in range(0, len(content), _PIECE):
            self.wfile.write(content[start : start + _PIECE])

    def _send_head(
        self, status: HTTPStatus, kind: str, length: int | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:  # otherwise the body ends with the connection
            self.send_header("Content-Length", str(length))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

    def _send_line(self, answer: Answer) -> None:
        self.wfile.write(json.dumps(answer).encode() + b"\n")

    def log_message(self, format: str, *arguments: object) -> None:
        pass
