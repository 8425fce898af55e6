"""Combine a network, latents and a likelihood into a Model."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxvae.core import Model, Variables
from flaxvae.errors import UsageError
from flaxvae.parts.latents import Latents
from flaxvae.parts.likelihoods import Likelihood
from flaxvae.parts.networks import Network


def of_latents(variables: Variables) -> Variables:
    """The latents' part of a model's variables: their own parameters, and all state."""
    return {**variables, "params": variables["params"].get("latents", {})}


def model(
    network: Network, latents: Latents, likelihood: Likelihood, classes: int | None = None
) -> Model:
    """A model of data x with latents z, given labels y if ``classes`` is set.

    Args:
        network: encoder and decoder, built for these heads and values. They compute in
            ``network.compute``; parameters, latents and likelihood are float32.
        latents: posterior and prior.
        likelihood: p(x|z).
        classes: number of labels that condition both networks; None for an unconditional model.

    Returns:
        A Model. ``variables["params"]`` has ``encoder`` and ``decoder``, and ``latents`` and
        ``likelihood`` if they have parameters; other collections are the latents' state.
    """

    def apply(module, params, *inputs):
        def cast(tree, dtype):
            return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)

        params, inputs = cast((params, inputs), network.compute)
        return cast(module.apply({"params": params}, *inputs), jnp.float32)

    def labels(y):
        if classes is None:
            return None
        if y is None:
            raise UsageError(f"this model needs labels: expected y, integers 0 to {classes - 1}")
        return jax.nn.one_hot(y, classes)

    def init(key, x, y=None):
        encoder_key, decoder_key, draw_key, latents_key = jax.random.split(key, 4)
        heads, encoder = network.encoder.init_with_output(encoder_key, x, labels(y))
        variables = latents.init(latents_key)
        z: jax.Array = latents.draw(variables, draw_key, heads, True).z
        decoder = network.decoder.init(decoder_key, z[:, latents.decoded], labels(y))
        optional = {"latents": variables["params"], "likelihood": likelihood.init()}
        params = {"encoder": encoder["params"], "decoder": decoder["params"]}
        return {**variables, "params": params | {k: v for k, v in optional.items() if v}}

    def encode(variables, x, y=None):
        return apply(network.encoder, variables["params"]["encoder"], x, labels(y))

    def reparameterize(variables, key, features, train):
        return latents.draw(of_latents(variables), key, features, train)

    def decode(variables, z, y=None):
        params = variables["params"]
        raw = apply(network.decoder, params["decoder"], z[:, latents.decoded], labels(y))
        return likelihood.distribution(params.get("likelihood", {}), raw)

    def prior_sample(variables, key, n, y=None, temperature=1.0):
        return latents.prior_sample(of_latents(variables), key, n, temperature)

    def prior_log_prob(variables, z, y=None):
        assert latents.prior_log_prob is not None
        return latents.prior_log_prob(of_latents(variables), z)

    def redraw(variables, key, z, below, temperature=1.0):
        assert latents.redraw is not None
        return latents.redraw(of_latents(variables), key, z, below, temperature)

    density = None if latents.prior_log_prob is None else prior_log_prob
    again = None if latents.redraw is None else redraw
    return Model(init, encode, reparameterize, decode, prior_sample, density, again)
