"""The zoo: one function a model. This is the only place where a variant has a name.

A recipe takes what is known of the data and the model's own choices, and puts parts together.
Its signature gives the command line its flags, its docstring their help. To add a variant, write
one function and put it into RECIPES.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from flaxvae import parts
from flaxvae.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from flaxvae.core import Model
    from flaxvae.parts.objectives import Loss

Net = Literal["conv", "mlp"]
Activation = Literal["relu", "tanh", "gelu", "silu", "elu"]
Likelihood = Literal["bernoulli", "gaussian", "gaussian_shared", "gaussian_pixel"]
Kl = Literal["closed_form", "monte_carlo"]


class DataSpec(NamedTuple):
    """What a recipe may know about the data."""

    name: str  # with the binarization, as in every table: "mnist, dynamically binarized"
    shape: tuple[int, ...]  # of one example
    classes: int | None = None  # None: no labels
    binary: bool = False  # every value is 0 or 1


class Recipe(NamedTuple):
    """A model with the loss that trains it."""

    model: Model
    loss: Loss
    has_bound: bool = True  # False: a plain autoencoder, for which no likelihood is reported
    probabilities: bool = False  # the likelihood gives probabilities of the data, not densities


def _check(ok: bool, seen: str, expected: str) -> None:
    if not ok:
        raise UsageError(f"{seen}: expected {expected}")


def _one_of(options: Any, flag: str, seen: str) -> None:
    names = get_args(options)
    _check(seen in names, f"--{flag} {seen}", f"one of {', '.join(names)}")


def _likelihood(name: Likelihood, sigma: float):
    _one_of(Likelihood, "likelihood", name)
    _check(0 < sigma < math.inf, f"--sigma {sigma}", "a number above 0")
    return {
        "bernoulli": parts.likelihoods.bernoulli,
        "gaussian": lambda: parts.likelihoods.gaussian(sigma),
        "gaussian_shared": parts.likelihoods.gaussian_shared,
        "gaussian_pixel": parts.likelihoods.gaussian_pixel,
    }[name]()


def _assemble(data: DataSpec, latents, likelihood, net: Net, widths, activation) -> Model:
    _one_of(Net, "net", net)
    _one_of(Activation, "activation", activation)
    _check(min(widths, default=1) >= 1, f"--widths {' '.join(map(str, widths))}", "1 or more each")
    if net == "mlp":
        network = parts.networks.mlp(
            data.shape, latents.heads, likelihood.values, tuple(widths), activation
        )
    else:
        _check(
            len(data.shape) == 3,
            f"--net {net} on examples of shape {data.shape}",
            "images [height, width, channels]; use --net mlp",
        )
        network = parts.networks.conv(data.shape, latents.heads, likelihood.values)
    return parts.assemble.model(network, latents, likelihood)


def ae(
    data: DataSpec,
    *,
    latent_dim: int = 20,
    net: Net = "conv",
    widths: tuple[int, ...] = (512, 256),
    activation: Activation = "relu",
    likelihood: Likelihood = "bernoulli",
    sigma: float = 1.0,
) -> Recipe:
    """Plain autoencoder: reconstruction only, no posterior, no prior, no likelihood of an image.

    Minimises -log p(x | z = f(x)), so it differs from ``vae`` in nothing but noise and KL.

    Args:
        latent_dim: numbers in the code.
        net: conv (the tutorials'), or mlp.
        widths: hidden layers of an mlp encoder; the decoder mirrors them.
        activation: of an mlp.
        likelihood: bernoulli (cross-entropy), or gaussian with sigma fixed, one sigma learned
            (gaussian_shared) or one a pixel (gaussian_pixel).
        sigma: standard deviation of the fixed gaussian.
    """
    _check(latent_dim >= 1, f"--latent-dim {latent_dim}", "1 or more")
    latents = parts.latents.point(latent_dim)
    model = _assemble(data, latents, _likelihood(likelihood, sigma), net, widths, activation)
    return Recipe(model, parts.objectives.reconstruction(model), has_bound=False)


def vae(
    data: DataSpec,
    *,
    latent_dim: int = 20,
    net: Net = "conv",
    widths: tuple[int, ...] = (512, 256),
    activation: Activation = "relu",
    likelihood: Likelihood = "bernoulli",
    sigma: float = 1.0,
    kl: Kl = "closed_form",
    samples: int = 1,
) -> Recipe:
    """Variational autoencoder (Kingma & Welling 2013): maximises the ELBO.

    Args:
        latent_dim: latent dimensions.
        net: conv (the tutorials'), or mlp.
        widths: hidden layers of an mlp encoder; the decoder mirrors them.
        activation: of an mlp.
        likelihood: bernoulli, or gaussian with sigma fixed, one sigma learned (gaussian_shared)
            or one a pixel (gaussian_pixel).
        sigma: standard deviation of the fixed gaussian.
        kl: the KL in closed form, or by Monte Carlo from the same draws.
        samples: draws of z for each image and step.
    """
    return beta_vae(
        data,
        latent_dim=latent_dim,
        beta=1.0,
        net=net,
        widths=widths,
        activation=activation,
        likelihood=likelihood,
        sigma=sigma,
        kl=kl,
        samples=samples,
    )


def beta_vae(
    data: DataSpec,
    *,
    latent_dim: int = 10,
    beta: float = 4.0,
    net: Net = "conv",
    widths: tuple[int, ...] = (512, 256),
    activation: Activation = "relu",
    likelihood: Likelihood = "bernoulli",
    sigma: float = 1.0,
    kl: Kl = "closed_form",
    samples: int = 1,
) -> Recipe:
    """beta-VAE (Higgins et al. 2017): the ELBO with its KL weighted by beta.

    Args:
        latent_dim: latent dimensions.
        beta: weight of the KL; 1 is a VAE, above 1 presses for independent latents.
        net: conv (the tutorials'), or mlp.
        widths: hidden layers of an mlp encoder; the decoder mirrors them.
        activation: of an mlp.
        likelihood: bernoulli, or gaussian with sigma fixed, one sigma learned (gaussian_shared)
            or one a pixel (gaussian_pixel).
        sigma: standard deviation of the fixed gaussian.
        kl: the KL in closed form, or by Monte Carlo from the same draws.
        samples: draws of z for each image and step.
    """
    _check(latent_dim >= 1, f"--latent-dim {latent_dim}", "1 or more")
    _check(0 <= beta < math.inf, f"--beta {beta}", "0 or more")
    _check(samples >= 1, f"--samples {samples}", "1 or more")
    _one_of(Kl, "kl", kl)
    latents = parts.latents.gaussian(latent_dim)
    model = _assemble(data, latents, _likelihood(likelihood, sigma), net, widths, activation)
    loss = parts.objectives.negative_elbo(
        model, beta=beta, closed_form=kl == "closed_form", samples=samples
    )
    return Recipe(model, loss, probabilities=data.binary and likelihood == "bernoulli")


RECIPES: dict[str, Callable[..., Recipe]] = {f.__name__: f for f in (ae, vae, beta_vae)}


def recipe(name: str) -> Callable[..., Recipe]:
    """The recipe of this name. Raises UsageError, with the nearest name, if there is none."""
    if name not in RECIPES:
        known = ", ".join(RECIPES)
        hint = did_you_mean(name, RECIPES)
        raise UsageError(f"unknown model {name!r}{hint} (models: {known})")
    return RECIPES[name]
