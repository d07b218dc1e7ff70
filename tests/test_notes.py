"""Notes beside the pixels: kept byte for byte, brought up to date, or said lost."""

import io
import re
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image

from lightbsr_jax.imaging import (
    conversion,
    decoding,
    exif,
    files,
    ifd,
    notes,
    photographs,
    photoshop,
    png,
    xmp,
)
from lightbsr_jax.imaging.ifd import Directory, Entry
from lightbsr_jax.imaging.photographs import Photograph

PIXELS = np.random.default_rng(0).integers(256, size=(6, 8, 3), dtype=np.uint8)
LARGER = 24, 32
NAME = "Müller & 山田太郎".encode()
MAKER = b"SONY DSC \0\0\0" + bytes(range(60))
# Sides, the subject's area and place, and resolutions of the focal plane.
IN_PIXELS = (40962, 40963, 37396, 41492, 41486, 41487, 41488)


def block(
    order: str = "<",
    main: tuple[Entry, ...] = (),
    details: tuple[Entry, ...] = (),
    thumbnail: bytes = b"",
) -> bytes:
    """An EXIF block with an artist, a time, a maker note and a preview."""
    text = Entry(315, 2, len(NAME) + 1, NAME + b"\0")
    time = Entry(36867, 2, 20, b"2026:01:02 03:04:05\0")
    sides = [Entry(tag, 4, 1, struct.pack(order + "I", 8)) for tag in IN_PIXELS]
    maker = Entry(exif.MAKER_NOTE, 7, len(MAKER), MAKER)
    inner = Directory(order, [time, *sides, maker, *details], 0)
    entries = [
        Entry(274, 3, 1, struct.pack(order + "H", 6)),
        text,
        Entry(34665, 4, 1, bytes(4)),
        *main,
    ]
    first = len(ifd.written(Directory(order, entries, 0), 8)) + 8
    first += first % 2
    entries[2] = entries[2]._replace(value=struct.pack(order + "I", first))
    content = ifd.written(inner, first)
    second = first + len(content) + len(content) % 2
    places = [Entry(513, 4, 1, struct.pack(order + "I", second + 30))]
    places.append(Entry(514, 4, 1, struct.pack(order + "I", len(thumbnail))))
    whole = ifd.written(Directory(order, entries, second if thumbnail else 0), 8)
    header = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    data = (header + whole).ljust(first, b"\0") + content
    if thumbnail:
        data = data.ljust(second, b"\0")
        data += ifd.written(Directory(order, places, 0), second) + thumbnail
    return exif.PREFIX + data


def saved(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(**options) -> bytes:
    buffer = io.BytesIO()
    options = {"photometric": "rgb", "metadata": None, **options}
    tifffile.imwrite(buffer, PIXELS, **options)
    return buffer.getvalue()


def read(folder: Path, data: bytes) -> Photograph:
    path = folder / "picture"
    path.write_bytes(data)
    photograph = photographs.read(path)
    assert files.image_size(path) == photograph.colour.shape[:2]
    return photograph


def enlarged(photograph: Photograph) -> Photograph:
    pixels = conversion.to_network(photograph).repeat(4, 0).repeat(4, 1)
    return conversion.from_network(photograph, pixels, pixels.shape[:2])


def through(folder: Path, data: bytes, kind: str) -> Photograph:
    """The metadata read from a result of the format `kind`."""
    larger = enlarged(read(folder, data))
    return read(folder, photographs.encode(larger, kind=kind))


def details_of(photograph: Photograph) -> exif.Parts:
    return exif.parts(photograph.metadata.exif)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "JXL"])
def test_exif_keeps_bytes_of_any_encoding(
    tmp_path: Path, kind: str, order: str
) -> None:
    data = saved("JPEG", exif=block(order))
    found = details_of(through(tmp_path, data, kind))
    assert found.main.value(315) == NAME + b"\0"
    assert found.exif is not None
    assert found.exif.value(36867) == b"2026:01:02 03:04:05\0"
    assert found.main.value(274) is None
    assert not {entry.tag for entry in found.exif.entries} & set(IN_PIXELS)


