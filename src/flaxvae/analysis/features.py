"""Features of images to compare samples in: of a small classifier, or of a random network.

    features = a convolutional encoder, halving the image three times, then Dense 256 and Dense F
    logits   = W silu(features) + b

A classifier is trained on labelled images by cross-entropy (Adam, cosine decay). Where there are no
labels, the same encoder keeps its random initial weights. ``quality`` compares the features of
samples with those of data. Distances between features of different networks do not compare, so a
Fréchet distance here is no FID, which is of the Inception network's features.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxvae.declared import Positive, Seed, typed
from flaxvae.errors import UsageError
from flaxvae.parts import convolutions, image_networks

Array = jax.Array

CHANNELS = (32, 64, 64)
SIZE, BATCH, LEARNING_RATE = 64, 128, 2e-3


Params = dict[str, Any]  # of the encoder, and weight [F, classes] and bias [classes]
Network = Callable[[Params, Any], tuple[Array, Array]]  # images -> features [N, F], logits


class Seen(NamedTuple):
    """Images as a network sees them."""

    features: np.ndarray  # [N, F]
    probabilities: np.ndarray | None  # [N, classes]; None of a random network


class Classifier(NamedTuple):
    """A trained classifier; its functions take images [N, H, W, C], as bytes or in [0, 1]."""

    network: Network  # compiled
    params: Params

    def see(self, images: np.ndarray) -> Seen:
        """Features and probabilities of each image."""
        features, logits = _in_batches(functools.partial(self.network, self.params), images)
        return Seen(features, np.asarray(jax.nn.softmax(logits, axis=-1)))

    def features(self, images: np.ndarray) -> np.ndarray:
        """[N, F] the layer before the last, before its activation."""
        return self.see(images).features

    def classify(self, images: np.ndarray) -> np.ndarray:
        """[N] the most probable class of each image."""
        return self.probabilities(images).argmax(-1)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """[N, classes] the softmax of the logits."""
        found = self.see(images).probabilities
        assert found is not None
        return found

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """The fraction of images that it classifies as ``labels`` [N]."""
        return float((self.classify(images) == labels).mean())


class RandomNetwork(NamedTuple):
    """The encoder of a classifier with its initial weights."""

    network: Network  # compiled
    params: Params

    def see(self, images: np.ndarray) -> Seen:
        """Features [N, F] of images [N, H, W, C], as bytes or in [0, 1]."""
        features, _ = _in_batches(functools.partial(self.network, self.params), images)
        return Seen(features, None)


def _in_batches(network: Callable[[Any], Any], images: np.ndarray) -> list[np.ndarray]:
    """What a network gives of images, a batch at a time."""
    parts = []
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        full = part[np.arange(BATCH) % len(part)]  # of one size, so that one is compiled
        parts.append([np.asarray(found)[: len(part)] for found in network(full)])
    return [np.concatenate(found) for found in zip(*parts, strict=True)]


@typed
def train(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: Positive = 8,
    size: Positive = SIZE,
    flip: bool = False,
    seed: Seed = 0,
    watch: Callable[[int, int], None] | None = None,
) -> Classifier:
    """A classifier of images, the same for the same arguments on the same machine.

    Args:
        images: [N, H, W, C], uint8 or float32 in [0, 1].
        labels: [N] integers from 0 to the number of classes - 1.
        epochs: passes over the images.
        size: F, the number of features.
        flip: mirror half of the images left to right, at random.
        seed: of the initial weights, the order of the images, and the mirroring.
        watch: is told after each epoch how many images it has seen, of how many.

    Raises:
        UsageError: images of another shape, fewer than a batch of them, or labels out of range.
    """
    labels = np.asarray(labels)
    if images.ndim != 4 or len(images) < BATCH:
        seen = "x".join(map(str, images.shape))
        raise UsageError(f"images of {seen}: expected [N, H, W, C], at least {BATCH} of them")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0:
        seen = f"{labels.dtype} of {'x'.join(map(str, labels.shape))}"
        raise UsageError(f"labels, {seen}: expected {len(images)} integers, from 0")
    _floats(images[:1])  # refused before anything is compiled
    init_key, key = jax.random.split(jax.random.key(seed))
    classes = int(labels.max()) + 1
    _, network = _network(images.shape[1:], size)
    params = jax.jit(functools.partial(_init, images.shape[1:], classes, size))(init_key)
    steps = len(images) // BATCH
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, epochs * steps))
    state = params, optimizer.init(params)
    held = jnp.asarray(images), jnp.asarray(labels, jnp.int32)
    epoch = jax.jit(functools.partial(_epoch, network, optimizer, steps, flip), donate_argnums=0)
    for i in range(epochs):
        state = epoch(state, jax.random.fold_in(key, i), *held)
        if watch is not None:
            jax.block_until_ready(state)
            watch((i + 1) * len(images), epochs * len(images))
    return Classifier(jax.jit(network), jax.block_until_ready(state[0]))


def shapes(image: tuple[int, ...], classes: int, size: int = SIZE) -> Params:
    """The shapes of the params of a classifier of images [H, W, C]."""
    return jax.eval_shape(functools.partial(_init, image, classes, size), jax.random.key(0))


def restored(image: tuple[int, ...], params: Params, size: int = SIZE) -> Classifier:
    """The classifier of these params, as of ``shapes``."""
    return Classifier(jax.jit(_network(image, size)[1]), params)


@typed
def random_network(
    image: tuple[int, ...], *, size: Positive = SIZE, seed: Seed = 0
) -> RandomNetwork:
    """A network that has learnt nothing, for images [H, W, C]; the seed decides its weights."""
    params = jax.jit(functools.partial(_init, image, 1, size))(jax.random.key(seed))
    return RandomNetwork(jax.jit(_network(image, size)[1]), params)


def _init(image: tuple[int, ...], classes: int, size: int, key: Array) -> Params:
    """Initial weights of a classifier of images [H, W, C]."""
    encoder, _ = _network(image, size)
    own = encoder.init(key, jnp.zeros((1, *image)))["params"]
    return {"encoder": own, "weight": jnp.zeros((size, classes)), "bias": jnp.zeros(classes)}


def _network(image: tuple[int, ...], size: int) -> tuple[Any, Network]:
    """The encoder, a Flax module, and the whole classifier."""
    pyramid = image_networks.Pyramid(
        convolutions.lowering(), (image[0], image[1]), CHANNELS, "silu", image_networks.SILU_SCALE
    )
    encoder = image_networks.ConvEncoder(pyramid, {"features": size})

    def network(params, images):
        heads: Any = encoder.apply({"params": params["encoder"]}, _floats(images))
        found = heads["features"]
        return found, jax.nn.silu(found) @ params["weight"] + params["bias"][None]

    return encoder, network


def _epoch(network: Network, optimizer, steps: int, flip: bool, state, key: Array, images, labels):
    """One pass over the images in a random order, but for those of a last, smaller batch."""
    order_key, flip_key = jax.random.split(key)
    order = jax.random.permutation(order_key, len(images))[: steps * BATCH].reshape(steps, BATCH)
    mirrored = jax.random.bernoulli(flip_key, 0.5 if flip else 0.0, (steps, BATCH))

    def step(state, batch):
        params, moments = state
        rows, mirror = batch
        x, y = images[rows], labels[rows]
        x = jnp.where(mirror[:, None, None, None], x[:, :, ::-1], x)

        def loss(params):
            _, logits = network(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        updates, moments = optimizer.update(jax.grad(loss)(params), moments)
        return (optax.apply_updates(params, updates), moments), None

    return jax.lax.scan(step, state, (order, mirrored))[0]


def _floats(images) -> Array:
    """Images as the network sees them, centred: float32 in [-1, 1]."""
    if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise UsageError(f"images of {images.dtype}: expected uint8, or floats in [0, 1]")
    scale = 255 if images.dtype == np.uint8 else 1
    return jnp.asarray(images, jnp.float32) * (2 / scale) - 1
