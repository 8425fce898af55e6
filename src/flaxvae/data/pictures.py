"""One picture, as people keep it, to one row of an array; only this file imports Pillow.

A picture is turned as its EXIF says, drawn over a background where it is transparent, and made
grey or RGB; then it is resized with antialiasing. `Preprocessing` says all of that and is stored
with a run, so that pictures seen later become rows in the very same way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np

from flaxvae.settings import Background, Resize

if TYPE_CHECKING:
    from PIL import Image

_NAMED = "png jpg jpeg webp bmp tif tiff gif jfif jpe apng dib pgm ppm pbm"
SUFFIXES = tuple(f".{form}" for form in _NAMED.split())
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM")
LARGEST = 80_000_000  # pixels; a small file can claim to be of any number of them
SIZE = (64, 64)  # where sizes differ and none is chosen
_COLOURS = {"white": 255, "grey": 128, "black": 0}  # all of them grey: grey pictures stay grey
_BOMB = 2 * 89_478_485  # pixels of a header at which Pillow itself gives up
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
_GREY = ("1", "L", "LA", "La")
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # orientations as Pillow's transpositions


class Unreadable(Exception):
    """A file that gives no picture; the text says why, in a few words."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a row: [height, width, channels] of whole numbers in 0..peak."""

    height: int
    width: int
    channels: int
    """1, grey, or 3, RGB."""
    resize: Resize
    background: Background
    peak: float
    """255; 65535 for grey pictures of 16 bits; 1 for those that only have the levels 0 and 1."""

    @property
    def dtype(self) -> type[np.generic]:
        return np.uint16 if self.peak > 255 else np.uint8

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    def as_json(self) -> dict[str, Any]:
        """Its fields, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Preprocessing:
        """The inverse of ``as_json``. Raises ValueError if it is none."""
        try:
            found = cls(**stored)
        except TypeError as error:
            raise ValueError(str(error)) from None
        sizes = all(type(n) is int and 1 <= n <= 2**16 for n in found.shape)
        words = found.resize in get_args(Resize) and found.background in _COLOURS
        if not (sizes and words and found.channels in (1, 3) and found.peak in (1, 255, 65535)):
            raise ValueError(f"{stored}: expected the preprocessing of pictures")
        return found


class Seen(NamedTuple):
    """What a picture is before it becomes a row."""

    height: int
    width: int
    channels: int  # 1 or 3
    bits: int  # 8, or 16 of a grey one
    transparent: bool = False


def agreed(
    seen: Collection[Seen], size: tuple[int, int] | None, resize: Resize, background: Background
) -> Preprocessing:
    """The preprocessing for all of these pictures together.

    They keep their size where it is the same, and 16 bits where all have them; RGB if any has
    colours.
    """
    sizes = {(one.height, one.width) for one in seen}
    height, width = size or (next(iter(sizes)) if len(sizes) == 1 else SIZE)
    peak = 65535.0 if all(one.bits == 16 for one in seen) else 255.0
    channels = max(one.channels for one in seen)
    return Preprocessing(height, width, channels, resize, background, peak)


@contextlib.contextmanager
def decoding() -> Iterator[None]:
    """Around all calls of ``look`` and ``row``, in whatever threads they are."""
    from PIL import Image

    Image.init()  # once, in one thread
    with warnings.catch_warnings():  # of damaged EXIF and the like
        warnings.simplefilter("ignore")
        yield


def look(content: bytes) -> Seen:
    """What the picture in a file's content is. Raises Unreadable."""
    with _opened(content) as image:
        return _seen(image, _orientation(image))


def row(
    content: bytes, how: Preprocessing, takes: Callable[[Seen], bool] = lambda seen: True
) -> tuple[Seen, np.ndarray | None]:
    """What the picture in a file's content is, and its row [H, W, C].

    There is no row unless ``takes`` says of the picture that ``how`` is right for it.

    Raises Unreadable.
    """
    with _opened(content) as image:
        turned = _orientation(image)
        seen = _seen(image, turned)
        return seen, _pixels(image, seen, turned, how) if takes(seen) else None


@contextlib.contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise Unreadable("empty, 0 bytes")
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > LARGEST:
                raise Unreadable(
                    f"{width}x{height} is {width * height / 1e6:,.0f} megapixels, expected at "
                    f"most {LARGEST / 1e6:.0f}"
                )
            if min(width, height) < 2:
                raise Unreadable(f"{width}x{height} pixels, expected 2x2 or more")
            yield image
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable(f"not a picture, it begins with {content[:8]!r}") from None
    except Image.DecompressionBombError:
        most = f"expected at most {LARGEST / 1e6:.0f}"
        raise Unreadable(f"over {_BOMB / 1e6:,.0f} megapixels by its header, {most}") from None
    except Exception as error:  # decoders raise almost anything on damage
        if "truncated" in str(error).lower() or isinstance(error, EOFError):
            raise Unreadable("truncated") from None
        reason = " ".join(str(error).split())[:80]
        raise Unreadable(f"damaged ({reason or type(error).__name__})") from None


