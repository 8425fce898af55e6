"""Images of any height and width, with one to four channels, under every network and likelihood."""

import itertools
import math
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxvae import Batch, Trained, lookup
from flaxvae.errors import UsageError
from flaxvae.parts import likelihoods
from flaxvae.recipe import DataSpec
from flaxvae.settings import Body

LIKELIHOODS = [x for x in get_args(get_type_hints(Body)["likelihood"]) if x != "auto"]
SHAPES = [
    (1, 1, 1),
    (1, 7, 4),
    (5, 9, 2),
    (13, 6, 1),
    (28, 20, 1),
    (16, 16, 4),
    (32, 32, 3),
    (48, 80, 3),
]
MODELS = {
    "mlp": ("vae", {"net": "mlp", "widths": (8,), "latent_dim": 3}),
    "conv": ("vae", {"net": "conv", "latent_dim": 3}),
    "resnet": (
        "vae",
        {"net": "resnet", "channels": (4, 5), "convolutions": "native", "latent_dim": 3},
    ),
    "ladder": ("ladder_vae", {"net": "conv", "latent_dims": (3, 2), "level_widths": (8, 6)}),
    "codes": (
        "vq_vae",
        {"net": "conv", "convolutions": "native", "codes": 8, "code_dim": 2, "prior_width": 8},
    ),
    "codes-resnet": (
        "vq_vae",
        {"net": "resnet", "channels": (4, 5, 6), "codes": 8, "code_dim": 2, "prior_width": 8},
    ),
}


def images(shape, count=2):
    rng = np.random.default_rng(math.prod(shape))
    return rng.integers(0, 256, (count, *shape), np.uint8)


def build(net, shape, likelihood):
    name, arguments = MODELS[net]
    spec = DataSpec("noise", shape, levels=256, examples=2)
    return lookup.build(name, spec, **arguments, likelihood=likelihood)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("net", MODELS)
def test_what_is_decoded_has_the_size_of_what_is_encoded(net, shape):
    """Under each likelihood in turn, so that each meets several sizes and numbers of channels."""
    at = [*MODELS].index(net) + SHAPES.index(shape)
    recipe = build(net, shape, LIKELIHOODS[at % len(LIKELIHOODS)])

    def run(key, x):
        variables = recipe.model.init(key, x)
        features = recipe.model.encode(variables, x)
        z = recipe.model.reparameterize(variables, key, features, False).z
        p = recipe.model.decode(variables, z)
        return p.mean, p.sample(key), p.log_prob(x)

    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    mean, sample, log_px = jax.eval_shape(run, jax.random.key(0), x)
    assert mean.shape == sample.shape == x.shape
    assert log_px.shape == (2,)


@pytest.mark.parametrize(
    ("net", "shape", "likelihood"),
    [
        ("conv", (1, 1, 1), "bernoulli"),
        ("conv", (5, 9, 4), "logistic_mixture"),
        ("resnet", (6, 3, 2), "discretized_logistic"),
        ("codes", (9, 5, 3), "discretized_logistic"),
    ],
)
def test_every_parameter_learns_at_any_size(net, shape, likelihood):
    recipe, x = build(net, shape, likelihood), images(shape)
    batch = Batch(jnp.float32(x / 255))
    variables = jax.jit(recipe.model.init)(jax.random.key(0), batch.x)
    gradient = jax.jit(jax.grad(recipe.loss, has_aux=True))
    found = gradient(variables, jax.random.key(1), batch, jnp.int32(2_000))[0]["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        assert np.isfinite(leaf).all() and np.any(leaf), jax.tree_util.keystr(path)
    again = Trained(recipe, variables).reconstruct(x)
    assert again.shape == x.shape and np.isfinite(again).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_log_px_has_a_term_for_each_value(likelihood, channels):
    """It is the sum over points of space, and depends on each channel of each of them."""
    shape, levels = (2, 3, channels), 256
    build = getattr(likelihoods, likelihood)
    more = {"discretized_logistic": (levels,), "logistic_mixture": (levels, 3)}
    made = build(channels, *more.get(likelihood, ()))
    raw = jax.random.normal(jax.random.key(0), (2, *shape[:2], made.values))
    x = jnp.float32(images(shape) / 255)

    @jax.jit
    def log_prob(raw, x):
        return made.distribution(made.init(), raw).log_prob(x)

    whole = log_prob(raw, x)
    points = log_prob(raw.reshape(-1, 1, 1, made.values), x.reshape(-1, 1, 1, channels))
    np.testing.assert_allclose(whole, points.reshape(2, -1).sum(1), rtol=1e-5)
    for at in itertools.product(*map(range, shape)):
        moved = log_prob(raw, x.at[(0, *at)].set(1 - x[(0, *at)]))
        assert moved[0] != whole[0] and moved[1] == whole[1], at


@pytest.mark.parametrize("net", ["conv", "resnet"])
@pytest.mark.parametrize("shape", [(12,), (4, 4), (4, 4, 4, 1)])
def test_convolutions_of_what_is_no_image_are_refused(net, shape):
    with pytest.raises(UsageError, match=rf"net='{net}' on .*expected images .*use net='mlp'"):
        lookup.build("vae", DataSpec("table", shape, examples=2), net=net)
