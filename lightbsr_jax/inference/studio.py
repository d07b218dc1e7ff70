"""The networks behind the local page, and the pictures that they make.

A network is loaded when it is first used. Slow preparation happens in the background
and yields to pictures: programs are compiled, and the IDRs of known degradations are
estimated.
"""

import contextlib
import io
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import conversion, files, formats, photographs
from lightbsr_jax.imaging.photographs import Photograph
from lightbsr_jax.inference import blending, explain
from lightbsr_jax.inference.explain import Bank
from lightbsr_jax.inference.folder import Target, parse_target
from lightbsr_jax.inference.turns import Turns
from lightbsr_jax.inference.upscaler import BORDER, LARGEST, Progress, Upscaler
from lightbsr_jax.models.model import Model

MEDIA_TYPES = {name: kind.media_type for name, kind in formats.FORMATS.items()}
_QUALITY = 95
_SETTINGS = ("weights", "scale", "size", "format", "quality", "strength")  # of a query
# Of pictures that programs are compiled with: a small one and a large one of a single
# tile before the page is ready, then a picture of several tiles.
_FIRST_SIDES = (64, LARGEST)
_NEXT_SIDES = (2 * LARGEST,)

T = TypeVar("T")
D = TypeVar("D")
Answer = dict[str, Any]  # sent as JSON
Keep = Callable[[str, bytes], str]  # a media type and a file to where it is kept


class Wish(NamedTuple):
    """The settings of a picture."""

    weights: str  # a name of the studio's
    target: Target
    format: str | None  # one of photographs.FORMATS' values; None: the picture's
    quality: int  # 1 to 100, of lossy formats
    strength: float  # 0 to 1, of the restoration; less blends with bicubic


class _Wanted(Exception):
    """A visitor waits for the background."""


