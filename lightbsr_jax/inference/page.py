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
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from PIL import Image

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files, photographs
from lightbsr_jax.imaging.photographs import Photograph
from lightbsr_jax.inference import explain
from lightbsr_jax.inference.explain import Bank
from lightbsr_jax.inference.upscaler import Progress, Upscaler

ADDRESS = "127.0.0.1"
_KEPT = 4  # pictures whose results are kept
_MOST_BYTES = 100_000_000  # of an upload
_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}

Result = TypeVar("Result")
Told = dict[str, Any]  # to be said in JSON


class _Refusal(Exception):
    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server(ThreadingHTTPServer):
    """The page's server. Port 0 takes a free one; `server_port` is which."""

    daemon_threads = True

    def __init__(
        self, upscaler: Upscaler, bank: Bank, *, port: int, megapixels: float
    ) -> None:
        """Larger pictures than `megapixels` are refused. OSError: the port is taken."""
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
        return photograph

    def upscale(self, name: str, photograph: Photograph, on_progress: Progress) -> Told:
        """Upscales a picture; what the page shows. Raises UserError."""
        kind, target = _kind(photograph), self._target(photograph)
        pixels, _ = photographs.to_network(photograph)
        with self.working:
            sr = self.upscaler(pixels, on_progress=on_progress)
            estimated = self.upscaler.estimate(pixels)
        result = photographs.from_network(photograph, sr, target)
        explanation = io.BytesIO()
        Image.fromarray(explain.picture(estimated)).save(explanation, "PNG")
        nearest = self.bank.nearest(estimated.mean)
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


def _attempted(act: Callable[[], Result]) -> tuple[HTTPStatus, Result | Told]:
    """OK and what `act` gives; or another status and {"error": why}."""
    try:
        return HTTPStatus.OK, act()
    except ConnectionError:
        raise
    except _Refusal as refusal:
        return refusal.status, {"error": str(refusal)}
    except UserError as error:
        return HTTPStatus.BAD_REQUEST, {"error": str(error)}
    except MemoryError:
        message = "there is not enough memory for this picture"
        return HTTPStatus.INSUFFICIENT_STORAGE, {"error": message}
    except Exception:
        traceback.print_exc()
        message = "a bug: the terminal shows it"
        return HTTPStatus.INTERNAL_SERVER_ERROR, {"error": message}


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self._is_foreign():
            return
        if self.path == "/":
            page = _PAGE.replace("MEGAPIXELS", f"{self.server.megapixels:g}")
            page = page.replace("MOST_BYTES", str(_MOST_BYTES))
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", page.encode())
        elif (result := self.server.results.get(self.path)) is not None:
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
            status, photograph = _attempted(lambda: self._uploaded(path, name))
            if status != HTTPStatus.OK:
                self._fail(status, photograph["error"])
                return
            self._send_head(status, "application/x-ndjson")
            percent = 0

            def tell(done: int, total: int) -> None:
                nonlocal percent
                if 100 * done // total > percent:
                    percent = 100 * done // total
                    self._send_line({"percent": percent})

            upscale = partial(self.server.upscale, name, photograph, tell)
            self._send_line(_attempted(upscale)[1])

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
        return self.server.read(name, self.rfile.read(int(length)))

    def _is_foreign(self) -> bool:
        """Refuses what other pages in the same browser ask for."""
        own = {f"{host}:{self.server.server_port}" for host in (ADDRESS, "localhost")}
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

    def _send_line(self, told: Told) -> None:
        self.wfile.write(json.dumps(told).encode() + b"\n")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>LightBSR</title>