def test_maker_notes_stay_where_they_count_from(tmp_path: Path) -> None:
    whole = block(thumbnail=b"\xff\xd8 preview \xff\xd9")
    first = read(tmp_path, saved("JPEG", exif=whole))
    kept = first.metadata.exif
    assert kept is not None
    assert kept.index(MAKER) == whole.index(MAKER)
    assert b"preview" not in kept
    assert photographs.left_out(first, "JPEG") == []
    assert photographs.left_out(first, "TIFF") == ["the maker note"]
    result = read(tmp_path, photographs.encode(first, kind="TIFF"))
    assert details_of(result).exif.value(exif.MAKER_NOTE) is None


@pytest.mark.parametrize(
    "odd",
    [
        Entry(33434, 5, 1, struct.pack("<II", 1, 0)),  # a rational of nothing
        Entry(37521, 3, 2, b"\1\0\2\0"),  # text that is none
        Entry(59932, 129, 3, "ä".encode() + b"\0"),  # EXIF 3's UTF-8
    ],
)
def test_odd_tags_lose_nothing_else(tmp_path: Path, odd: Entry) -> None:
    data = saved("JPEG", exif=block(details=(odd,)))
    found = details_of(through(tmp_path, data, "JPEG"))
    assert found.exif.value(odd.tag) == odd.value
    assert found.main.value(315) == NAME + b"\0"


@pytest.mark.parametrize("head", [(33432, 2, 40), (34665, 4, 1)])
def test_pointers_out_of_the_block_lose_nothing_else(
    tmp_path: Path, head: tuple[int, int, int]
) -> None:
    whole = bytearray(block(main=(Entry(33432, 2, 40, b"c" * 40),)))
    at = whole.index(struct.pack("<HHI", *head)) + 8
    whole[at : at + 4] = struct.pack("<I", 10**9)
    data = saved("JPEG", exif=bytes(whole))
    for kind in ("JPEG", "PNG", "TIFF"):
        found = details_of(through(tmp_path, data, kind))
        assert found.main.value(315) == NAME + b"\0"


@pytest.mark.parametrize(("start", "length"), [(0, 8), (0, 50), (8, 40)])
def test_a_preview_at_a_broken_place_loses_nothing(
    tmp_path: Path, start: int, length: int
) -> None:
    whole = block(thumbnail=b"\xff\xd8 preview \xff\xd9")
    for tag, number in ((513, start), (514, length)):
        at = whole.index(struct.pack("<HHI", tag, 4, 1)) + 8
        whole = whole[:at] + struct.pack("<I", number) + whole[at + 4 :]
    first = read(tmp_path, saved("JPEG", exif=whole))
    found = details_of(first)
    assert found.main.value(315) == NAME + b"\0"
    assert found.exif is not None and found.exif.value(exif.MAKER_NOTE) == MAKER


def test_a_broken_block_is_said_to_be_lost(tmp_path: Path) -> None:
    data = saved("JPEG", exif=exif.PREFIX + b"II*\0\xff\xff\xff\xff" + bytes(20))
    first = read(tmp_path, data)
    assert photographs.left_out(first, "JPEG") == ["EXIF (broken)"]


def test_tags_inside_of_the_preview_are_said_to_be_lost(tmp_path: Path) -> None:
    """The preview, which begins like a JPEG, ends after the first directory."""
    artist = ifd.written(Directory("<", [Entry(315, 2, 4, b"abc\0")], 8), 40)
    place, length = struct.pack("<I", 38), struct.pack("<I", 2 + len(artist))
    places = Directory("<", [Entry(513, 4, 1, place), Entry(514, 4, 1, length)], 0)
    head = struct.pack("<2sHI", b"II", 42, 40) + ifd.written(places, 8)
    whole = exif.PREFIX + head + b"\xff\xd8" + artist
    first = read(tmp_path, saved("JPEG", exif=whole))
    assert photographs.left_out(first, "JPEG") == ["EXIF (broken)"]


def test_exif_of_64_bits_is_said_to_be_lost(tmp_path: Path) -> None:
    rows = struct.pack("<QHHQQQ", 1, 274, 3, 1, 3, 0)
    whole = exif.PREFIX + struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) + rows
    first = read(tmp_path, saved("JPEG", exif=whole))
    assert photographs.left_out(first, "JPEG") == ["EXIF (broken)"]


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_notes_of_tiff_go_into_any_format(
    tmp_path: Path, kind: str, byteorder: str, bigtiff: bool
) -> None:
    tags = [(315, 2, len(NAME) + 1, NAME + b"\0", True)]
    if bigtiff:
        tags.append((65000, 16, 1, struct.pack(byteorder + "Q", 7), True))
    data = tiff(byteorder=byteorder, bigtiff=bigtiff, extratags=tags)
    found = details_of(through(tmp_path, data, kind))
    assert found.main.value(315) == NAME + b"\0"
    assert not bigtiff or found.main.number(65000) == 7


