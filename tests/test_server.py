"""The local page, as a browser talks to it."""

import io
import json
import re
import threading
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


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    network = LightBSR(2, groups=1, blocks=1)
    variables = initialise(network, jax.random.key(0))
    model = Model("student", 1, network, variables, np.zeros((441, 15)))
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
    *progress, told = map(json.loads, text.splitlines())
    assert status == 200, told
    assert [x["percent"] for x in progress][-1] == 100
    assert told["name"] == "ä b-x2.png" and told["size"] == [24, 18]
    assert told["nearest"][0].startswith("sigma 2.0")
    for key, size in {"before": (12, 9), "after": (24, 18)}.items():
        _, content = ask(server, told[key])
        assert Image.open(io.BytesIO(content)).size == size
    assert ask(server, told["idr"])[0] == 200
    assert len(server.results) == 3


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
    told = json.loads(text.splitlines()[-1])
    assert told["nearest"] == [] and told["idr"]


def test_only_the_last_results_are_kept(server: Server) -> None:
    for _ in range(20):
        server.keep("PNG", b"")
    assert len(server.results) == 12
