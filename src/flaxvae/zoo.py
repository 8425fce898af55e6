"""The zoo: one function per model. This is the only place where a variant has a name.

A recipe takes a description of the data, what models have in common (``settings.Body``: networks
and likelihood; ``settings.Bound``: how the ELBO becomes a loss) and its own arguments, and puts
parts together. Its signature defines the command line's flags, its docstring their help. To add a
variant, write one function and add it to RECIPES.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from flaxvae import choosing, declared, parts
from flaxvae.choosing import ByData, Choice
from flaxvae.declared import Only
from flaxvae.errors import UsageError
from flaxvae.recipe import Codes, DataSpec, Recipe
from flaxvae.settings import Annealing, Body, Bound

if TYPE_CHECKING:
    from flaxvae.core import Model
    from flaxvae.parts.corruption import Corruption
    from flaxvae.parts.latents import Latents
    from flaxvae.parts.levels import Levels
    from flaxvae.parts.objectives import Objective, Price, Schedule


# --- what recipes share -------------------------------------------------------------------------


def _check(ok: bool, seen: str, expected: str) -> None:
    if not declared.passes(ok):
        raise UsageError(f"{seen}: expected {expected}")


def _positive(**arguments: int) -> None:
    for name, value in arguments.items():
        declared.conform(name, declared.Positive, value)


def _not_negative(**arguments: float) -> None:
    for name, value in arguments.items():
        _check(
            (value >= 0) & (value < math.inf), f"--{name.replace('_', '-')} {value}", "0 or more"
        )


def _likelihood(data: DataSpec, body: Body):
    body = choosing.body(data, body)
    kinds, channels, name = parts.likelihoods, data.shape[-1], body.likelihood
    levels = data.levels or 0
    if name in _ON_LEVELS:
        _check(
            levels > 0,
            f"--likelihood {name} on {data.name}",
            "images stored as integers; use gaussian or continuous_bernoulli for others",
        )
    _check(
        data.kind != "table" or name.startswith("gaussian"),
        f"--likelihood {name} on {data.name}",
        "gaussian, gaussian_shared or gaussian_pixel, for a table's values are any numbers",
    )
    return {
        "bernoulli": lambda: kinds.bernoulli(channels),
        "continuous_bernoulli": lambda: kinds.continuous_bernoulli(channels),
        "gaussian": lambda: kinds.gaussian(channels, body.sigma),
        "gaussian_shared": lambda: kinds.gaussian_shared(channels),
        "gaussian_pixel": lambda: kinds.gaussian_pixel(channels),
        "discretized_logistic": lambda: kinds.discretized_logistic(channels, levels),
        "logistic_mixture": lambda: kinds.logistic_mixture(channels, levels, body.components),
    }[name]()


_ON_LEVELS = ("discretized_logistic", "logistic_mixture")


def _log_px(data: DataSpec, body: Body) -> Literal["probability", "density", "cross_entropy"]:
    body = choosing.body(data, body)
    if body.likelihood in _ON_LEVELS:
        return "probability"
    if body.likelihood == "bernoulli":
        return "probability" if data.binary or data.levels == 2 else "cross_entropy"
    return "density"


def _recipe(model: Model, objective: Objective, data: DataSpec, body: Body, **facts: Any) -> Recipe:
    """A recipe of a model with the likelihood of ``body``; ``facts`` are further fields."""
    return Recipe(model, objective, data, _log_px(data, body), **facts)


def _network(data: DataSpec, body: Body, heads, values: int, spatial: bool = False):
    body = choosing.body(data, body)
    fits = body.net == "resnet" or not body.remat
    _check(fits, f"--remat with --net {body.net}", "--net resnet, or --model deep_vae")
    network = _float32_network(data, body, heads, values, spatial)
    return network._replace(compute="bfloat16") if body.precision == "bf16" else network


def _float32_network(data: DataSpec, body: Body, heads, values: int, spatial: bool):
    if body.net == "mlp":
        return parts.networks.mlp(data.shape, heads, values, tuple(body.widths), body.activation)
    _check(
        len(data.shape) == 3,
        f"--net {body.net} on examples of shape {data.shape}",
        "images [height, width, channels]; use --net mlp",
    )
    if body.net == "conv":
        return parts.image_networks.conv(data.shape, heads, values, spatial, body.convolutions)
    return parts.image_networks.resnet(
        data.shape,
        heads,
        values,
        tuple(body.channels),
        body.blocks,
        spatial,
        body.remat,
        body.convolutions,
    )


def _assemble(data: DataSpec, body: Body, latents: Latents, classes: int | None = None) -> Model:
    likelihood = _likelihood(data, body)
    network = _network(data, body, latents.heads, likelihood.values)
    return parts.assemble.model(network, latents, likelihood, classes)


def _beta(bound: Bound) -> Schedule:
    kinds = parts.objectives
    return {
        "none": lambda: kinds.constant(bound.beta),
        "linear": lambda: kinds.linear(bound.beta, bound.anneal_steps),
        "cyclical": lambda: kinds.cyclical(bound.beta, bound.anneal_steps, bound.cycles),
    }[bound.anneal]()


def _price(bound: Bound, hierarchy: Levels | None) -> Price:
    kinds, beta = parts.objectives, _beta(bound)
    per_level = bound.free_bits_per == "level" and declared.is_on(bound.free_bits)
    many = "a hierarchy, such as ladder_vae or deep_vae"
    _check(hierarchy is not None or not per_level, f"--free-bits-per {bound.free_bits_per}", many)
    _check(hierarchy is not None or not bound.balance, "--balance", many)
    if declared.is_on(bound.free_bits):
        return kinds.free_bits(beta, bound.free_bits, bound.free_bits_per, hierarchy)
    if bound.balance and hierarchy is not None:
        return kinds.balanced(beta, bound.beta, hierarchy)
    return kinds.weighted(beta)


def _kl_of_a_draw(bound: Bound) -> None:
    """Refuse free bits per unit if the KL is one number, log q(z|x) - log p(z)."""
    _check(
        not declared.is_on(bound.free_bits) or bound.free_bits_per == "total",
        f"--free-bits {bound.free_bits} for every dimension of a KL without closed form",
        "--free-bits-per total",
    )


def _bounded(
    model: Model,
    data: DataSpec,
    body: Body,
    bound: Bound,
    *,
    price: Price | None = None,
    corrupt: Corruption | None = None,
    hierarchy: Levels | None = None,
    **facts: Any,
) -> Recipe:
    """A recipe that trains a model on its ELBO; ``facts`` are further fields."""
    objective = partial(
        parts.objectives.negative_elbo,
        price=price or _price(bound, hierarchy),
        closed_form=bound.kl == "closed_form",
        samples=bound.samples,
        corrupt=corrupt,
        columns=() if hierarchy is None else hierarchy.keys,
    )
    facts = {"schedules": {"kl_weight": _beta(bound)}, **facts}
    return _recipe(model, objective, data, body, hierarchy=hierarchy, corrupt=corrupt, **facts)


# --- autoencoders -------------------------------------------------------------------------------


def ae(data: DataSpec, body: Body = Body(), *, latent_dim: int = 20) -> Recipe:
    """Plain autoencoder: reconstruction only, without posterior, prior or likelihood of an image.

    Minimizes -log p(x | z = f(x)), so it differs from ``vae`` only in the noise and the KL.

    Args:
        latent_dim: Size of the code.
    """
    _positive(latent_dim=latent_dim)
    model = _assemble(data, body, parts.latents.point(latent_dim))
    objective = parts.objectives.reconstruction
    return _recipe(model, objective, data, body, has_bound=False, code="encoder's output")


Noise = Literal["gaussian", "mask", "salt_and_pepper"]


def _corruption(noise: Noise, level: float) -> Corruption:
    top = math.inf if noise == "gaussian" else 1.0
    _check((level >= 0) & (level <= top) & (level < math.inf), f"--level {level}", f"0 to {top:g}")
    kinds = parts.corruption
    return {
        "gaussian": kinds.gaussian,
        "mask": kinds.mask,
        "salt_and_pepper": kinds.salt_and_pepper,
    }[noise](level)


def denoising_ae(
    data: DataSpec,
    body: Body = Body(),
    *,
    latent_dim: int = 20,
    noise: Annotated[Noise, Only("level")] = "mask",
    level: float = 0.3,
) -> Recipe:
    """Denoising autoencoder (Vincent et al. 2008): reconstructs an image from a corrupted copy.

    Args:
        latent_dim: Size of the code.
        noise: gaussian, mask (pixels set to 0), or salt_and_pepper (pixels set to 0 or 1).
        level: standard deviation of gaussian noise, or fraction of pixels that are set.
    """
    _positive(latent_dim=latent_dim)
    corrupt = _corruption(noise, level)
    model = _assemble(data, body, parts.latents.point(latent_dim))
    objective = partial(parts.objectives.reconstruction, corrupt=corrupt)
    facts = {"has_bound": False, "code": "encoder's output", "corrupt": corrupt}
    return _recipe(model, objective, data, body, **facts)


# --- Gaussian latents ---------------------------------------------------------------------------


def vae(
    data: DataSpec, body: Body = Body(), bound: Bound = Bound(), *, latent_dim: int = 20
) -> Recipe:
    """Variational autoencoder (Kingma & Welling 2013): maximizes the ELBO.

    Args:
        latent_dim: Latent dimensions.
    """
    _positive(latent_dim=latent_dim)
    model = _assemble(data, body, parts.latents.gaussian(latent_dim))
    return _bounded(model, data, body, bound)


def beta_vae(
    data: DataSpec,
    body: Body = Body(),
    bound: Bound = Bound(beta=4.0),
    *,
    latent_dim: int = 10,
    capacity: Annotated[float | None, Only("beta")] = None,
    capacity_steps: Annotated[int, Only("capacity")] = 25_000,
) -> Recipe:
    """beta-VAE (Higgins et al. 2017): the ELBO with its KL weighted by beta.

    With a capacity, the KL follows a rising target C instead (Burgess et al. 2018):
    -E[log p(x|z)] + beta |KL - C|.

    Args:
        latent_dim: Latent dimensions.
        capacity: Final value of C, in nats; none: no capacity control.
        capacity_steps: Steps over which C rises from 0.
    """
    _positive(latent_dim=latent_dim, capacity_steps=capacity_steps)
    plain = vae(data, body, bound, latent_dim=latent_dim)
    if capacity is None:
        return plain
    _not_negative(capacity=capacity)
    other = bound.anneal != "none" or declared.is_on(bound.free_bits)
    _check(not other, f"--capacity {capacity} with --anneal or --free-bits", "one of them")
    price = parts.objectives.capacity(bound.beta, capacity, capacity_steps)
    target = parts.objectives.linear(capacity, capacity_steps)
    schedules = {"kl_weight": parts.objectives.constant(bound.beta), "kl_target": target}
    return _bounded(plain.model, data, body, bound, price=price, schedules=schedules)


def denoising_vae(
    data: DataSpec,
    body: Body = Body(),
    bound: Bound = Bound(),
    *,
    latent_dim: int = 20,
    noise: Annotated[Noise, Only("level")] = "mask",
    level: float = 0.3,
) -> Recipe:
    """Denoising VAE (Im et al. 2017): encodes a corrupted image, reconstructs the clean one.

    Args:
        latent_dim: Latent dimensions.
        noise: gaussian, mask (pixels set to 0), or salt_and_pepper (pixels set to 0 or 1).
        level: standard deviation of gaussian noise, or fraction of pixels that are set.
    """
    corrupt = _corruption(noise, level)
    plain = vae(data, body, bound, latent_dim=latent_dim)
    return _bounded(plain.model, data, body, bound, corrupt=corrupt)


def cvae(
    data: DataSpec, body: Body = Body(), bound: Bound = Bound(), *, latent_dim: int = 20
) -> Recipe:
    """Conditional VAE (Sohn et al. 2015): p(x|z, y) and q(z|x, y), given the label y of an image.

    Args:
        latent_dim: Latent dimensions.
    """
    _positive(latent_dim=latent_dim)
    why = f" ({data.unlabelled})" if data.unlabelled else ""
    seen = f"--model cvae on {data.name} without labels{why}"
    _check(data.classes is not None, seen, "labels")
    model = _assemble(data, body, parts.latents.gaussian(latent_dim), data.classes)
    return _bounded(model, data, body, bound, classes=data.classes)


Gradient = Literal["standard", "doubly_reparameterized"]


def iwae(
    data: DataSpec,
    body: Body = Body(),
    *,
    latent_dim: int = 20,
    k: int = 5,
    gradient: Gradient = "standard",
    anneal: Annealing = "none",
    anneal_steps: Annotated[int, Only("anneal")] = 10_000,
    cycles: Annotated[int, Only("anneal", "cyclical")] = 4,
) -> Recipe:
    """Importance-weighted autoencoder (Burda et al. 2015): maximizes log 1/k sum_i w_i.

    Args:
        latent_dim: Latent dimensions.
        k: Draws of z per image; 1 is a VAE.
        gradient: standard, or doubly_reparameterized for the encoder (Tucker et al. 2018).
        anneal: Raise beta from 0 to 1 in w = p(x|z) (p(z) / q(z|x))^beta: linear, or cyclical.
        anneal_steps: Steps of the linear rise, or of one cycle.
        cycles: Number of cycles, after which beta stays at 1.
    """
    _positive(latent_dim=latent_dim, k=k)
    double = gradient == "doubly_reparameterized"
    latents = parts.latents.gaussian(latent_dim, path_gradient=double)
    model = _assemble(data, body, latents)
    temper = _beta(Bound(anneal=anneal, anneal_steps=anneal_steps, cycles=cycles))
    objective = partial(
        parts.objectives.importance_weighted, k=k, doubly_reparameterized=double, temper=temper
    )
    schedules = {"kl_weight": temper}
    return _recipe(model, objective, data, body, schedules=schedules)


def tc_vae(
    data: DataSpec,
    body: Body = Body(),
    *,
    latent_dim: int = 10,
    alpha: float = 1.0,
    beta: float = 6.0,
    gamma: float = 1.0,
) -> Recipe:
    """beta-TCVAE (Chen et al. 2018): alpha mutual information + beta total correlation
    + gamma dimension-wise KL, instead of the KL, their sum.

    Args:
        latent_dim: Latent dimensions.
        alpha: Weight of the mutual information between x and z.
        beta: Weight of the total correlation of z; with all weights 1 it is a VAE.
        gamma: Weight of the KL of each dimension's aggregate posterior.
    """
    _positive(latent_dim=latent_dim)
    _not_negative(alpha=alpha, beta=beta, gamma=gamma)
    model = _assemble(data, body, parts.latents.gaussian(latent_dim))
    objective = partial(
        parts.aggregate.tc_objective, alpha=alpha, beta=beta, gamma=gamma, examples=data.examples
    )
    return _recipe(model, objective, data, body, least_batch=2)


def factor_vae(
    data: DataSpec,
    body: Body = Body(),
    *,
    latent_dim: int = 10,
    gamma: float = 10.0,
    discriminator: tuple[int, ...] = (256, 256, 256),
) -> Recipe:
    """FactorVAE (Kim & Mnih 2018): -ELBO + gamma total correlation, by a discriminator.

    Args:
        latent_dim: Latent dimensions.
        gamma: Weight of the total correlation of z; with 0 it is a VAE.
        discriminator: Widths of its hidden layers; the paper has six of 1000.
    """
    _positive(latent_dim=latent_dim)
    _not_negative(gamma=gamma)
    _check(
        bool(discriminator) and min(discriminator) > 0,
        f"--discriminator {' '.join(map(str, discriminator))}".rstrip(),
        "one or more widths of 1 or more",
    )
    model = _assemble(data, body, parts.latents.gaussian(latent_dim))
    model = parts.adversary.with_discriminator(model, discriminator, latent_dim)
    objective = partial(parts.adversary.factor_objective, widths=discriminator, gamma=gamma)
    return _recipe(model, objective, data, body, least_batch=2)


Kernel = Literal["imq", "gaussian"]


def mmd_vae(
    data: DataSpec,
    body: Body = Body(),
    *,
    latent_dim: int = 10,
    alpha: float = 0.0,
    mmd_weight: float = 100.0,
    kernel: Kernel = "imq",
) -> Recipe:
    """InfoVAE (Zhao et al. 2017): (1 - alpha) KL + (alpha + lambda - 1) MMD(q(z), p(z)).

    Args:
        latent_dim: Latent dimensions.
        alpha: 0 keeps the whole KL, 1 removes it (MMD-VAE).
        mmd_weight: Weight lambda.
        kernel: Kernel of the MMD: imq (inverse multiquadratics at seven scales), or gaussian.
    """
    _positive(latent_dim=latent_dim)
    _check(alpha <= 1, f"--alpha {alpha}", "at most 1")
    _check(
        (1 - alpha <= mmd_weight) & (mmd_weight < math.inf),
        f"--mmd-weight {mmd_weight}",
        "1 - alpha or more",
    )
    model = _assemble(data, body, parts.latents.gaussian(latent_dim))
    objective = partial(
        parts.aggregate.mmd_objective, alpha=alpha, mmd_weight=mmd_weight, kernel=kernel
    )
    return _recipe(model, objective, data, body, least_batch=2)


# --- richer posteriors and priors ---------------------------------------------------------------

FlowKind = Literal["iaf", "coupling", "planar"]


def flow_vae(
    data: DataSpec,
    body: Body = Body(),
    bound: Bound = Bound(),
    *,
    latent_dim: int = 20,
    flow: FlowKind = "iaf",
    flow_steps: int = 4,
    flow_width: Annotated[int, Only("flow", "iaf", "coupling")] = 256,
) -> Recipe:
    """Normalizing-flow posterior (Rezende & Mohamed 2015): z = f_T(...f_1(z_0)), z_0 Gaussian.

    Args:
        latent_dim: Latent dimensions.
        flow: iaf, inverse autoregressive (Kingma et al. 2016); coupling (Dinh et al. 2017); or
            planar (Rezende & Mohamed 2015); all depend on x.
        flow_steps: Number of steps T.
        flow_width: Hidden units in each step of iaf and coupling, and size of their context from x.
    """
    _positive(latent_dim=latent_dim, flow_steps=flow_steps, flow_width=flow_width)
    _kl_of_a_draw(bound)
    _check(
        latent_dim >= 2 or flow != "coupling", f"--latent-dim {latent_dim}", "2 or more to couple"
    )
    _check(
        flow_width >= latent_dim or flow != "iaf",
        f"--flow-width {flow_width}",
        f"at least --latent-dim {latent_dim}, for each dimension to be seen",
    )
    kinds, hidden = parts.flows, (flow_width, flow_width)
    steps = {
        "planar": lambda: kinds.planar(latent_dim, flow_steps),
        "iaf": lambda: kinds.inverse_autoregressive(latent_dim, flow_steps, hidden, flow_width),
        "coupling": lambda: kinds.coupling(latent_dim, flow_steps, hidden, flow_width),
    }[flow]()
    base = _assemble(data, body, parts.latents.gaussian(latent_dim, context=steps.context))
    model = parts.flows.posterior(base, steps)
    return _bounded(model, data, body, bound, code="flow's value at its base's mean")


def _with_prior(
    data: DataSpec, body: Body, bound: Bound, latent_dim: int, prior, log_var_range=None
) -> Recipe:
    _kl_of_a_draw(bound)
    base = _assemble(data, body, parts.latents.gaussian(latent_dim))
    if log_var_range is not None:
        base = parts.priors.with_bounded_posterior(base, *log_var_range)
    model = parts.priors.learned(base, prior)
    return _bounded(model, data, body, bound, standard_prior=False)


def vamp_vae(
    data: DataSpec,
    body: Body = Body(),
    bound: Bound = Bound(),
    *,
    latent_dim: int = 20,
    pseudo_inputs: int = 500,
) -> Recipe:
    """VampPrior (Tomczak & Welling 2018): p(z) = 1/K sum_k q(z|u_k), with K learned pseudo-inputs.

    Log-variances lie in (-6, 2), as in the paper's code. Anneal the KL over many steps: otherwise
    q(z|x) soon collapses onto a few of the q(z|u_k), and stays there.

    Args:
        latent_dim: Latent dimensions.
        pseudo_inputs: Number of pseudo-inputs K.
    """
    _positive(latent_dim=latent_dim, pseudo_inputs=pseudo_inputs)
    prior = parts.priors.vamp(data.shape, pseudo_inputs)
    return _with_prior(data, body, bound, latent_dim, prior, log_var_range=(-6.0, 2.0))


def mog_vae(
    data: DataSpec,
    body: Body = Body(),
    bound: Bound = Bound(),
    *,
    latent_dim: int = 20,
    prior_components: int = 100,
) -> Recipe:
    """Mixture-of-Gaussians prior: p(z) = sum_k w_k N(z; mean_k, var_k), all learned.

    Args:
        latent_dim: Latent dimensions.
        prior_components: Number of Gaussians.
    """
    _positive(latent_dim=latent_dim, prior_components=prior_components)
    prior = parts.priors.mixture(latent_dim, prior_components)
    return _with_prior(data, body, bound, latent_dim, prior)


def flow_prior_vae(
    data: DataSpec,
    body: Body = Body(),
    bound: Bound = Bound(),
    *,
    latent_dim: int = 20,
    flow_steps: int = 6,
    flow_width: int = 128,
) -> Recipe:
    """Flow prior: z = f(e), e ~ N(0, I), with a learned coupling flow f (Dinh 2017; Chen 2017).

    Args:
        latent_dim: Latent dimensions.
        flow_steps: Coupling layers.
        flow_width: Hidden units of each.
    """
    _positive(flow_steps=flow_steps, flow_width=flow_width)
    _check(latent_dim >= 2, f"--latent-dim {latent_dim}", "2 or more")
    flow = parts.flows.coupling(latent_dim, flow_steps, (flow_width, flow_width))
    return _with_prior(data, body, bound, latent_dim, parts.priors.flow(latent_dim, flow))


def ladder_vae(
    data: DataSpec,
    body: Body = Body(),
    bound: Bound = Bound(),
    *,
    latent_dims: tuple[int, ...] = (32, 16),
    level_widths: tuple[int, ...] = (256, 128),
) -> Recipe:
    """Ladder VAE (Sonderby et al. 2016): levels of latents, with a top-down posterior.

    Args:
        latent_dims: Latent dimensions of each level, from the data upwards.
        level_widths: Hidden units of each level.
    """
    levels = " ".join(map(str, latent_dims))
    _check(min(latent_dims, default=0) >= 1, f"--latent-dims {levels}", "1 or more each")
    _check(
        len(level_widths) == len(latent_dims) and min(level_widths) >= 1,
        f"--level-widths {' '.join(map(str, level_widths))}",
        f"{len(latent_dims)} numbers, 1 or more each, like --latent-dims",
    )
    latents = parts.hierarchy.ladder(tuple(latent_dims), tuple(level_widths))
    model = _assemble(data, body, latents)
    return _bounded(
        model,
        data,
        body,
        bound,
        code="posterior means, level by level",
        standard_prior=False,
        hierarchy=parts.hierarchy.levels(latent_dims),
    )


_OWN_NETWORK = declared.Without(
    *("net", "widths", "activation", "channels", "blocks"), why="deep_vae has a network of its own"
)


def _levels(data: DataSpec) -> Choice:
    """Levels that suit the images."""
    if len(data.shape) != 3:  # which the recipe refuses
        return Choice((), "no images")
    size = (data.shape[0], data.shape[1])
    return Choice(tuple(parts.resolutions.by_default(size)), f"{size[0]}x{size[1]} images")


def deep_vae(
    data: DataSpec,
    body: Annotated[Body, _OWN_NETWORK] = Body(),
    bound: Bound = Bound(),
    *,
    levels: Annotated[tuple[str, ...], ByData(_levels)] = (),
    width: int = 16,
    latent_channels: tuple[int, ...] = (),
    share_top: bool = False,
) -> Recipe:
    """Deep hierarchical VAE (Child 2021; Vahdat & Kautz 2020): maps of latents, block by block.

    It has convolutions of its own. A gradient may be large at first: --clip-norm 200.

    Args:
        levels: Blocks at each resolution, largest first, as SIDExBLOCKS, where the side is the
            longer one of its maps, such as 14x2 7x3 4x2 1x1. By default what suits the image.
        width: Channels of the largest maps; smaller ones have up to four times as many.
        latent_channels: Channels of the latents at each level; by default 16 divided by the side.
        share_top: The blocks of the smallest maps have the same weights.
    """
    _positive(width=width)
    seen = f"--model deep_vae on {data.name}"
    _check(len(data.shape) == 3, seen, "images; use vae or ladder_vae for others")
    _check(body.net in ("auto", "conv"), f"--net {body.net}", f"none: {_OWN_NETWORK.note.why}")
    h, w, c = data.shape
    chosen = parts.resolutions.levels((h, w), levels, width, latent_channels)
    _check(
        not share_top or chosen[-1].blocks > 1,
        f"--share-top with {chosen[-1].blocks} block of the smallest maps",
        f"2 or more, such as --levels … {max(chosen[-1].size)}x2",
    )
    lowering = parts.convolutions.lowering(body.convolutions)
    if body.precision == "bf16":
        lowering = parts.convolutions.in_bf16(lowering)
    model = parts.deep.model(
        (h, w, c),
        chosen,
        _likelihood(data, body),
        lowering,
        share_top,
        body.remat,
    )
    return _bounded(
        model,
        data,
        body,
        bound,
        code="posterior means, block by block",
        standard_prior=False,
        hierarchy=parts.resolutions.described(chosen),
    )


# --- discrete latents ---------------------------------------------------------------------------


def gumbel_vae(
    data: DataSpec,
    body: Body = Body(),
    bound: Bound = Bound(),
    *,
    variables: int = 20,
    categories: int = 10,
    temperature: float = 1.0,
    min_temperature: Annotated[float, Only("temperature_rate")] = 0.5,
    temperature_rate: float = 3e-5,
    straight_through: bool = False,
) -> Recipe:
    """Categorical latents, by the Gumbel-softmax relaxation (Jang 2016; Maddison 2016).

    Trained on the relaxation; evaluated on hard samples, with their exact bound.

    Args:
        variables: Number of categorical latents.
        categories: Values of each.
        temperature: Initial temperature of the relaxation.
        min_temperature: Lowest temperature.
        temperature_rate: The temperature is multiplied by exp(-rate) each step.
        straight_through: Use hard samples in training too, with the relaxation's gradient.
    """
    _positive(variables=variables)
    _check(categories >= 2, f"--categories {categories}", "2 or more")
    _check(
        (temperature > 0) & (temperature < math.inf),
        f"--temperature {temperature}",
        "a number above 0",
    )
    _check(
        (min_temperature > 0) & (min_temperature <= temperature),
        f"--min-temperature {min_temperature}",
        f"above 0 and at most --temperature {temperature}",
    )
    _not_negative(temperature_rate=temperature_rate)
    # log q(z|x) of a hard sample has no gradient through the sample, and on average none at all.
    _check(
        bound.kl == "closed_form",
        f"--kl {bound.kl} of discrete latents",
        "closed_form, which has a gradient",
    )
    latents = parts.discrete.categorical(
        variables,
        categories,
        temperature=temperature,
        minimum=min_temperature,
        rate=temperature_rate,
        straight_through=straight_through,
    )
    model = _assemble(data, body, latents)

    def indices(variables, x, y=None):
        code = model.reparameterize(variables, None, model.encode(variables, x, y), False).code
        return parts.discrete.indices(code, categories)

    def latents_of(indices):
        return parts.discrete.one_hot(indices, categories)

    codes = Codes(categories, indices, (1, variables), latents=latents_of)
    return _bounded(
        model, data, body, bound, code="posterior mode", standard_prior=False, codes=codes
    )


Codebook = Literal["ema", "gradient"]


def vq_vae(
    data: DataSpec,
    body: Body = Body(),
    *,
    codes: int = 128,
    code_dim: int = 16,
    codebook: Codebook = "ema",
    commitment: float = 0.25,
    decay: Annotated[float, Only("codebook", "ema")] = 0.99,
    prior_width: int = 64,
    prior_layers: int = 4,
) -> Recipe:
    """VQ-VAE (van den Oord et al. 2017): a grid of codes from a learned codebook.

    The grid is that of the smallest feature map of conv or resnet (7x7 for 28x28 images), or 4x4
    with mlp. To generate images, fit a prior over the codes first: ``flaxvae fit-prior``.

    Args:
        codes: Entries in the codebook.
        code_dim: Size of an entry.
        codebook: Learned by moving averages of the vectors assigned to each code (ema), or by
            gradient.
        commitment: Weight of |z_e - sg(e)|^2, which keeps the encoder close to its codes.
        decay: Decay of the moving averages.
        prior_width: Width of the autoregressive prior, a causal transformer.
        prior_layers: Layers of the prior.
    """
    _check(codes >= 2, f"--codes {codes}", "2 or more")
    _positive(code_dim=code_dim, prior_width=prior_width, prior_layers=prior_layers)
    _not_negative(commitment=commitment)
    _check((decay >= 0) & (decay < 1), f"--decay {decay}", "at least 0 and below 1")
    _check(prior_width % 4 == 0, f"--prior-width {prior_width}", "a multiple of 4, its heads")
    body = choosing.body(data, body)
    likelihood = _likelihood(data, body)
    if body.net == "mlp":
        grid = (4, 4)
        network = _network(data, body, {"z": 16 * code_dim}, likelihood.values)
    else:
        network = _network(data, body, {"z": code_dim}, likelihood.values, spatial=True)
        grid = network.grid
    prior = parts.autoregressive.code_prior(grid, codes, width=prior_width, layers=prior_layers)
    latents = parts.codebook.vector_quantized(
        grid[0] * grid[1],
        codes,
        code_dim,
        commitment=commitment,
        decay=decay if codebook == "ema" else None,
        prior=parts.codebook.CodePrior(prior.log_prob, prior.sample),
    )
    model = parts.assemble.model(network, latents, likelihood)

    def indices(variables, x, y=None):
        own = parts.assemble.of_latents(variables)
        return parts.codebook.indices(own, model.encode(variables, x, y)["z"])

    grids = DataSpec(f"codes of {data.name}", grid, examples=data.examples)
    fitting = Recipe(*parts.autoregressive.fitting(prior), grids, "probability")
    return _recipe(
        model,
        parts.objectives.reconstruction,
        data,
        body,
        code="nearest codes",
        standard_prior=False,
        codes=Codes(codes, indices, grid, fitting),
    )


# --- the list -----------------------------------------------------------------------------------

RECIPES: dict[str, Callable[..., Recipe]] = {
    function.__name__: function
    for function in (
        ae,
        denoising_ae,
        vae,
        beta_vae,
        denoising_vae,
        cvae,
        iwae,
        tc_vae,
        factor_vae,
        mmd_vae,
        flow_vae,
        vamp_vae,
        mog_vae,
        flow_prior_vae,
        ladder_vae,
        deep_vae,
        gumbel_vae,
        vq_vae,
    )
}