@pytest.mark.parametrize(
    "tag",
    [
        (34675, 3, 2, struct.pack("<2H", 7, 8), True),  # a profile of numbers
        (34665, 2, 4, b"abc\0", True),
        (700, 3, 1, struct.pack("<H", 7), True),
    ],
)
def test_tags_of_wrong_types_do_not_spoil_the_picture(tmp_path: Path, tag) -> None:
    for kind in ("TIFF", "PNG", "JPEG"):
        result = through(tmp_path, tiff(extratags=[tag]), kind)
        assert result.colour.shape == (*LARGER, 3)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_geotiff_is_scaled(tmp_path: Path, dtype: str) -> None:
    scale, tie = (10.0, 10.0, 0.0), (2.0, 3.0, 0.0, 5e5, 4e6, 0.0)
    matrix = (10.0, 0, 0, 5e5, 0, -10.0, 0, 4e6, 0, 0, 0, 0, 0, 0, 0, 1.0)
    tags = [(33550, 12, 3, scale, True), (33922, 12, 6, tie, True)]
    tags += [(34264, 12, 16, matrix, True), (34735, 3, 4, (1, 1, 0, 0), True)]
    buffer = io.BytesIO()
    samples = PIXELS.astype(dtype) * (257 if dtype == "uint16" else 1)
    tifffile.imwrite(buffer, samples, photometric="rgb", metadata=None, extratags=tags)
    result = details_of(through(tmp_path, buffer.getvalue(), "TIFF")).main
    assert ifd.numbers(result, 33550, "d") == [2.5, 2.5, 0]
    assert ifd.numbers(result, 33922, "d") == [8, 12, 0, 5e5, 4e6, 0]
    grown = [2.5, 0, 0, 5e5, 0, -2.5, 0, 4e6, *[0] * 7, 1]
    assert ifd.numbers(result, 34264, "d") == grown
    assert ifd.numbers(result, 34735, "H") == [1, 1, 0, 0]


def test_ome_and_imagej_are_scaled(tmp_path: Path) -> None:
    ome = (
        '<?xml version="1.0"?><OME><Image><Pixels SizeX="8" SizeY="6" SizeC="3" '
        'PhysicalSizeX="0.5" PhysicalSizeY="0.25"/></Image></OME>'
    )
    result = through(tmp_path, tiff(description=ome), "TIFF")
    description = details_of(result).main.value(270)
    assert b'SizeX="32" SizeY="24" SizeC="3"' in description
    assert b'PhysicalSizeX="0.125" PhysicalSizeY="0.0625"' in description
    imagej = tiff(
        description="ImageJ=1.54f\nunit=micron\n",
        resolution=(5.0, 5.0),
        resolutionunit=1,
    )
    assert through(tmp_path, imagej, "TIFF").metadata.aspect == (20, 20)


def test_xmp_sizes_grow_and_lost_parts_are_not_announced(tmp_path: Path) -> None:
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description '
        b'tiff:Orientation="6" exif:PixelXDimension="8" hdrgm:Version="1.0" '
        b'GCamera:MotionPhoto="1" GPano:FullPanoHeightPixels="6" dc:x="8">'
        b"<GPano:FullPanoWidthPixels>8</GPano:FullPanoWidthPixels>"
        b"<Container:Directory><rdf:Seq/></Container:Directory>"
        b"</rdf:Description></x:xmpmeta>"
    )
    data = saved("JPEG", xmp=packet)
    first = read(tmp_path, data)
    assert photographs.left_out(first, "JPEG") == [
        "the gain map (HDR)",
        "the video (motion photo)",
    ]
    assert enlarged(first).metadata.xmp == (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description '
        b'tiff:Orientation="1" exif:PixelYDimension="32" '
        b'GPano:FullPanoHeightPixels="24" dc:x="8">'
        b"<GPano:FullPanoWidthPixels>32</GPano:FullPanoWidthPixels>"
        b"</rdf:Description></x:xmpmeta>"
    )


