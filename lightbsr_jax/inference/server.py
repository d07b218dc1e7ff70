"""`lightbsr serve`: a local page to upscale pictures one at a time.

It is bound to this machine, and answers only pages of its own: a picture is sent to
/upscale, which answers in lines of JSON, how far it is and at last what there is. The
results are kept, of the last few pictures, until they are fetched.
"""

import contextlib
import io
import json
import secrets
import tempfile
import threading
import traceback
from collections import OrderedDict
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, cast
from urllib.parse import unquote

from PIL import Image

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import conversion, files, photographs
from lightbsr_jax.imaging.photographs import Photograph
from lightbsr_jax.inference import explain
from lightbsr_jax.inference.explain import Bank
from lightbsr_jax.inference.upscaler import Progress, Upscaler

ADDRESS = "127.0.0.1"
_KEPT = 4  # pictures whose results are kept
_MOST_BYTES = 100_000_000  # of an upload
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


class Server(ThreadingHTTPServer):
    """The page's server. Port 0 takes a free one; `server_port` is which."""

    daemon_threads = True

    def __init__(
        self, upscaler: Upscaler, bank: Bank | None, *, port: int, megapixels: float
    ) -> None:
        """Larger pictures than `megapixels` are refused. OSError: the port is taken.

        Without a bank the page shows no nearest degradations.
        """
        self.upscaler = upscaler
        self.bank = bank
        self.megapixels = megapixels
        self.results: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self.working = threading.Lock()
        super().__init__((ADDRESS, port), _Handler)

    def keep(self, kind: str, content: bytes) -> str:
        """Where a result can be fetched from."""
        path = f"/result/{secrets.token_urlsafe(12)}"
        self.results[path] = kind, content
        while len(self.results) > 3 * _KEPT:
            self.results.popitem(last=False)
        return path

    def read(self, name: str, data: bytes) -> Photograph:
        """The picture of an upload. Raises _Refusal, UserError."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "picture")
            source.write_bytes(data)
            try:
                height, width = files.image_size(source)
                if height * width > 1e6 * self.megapixels:
                    raise _Refusal(
                        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                        f"{width} x {height} pixels are more than {self.megapixels:g} "
                        "megapixels: use lightbsr upscale, or serve --megapixels",
                    )
                photograph = photographs.read(source)
            except UserError as error:  # the file's name here tells nobody anything
                raise UserError(str(error).replace(str(source), name)) from error
        photographs.check_format(_kind(photograph), self._target(photograph), name)
        photographs.check_range(photograph, _kind(photograph), name)
        return photograph

    def upscale(
        self, name: str, photograph: Photograph, on_progress: Progress
    ) -> Answer:
        """Upscales a picture; what the page shows. Raises UserError."""
        kind, target = _kind(photograph), self._target(photograph)
        pixels = conversion.to_network(photograph)
        with self.working:
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
    """The result's format: the picture's where browsers show it."""
    return photograph.format if photograph.format in _TYPES else "PNG"


def _page_file(name: str, megapixels: float) -> bytes:
    """A file of the page; the HTML with its limits filled in."""
    text = resources.files(_PACKAGE).joinpath("static", name).read_text("utf-8")
    if name.endswith(".html"):
        limits = {"megapixels": f"{megapixels:g}", "most_bytes": _MOST_BYTES}
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
    except MemoryError as error:
        message = "there is not enough memory for this picture"
        raise _Refusal(HTTPStatus.INSUFFICIENT_STORAGE, message) from error
    except Exception as error:
        traceback.print_exc()
        message = "a bug: the terminal shows it"
        raise _Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, message) from error


class _Handler(BaseHTTPRequestHandler):
    @property
    def _server(self) -> Server:
        return cast(Server, self.server)

    def do_GET(self) -> None:
        if self._is_foreign():
            return
        if self.path in _PAGE:
            name, kind = _PAGE[self.path]
            self._send(HTTPStatus.OK, kind, _page_file(name, self._server.megapixels))
        elif (result := self._server.results.get(self.path)) is not None:
            kind, content = result
            self._send(HTTPStatus.OK, _TYPES[kind], content)
        else:
            self._fail(HTTPStatus.NOT_FOUND, "there is nothing here")

    def do_POST(self) -> None:
        if self._is_foreign():
            return
        path, _, name = self.path.partition("?name=")
        name = unquote(name)
        # (The visitor may leave, which ends the work, too.)
        with contextlib.suppress(ConnectionError):
            try:
                with _errors_as_refusals():
                    photograph = self._uploaded(path, name)
            except _Refusal as refusal:
                self._fail(refusal.status, str(refusal))
            else:
                self._upscale(name, photograph)

    def _upscale(self, name: str, photograph: Photograph) -> None:
        """Sends lines: percentages, and at last the results or an error."""
        self._send_head(HTTPStatus.OK, "application/x-ndjson")
        percent = 0

        def show(done: int, total: int) -> None:
            nonlocal percent
            if 100 * done // total > percent:
                percent = 100 * done // total
                self._send_line({"percent": percent})

        try:
            with _errors_as_refusals():
                answer = self._server.upscale(name, photograph, show)
        except _Refusal as refusal:
            answer = {"error": str(refusal)}
        self._send_line(answer)

    def _uploaded(self, path: str, name: str) -> Photograph:
        if path != "/upscale":
            raise _Refusal(HTTPStatus.NOT_FOUND, "there is nothing here")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _Refusal(HTTPStatus.LENGTH_REQUIRED, "how long is the file?")
        if int(length) > _MOST_BYTES:
            raise _Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the file is larger than {_MOST_BYTES // 1_000_000} MB",
            )
        return self._server.read(name, self.rfile.read(int(length)))

    def _is_foreign(self) -> bool:
        """Refuses what other pages in the same browser ask for."""
        own = {f"{host}:{self._server.server_port}" for host in (ADDRESS, "localhost")}
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
        if length is not None:  # else what follows ends with the connection
            self.send_header("Content-Length", str(length))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()

    def _send_line(self, answer: Answer) -> None:
        self.wfile.write(json.dumps(answer).encode() + b"\n")

    def log_message(self, format: str, *arguments: object) -> None:
        pass
