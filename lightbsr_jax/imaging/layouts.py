"""Layouts in which benchmarks are published: finding their HR and LR images.

The layouts are those of EDSR and BasicSR (Set5/HR, GTmod12, LRbicx4, LR_bicubic/X4), of
SelfExSR (image_SRF_4/img_001_SRF_4_HR.png), RCAN (HR/Set5/x4/baby_HR_x4.png), DIV2K and
Flickr2K (DIV2K_train_HR, DIV2K_train_LR_bicubic/X4), RealSR (Canon_001_HR.png next to
Canon_001_LR4.png) and DRealSR; any other folder that mixes HR and LR is refused.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from absl import logging

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import files
from lightbsr_jax.imaging.errors import ImageError

Found = tuple[str, Path]  # a name and where the file is

_HR = re.compile(r"(hr|gt|gtmod\d+|ground_?truth)([_-]?x?\d)?", re.I)
_HR_PART = re.compile(r".*[_-](hr|gt)([_-]?x?\d)?", re.I)
_LR = re.compile(r"(lr|lq|lrbi|lrbicx?\d?|low_?res(olution)?)([_-].*|x?\d)?", re.I)
_LR_PART = re.compile(r".*[_-](lr|lrbi|lrbd|lrdn|lq)([_-].*|x?\d)?", re.I)
# SelfExSR keeps results of other programs next to its images.
_SELF_EX_SR = re.compile(r"(img_\d+_SRF_\d)_.+", re.I)
_SCALE = re.compile(r"(?:.*srf_|x?)([2348])", re.I)
_SEPARATOR = re.compile(r"[_. -]")
_FACTORS = (2, 3, 4, 8)
_ENDS = (*files.SUFFIXES, *map(str.upper, files.SUFFIXES))
_SHRUNK = re.compile(r"(.+?)[_-]?x([2348])(m)?")


class Layout(NamedTuple):
    """The HR images of a folder, and the number of other images in each folder."""

    images: list[Found]  # names are relative to the folder that holds all of them
    others: dict[str, int]


class ImageSet(NamedTuple):
    """Images of one kind in one folder; sizes are (height, width)."""

    folder: str
    kind: str  # see `kind_of`
    count: int
    first_size: tuple[int, int]
    last_size: tuple[int, int]


class Survey(NamedTuple):
    """The sets of images in a folder, and the chosen HR images."""

    sets: list[ImageSet]
    layout: Layout | None  # None if the folder cannot be used as a whole
    problem: UserError | None  # the reason for that


def hr_images(folder: str | Path, scale: int | None = None) -> Layout:
    """Finds the HR images in a folder (or file, as for `files.find_images`).

    If a folder has HR images for each scale, those of `scale` are chosen. Raises
    UserError if a folder mixes HR and LR images in an unknown layout or has several
    sets, and the errors of `files.find_images`.
    """
    found = files.find_images(folder)
    if not Path(folder).is_dir():
        return Layout(found, {})
    kinds = {name: kind_of(name) for name, _ in found}
    hr = [image for image in found if kinds[image[0]] == "HR"]
    lr = [name for name, _ in found if kinds[name] == "LR"]
    if not hr:
        _refuse_mixed(folder, [name for name, _ in found], lr)
        _refuse_reduced(folder, found)
        return Layout(found, {})
    hr = _of_scale(folder, hr, scale)
    chosen = {name for name, _ in hr}
    others = Counter(_folder(name) for name, _ in found if name not in chosen)
    return Layout(_shortened(hr), dict(others))


def used_images(folder: str | Path, scale: int | None = None) -> list[Found]:
    """The images of `hr_images`; a warning counts the others of the folder."""
    layout = hr_images(folder, scale)
    if others := sum(layout.others.values()):
        count = len(layout.images)
        logging.warning(
            "%s: only %d of %d images are used, which are HR by their names or "
            "folders, such as %s",
            *(folder, count, count + others, layout.images[0][0]),
        )
    return layout.images


def kind_of(name: str) -> str:
    """Kind of image by a name such as "LR_bicubic/X4/a.png": "HR", "LR", or ""."""
    *folders, file = PurePosixPath(name).parts
    stem = PurePosixPath(file).stem
    if _HR_PART.fullmatch(stem):
        return "HR"
    if _LR_PART.fullmatch(stem):
        return "LR"
    if _SELF_EX_SR.fullmatch(stem):
        return "result"
    for part in reversed(folders):
        if _HR.fullmatch(part) or _HR_PART.fullmatch(part):
            return "HR"
        if _LR.fullmatch(part) or _LR_PART.fullmatch(part):
            return "LR"
    return ""


def lr_image(folder: str | Path, benchmark: str, name: str, scale: int) -> Path | None:
    """Finds the LR image of an HR image of that name, in the published layouts."""
    stem = PurePosixPath(name).stem
    parent = PurePosixPath(name).parent
    places = [Path(folder, benchmark), Path(folder)]
    inner = ["", f"X{scale}", f"x{scale}", "LR", f"LR/X{scale}", f"LR/x{scale}"]
    inner += [f"LRbicx{scale}", f"LR_bicubic/X{scale}", f"LR_unknown/X{scale}"]
    inner += [f"image_SRF_{scale}"]
    for place in places:
        for part in inner:
            for base in dict.fromkeys((place / part / parent, place / part)):
                for candidate in lr_names(stem, scale):
                    for end in _ENDS:
                        if (path := base / f"{candidate}{end}").is_file():
                            return path
    return None


def survey(folder: str | Path) -> Survey:
    """Lists the sets of images in a folder, and chooses the HR images.

    Raises UserError and OSError as `files.find_images` does, and ImageError if the
    first or last image of a set cannot be read.
    """
    by_folder: dict[tuple[str, str], list[Path]] = {}
    for name, path in files.find_images(folder):
        by_folder.setdefault((_folder(name), kind_of(name)), []).append(path)
    sets = [
        ImageSet(
            place,
            kind,
            len(paths),
            files.image_size(paths[0]),
            files.image_size(paths[-1]),
        )
        for (place, kind), paths in by_folder.items()
    ]
    try:
        return Survey(sets, hr_images(folder), None)
    except UserError as error:
        return Survey(sets, None, error)


def _refuse_mixed(folder: str | Path, names: Sequence[str], lr: list[str]) -> None:
    """Raises UserError if some images are LR, by name or next to their HR image."""
    stems = {str(PurePosixPath(name).with_suffix("")) for name in names}
    for name in names:
        path = PurePosixPath(name)
        match = _SHRUNK.fullmatch(path.stem)
        if match and any(PurePosixPath(s).name == match[1] for s in stems):
            lr = [*lr, name]
    if lr:
        raise UserError(
            f"{folder} mixes HR and LR images ({lr[0]} is LR by its name) in an "
            "unknown layout: name a folder that holds only HR images"
        )


def _refuse_reduced(folder: str | Path, found: list[Found]) -> None:
    """Raises UserError if half of the images are smaller versions of the others.

    A version has the same name in another folder, or the name with an addition
    (baby.png and baby_small.png), and a second, third, fourth or eighth of the sides.
    """
    paths = {PurePosixPath(name).with_suffix(""): path for name, path in found}
    by_name: dict[str, list[PurePosixPath]] = {}
    for image in paths:
        by_name.setdefault(image.name, []).append(image)
    reduced = set()
    for image in paths:
        ends = [match.start() for match in _SEPARATOR.finditer(image.name)]
        shorter = [image.with_name(image.name[:end]) for end in ends if end]
        others = [x for x in by_name[image.name] if x != image]
        for other in [*filter(paths.__contains__, shorter), *others]:
            reduced |= _reduced(paths[image], paths[other])
    if reduced and 2 * len(reduced) >= len(paths):
        raise UserError(
            f"{folder} mixes HR and LR images ({min(reduced)} is a smaller version of "
            "another) in an unknown layout: name a folder that holds only HR images"
        )


def _reduced(first: Path, second: Path) -> set[Path]:
    """The one of two images that has an integer fraction of the other's sides.

    There is none if one of them cannot be read.
    """
    try:
        sizes = {path: files.image_size(path) for path in (first, second)}
    except ImageError:
        return set()
    small, large = sorted((first, second), key=sizes.__getitem__)
    height, width = sizes[large]
    fits = any(sizes[small] == (height // s, width // s) for s in _FACTORS)
    return {small} if fits else set()


def _of_scale(folder: str | Path, hr: list[Found], scale: int | None) -> list[Found]:
    """Chooses the set of `scale`, if there is a set for each scale."""
    counts = Counter(map(_plain, (name for name, _ in hr)))
    if max(counts.values()) == 1:
        return hr
    chosen = [(n, path) for n, path in hr if scale is not None and scale in _scales(n)]
    counts = Counter(map(_plain, (name for name, _ in chosen)))
    if chosen and max(counts.values()) == 1:
        return chosen
    places = ", ".join(dict.fromkeys(_folder(name) for name, _ in hr))
    raise UserError(
        f"{folder} holds several sets of HR images: name one of its folders {places}"
    )


def _plain(name: str) -> str:
    """An image's name without its marks of HR and of a scale."""
    stem = re.sub(r"_SRF_\d", "", PurePosixPath(name).stem, flags=re.I)
    return re.sub(r"[_-](hr|gt)([_-]?x?\d)?$", "", stem, flags=re.I).lower()