def beside(name: bytes) -> bytes:
    """A JPEG with a second picture that MPF (CIPA DC-007) lists and `name` is in."""
    buffer = io.BytesIO()
    first, second = Image.fromarray(PIXELS), Image.fromarray(PIXELS[:2])
    second.info["comment"] = name
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (beside(b"urn:com:apple:photo:2020:aux:hdrgainmap"), ["the gain map (HDR)"]),
        (beside(b"urn:iso:std:iso:ts:21496:-1"), ["the gain map (HDR)"]),
        (beside(b"a preview"), []),
        (
            saved("JPEG", extra=b"\xff\xeb\0\x0cJP\0\1jumdc2pa"),
            ["content credentials (C2PA)"],
        ),
    ],
)
def test_what_no_xmp_announces_is_said_to_be_lost(
    tmp_path: Path, data: bytes, expected: list[str]
) -> None:
    assert photographs.left_out(read(tmp_path, data), "PNG") == expected


def test_a_gain_map_of_avif_is_said_to_be_lost() -> None:
    data = saved("AVIF")
    decoded = decoding.decode(data)  # libavif wants the map itself, too
    announced = data.replace(b"MA1B", b"tmap", 1)
    assert notes.read(announced, decoded).lost == ("the gain map (HDR)",)
    assert notes.read(data, decoded).lost == ()


def test_extended_xmp_is_said_to_be_lost(tmp_path: Path) -> None:
    """Further segments of a JPEG; Pillow passes on the first alone."""
    more = b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 32 + bytes(8) + b"<x/>"
    packet = b'<x:xmpmeta a="1" xmpNote:HasExtendedXMP="' + b"A" * 32 + b'"/>'
    data = saved("JPEG", xmp=packet)
    segment = b"\xff\xe1" + struct.pack(">H", len(more) + 2) + more
    first = read(tmp_path, data[:20] + segment + data[20:])
    assert first.metadata.xmp == b'<x:xmpmeta a="1"/>'
    assert photographs.left_out(first, "JPEG") == ["extended XMP"]


def test_elements_without_content_end_where_they_end() -> None:
    packet = b'<a><hdrgm:M b="1"/><dc:x>1</dc:x><hdrgm:M>2</hdrgm:M></a>'
    assert xmp.cleaned(packet)[0] == b"<a><dc:x>1</dc:x></a>"


def test_xmp_that_announces_nothing_stays() -> None:
    packet = b'<a Container:Directory="x" tiff:Orientation="3" b="3">'
    assert xmp.cleaned(packet) == (packet, [])
    upright = packet.replace(b'Orientation="3"', b'Orientation="1"')
    assert xmp.tidied(packet, 2, False) == upright


REGIONS = (
    b'<mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:AppliedToDimensions '
    b'stDim:w="%d" stDim:h="%d" stDim:unit="pixel"/><mwg-rs:RegionList><rdf:Bag>'
    b'<rdf:li><mwg-rs:Area stArea:x="%b" stArea:y="%b" stArea:w="%b" stArea:h="%b" '
    b'stArea:unit="normalized"/></rdf:li><rdf:li><mwg-rs:Area><stArea:x>%b</stArea:x>'
    b"<stArea:y>%b</stArea:y><stArea:d>0.1</stArea:d></mwg-rs:Area></rdf:li>"
    b'</rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions><rdf:li MPReg:Rectangle="%b, %b, '
    b'%b, %b" stArea:x="0.50"/>'
)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_regions_turn_with_the_picture(tmp_path: Path, orientation: int) -> None:
    """A face of 2 x 1 pixels in the second row and column of 8 x 5."""
    stored = np.zeros((5, 8), int)
    stored[1, 1:3] = 1
    upright = decoding.upright(stored[..., None], orientation)[..., 0]
    rows, columns = map(np.unique, np.nonzero(upright))

    def regions(picture, rows, columns, factor: int) -> bytes:
        down, across = picture.shape
        sides = len(columns) / across, len(rows) / down
        centre = [(n.mean() + 0.5) / m for n, m in ((columns, across), (rows, down))]
        corner = columns[0] / across, rows[0] / down
        texts = [
            f"{n:.6f}".rstrip("0").rstrip(".").encode()
            for n in (*centre, *sides, *centre, *corner, *sides)
        ]
        return REGIONS % (factor * across, factor * down, *texts)

    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = orientation
    packet = regions(stored, np.array([1]), np.array([1, 2]), 1)
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[:5]).save(buffer, "JPEG", exif=turned, xmp=packet)
    first = read(tmp_path, buffer.getvalue())
    for photograph, factor in ((first, 1), (enlarged(first), 4)):
        expected = regions(upright, rows, columns, factor)
        found, expected = (  # attributes may change their order
            sorted(re.split(rb"[\s</>]+", packet))
            for packet in (photograph.metadata.xmp, expected)
        )
        assert found == expected


