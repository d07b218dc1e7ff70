"""The local page, as a browser talks to it."""

import errno
import http.client
import io
import json
import re
import socket
import struct
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import jax
import numpy as np
import pytest
from helpers.goldens import initialise
from PIL import Image, ImageOps

from lightbsr_jax.errors import UserError
from lightbsr_jax.inference import results
from lightbsr_jax.inference import server as page_server
from lightbsr_jax.inference import studio as studio_module
from lightbsr_jax.inference.explain import Bank, Known
from lightbsr_jax.inference.server import Server
from lightbsr_jax.inference.studio import Studio
from lightbsr_jax.inference.turns import Turns
from lightbsr_jax.inference.upscaler import IDR, Progress
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.models.model import Model
from lightbsr_jax.spec import ModelSpec

STATIC = Path(page_server.__file__).parent / "static"
WEIGHTS = {"first": "blurred photographs", "second": ""}


def model(seed: int) -> Model:
    network = LightBSR(2, groups=1, blocks=1)
    variables = initialise(network, jax.random.key(seed))
    return Model(
        ModelSpec.of_network(network, "student", 1), variables, np.zeros((441, 15))
    )


class Enlarger:
    """Stands for an Upscaler that compiles nothing; `level` tells networks apart."""

    scale = 2

    def __init__(self, level: int) -> None:
        self._level = level

    def __call__(
        self, image: np.ndarray, *, strength: float = 1, on_progress: Progress
    ) -> np.ndarray:
        for done in range(1, 21):
            on_progress(done, 20)
        large = image.repeat(2, 0).repeat(2, 1)
        if large.dtype == np.float32:
            return large
        return large ^ np.uint8(round(self._level * strength))

    def estimate(self, image: np.ndarray) -> IDR:
        height, width, _ = image.shape
        random = np.random.default_rng(0)
        map_ = random.random((-(-height // 4), -(-width // 4), 128))
        spatial = random.random((height, width, 8))
        return IDR(map_, map_.mean((0, 1)), np.zeros(48), spatial)


@pytest.fixture(scope="module")
def studio() -> Studio:
    def load(name: str) -> NoReturn:
        raise AssertionError(f"{name} is there already")

    names = list(WEIGHTS)
    studio = Studio(load, names, Turns(16), megapixels=0.01, explains=False)
    networks: Any = {name: (Enlarger(8 + i), None) for i, name in enumerate(names)}
    studio._upscalers = networks
    studio._banks["first"] = Bank([Known(2, 2, 0, 0)], np.zeros((1, 2, 128)))
    return studio


@pytest.fixture(scope="module")
def server(studio: Studio) -> Iterator[Server]:
    with Server(WEIGHTS, port=0, megapixels=0.01) as server:
        server.open(studio)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(
    server: Server, path: str, data: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    url = f"http://127.0.0.1:{server.server_port}{path}"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data, headers)
        ) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def png(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    samples = np.random.default_rng(0).integers(256, size=(height, width, 3))
    Image.fromarray(samples.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_goes_there_and_back(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"
    status, text = ask(server, "/")
    assert status == 200 and text.startswith(b"<!doctype html>")
    assert ask(server, "/?id=1") == (200, text)  # as some programs open pages
    status, text = ask(server, "/upscale?name=" + quote("ä b.png"), png(9, 12))
    *progress, printed = map(json.loads, text.splitlines())
    assert status == 200, printed
    assert [x["percent"] for x in progress][-1] == 100
    assert printed["name"] == "ä b-x2.png" and printed["size"] == [24, 18]
    assert printed["from"] == [12, 9] and printed["shown"] == printed["after"]
    assert printed["nearest"][0].startswith("sigma 2.0")
    for key, size in {"before": (12, 9), "after": (24, 18)}.items():
        _, content = ask(server, printed[key])
        assert Image.open(io.BytesIO(content)).size == size
    assert ask(server, printed["idr"])[0] == 200
    assert len(server.results) == 3


def test_the_page_asks_for_files_that_are_there(server: Server) -> None:
    """Styles, scripts and pictures come with types that browsers take."""
    page = ask(server, "/")[1].decode()
    linked = set(re.findall('(?:href|src)="([^"]+)"', page))
    assert linked == {"page.css", "page.js", "icon.svg"}
    scripts = {path.name: path.read_text() for path in STATIC.glob("*.js")}
    for script in scripts.values():
        linked |= set(re.findall(r'from "\./(\w+\.js)"', script))
    linked |= {"example.png"}
    assert linked == {path.name for path in STATIC.iterdir()} - {"index.html"}
    kinds = {"css": "text/css", "js": "text/javascript"}
    kinds |= {"svg": "image/svg+xml", "png": "image/png"}
    for name in linked:
        url = f"http://127.0.0.1:{server.server_port}/{name}"
        with urllib.request.urlopen(url) as answer:
            assert answer.headers.get_content_type() == kinds[name.split(".")[1]]
            assert "'self'" in answer.headers["Content-Security-Policy"]
            assert answer.read()
    ids = re.findall(r'\bid="([\w-]+)"', page)
    assert len(set(ids)) == len(ids)
    for name in ("page.js", "viewer.js"):
        assert set(re.findall(r'at\("([\w-]+)"\)', scripts[name])) <= set(ids)
    assert set(re.findall(r'<label for="(\w+)"', page)) <= set(ids)


def test_a_head_has_no_body(server: Server) -> None:
    head = http.client.HTTPConnection("127.0.0.1", server.server_port)
    head.request("HEAD", "/")
    answer = head.getresponse()
    length = int(answer.headers["Content-Length"])
    assert (answer.status, length) == (200, len(ask(server, "/")[1]))
    assert answer.fp.read() == b""
    head.close()


def test_no_other_files_are_sent(server: Server) -> None:
    for path in ("/../server.py", "/static/page.js", "/%2e%2e/server.py"):
        assert ask(server, path)[0] == 404


def test_what_the_page_offers(server: Server) -> None:
    printed = json.loads(ask(server, "/about")[1])
    first = {"name": "first", "purpose": "blurred photographs", "scale": 2}
    assert printed["weights"][0] == first
    assert [one["name"] for one in printed["weights"]] == list(WEIGHTS)
    assert printed["formats"][:3] == ["png", "jpg", "webp"]
    assert {".jpeg", ".tiff", ".jxl"} <= set(printed["suffixes"])
    assert (printed["megapixels"], printed["mostBytes"]) == (0.01, 100_000_000)
    assert printed["keeps"] == "transparency, 16 bits and colour profiles are kept"
    assert printed["ready"] is False


@pytest.mark.parametrize(
    "query, name, size, kind",
    [
        ("scale=3&format=jpg", "a-x3.jpg", (36, 27), "JPEG"),
        ("size=30x&format=webp&quality=60", "a-30x22.webp", (30, 22), "WEBP"),
        ("size=x36&format=tif", "a-48x36.tif", (48, 36), "TIFF"),
        ("format=bmp", "a-x2.bmp", (24, 18), "BMP"),
    ],
)
def test_settings(
    server: Server, query: str, name: str, size: tuple[int, int], kind: str
) -> None:
    status, text = ask(server, f"/upscale?name=a.png&{query}", png(9, 12))
    printed = json.loads(text.splitlines()[-1])
    assert status == 200 and printed["name"] == name and tuple(printed["size"]) == size
    found = Image.open(io.BytesIO(ask(server, printed["after"])[1]))
    assert (found.size, found.format) == (size, kind)
    shown = Image.open(io.BytesIO(ask(server, printed["shown"])[1]))
    assert (shown.size, shown.format) == (size, "PNG" if kind == "TIFF" else kind)


def test_weights_and_strength_are_chosen(server: Server) -> None:
    def result(query: str) -> bytes:
        _, text = ask(server, f"/upscale?name=a.png{query}", png(9, 12))
        return ask(server, json.loads(text.splitlines()[-1])["after"])[1]

    assert result("") == result("&weights=first") != result("&weights=second")
    assert result("&strength=1") == result("") != result("&strength=0.5")


@pytest.mark.parametrize(
    "query, status, message",
    [
        ("weights=/etc/passwd", 400, "no weights '/etc/passwd' here: first, second"),
        ("scale=-2", 400, "scale=-2.0: expected a number above 0, up to 64"),
        ("scale=nan", 400, "scale=nan: expected a number above 0, up to 64"),
        ("scale=x", 400, "scale=x: expected a number"),
        ("quality=best", 400, "quality=best: expected a whole number"),
        ("stregth=0.5", 400, "no setting 'stregth': weights, scale, size, format,"),
        ("size=20", 400, "size=20: expected WIDTHxHEIGHT"),
        ("format=gif", 400, "no format 'gif': png, jpg"),
        ("strength=1.5", 400, "strength 1.5: expected a number from 0 to 1"),
        ("format=jpg&quality=0", 400, "a quality of 0: expected 1 to 100"),
        ("size=1000x", 413, "1000 x 750 pixels exceed the 0.16 megapixels"),
    ],
)
def test_settings_that_cannot_be(
    server: Server, query: str, status: int, message: str
) -> None:
    found, text = ask(server, f"/upscale?name=a.png&{query}", png(9, 12))
    error = json.loads(text)["error"]
    assert (found, message in error, "--" in error) == (status, True, False)


def test_a_form_is_refused_with_the_remedy(server: Server) -> None:
    """As `curl -F` sends a file."""
    kind = "multipart/form-data; boundary=x"
    status, text = ask(server, "/upscale?name=a.png", b"--x", **{"Content-Type": kind})
    assert status == 415 and "curl --data-binary @FILE" in json.loads(text)["error"]


def test_float_pictures_are_shown_whatever_their_range(server: Server) -> None:
    buffer = io.BytesIO()
    samples = np.linspace(-3, 5, 9 * 12, dtype=np.float32).reshape(9, 12)
    samples[0, :2] = -np.inf, np.inf
    samples[4, 4] = np.nan
    Image.fromarray(samples).save(buffer, "TIFF")
    status, text = ask(server, "/upscale?name=a.tif", buffer.getvalue())
    printed = json.loads(text.splitlines()[-1])
    assert status == 200 and printed.get("name") == "a-x2.tif", printed
    for key in ("before", "shown"):
        shown = Image.open(io.BytesIO(ask(server, printed[key])[1]))
        assert shown.format == "PNG"
        levels = np.asarray(shown)
        assert levels.min() < levels.max() / 4  # not cut off
        assert len(np.unique(levels)) > 50


@pytest.mark.parametrize(
    "size, mode, orientation",
    [((9, 12), "L", 1), ((7, 1), "L", 2), ((1, 7), "RGB", 6)],
)
def test_grey_and_narrow_pictures_are_shown(
    server: Server, size: tuple[int, int], mode: str, orientation: int
) -> None:
    """Their arrays have axes of length one, with any stride."""
    image = Image.open(io.BytesIO(png(*size))).convert(mode)
    exif = Image.Exif()
    exif[274] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    status, text = ask(server, "/upscale?name=a.png", buffer.getvalue())
    printed = json.loads(text.splitlines()[-1])
    assert status == 200 and "before" in printed, printed
    shown = Image.open(io.BytesIO(ask(server, printed["before"])[1]))
    image.info["exif"] = exif.tobytes()
    np.testing.assert_array_equal(shown, ImageOps.exif_transpose(image))


@pytest.mark.parametrize(
    "sent", ["", "GET / HT", "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"]
)
def test_who_leaves_is_no_error(
    server: Server, monkeypatch: pytest.MonkeyPatch, sent: str
) -> None:
    errors, ended, shut = [], threading.Event(), server.shutdown_request

    def shut_down(request: Any) -> None:
        shut(request)
        ended.set()

    monkeypatch.setattr(server, "handle_error", lambda *_: errors.append("error"))
    monkeypatch.setattr(server, "shutdown_request", shut_down)
    path = server.results.keep("image/png", bytes(20_000_000))
    host = f"127.0.0.1:{server.server_port}"
    with connection(server) as leaving:
        reset = struct.pack("ii", True, 0)  # what was not sent is thrown away
        leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        leaving.sendall(sent.format(path=path, host=host).encode())
        assert "Host" not in sent or b" 200 " in leaving.recv(100)
    assert ended.wait(20) and not errors


def test_a_slow_download_goes_on_while_data_flow(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes in all."""
    monkeypatch.setattr(page_server._Handler, "timeout", 1)
    path = server.results.keep("image/png", bytes(20_000_000))
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n"
    count = 0
    with connection(server) as slow:
        slow.sendall(head.encode())
        while found := len(slow.recv(1_000_000)):
            count += found
            time.sleep(0.1)
    assert count > 20_000_000


def test_what_a_result_lacks_is_said(server: Server) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (9, 9, 9, 99)).save(buffer, "PNG")
    data = buffer.getvalue()
    printed = ask(server, "/upscale?name=a.png&format=jpg", data)[1].splitlines()[-1]
    assert json.loads(printed)["without"] == ["transparency"]


@pytest.mark.parametrize(
    "data, status, message",
    [
        (b"no picture", 400, "x.png: not a readable"),
        (b"", 400, "x.png: the file is empty"),
        (png(9, 12)[:-30], 400, "x.png: corrupt or truncated"),
        (png(101, 100), 413, "100 x 101 pixels exceed 0.01 megapixels"),
    ],
)
def test_refusals_are_clear_and_the_server_goes_on(
    server: Server, data: bytes, status: int, message: str
) -> None:
    found, text = ask(server, "/upscale?name=x.png", data)
    assert (found, message in json.loads(text)["error"]) == (status, True)
    assert ask(server, "/")[0] == 200


def test_too_long_an_upload_is_refused_unread(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_server, "_MOST_BYTES", 100)
    assert ask(server, "/upscale?name=x.png", png(9, 12))[0] == 413


def test_other_pages_are_refused(server: Server) -> None:
    assert ask(server, "/", Host="evil.example")[0] == 403
    origin = {"Origin": "http://evil.example"}
    assert ask(server, "/upscale?name=x.png", png(9, 12), **origin)[0] == 403
    assert ask(server, "/result/guessed")[0] == 404


def test_without_known_degradations(
    server: Server, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studio, "_banks", {})
    _, text = ask(server, "/upscale?name=x.png", png(9, 12))
    printed = json.loads(text.splitlines()[-1])
    assert printed["nearest"] == [] and printed["idr"]


def test_results_are_kept_for_a_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = server.results.keep
    paths = [keep("image/png", bytes(1000)) for _ in range(150)]
    assert {ask(server, path)[0] for path in paths} == {200}
    monkeypatch.setattr(results, "_KEPT_BYTES", 10_000)
    keep("image/png", b"")
    assert [ask(server, path)[0] for path in paths[-11:]] == [404, *[200] * 10]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 500)
    assert server.results.at(paths[-1]) is not None
    monkeypatch.setattr(time, "monotonic", lambda: now + 700)
    assert server.results.at(paths[-1]) is None


def test_the_results_of_one_picture_are_all_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However large they are, until those of the next one."""
    monkeypatch.setattr(results, "_KEPT_BYTES", 10)
    kept = results.Results()
    paths = [kept.keep("image/png", bytes(100)) for _ in range(8)]
    assert [kept.at(path) is not None for path in paths] == [False] * 4 + [True] * 4


def test_old_results_take_no_memory(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if nobody asks for anything any more."""
    server.results.keep("image/png", b"x")
    later = time.monotonic() + 700
    monkeypatch.setattr(time, "monotonic", lambda: later)
    server.service_actions()
    assert len(server.results) == 0


@pytest.mark.parametrize("length", ["9" * 5000, "99999999999999999999", "-1", "\u0663"])
def test_absurd_lengths_are_refused(server: Server, length: str) -> None:
    with connection(server) as visitor:
        head = f"POST /upscale HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n"
        head += f"Content-Length: {length}\r\n\r\n"
        visitor.sendall(head.encode())
        answer = visitor.makefile("rb").readline()
    assert answer.split()[1] in (b"413", b"411")


def test_a_full_disk_is_no_bug(
    server: Server, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(studio, "read", full)
    status, text = ask(server, "/upscale?name=x.png", png(9, 12))
    assert (status, "is full" in json.loads(text)["error"]) == (507, True)


def test_uploads_need_no_files(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    read = studio.read("x.png", png(9, 12), studio.wish({}))
    assert read.colour.shape == (9, 12, 3)


def test_a_containers_page_answers_to_localhost_alone() -> None:
    """It listens on all addresses; the published port has the same number."""
    with Server({"first": ""}, port=0, host="0.0.0.0") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert server.server_address[0] == "0.0.0.0"
        own = f"localhost:{server.server_port}"
        for host, status in ((own, 200), ("192.168.0.7:7860", 403)):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
            connection.request("GET", "/about", headers={"Host": host})
            answer = connection.getresponse()
            assert answer.status == status
            assert answer.headers.get_content_type() == "application/json"
            connection.close()
        server.shutdown()


def test_the_port_that_browsers_leave_out(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(server, "/", Host="localhost")[0] == 403
    monkeypatch.setattr(server, "server_port", 80)
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    request = urllib.request.Request(url, headers={"Host": "localhost"})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


def test_one_picture_at_a_time_and_none_for_those_who_left(
    server: Server, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting uploads are not read, and visitors who left are skipped."""
    begun, go_on, seen = threading.Event(), threading.Event(), []

    def upscale(name: str, *arguments: object) -> dict[str, str]:
        seen.append(name)
        begun.set()
        go_on.wait(20)
        return {"after": name}

    monkeypatch.setattr(studio, "upscale", upscale)

    def send(name: str) -> socket.socket:
        data = png(9, 12)
        visitor = connection(server)
        head = f"POST /upscale?name={name} HTTP/1.1\r\n"
        head += f"Host: 127.0.0.1:{server.server_port}\r\n"
        head += f"Content-Length: {len(data)}\r\n\r\n"
        visitor.sendall(head.encode() + data)
        return visitor

    first = send("first")
    assert begun.wait(20)
    left, last = send("left"), send("last")
    left.close()
    time.sleep(1)
    assert seen == ["first"]
    go_on.set()
    assert b'"after": "last"' in last.makefile("rb").read()
    assert seen == ["first", "last"]
    first.close()
    last.close()


def test_too_many_that_wait_are_sent_away(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "turns", Turns(1))
    with server.turn(lambda: False):
        status, text = ask(server, "/upscale?name=x.png", png(9, 12))
    assert (status, "are waiting" in json.loads(text)["error"]) == (503, True)


def test_who_says_nothing_is_not_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_server._Handler, "timeout", 0.5)
    silent = [connection(server) for _ in range(80)]
    half = connection(server)
    head = f"POST /upscale HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n"
    half.sendall(head.encode() + b"Content-Length: 100\r\n\r\nabc")
    assert half.makefile("rb").readline().split()[1] == b"408"
    assert ask(server, "/")[0] == 200
    for visitor in silent:
        visitor.settimeout(20)
        assert visitor.recv(1) == b""  # the server has closed it
        visitor.close()
    half.close()


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_page_without_its_network_waits_for_it(
    real: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page opens at once; a picture waits for the network and is upscaled."""
    go_on, ready = threading.Event(), threading.Event()
    if not real:
        monkeypatch.setattr(studio_module, "Upscaler", lambda _, **__: Enlarger(8))

    def make(server: Server) -> Studio:
        assert go_on.wait(20)
        networks: Any = {"first": model(0) if real else None}
        return Studio(
            networks.__getitem__,
            ["first"],
            server.turns,
            megapixels=1,
            explains=False,
        )

    with Server({"first": ""}, port=0, megapixels=1) as server:
        server.prepare(make, ready.set)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert ask(server, "/")[0] == 200
        printed = json.loads(ask(server, "/about")[1])
        assert (printed["ready"], printed["said"]) == (False, "starting")
        answers: list[tuple[int, bytes]] = []
        asks = threading.Thread(
            target=lambda: answers.append(ask(server, "/upscale?name=a", png(9, 12)))
        )
        asks.start()
        time.sleep(0.5)
        assert not answers
        go_on.set()
        asks.join(120)
        assert answers[0][0] == 200 and b'"after"' in answers[0][1]
        assert ready.wait(120)
        printed = json.loads(ask(server, "/about")[1])
        assert (printed["ready"], printed["said"]) == (True, "ready")
        server.shutdown()


def test_a_network_that_cannot_be_loaded_ends_the_server() -> None:
    def make(server: Server) -> Studio:
        raise UserError("no such weights")

    with Server({"first": ""}, port=0) as server:
        server.prepare(make, lambda: None)
        server.serve_forever()
    assert str(server.failure) == "no such weights"


def test_the_background_yields_to_visitors(studio: Studio) -> None:
    turns = Turns(2)
    with turns.visitor(lambda: False):
        assert turns.wanted
        began = threading.Event()

        def work() -> None:
            with turns.background():
                began.set()

        behind = threading.Thread(target=work)
        behind.start()
        assert not began.wait(0.3)
    behind.join(20)
    assert began.is_set() and not turns.wanted


def connection(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_port), timeout=20)