def _scales(name: str) -> set[int]:
    matches = map(_SCALE.fullmatch, PurePosixPath(name).parent.parts)
    return {int(match[1]) for match in matches if match}


def _folder(name: str) -> str:
    return str(PurePosixPath(name).parent)


def _shortened(images: list[Found]) -> list[Found]:
    """Makes names relative to the folder that all images share."""
    parents = [PurePosixPath(name).parent.parts for name, _ in images]
    common = 0
    while all(len(p) > common and p[common] == parents[0][common] for p in parents):
        common += 1
    parts = [(PurePosixPath(name).parts[common:], path) for name, path in images]
    return [("/".join(rest), path) for rest, path in parts]


def lr_names(stem: str, scale: int) -> list[str]:
    """Names, without ends, of the LR images of an HR image as pairs are published.

    A name that says HR goes last, because the HR image may be in the same folder.
    """
    plain = re.sub(r"[_-](hr|gt)([_-]?x?\d)?$", "", stem, flags=re.I)
    ends = ["", f"x{scale}", f"_LR{scale}", "_LR", f"_LRBI_x{scale}", f"_x{scale}"]
    names = dict.fromkeys([stem, *(f"{plain}{end}" for end in ends)])
    return sorted(names, key=lambda name: kind_of(name) == "HR")
