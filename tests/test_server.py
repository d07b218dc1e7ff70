"""The local page, as a browser talks to it."""

import errno
import io
import json
import re
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import quote

import jax
import numpy as np
import pytest
from helpers.goldens import initialise
from PIL import Image

from lightbsr_jax.inference import server as page_server
from lightbsr_jax.inference.explain import Bank, Known
from lightbsr_jax.inference.server import Server
from lightbsr_jax.inference.upscaler import Upscaler
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.models.model import Model
from lightbsr_jax.spec import ModelSpec


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    network = LightBSR(2, groups=1, blocks=1)
    variables = initialise(network, jax.random.key(0))
    model = Model(
        ModelSpec.of_network(network, "student", 1), variables, np.zeros((441, 15))
    )
    bank = Bank([Known(2, 2, 0, 0)], np.zeros((1, 2, 128)))
    with Server(Upscaler(model), bank, port=0, megapixels=0.01) as server:
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
    assert status == 200 and b"0.01 megapixels" in text
    status, text = ask(server, "/upscale?name=" + quote("ä b.png"), png(9, 12))
    *progress, printed = map(json.loads, text.splitlines())
    assert status == 200, printed
    assert [x["percent"] for x in progress][-1] == 100
    assert printed["name"] == "ä b-x2.png" and printed["size"] == [24, 18]
    assert printed["nearest"][0].startswith("sigma 2.0")
    for key, size in {"before": (12, 9), "after": (24, 18)}.items():
        _, content = ask(server, printed[key])
        assert Image.open(io.BytesIO(content)).size == size
    assert ask(server, printed["idr"])[0] == 200
    assert len(server._results) == 3


def test_the_page_asks_for_files_that_are_there(server: Server) -> None:
    """Its limits are filled in; styles and script come with types browsers take."""
    page = ask(server, "/")[1].decode()
    assert 'data-most-bytes="100000000"' in page and "$" not in page
    linked = re.findall('(?:href|src)="(/[^"]+)"', page)
    assert sorted(linked) == ["/page.css", "/page.js"]
    for path in linked:
        url = f"http://127.0.0.1:{server.server_port}{path}"
        with urllib.request.urlopen(url) as answer:
            kind = {"css": "text/css", "js": "text/javascript"}[path.split(".")[1]]
            assert answer.headers.get_content_type() == kind
            assert answer.read()
    script = ask(server, "/page.js")[1].decode()
    ids = set(re.findall(r'\bid="(\w+)"', page))
    assert set(re.findall(r'at\("(\w+)"\)', script)) <= ids


@pytest.mark.parametrize(
    "data, status, message",
    [
        (b"no picture", 400, "x.png: not a readable"),
        (png(9, 12)[:-30], 400, "x.png: corrupt or truncated"),
        (png(101, 100), 413, "100 x 101 pixels are more than 0.01 megapixels"),
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
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "bank", None)
    _, text = ask(server, "/upscale?name=x.png", png(9, 12))
    printed = json.loads(text.splitlines()[-1])
    assert printed["nearest"] == [] and printed["idr"]


def test_results_are_kept_for_a_time_that_is_said(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert b"for 10 minutes" in ask(server, "/")[1]
    paths = [server.keep("PNG", bytes(1000)) for _ in range(150)]
    assert {ask(server, path)[0] for path in paths} == {200}
    monkeypatch.setattr(page_server, "_KEPT_BYTES", 10_000)
    server.keep("PNG", b"")
    assert [ask(server, path)[0] for path in paths[-11:]] == [404, *[200] * 10]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 500)
    assert server.result(paths[-1]) is not None
    monkeypatch.setattr(time, "monotonic", lambda: now + 700)
    assert server.result(paths[-1]) is None


@pytest.mark.parametrize("length", ["9" * 5000, "99999999999999999999", "-1", "\u0663"])
def test_absurd_lengths_are_refused(server: Server, length: str) -> None:
    with connection(server) as visitor:
        head = f"POST /upscale HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n"
        head += f"Content-Length: {length}\r\n\r\n"
        visitor.sendall(head.encode())
        answer = visitor.makefile("rb").readline()
    assert answer.split()[1] in (b"413", b"411")


def test_a_full_disk_is_no_bug(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(server, "read", full)
    status, text = ask(server, "/upscale?name=x.png", png(9, 12))
    assert (status, "is full" in json.loads(text)["error"]) == (507, True)


def test_uploads_need_no_files(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert server.read("x.png", png(9, 12)).colour.shape == (9, 12, 3)


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
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting uploads are not read, and visitors who left are skipped."""
    begun, go_on, seen = threading.Event(), threading.Event(), []

    def upscale(name: str, *arguments: object) -> dict[str, str]:
        seen.append(name)
        begun.set()
        go_on.wait(20)
        return {"after": name}

    monkeypatch.setattr(server, "upscale", upscale)

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
    monkeypatch.setattr(server, "_waiting", threading.BoundedSemaphore(1))
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


def connection(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_port), timeout=20)
