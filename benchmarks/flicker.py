"""Flicker of upscaled videos: one IDR for each shot beside one for each frame.

    python -m benchmarks.flicker CLIP --weights=photo --frames=100

Flicker is the mean absolute change from a frame to the next that bicubic interpolation
of the same frames does not have, in levels of 255. Pairs across a cut are left out.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise

import numpy as np

from lightbsr_jax import Upscaler
from lightbsr_jax.imaging import resize
from lightbsr_jax.inference import shots, video


def flicker(
    frames: Iterable[np.ndarray],
    references: Iterable[np.ndarray],
    begins: Sequence[bool],
) -> float:
    """The mean change of frames [H, W, 3] beyond that of the references.

    `begins` says which frames begin a shot.
    """
    changes = []
    both = zip(frames, references, begins, strict=True)
    for (old, old_reference, _), (new, new_reference, is_first) in pairwise(both):
        if not is_first:
            change = new.astype(np.float32) - old
            expected = new_reference.astype(np.float32) - old_reference
            changes.append(np.abs(change - expected).mean())
    return float(np.mean(changes))


def decoded(path: str, count: int) -> Iterator[tuple[np.ndarray, bool]]:
    """The first frames of a video, uint8 [h, w, 3], and whether each begins a shot."""
    av = video.EXTRA.imported("videos")
    cuts = shots.Cuts()
    height, width = shots.SIZE
    with av.open(path) as opened:
        for frame in islice(opened.decode(video=0), count):
            small = frame.reformat(
                width=width, height=height, format="gray", interpolation="AREA"
            )
            yield frame.to_ndarray(format="rgb24"), cuts.begins_shot(small.to_ndarray())


def main() -> None:
    """Prints the flicker of both ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip")
    parser.add_argument("--weights", default="photo")
    parser.add_argument("--frames", type=int, default=100)
    arguments = parser.parse_args()
    upscaler = Upscaler.load(arguments.weights)
    pixels, begins = zip(*decoded(arguments.clip, arguments.frames), strict=True)
    height, width = (side * upscaler.scale for side in pixels[0].shape[:2])
    references = [
        np.asarray(resize.bicubic(frame, (height, width))) for frame in pixels
    ]
    means = [upscaler.estimate(frame).mean for frame in pixels]
    starts = np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))
    print(f"{len(pixels)} frames, {sum(begins)} shots; flicker of 255:")
    ways = (
        ("own IDR, as a map", [None] * len(means)),
        ("mean IDR of each frame", means),
        ("mean IDR of the shot", [means[start] for start in starts]),
    )
    for name, idrs in ways:
        results = [
            upscaler(frame, idr=idr) for frame, idr in zip(pixels, idrs, strict=True)
        ]
        print(f"{name}: {flicker(results, references, begins):.3f}", flush=True)


if __name__ == "__main__":
    main()
