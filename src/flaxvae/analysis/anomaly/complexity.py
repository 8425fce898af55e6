"""How many bits an image takes when a compressor that knows no data set writes it.

A likelihood is high for any simple image, however unusual: a black one costs few nats. Serra et
al. 2020 therefore subtract the length of the compressed image,

    S(x) = -log2 p(x) - bits(x),

which is a likelihood ratio against a general code. The code here is that of PNG: each row of pixels
is predicted from its neighbours by the filter whose output is smallest, and deflate packs the
result. The sizes of the file's headers, the same for all images of one shape, are left out.
"""

from __future__ import annotations

import zlib

import numpy as np

Array = np.ndarray

DEPTHS = (1, 8, 16)  # bits that a value can have


def bits(images: Array, depth: int) -> Array:
    """The bits of each image in PNG's code, [N].

    Args:
        images: [N, H, W, C] whole numbers below 2^depth.
        depth: bits of a value, one of DEPTHS.
    """
    return np.array([8 * len(compressed) for compressed in encoded(images, depth)], np.float64)


def encoded(images: Array, depth: int) -> list[bytes]:
    """Each image as PNG stores it: the contents of its IDAT chunk."""
    rows = _rows(images, depth)  # [N, H, bytes of a row]
    step = max(images.shape[3] * depth // 8, 1)  # bytes from a value to that of the next pixel
    outputs = np.stack([rows, *_filtered(rows, step)])  # [5, N, H, bytes]
    # The usual heuristic: the filter whose output, as signed bytes, has the smallest sum.
    cost = np.abs(outputs.astype(np.int8).astype(np.int32)).sum(-1)
    kinds = cost.argmin(0) if depth > 1 else np.zeros(rows.shape[:2], int)
    chosen = np.take_along_axis(outputs, kinds[None, ..., None], 0)[0]
    lines = np.concatenate([kinds[..., None].astype(np.uint8), chosen], -1)
    return [zlib.compress(one.tobytes(), 9) for one in lines]


def _rows(images: Array, depth: int) -> Array:
    flat = images.reshape(*images.shape[:2], -1)
    if depth == 1:
        return np.packbits(flat.astype(np.uint8), axis=-1)
    stored = np.ascontiguousarray(flat.astype(np.uint8 if depth == 8 else ">u2"))
    return stored.view(np.uint8)


def _filtered(rows: Array, step: int) -> list[Array]:
    """What PNG's filters leave of each row: Sub, Up, Average and Paeth."""
    raw = rows.astype(np.int32)
    left, up = np.zeros_like(raw), np.zeros_like(raw)
    left[..., step:], up[:, 1:] = raw[..., :-step], raw[:, :-1]
    corner = np.zeros_like(raw)
    corner[:, 1:, step:] = raw[:, :-1, :-step]
    near = np.abs(np.stack([up - corner, left - corner, left + up - 2 * corner]))
    paeth = np.choose(near.argmin(0), [left, up, corner])  # ties go to the first
    return [(raw - guess).astype(np.uint8) for guess in (left, up, (left + up) // 2, paeth)]