def _orientation(image: Image.Image) -> int:
    """How the picture is stored, 1 to 8, by its EXIF; 1 is upright."""
    if image.format not in ("JPEG", "MPO", "PNG", "WEBP"):
        return 1  # Pillow turns TIFF itself
    if image.format == "PNG":
        image.load()  # what comes after the pixels counts
    if not image.info.keys() & {"exif", "xmp", "Raw profile type exif"}:
        return 1
    with contextlib.suppress(Exception):  # damaged EXIF is none
        return int(image.getexif().get(0x0112, 1))
    return 1


def _seen(image: Image.Image, turned: int) -> Seen:
    width, height = image.size if turned < 5 else image.size[::-1]
    if image.mode == "F":
        raise Unreadable("floating-point pixels, expected whole numbers of 8 or 16 bits")
    if image.mode.startswith("I"):
        return Seen(height, width, 1, 16)
    grey = image.mode in _GREY or (image.mode in ("P", "PA") and _is_grey(image))
    transparent = image.mode in _TRANSPARENT or "transparency" in image.info
    return Seen(height, width, 1 if grey else 3, 8, transparent)


def _is_grey(image: Image.Image) -> bool:
    """Whether a palette has no colour."""
    palette = np.array(image.getpalette("RGB") or [0, 0, 0], np.uint8).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


def _pixels(image: Image.Image, seen: Seen, turned: int, how: Preprocessing) -> np.ndarray:
    from PIL import Image

    same = (seen.height, seen.width) == (how.height, how.width)
    if not same and image.format in ("JPEG", "MPO"):
        # Decode no more than about twice the pixels that are needed.
        scale = _scale(seen.width, seen.height, how) / 2
        if scale > 1:
            image.draft(None, tuple(math.ceil(side / scale) for side in image.size))  # type: ignore[arg-type]
    if seen.bits == 16:
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise Unreadable(f"values {values.min()} to {values.max()}, expected 16 bits")
        flat = Image.fromarray(values.astype(np.float32))  # what Pillow resizes with antialiasing
    else:
        flat = _flat(image, seen, how)
    if turned > 1:
        flat = flat.transpose(Image.Transpose(_TURNS[turned]))
    ground = _COLOURS[how.background] * (257 if seen.bits == 16 else 1)
    found = np.asarray(flat if same else _resized(flat, how, ground))
    if seen.bits == 16:
        found = np.clip(np.rint(found), 0, 65535).astype(np.uint32)
        found = (found + 128) // 257 if how.peak < 65535 else found
    elif how.peak > 255:
        found = found.astype(np.uint32) * 257
    if how.peak == 1 and found.max() > 1:  # black and white as other pictures have them
        found = found > 127
    found = found[..., None] if found.ndim == 2 else found
    if found.shape != how.shape:  # 16 bits, and others have colours
        found = np.broadcast_to(found, how.shape)
    return found.astype(how.dtype, copy=False)


def _flat(image: Image.Image, seen: Seen, how: Preprocessing) -> Image.Image:
    """The picture as grey or RGB, without transparency."""
    from PIL import Image

    mode = "L" if how.channels == 1 else "RGB"
    if not seen.transparent:
        return image if image.mode == mode else image.convert(mode)
    colour = (_COLOURS[how.background],) * 3 + (255,)
    ground = Image.new("RGBA", image.size, colour)
    return Image.alpha_composite(ground, image.convert("RGBA")).convert(mode)


def _scale(width: int, height: int, how: Preprocessing) -> float:
    """How many pixels of a picture become one of its row, along an axis."""
    scales = width / how.width, height / how.height
    return max(scales) if how.resize == "fit" else min(scales)


def _resized(image: Image.Image, how: Preprocessing, ground: int) -> Image.Image:
    from PIL import Image

    (width, height), box = image.size, None
    size, scale = (how.width, how.height), _scale(*image.size, how)
    if how.resize == "crop":  # the middle
        x, y = (width - how.width * scale) / 2, (height - how.height * scale) / 2
        box = (max(x, 0), max(y, 0), min(width - x, width), min(height - y, height))
    elif how.resize == "fit":
        size = (max(1, round(width / scale)), max(1, round(height / scale)))
    small = image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
    if size == (how.width, how.height):
        return small
    whole = Image.new(small.mode, (how.width, how.height), (ground,) * len(small.getbands()))
    whole.paste(small, ((how.width - size[0]) // 2, (how.height - size[1]) // 2))
    return whole