def test_areas_of_an_upright_picture_stay_byte_for_byte() -> None:
    packet = b'<mwg-rs:Area stArea:x="0.50" stArea:y=".50" tiff:ImageWidth="8"/>'
    assert xmp.tidied(packet, 0, False) == packet


def test_white_space_behind_a_packet_takes_no_time() -> None:
    packet = b'<a  xmp:Rating="5" exif:SubjectArea="3"/>' + b" " * 200_000
    begin = time.process_time()
    tidied = xmp.tidied(packet, 0, False)
    assert time.process_time() - begin < 5  # milliseconds, not minutes
    assert tidied == packet.replace(b' exif:SubjectArea="3"', b"")


def test_xmp_loses_what_exif_loses() -> None:
    packet = (
        b'<a exif:FocalPlaneXResolution="3/1" xmp:Rating="5"><exif:SubjectArea>'
        b"<rdf:Seq><rdf:li>3</rdf:li></rdf:Seq></exif:SubjectArea><xmp:Thumbnails><rdf:Alt>"
        b"<rdf:li/></rdf:Alt></xmp:Thumbnails></a>"
    )
    assert xmp.tidied(packet, 0, False) == b'<a xmp:Rating="5"></a>'


def test_iptc_photoshop_and_comment_are_kept(tmp_path: Path) -> None:
    record = b"\x1c\x02\x69\0\x06" + "Überschr".encode()[:6]
    resources = photoshop.of_iptc(record)
    preview = b"8BIM" + struct.pack(">HHI", 1036, 0, 4) + b"jpeg"
    data = saved(
        "JPEG",
        comment=b"gr\xfc\xdfe",
        extra=photoshop.jpeg_segment(resources + preview),
    )
    first = read(tmp_path, data)
    assert photoshop.iptc(first.metadata.photoshop) == record
    result = through(tmp_path, data, "JPEG")
    assert result.metadata.photoshop == resources
    assert result.metadata.comment == b"gr\xfc\xdfe"
    result = through(tmp_path, data, "TIFF")
    assert photoshop.iptc(result.metadata.photoshop) == record
    with tifffile.TiffFile(tmp_path / "picture") as file:
        assert bytes(file.pages[0].tags[33723].value) == record
    assert photographs.left_out(first, "PNG") == ["IPTC and Photoshop metadata"]
    assert photographs.left_out(first, "WEBP")[-1] == "the comment"


def test_iptc_beside_other_resources_in_a_tiff(tmp_path: Path) -> None:
    """As exiftool adds it to a file of Photoshop."""
    record = b"\x1c\x02\x69\0\x06abcdef"
    others = b"8BIM" + struct.pack(">HHI", 1005, 0, 16) + bytes(16)
    tags = [
        (exif.PHOTOSHOP, 7, len(others), others, True),
        (exif.IPTC, 7, len(record), record, True),
    ]
    for kind in ("TIFF", "JPEG"):
        found = through(tmp_path, tiff(extratags=tags), kind).metadata.photoshop
        assert found is not None and found.startswith(others)
        assert photoshop.iptc(found) == record


def test_photoshops_layers_are_said_to_be_lost(tmp_path: Path) -> None:
    layers = b"Adobe Photoshop Document Data Block\0" + bytes(40)
    data = tiff(extratags=[(37724, 7, len(layers), layers, True)])
    first = read(tmp_path, data)
    assert photographs.left_out(first, "TIFF") == ["Photoshop's layers"]
    assert layers not in photographs.encode(first, kind="TIFF")


