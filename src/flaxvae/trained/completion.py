"""Completions of any number of images: those of a few at a time are ``analysis.restoration``'s."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxvae.analysis import fitted_prior, restoration
from flaxvae.analysis.fitted_prior import FittedPrior
from flaxvae.core import Variables
from flaxvae.devices import batches
from flaxvae.errors import UsageError
from flaxvae.recipe import Recipe

AT_ONCE = 4  # images that are restored at a time, each with all its chains
Program = Callable[..., restoration.Completed]


class Restored(NamedTuple):
    """Completions of N images of which only a part is seen."""

    completions: np.ndarray  # [N, K, *shape] means of p(x|z) at draws of z, with the seen pixels
    mean: np.ndarray  # [N, *shape] of as many completions as there are chains
    log_p: np.ndarray  # [N] nats: in expectation at most log p of what is seen
    effective: np.ndarray  # [N] effective sample size of the chains
    acceptance: float  # of Hamiltonian Monte Carlo, on average


class Seen(NamedTuple):
    """What is seen of N images."""

    x: np.ndarray  # [N, *shape] float32, 0 where a pixel is hidden
    mask: np.ndarray  # [N, H, W] whether a pixel is seen


def seen(x: np.ndarray, hidden: Any) -> Seen:
    """Images [N, H, W, C] without what is ``hidden``, [N, H, W] or [H, W], not 0 there.

    Raises UsageError for other shapes, and for seen pixels that are no numbers.
    """
    space = x.shape[:3]
    if hidden is not None and np.shape(hidden) not in (space, space[1:]):
        raise UsageError(
            f"hidden pixels of shape {np.shape(hidden)}: expected {space} or {space[1:]}"
        )
    mask = np.broadcast_to(True if hidden is None else np.equal(hidden, 0), space)
    x = np.where(mask[..., None], x, np.float32(0))
    if not np.isfinite(x).all():
        raise UsageError("images with seen pixels that are no numbers: expected them hidden")
    return Seen(x, mask)


def of_fitted(recipe: Recipe, prior: FittedPrior, variables: Variables) -> restoration.Latents:
    """A fitted prior, with the model's decoder."""
    draw = functools.partial(fitted_prior.sample, prior)
    density = functools.partial(fitted_prior.log_prob, prior)
    decode = functools.partial(recipe.model.decode, variables)
    return restoration.Latents(draw, lambda z, y: density(z), decode)


def of_own(recipe: Recipe, variables: Variables) -> restoration.Latents:
    """The model's own prior, whose density it must have, with its decoder."""
    model, log_prior = recipe.model, recipe.model.prior_log_prob
    assert log_prior is not None
    draw = functools.partial(model.prior_sample, variables)
    decode = functools.partial(model.decode, variables)
    return restoration.Latents(draw, functools.partial(log_prior, variables), decode)


def program(
    latents: Callable[[Variables], restoration.Latents],
    binary: bool,
    noise: float,
    temperatures: int,
    chains: int,
) -> Program:
    """``restoration.completed``, compiled: a function of (variables, key, x, mask, labels)."""

    def some(variables, key, x, mask, labels):
        what = restoration.Seen(x, mask, noise)
        return restoration.completed(
            latents(variables),
            key,
            what,
            labels,
            binary=binary,
            temperatures=temperatures,
            chains=chains,
        )

    return jax.jit(some)


def drawn(
    program: Program,
    variables: Variables,
    key: jax.Array,
    what: Seen,
    labels: np.ndarray | None,
    watch: batches.Watch | None,
) -> restoration.Completed:
    """What a program gives for all images, as NumPy arrays."""
    parts, count = [], len(what.x)
    for start in range(0, count, AT_ONCE):
        rows = np.arange(start, start + AT_ONCE) % count  # the last batch is padded
        own, mask = jax.random.fold_in(key, start), what.mask[rows].astype(np.float32)
        some = None if labels is None else labels[rows]
        parts.append(program(variables, own, what.x[rows], mask, some))
        if watch is not None:
            jax.block_until_ready(parts[-1])
            watch(min(start + AT_ONCE, count), count)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


def restored(
    found: restoration.Completed, means: np.ndarray, what: Seen, exact: bool, completions: int
) -> Restored:
    """So many completions of each image, of those that the chains found.

    Args:
        found: the draws of z.
        means: [N * chains, *shape] of p(x|z) at them.
        what: is seen.
        exact: seen pixels are the image's own, without noise.
        completions: at most as many as chains.
    """
    count, chains = found.log_w.shape
    images = np.clip(means, 0, 1).reshape(count, chains, *what.x.shape[1:])
    if exact:
        images = np.where(what.mask[:, None, ..., None], what.x[:, None], images)
    chosen = np.arange(completions) * chains // completions
    log_p = np.logaddexp.reduce(found.log_w, 1) - np.log(chains)
    effective, acceptance = np.asarray(found.effective), float(found.acceptance.mean())
    return Restored(images[:, chosen], images.mean(1), log_p, effective, acceptance)