class Studio:
    """Networks under names, the first of which is the default."""

    def __init__(
        self,
        load: Callable[[str], Model],
        names: Sequence[str],
        turns: Turns,
        *,
        megapixels: float,
        explains: bool,
    ) -> None:
        """`load` returns the network of a name.

        Pictures larger than `megapixels` are refused. With `explains` the nearest known
        degradations are found, which takes bundled photographs.
        """
        self.names = tuple(names)
        self.megapixels = megapixels
        self.said = "loading the network"  # state of the preparation, for the page
        self.is_ready = False
        self._load = load
        self._turns = turns
        self._loading = threading.Lock()
        self._upscalers: dict[str, tuple[Upscaler, Model]] = {}
        self._banks: dict[str, Bank] = {}
        self._to_explain: queue.Queue[str] | None = queue.Queue() if explains else None

    def scale(self, name: str) -> int | None:
        """The scale of a network; None before it is loaded."""
        found = self._upscalers.get(name)
        return None if found is None else found[0].scale

    def wish(self, query: Mapping[str, str]) -> Wish:
        """Parses the settings in a query; others are the defaults. Raises UserError."""
        unknown = set(query) - {"name", *_SETTINGS}
        if unknown:
            raise UserError(f"no setting {min(unknown)!r}: {', '.join(_SETTINGS)}")
        name = query.get("weights") or self.names[0]
        if name not in self.names:
            raise UserError(f"no weights {name!r} here: {', '.join(self.names)}")
        scale = _number(query, "scale", float, None)
        quality = _number(query, "quality", int, _QUALITY)
        strength = _number(query, "strength", float, 1.0)
        if not 1 <= quality <= 100:
            raise UserError(f"a quality of {quality}: expected 1 to 100")
        target = parse_target(scale, query.get("size") or None)
        end = query.get("format") or None
        if end is not None and end not in photographs.FORMATS:
            raise UserError(f"no format {end!r}: {', '.join(photographs.FORMATS)}")
        kind = None if end is None else photographs.FORMATS[end]
        return Wish(name, target, kind, quality, blending.check(strength))

    def read(self, name: str, data: bytes, wish: Wish) -> Photograph:
        """Reads the picture of an upload.

        Raises UserError if it cannot be upscaled as wished, TooLarge if it or its
        result has too many pixels.
        """
        height, width = files.size_of_bytes(data, name)
        if height * width > 1e6 * self.megapixels:
            raise TooLarge(
                f"{name}: {width} x {height} pixels exceed {self.megapixels:g} "
                "megapixels: use lightbsr upscale, or lightbsr serve --megapixels"
            )
        scale = self.upscaler(wish.weights).scale
        target = wish.target.of((height, width), scale)
        most = self.megapixels * max(scale, 4) ** 2
        if target[0] * target[1] > 1e6 * most:
            raise TooLarge(
                f"{name}: {target[1]} x {target[0]} pixels exceed the {most:g} "
                "megapixels that a result may have here: choose a smaller size"
            )
        photograph = photographs.of_bytes(data, name)
        kind = wish.format or photograph.format
        photographs.check_format(kind, target, name)
        photographs.check_range(photograph, kind, name)
        return photograph

    def upscale(
        self,
        name: str,
        photograph: Photograph,
        wish: Wish,
        keep: Keep,
        on_progress: Progress,
    ) -> Answer:
        """Upscales a picture; returns the answer for the page. Raises UserError."""
        begin = time.monotonic()
        upscaler = self.upscaler(wish.weights)
        kind = wish.format or photograph.format
        old = photograph.colour.shape[:2]
        target = wish.target.of(old, upscaler.scale)
        pixels = conversion.to_network(photograph)
        sr = upscaler(pixels, strength=wish.strength, on_progress=on_progress)
        result = conversion.from_network(photograph, sr, target)
        del sr
        content = photographs.encode(result, kind=kind, quality=wish.quality)
        after = keep(MEDIA_TYPES[kind], content)
        shown = after
        if not formats.FORMATS[kind].is_shown:
            shown = keep(MEDIA_TYPES["PNG"], _picture(result))
        before = _picture(photograph)
        maps, nearest = self._explained(wish.weights, upscaler, pixels)
        return {
            "before": keep(MEDIA_TYPES["PNG"], before),
            "after": after,
            "shown": shown,
            "idr": keep(MEDIA_TYPES["PNG"], maps),
            "nearest": nearest,
            "name": _result_name(name, wish.target, target, upscaler.scale, kind),
            "from": [old[1], old[0]],
            "size": [target[1], target[0]],
            "without": photographs.left_out(photograph, kind),
            "seconds": round(time.monotonic() - begin, 1),
        }

    def prepare(self, on_ready: Callable[[], None]) -> None:
        """Loads the default network, compiles, and makes banks until the process ends.

        Raises UserError if the network cannot be loaded. Other errors are printed, as
        pictures will meet them too.
        """
        upscaler = self.upscaler(self.names[0])
        self.said = "compiling for this machine, which is kept for the next time"
        with _traced():
            self._compile(upscaler, _FIRST_SIDES)
        self.said = "ready"
        self.is_ready = True
        on_ready()
        with _traced():
            self._compile(upscaler, _NEXT_SIDES)
        while self._to_explain is not None:
            name = self._to_explain.get()
            with _traced():
                self._banks[name] = self._make_bank(name)

    def _compile(self, upscaler: Upscaler, sides: Sequence[int]) -> None:
        """Upscales noise at sizes whose programs serve many pictures."""
        random = np.random.default_rng(0)
        for side in sides:
            inner = side - 2 * BORDER
            size = (inner, inner, 3)
            image = random.integers(256, size=size).astype(np.uint8)
            while True:
                try:
                    with self._turns.background():
                        upscaler(image, on_progress=self._yield_to_visitors)
                    break
                except _Wanted:
                    continue

    def _yield_to_visitors(self, done: int, total: int) -> None:
        if self._turns.wanted:
            raise _Wanted

    def _make_bank(self, name: str) -> Bank:
        upscaler, model = self._upscalers[name]
        known = explain.known_degradations(model.setting)
        return explain.make_bank(upscaler, known, each=self._turns.background)

    def _explained(
        self, name: str, upscaler: Upscaler, pixels: np.ndarray
    ) -> tuple[bytes, list[str]]:
        """Explains the degradation: maps (PNG), and the nearest known ones in words."""
        estimated = upscaler.estimate(pixels)
        buffer = io.BytesIO()
        Image.fromarray(explain.picture(estimated)).save(buffer, "PNG")
        bank = self._banks.get(name)
        nearest = bank.nearest(estimated.mean) if bank is not None else []
        said = [f"{known.label} (distance {far:.1f})" for known, far in nearest]
        return buffer.getvalue(), said

    def upscaler(self, name: str) -> Upscaler:
        """The network of a name, which is loaded once."""
        with self._loading:
            if name not in self._upscalers:
                model = self._load(name)
                self._upscalers[name] = Upscaler(model, precision="auto"), model
                if self._to_explain is not None:
                    self._to_explain.put(name)
            return self._upscalers[name][0]


def _number(
    query: Mapping[str, str], name: str, kind: Callable[[str], T], default: D
) -> T | D:
    text = query.get(name)
    if not text:
        return default
    try:
        return kind(text)
    except ValueError as error:
        whole = "whole " if kind is int else ""
        raise UserError(f"{name}={text}: expected a {whole}number") from error


def _picture(photograph: Photograph) -> bytes:
    """A PNG file for the page; a float picture's range becomes that of PNG."""
    if photograph.colour.dtype == np.float32:
        colour, alpha = photograph.colour, photograph.alpha
        finite = colour[np.isfinite(colour)]
        low, high = finite.min(initial=0), finite.max(initial=1)
        colour = np.nan_to_num(colour, posinf=high, neginf=low)
        colour = colour / (high - low) - low / (high - low)
        if alpha is not None:
            alpha = np.nan_to_num(alpha).clip(0, 1)
        photograph = photograph._replace(colour=colour.clip(0, 1), alpha=alpha)
    return photographs.encode(photograph, kind="PNG")


class TooLarge(UserError):
    """A picture or a result with too many pixels."""


@contextlib.contextmanager
def _traced() -> Iterator[None]:
    """Prints an error and continues."""
    try:
        yield
    except Exception:
        traceback.print_exc()


def _result_name(
    name: str, wished: Target, size: tuple[int, int], scale: int, kind: str
) -> str:
    """Names a result: "a-x4.png", or "a-1920x1080.png" for a size in pixels."""
    end = formats.FORMATS[kind].suffixes[0]
    if wished.height is None and wished.width is None:
        return f"{Path(name).stem}-x{wished.scale or scale:g}.{end}"
    return f"{Path(name).stem}-{size[1]}x{size[0]}.{end}"
