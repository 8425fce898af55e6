"""One picture to one row: modes, EXIF, resizing, and files that are none."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from flaxvae.data import pictures
from flaxvae.data.pictures import Preprocessing, Seen, Unreadable

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 4, 3), np.uint8)
GREY = COLOUR[..., 0]


@pytest.fixture(autouse=True, scope="module")
def decoding():
    with pictures.decoding():
        yield


def file(image, form="PNG", **options):
    """A picture's content; of an array or an image."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    written = io.BytesIO()
    image.save(written, form, **options)
    return written.getvalue()


def own(content, size=None, resize="crop", background="white"):
    """The row of a picture for which the preprocessing was chosen."""
    how = pictures.agreed([pictures.look(content)], size, resize, background)
    return pictures.row(content, how)[1]


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_keep_every_pixel(form):
    content = file(COLOUR, form, **({"lossless": True} if form == "WEBP" else {}))
    assert pictures.look(content) == Seen(6, 4, 3, 8)
    np.testing.assert_array_equal(own(content), COLOUR)


def test_jpeg_and_cmyk_are_close():
    smooth = np.add.outer(np.arange(16), np.arange(24)).astype(np.uint8)[..., None] * 6
    smooth = np.concatenate([smooth, 255 - smooth, smooth // 2], -1)
    rgb = own(file(smooth, "JPEG", quality=95)).astype(int)
    assert np.abs(rgb - smooth).mean() < 4
    cmyk = own(file(Image.fromarray(smooth).convert("CMYK"), "JPEG", quality=95)).astype(int)
    assert cmyk.shape == (16, 24, 3) and np.abs(cmyk - smooth).mean() < 6


def test_grey_is_one_channel_whatever_says_so():
    grey = GREY[..., None]
    palette = Image.fromarray(GREY).convert("P")
    for content in (file(GREY), file(palette), file(Image.fromarray(GREY), "GIF")):
        assert pictures.look(content).channels == 1
        np.testing.assert_array_equal(own(content), grey)
    bits = Image.fromarray(GREY > 99)
    np.testing.assert_array_equal(own(file(bits))[..., 0], np.where(GREY > 99, 255, 0))


def test_a_palette_of_colours_is_rgb_and_of_a_gif_the_first_frame_counts():
    image = Image.fromarray(np.repeat(COLOUR[:1], 6, 0)).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(own(file(image)), expected)
    other = Image.fromarray(255 - np.asarray(expected)).quantize(16)
    moving = file(image, "GIF", save_all=True, append_images=[other])
    np.testing.assert_array_equal(own(moving), expected)


def test_transparency_is_drawn_over_the_background():
    alpha = np.full((6, 4), 255, np.uint8)
    alpha[0], alpha[1] = 0, 128
    content = file(np.dstack([COLOUR, alpha]))
    assert pictures.look(content) == Seen(6, 4, 3, 8, True)
    for background, value in (("white", 255), ("grey", 128), ("black", 0)):
        row = own(content, background=background)
        assert (row[0] == value).all()
        half = (COLOUR[1].astype(int) * 128 + value * 127) / 255
        assert np.abs(row[1] - half).max() <= 1
        np.testing.assert_array_equal(row[2:], COLOUR[2:])
    both = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    assert own(file(both)).shape == (6, 4, 1) and (own(file(both))[0] == 255).all()
    keyed = Image.fromarray(GREY)
    clear = file(keyed, transparency=int(GREY[3, 3]))
    assert own(clear)[3, 3] == 255 and pictures.look(clear).transparent
    named = Image.fromarray(COLOUR).quantize(8)
    clear = file(named, transparency=named.getpixel((0, 0)))
    assert (own(clear)[0, 0] == 255).all()


def test_sixteen_bits_are_kept_or_rounded_to_eight():
    deep = RNG.integers(0, 65536, (6, 4), np.uint16)
    for form in ("PNG", "TIFF"):
        content = file(deep, form)
        row = own(content)
        assert row.dtype == np.uint16
        np.testing.assert_array_equal(row[..., 0], deep)
    seen = [pictures.look(content), Seen(6, 4, 1, 8)]
    how = pictures.agreed(seen, None, "crop", "white")
    assert how.peak == 255
    np.testing.assert_array_equal(pictures.row(content, how)[1][..., 0], np.rint(deep / 257))
    up = Preprocessing(6, 4, 1, "crop", "white", 65535.0)
    np.testing.assert_array_equal(pictures.row(file(GREY), up)[1][..., 0], GREY * np.uint16(257))
    small = own(file(np.full((8, 8), 40_000, np.uint16)), (4, 4))
    assert small.dtype == np.uint16 and (small == 40_000).all()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_picture(form, orientation):
    upright = np.zeros((24, 16), np.uint8)
    upright[:8, :8] = 255  # the top left is white, and the picture is tall
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what a camera that is turned stores
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(turns[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = file(stored, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    assert pictures.look(content)[:2] == (24, 16)
    row = own(content)[..., 0].astype(int)
    assert np.abs(row - upright).max() < 60
    small = own(content, (6, 4))[..., 0]  # of a JPEG, decoded at a fraction of its size
    assert small[0, 0] > 200 and small[-1, -1] < 50 and small[0, -1] < 50 and small[-1, 0] < 50


def test_resizing_is_antialiased_and_keeps_what_it_says():
    fine = np.zeros((64, 64), np.uint8)
    fine[:, ::2] = 255  # too fine for 16 pixels: antialiased it is grey, else black or white
    assert np.abs(own(file(fine), (16, 16)).astype(int) - 127.5).max() < 10
    wide = np.zeros((20, 60), np.uint8)
    wide[:, 20:40] = 200  # the middle third
    cropped = own(file(wide), (10, 10))
    assert (cropped[:, 2:-2] == 200).all() and (cropped > 180).all()
    fit = own(file(wide), (12, 12), "fit", "grey")[..., 0]
    assert (fit[:4] == 128).all() and (fit[8:] == 128).all()
    assert (fit[5, 5:7] > 190).all() and (fit[5, :3] < 10).all()
    stretch = own(file(wide), (10, 30), "stretch")[..., 0]
    assert (stretch[:, 12:18] == 200).all() and (stretch[:, :8] == 0).all()
    large = own(file(np.full((3, 2), 77, np.uint8)), (48, 80))
    assert large.shape == (48, 80, 1) and (large == 77).all()


def test_what_pictures_agree_on():
    grey, colour, other = Seen(8, 8, 1, 8), Seen(8, 8, 3, 8), Seen(9, 8, 3, 8)
    deep = Seen(8, 8, 1, 16)

    def shape(*seen, size=None):
        return pictures.agreed(seen, size, "crop", "white").shape

    assert shape(grey) == (8, 8, 1) and shape(grey, colour) == (8, 8, 3)
    assert shape(colour, other) == (64, 64, 3)
    assert shape(grey, other, size=(48, 80)) == (48, 80, 3)
    assert pictures.agreed([deep, deep], None, "fit", "black").peak == 65535
    assert pictures.agreed([deep, grey], None, "fit", "black").peak == 255
    grey_row = pictures.row(file(GREY), Preprocessing(6, 4, 3, "crop", "white", 255.0))[1]
    np.testing.assert_array_equal(grey_row, np.repeat(GREY[..., None], 3, -1))


def test_preprocessing_in_json():
    how = Preprocessing(48, 80, 3, "fit", "grey", 255.0)
    stored = json.loads(json.dumps(how.as_json()))
    assert Preprocessing.from_json(stored) == how
    for wrong in ({"height": 0}, {"resize": "squeeze"}, {"channels": 2}, {"x": 1}, {"peak": "1"}):
        with pytest.raises(ValueError):
            Preprocessing.from_json(stored | wrong)
    with pytest.raises(ValueError):
        Preprocessing.from_json({})


def bomb():
    """A PNG of a few bytes whose header claims 60,000 x 60,000 pixels."""
    import zlib

    def chunk(kind, data):
        return (
            len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        )

    size = (60_000).to_bytes(4, "big")
    head = chunk(b"IHDR", size + size + bytes([8, 2, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


JPEG = file(RNG.integers(0, 256, (60, 60, 3), np.uint8), "JPEG")
BAD = {
    "zero bytes": (b"", "empty, 0 bytes"),
    "text": (b"hello, world", "not a picture, it begins with b'hello, w'"),
    "truncated JPEG": (JPEG[: len(JPEG) // 2], "truncated"),
    "truncated PNG": (file(RNG.integers(0, 256, (60, 60, 3), np.uint8))[:5000], "truncated"),
    "damaged": (file(COLOUR).replace(b"IDAT", b"IDAT\xff\xff")[:-9], ""),
    "1x1": (file(COLOUR[:1, :1]), "1x1 pixels, expected 2x2 or more"),
    "a bomb": (bomb(), "megapixels"),
    "too large": (file(Image.new("1", (9000, 9000))), "9000x9000 is 81 megapixels, expected at"),
    "floats": (file(GREY.astype(np.float32), "TIFF"), "floating-point pixels"),
    "32 bits": (file(Image.fromarray(GREY.astype(np.int32) * 9999), "TIFF"), "expected 16 bits"),
    "a PDF": (file(COLOUR, "PDF"), "not a picture"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_has_a_reason_of_one_line(name):
    content, words = BAD[name]
    how = Preprocessing(8, 8, 3, "crop", "white", 255.0)
    with pytest.raises(Unreadable) as caught:
        pictures.row(content, how)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_forty_megapixels_are_a_picture():
    content = file(Image.new("L", (8000, 5000), 90), "JPEG")
    row = own(content, (64, 64))
    assert row.shape == (64, 64, 1) and np.abs(row.astype(int) - 90).max() <= 1