def test_further_channels_are_said_to_be_lost(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    samples = np.concatenate([PIXELS, PIXELS[..., :2]], -1)
    tifffile.imwrite(buffer, samples, photometric="rgb", extrasamples=(0, 0))
    first = read(tmp_path, buffer.getvalue())
    assert photographs.left_out(first, "TIFF") == ["further channels"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_pixel_aspect_is_kept(tmp_path: Path, kind: str) -> None:
    data = png.encoded(PIXELS, [png.resolution_chunk(2, 1, per_inch=False)])
    first = read(tmp_path, data)
    assert (first.metadata.aspect, first.metadata.dpi) == ((2, 1), None)
    result = through(tmp_path, data, kind)
    assert result.metadata.dpi is None
    x, y = result.metadata.aspect
    assert x / y == 2
    assert photographs.left_out(first, "WEBP") == ["the pixel aspect ratio"]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("aspect", [(1.5, 1.0), (0.3, 0.6), (3e5, 1e5)])
def test_pixel_aspect_need_not_be_of_whole_numbers(
    tmp_path: Path, aspect: tuple[float, float], kind: str
) -> None:
    data = tiff(resolution=aspect, resolutionunit=1)
    found = through(tmp_path, data, kind).metadata.aspect
    assert found is not None
    assert found[0] / found[1] == pytest.approx(aspect[0] / aspect[1], rel=1e-3)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "PNG"])
def test_resolutions_turn_with_the_picture(tmp_path: Path, kind: str) -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, exif=turned, dpi=(200, 100))
    first = read(tmp_path, buffer.getvalue())
    assert first.colour.shape == (8, 6, 3)
    assert first.metadata.dpi == pytest.approx((100, 200), rel=1e-3)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "JXL", "HEIF"])
def test_resolutions_without_exif_are_said_to_be_lost(
    tmp_path: Path, kind: str
) -> None:
    first = read(tmp_path, saved("PNG", dpi=(300, 300)))
    assert photographs.left_out(first, kind) == ["the resolution"]
    stated = Entry(282, 5, 1, struct.pack("<II", 300, 1))
    data = saved("JPEG", dpi=(300, 300), exif=block(main=(stated,)))
    assert photographs.left_out(read(tmp_path, data), kind) == []


def test_square_pixels_lose_no_aspect(tmp_path: Path) -> None:
    first = read(tmp_path, tiff())  # tifffile states a resolution of 1 in no unit
    assert first.metadata.aspect == (1, 1)
    assert photographs.left_out(first, "WEBP") == []


@pytest.mark.parametrize(
    ("kind", "nanometres"), [("JPEG", 100), ("PNG", 0.1), ("BMP", 0.1)]
)
def test_resolutions_of_microscopes_are_left_out_where_too_high(
    tmp_path: Path, kind: str, nanometres: float
) -> None:
    per_centimetre = 1e7 / nanometres
    data = tiff(resolution=(per_centimetre,) * 2, resolutionunit=3, software=False)
    first = read(tmp_path, data)
    assert first.metadata.dpi == pytest.approx((2.54 * per_centimetre,) * 2)
    assert photographs.left_out(first, kind) == [f"the resolution: too high for {kind}"]
    found = read(tmp_path, photographs.encode(first, kind=kind)).metadata.dpi
    assert found is None or max(found) < 100  # BMP: Pillow states 96
    assert photographs.left_out(first, "TIFF") == []


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("raw", [False, True])
def test_a_turned_png_is_turned_once(
    tmp_path: Path, raw: bool, after: bool, dtype: str
) -> None:
    """EXIF before or after the pixels, or as ImageMagick writes it, into a text."""
    notes_ = block().removeprefix(exif.PREFIX)
    chunk = (b"eXIf", notes_)
    if raw:
        digits = (exif.PREFIX + notes_).hex()
        text = f"\nexif\n{len(digits) // 2}\n{digits}\n"
        chunk = (b"tEXt", b"Raw profile type exif\0" + text.encode())
    samples = PIXELS.astype(dtype)
    data = png.encoded(samples, [chunk])
    if after:
        plain = png.encoded(samples, [])
        whole = data[33 : len(data) - len(plain) + 33]
        data = plain[:-12] + whole + plain[-12:]
    first = read(tmp_path, data)
    np.testing.assert_array_equal(first.colour, np.rot90(samples, 3))
    assert details_of(first).main.value(315) == NAME + b"\0"
    again = read(tmp_path, photographs.encode(first, kind="PNG"))
    np.testing.assert_array_equal(again.colour, first.colour)