<link rel="icon" href="data:,">
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto;
         padding: 0 1rem; color: #222 }
  #drop { display: block; position: relative; border: 2px dashed #999;
          border-radius: 8px; padding: 2rem; text-align: center; cursor: pointer }
  #drop.over { border-color: #06c; background: #eef5ff }
  #drop:focus-within { outline: 2px solid #06c }
  #drop input { position: absolute; inset: 0; width: 100%; opacity: 0 }
  #told { min-height: 1.5em; margin: 1rem 0 }
  #told.error { color: #b00020 }
  #compare { position: relative; line-height: 0; margin: auto }
  #compare img { width: 100%; image-rendering: pixelated; background: #eee }
  #after, #split { position: absolute; left: 0; top: 0 }
  #split { width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize }
  #line { position: absolute; top: 0; bottom: 0; border-left: 2px solid #fff;
          box-shadow: 0 0 3px #000; pointer-events: none }
  #split:focus-visible + #line { border-color: #06c }
  #sides { display: flex; justify-content: space-between; margin: 0 auto }
  #idr { max-width: 24rem; width: 100% }
</style>
<h1>LightBSR</h1>
<label id="drop">Drop a picture here, or choose one (up to MEGAPIXELS megapixels)
  <input id="file" type="file" accept="image/*"></label>
<p id="told" role="status"></p>
<section id="result" hidden>
  <div id="compare"><img id="before" alt="before"><img id="after" alt="after"
    ><input id="split" type="range" min="0" max="100" step="0.1" value="50"
    aria-label="before and after"><div id="line"></div></div>
  <p id="sides"><span>before</span><a id="download"></a><span>after</span></p>
  <h2>Estimated degradation</h2>
  <p id="nearest"></p>
  <p>A distance of 1 is usual between photographs of one degradation. Below are the maps
    of the estimate: first its principal components, in colours.</p>
  <img id="idr" alt="maps of the degradation's representation">
</section>
<script>
const at = id => document.getElementById(id);
const tell = (text, wrong) => {
  at("told").textContent = text;
  at("told").className = wrong ? "error" : "";
};
const move = () => {
  const split = at("split").value;
  at("before").style.clipPath = `inset(0 ${100 - split}% 0 0)`;
  at("after").style.clipPath = `inset(0 0 0 ${split}%)`;
  at("line").style.left = `calc(${split}% - 1px)`;
};
let current = 0, leave = new AbortController();
async function upscale(file) {
  const mine = ++current;
  at("result").hidden = true;
  if (file.size > MOST_BYTES) return tell(`${file.name} is larger than 100 MB`, true);
  tell(`Upscaling ${file.name} ...`);
  leave.abort();  // of an earlier picture
  leave = new AbortController();
  let told = {};
  try {
    const to = "/upscale?name=" + encodeURIComponent(file.name);
    const sent = {method: "POST", body: file, signal: leave.signal};
    const answer = (await fetch(to, sent)).body.pipeThrough(new TextDecoderStream());
    const reader = answer.getReader();
    let text = "";
    for (let part; !(part = await reader.read()).done;) {
      const lines = (text + part.value).split("\\n");
      text = lines.pop();
      for (const line of lines) told = JSON.parse(line);
      if (mine === current && told.percent)
        tell(`Upscaling ${file.name}: ${told.percent} %`);
    }
  } catch (error) {
    told = {};
  }
  if (mine !== current) return;
  if (!told.error && !told.after)
    told.error = "no answer: is the file too large, or has the server stopped?";
  if (told.error) return tell(told.error, true);
  for (const id of ["before", "after", "idr"]) at(id).src = told[id];
  at("download").href = told.after;
  at("download").download = told.name;
  at("download").textContent = `Download ${told.name}`;
  at("nearest").textContent = "Nearest known: " + told.nearest.join("; ");
  const [width, height] = told.size;  // all of it is to fit into the window
  for (const id of ["compare", "sides"])
    at(id).style.width = `min(100%, ${75 * width / height}vh)`;
  tell(`${file.name}: now ${width} x ${height} pixels`);
  at("result").hidden = false;
  move();
}
at("split").oninput = move;
at("file").onchange = () => at("file").files[0] && upscale(at("file").files[0]);
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, event => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0])
      upscale(event.dataTransfer.files[0]);
  });
</script>
</html>
"""
