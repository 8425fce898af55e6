"""Put a network, latents and a likelihood together: a Model."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxvae.core import Model
from flaxvae.parts.latents import Latents
from flaxvae.parts.likelihoods import Likelihood
from flaxvae.parts.networks import Network


def model(
    network: Network, latents: Latents, likelihood: Likelihood, classes: int | None = None
) -> Model:
    """A model with one layer of latents.

    Args:
        network: encoder and decoder bodies, built for these heads and values.
        latents: posterior and prior.
        likelihood: p(x|z).
        classes: number of labels that condition both networks; None for an unconditional model.

    Returns:
        A Model with ``variables["params"]`` of ``encoder``, ``decoder`` and, where the likelihood
        has parameters of its own, ``likelihood``.
    """

    def labels(y):
        return None if classes is None else jax.nn.one_hot(y, classes)

    def init(key, x, y=None):
        encoder_key, decoder_key, draw_key = jax.random.split(key, 3)
        heads, encoder = network.encoder.init_with_output(encoder_key, x, labels(y))
        z = latents.draw(draw_key, heads).z
        decoder = network.decoder.init(decoder_key, z, labels(y))
        params = {"encoder": encoder["params"], "decoder": decoder["params"]}
        own = likelihood.init()
        return {"params": params | ({"likelihood": own} if own else {})}

    def encode(variables, x, y=None):
        return network.encoder.apply({"params": variables["params"]["encoder"]}, x, labels(y))

    def reparameterize(variables, key, features, train):
        return latents.draw(key, features)

    def decode(variables, z, y=None):
        params = variables["params"]
        raw = network.decoder.apply({"params": params["decoder"]}, z, labels(y))
        return likelihood.distribution(params.get("likelihood", {}), jnp.asarray(raw))

    def prior_sample(variables, key, n, y=None, temperature=1.0):
        return latents.prior_sample(key, n, temperature)

    return Model(init, encode, reparameterize, decode, prior_sample)