def test_chunks_after_the_end_of_a_png_are_none_of_it(tmp_path: Path) -> None:
    plain = png.encoded(PIXELS, [])
    more = png.encoded(PIXELS, [(b"eXIf", block().removeprefix(exif.PREFIX))])
    first = read(tmp_path, plain + more[33 : len(more) - len(plain) + 33])
    np.testing.assert_array_equal(first.colour, PIXELS)
    assert first.metadata.exif is None


def test_a_tiff_turned_by_xmp_alone(tmp_path: Path) -> None:
    packet = b'<x:xmpmeta tiff:Orientation="6"/>'
    for samples in (PIXELS, PIXELS.astype(np.uint16) * 257):
        buffer = io.BytesIO()
        tag = (700, 1, len(packet), packet, True)
        tifffile.imwrite(buffer, samples, photometric="rgb", extratags=[tag])
        first = read(tmp_path, buffer.getvalue())
        np.testing.assert_array_equal(first.colour, np.rot90(samples, 3))
        again = read(tmp_path, photographs.encode(first, kind="TIFF"))
        np.testing.assert_array_equal(again.colour, first.colour)


def test_lossless_webp_stays_lossless(tmp_path: Path) -> None:
    first = read(tmp_path, saved("WEBP", lossless=True))
    larger = enlarged(first)
    result = read(tmp_path, photographs.encode(larger, kind="WEBP"))
    np.testing.assert_array_equal(result.colour, larger.colour)
    lossy = enlarged(read(tmp_path, saved("WEBP")))
    result = read(tmp_path, photographs.encode(lossy, kind="WEBP"))
    assert (result.colour != lossy.colour).any()


def test_png_texts_are_said_to_be_lost_elsewhere(tmp_path: Path) -> None:
    chunk = png.text_chunk("Author", "Ä".encode())
    data = png.encoded(PIXELS, [chunk])
    first = read(tmp_path, data)
    assert through(tmp_path, data, "PNG").metadata.texts == (chunk,)
    assert photographs.left_out(first, "JPEG") == ["PNG texts"]


def test_png_texts_are_kept_byte_for_byte(tmp_path: Path) -> None:
    """Several of one name, with a language, compressed, and ones that are broken."""
    chunks = (
        (b"tEXt", b"Title\0gr\xfc\xdfe"),
        (b"iTXt", b"Title\0\0\0de\0Titel\0" + NAME),
        (b"zTXt", b"Title\0\0" + zlib.compress(b"long")),
        (b"zTXt", b"Title\0\0broken"),
        (b"iTXt", b"Title\0"),
    )
    data = png.encoded(PIXELS, [*chunks])
    assert through(tmp_path, data, "PNG").metadata.texts == chunks


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(
    "name", ["transparency", "icc_profile", "interlace", "exif", "lost", "bbox"]
)
def test_png_texts_do_not_pass_for_what_pillow_reads(
    tmp_path: Path, name: str, dtype: str
) -> None:
    """Pillow keeps texts and the metadata that it reads under the same names."""
    turned = (b"eXIf", block().removeprefix(exif.PREFIX))
    text = (b"tEXt", name.encode() + b"\0" + b"5")
    samples = PIXELS.astype(dtype)
    first = read(tmp_path, png.encoded(samples, [turned, text]))
    np.testing.assert_array_equal(first.colour, np.rot90(samples, 3))
    assert first.alpha is None and first.profile is None
    assert first.metadata.texts == (text,)
    assert details_of(first).main.value(315) == NAME + b"\0"
    assert photographs.left_out(first, "PNG") == []


def test_pillow_reads_what_is_written(tmp_path: Path) -> None:
    """Another reader, of the EXIF in our TIFF."""
    first = read(tmp_path, saved("JPEG", exif=block()))
    data = photographs.encode(first, kind="TIFF")
    image = Image.open(io.BytesIO(data))
    details = image.getexif().get_ifd(ExifTags.IFD.Exif)
    assert details[ExifTags.Base.DateTimeOriginal] == "2026:01:02 03:04:05"
    np.testing.assert_array_equal(np.asarray(image), first.colour)
    assert notes.scaled(first.metadata, (6, 8), (6, 8)) == first.metadata
