"""The classifier whose features samples are compared in."""

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from flaxvae.analysis import features, quality
from flaxvae.errors import UsageError

EPOCHS, HELD = 12, 500


@pytest.fixture(scope="module")
def digits():
    found = load_digits()
    images = np.uint8(found.images[..., None] / 16 * 255)
    return images, found.target


@pytest.fixture(scope="module")
def trained(digits):
    images, labels = digits
    return features.train(images[HELD:], labels[HELD:], epochs=EPOCHS, size=16)


def test_it_classifies_images_it_has_not_seen(trained, digits):
    images, labels = digits
    found = trained.accuracy(images[:HELD], labels[:HELD])
    assert 0.85 < found < 1
    assert found == np.mean(trained.classify(images[:HELD]) == labels[:HELD])


def test_features_are_of_each_image_alone_and_of_bytes_as_of_floats(trained, digits):
    images = digits[0][:200]
    found = trained.features(images)
    assert found.shape == (200, 16)
    np.testing.assert_allclose(trained.features(images[150:153]), found[150:153], atol=1e-4)
    floats = images.astype(np.float32) / 255
    np.testing.assert_allclose(trained.features(floats), found, atol=1e-4)


def test_classes_are_a_linear_function_of_the_active_features(trained, digits):
    x = trained.features(digits[0][:50])
    weight, bias = (np.asarray(trained.params[name]) for name in ("weight", "bias"))
    logits = x / (1 + np.exp(-x)) @ weight + bias
    np.testing.assert_array_equal(np.argmax(logits, -1), trained.classify(digits[0][:50]))
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(trained.probabilities(digits[0][:50]), expected, atol=1e-4)


def test_a_seed_decides_the_classifier(digits):
    images, labels = digits[0][:256], digits[1][:256]
    one, same, other = (
        features.train(images, labels, epochs=1, size=4, seed=seed).params for seed in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert not np.array_equal(one["weight"], other["weight"])


def test_a_classifier_is_its_weights(trained, digits):
    like = features.shapes((8, 8, 1), 10, 16)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), like) == jax.tree.map(
        lambda a: (a.shape, a.dtype), trained.params
    )
    images = digits[0][:100]
    again = features.restored((8, 8, 1), trained.params, 16).see(images)
    np.testing.assert_array_equal(again.features, trained.features(images))
    np.testing.assert_allclose(again.probabilities.sum(1), 1, rtol=1e-5)


def test_a_random_network_is_a_function_of_its_seed(digits):
    images = digits[0][:100]
    networks = (features.random_network((8, 8, 1), seed=seed) for seed in (0, 0, 1))
    one, same, other = (network.see(images) for network in networks)
    np.testing.assert_array_equal(one.features, same.features)
    assert one.features.shape == (100, 64) and one.probabilities is None
    assert np.abs(one.features - other.features).max() > 0.01
    # It tells images apart in every feature.
    assert one.features.std(0).min() > 1e-3


def test_mirroring_leaves_labels_with_their_images(digits):
    """Of symmetric images mirroring changes nothing, so that the classifier is the same."""
    images, labels = digits[0][:256], digits[1][:256]
    images = np.concatenate([images[:, :, :4], images[:, :, 3::-1]], 2)
    plain, mirrored = (
        features.train(images, labels, epochs=1, size=4, flip=flip).params for flip in (False, True)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, mirrored)


def test_worse_images_are_further_from_data(trained, digits):
    images = digits[0][:HELD].astype(np.float32) / 255
    noise = np.random.default_rng(0).normal(size=images.shape)
    real = trained.features(images)
    found = [
        quality.frechet_distance(
            real, trained.features(np.float32(np.clip(images + s * noise, 0, 1)))
        )
        for s in (0.1, 0.3, 1.0)
    ]
    assert quality.frechet_distance(real, real) < found[0] < found[1] < found[2]


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (np.zeros((200, 8, 8)), np.zeros(200, int), "images of 200x8x8"),
        (np.zeros((20, 8, 8, 1)), np.zeros(20, int), "images of 20x8x8x1: expected .* 128"),
        (np.zeros((200, 8, 8, 1), int), np.zeros(200, int), "images of int64: expected uint8"),
        (np.zeros((200, 8, 8, 1)), np.zeros(200), "labels, float64 of 200: expected 200 integers"),
        (np.zeros((200, 8, 8, 1)), np.zeros(199, int), "int64 of 199: expected 200 integers"),
    ],
)
def test_what_it_cannot_learn_from(images, labels, said):
    with pytest.raises(UsageError, match=said):
        features.train(images, labels)
