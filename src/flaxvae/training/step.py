"""The train step, and the compiled loop of steps that Python calls.

The noise of a step depends only on (seed, step), the order of an epoch only on (seed, epoch). A
state therefore carries no key and no iterator, and splitting a training into segments anywhere,
on any number of devices, does not change the result.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from flaxvae import declared
from flaxvae.core import Batch, Variables
from flaxvae.data import images
from flaxvae.data.pipeline import Data
from flaxvae.devices import mesh as meshes
from flaxvae.errors import UsageError
from flaxvae.parts import memory
from flaxvae.recipe import Recipe
from flaxvae.settings import TrainSettings
from flaxvae.training import feed as feeds
from flaxvae.training import guard as guards
from flaxvae.training import optimizers
from flaxvae.training.feed import Feed, Images
from flaxvae.training.update import Found, Move, State, update
from flaxvae.training.update import init as init_state

Array = jax.Array
SKIPPED = "skipped_updates"  # among an epoch's totals: steps with a gradient above --skip-norm


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that changes during training: the contents of a checkpoint."""

    step: Array  # int32, steps done
    variables: Variables
    opt_state: Any
    ema: Any  # moving average of the parameters, {} unless asked for
    best: Any  # variables at the best validation ELBO, {} unless stopping early
    totals: dict[str, Array]  # sums of this epoch's metrics
    guard: guards.Guard
    # int32, ``step`` minus the steps that as many epochs take at this batch size; usually 0
    offset: Array

    def evaluated(self) -> Variables:
        """The variables to evaluate: the moving average if there is one."""
        return {**self.variables, "params": self.ema} if self.ema else self.variables

    def final(self) -> Variables:
        """The variables that training returns: the best ones if they are kept."""
        return self.best or self.evaluated()

    def closed(self) -> TrainState:
        """The state of a training that cannot be resumed: only the final variables."""
        empty: dict[str, Any] = {"ema": {}, "best": {}, "opt_state": (), "totals": {}}
        return dataclasses.replace(self, variables=self.final(), **empty)

    @property
    def is_closed(self) -> bool:
        """Whether this state holds only the final variables."""
        return isinstance(self.opt_state, tuple) and not self.opt_state


class Keys(NamedTuple):
    """Independent streams of one seed."""

    init: Array
    order: Array
    noise: Array
    evaluation: Array


def keys(seed: int) -> Keys:
    return Keys(*jax.random.split(jax.random.key(seed), len(Keys._fields)))


class Noise(NamedTuple):
    """The keys of one step, or of many with a leading axis."""

    pixels: Array
    model: Array


class Trainer(NamedTuple):
    """A recipe compiled for its data, settings and devices."""

    steps_per_epoch: int
    total_steps: int
    learning_rate: Callable[[Any], Any]  # of step - offset
    sharding: TrainState  # of NamedShardings
    init: Callable[[], TrainState]
    order: Callable[[int], Array]  # epoch -> [steps_per_epoch, batch] indices
    feed: Feed  # of the images
    # (state, rows of the feed, steps) -> state after that many steps, or fewer if its guard has a
    # fault; donates the state that it is given
    segment: Callable[[TrainState, Images, int], TrainState]
    together: bool = False  # arrays have an axis of members; none waits for another


def check(recipe: Recipe, data: Data, settings: TrainSettings, mesh: Mesh) -> None:
    """Raises UsageError for settings that cannot train ``recipe`` on these data and devices."""
    size, images_ = settings.batch_size, len(data.train.x)
    if size < recipe.least_batch:
        raise UsageError(
            f"--batch-size {size}: expected {recipe.least_batch} or more, for a loss that compares "
            "the images of a batch"
        )
    if size > images_:
        raise UsageError(
            f"--batch-size {size}: expected at most {images_}, the training images of "
            f"{data.spec.name}"
        )
    if size % mesh.size:
        raise UsageError(
            f"--batch-size {size}: expected a multiple of {mesh.size}, the number of devices; "
            f"use {size - size % mesh.size or mesh.size}, or --devices"
        )
    parts = settings.accumulate
    if size % (mesh.size * parts):
        raise UsageError(
            f"--accumulate {parts}: expected a divisor of {size // mesh.size}, the batch on each "
            "device"
        )
    steps = (settings.epochs or 0) * (images_ // size)
    if steps > declared.MOST:
        raise UsageError(
            f"--epochs {settings.epochs} of {images_ // size} steps: expected at most "
            f"{declared.MOST} steps in all"
        )
    if settings.patience is not None and data.validation is None:
        raise UsageError("--patience needs validation images: expected --validation above 0")


class Program(NamedTuple):
    """What a training computes, as pure functions that are not compiled yet."""

    steps_per_epoch: int
    total_steps: int
    learning_rate: Callable[[Any], Any]
    init: Callable[..., TrainState]  # (keys, x, y) -> state
    order: Callable[[Keys, Any], Array]  # (keys, epoch) -> [steps_per_epoch, batch] indices
    noise: Callable[..., Noise]  # (keys, step, count) -> of as many steps, from this one on
    # (state, noise, x and y of a batch as stored, tolerance of the guard) -> state
    step: Callable[..., TrainState]


def program(
    recipe: Recipe,
    data: Data,
    settings: TrainSettings,
    epochs: int,
    gathered: Callable[[Any], Any] = lambda tree: tree,
    shared_out: Callable[[Any], Any] = lambda tree: tree,
    only_if: Callable[[Array, Callable[[Any], Any], Any], Any] = guards.only_if,
) -> Program:
    """The functions that train ``recipe``, given a seed's keys, and x and y as stored.

    An epoch is ``len(train) // batch_size`` steps over a fresh permutation, which leaves out
    different rows each time. ``gathered`` places arrays that every device needs whole,
    ``shared_out`` those that are kept between steps; ``only_if`` is guard's, or its ``choose``.
    """
    train, batch_size = data.train, settings.batch_size
    steps_per_epoch = len(train.x) // batch_size
    total_steps = epochs * steps_per_epoch
    schedule = optimizers.learning_rate(settings, total_steps)
    descent = optimizers.optimizer(settings, schedule)

    def objective(model):
        loss = recipe.objective(memory.in_parts(model, settings.accumulate))

        def of_whole(variables, key, batch, step):
            whole = {**variables, "params": gathered(variables["params"])}
            return loss(whole, key, batch, step)

        return of_whole

    learner = recipe._replace(objective=objective)

    def make_batch(key: Array, x, y) -> Batch:
        factors = None if train.render is None else x
        x = images.made(x, train.peak, train.render)
        if data.flip:
            flip_key, key = jax.random.split(key)
            x = images.flipped(x, flip_key)
        return Batch(images.binarize(x, data.binarization, key), y, factors=factors)

    def step(state: TrainState, noise: Noise, x, y, tolerance=0) -> TrainState:
        position, batch = state.step - state.offset, make_batch(noise.pixels, x, y)
        scaled = optimizers.optimizer(settings, lambda _: schedule(position) * state.guard.scale)

        def guarded(before: State, found: Found, move: Move) -> TrainState:
            # Whole for the guard: the norm of sharded arrays takes an extra sum for each.
            whole = gathered(found.gradient)
            gradient = shared_out(whole)

            def follow(old):
                state, ema = old
                state = move(state, gradient)
                params = state.variables["params"]
                ema = ema and optax.incremental_update(
                    params, ema, 1 - (0 if settings.ema is None else settings.ema)
                )
                return state, ema

            def descend(old):
                state, ema, totals = old
                if settings.skip_norm is None:
                    followed, metrics = follow((state, ema)), found.metrics
                else:
                    small = optax.global_norm(whole) <= settings.skip_norm
                    followed = only_if(small, follow, (state, ema))
                    metrics = found.metrics | {SKIPPED: 1 - small.astype(jnp.int32)}
                return *followed, jax.tree.map(jnp.add, totals, metrics)

            fault = guards.fault(found.metrics["loss"], whole, found.updates)
            guard = guards.after(fault, state.guard, tolerance)
            old = (before, state.ema, state.totals)
            after, ema, totals = only_if(fault == 0, descend, old)
            return TrainState(
                state.step + (guard.fault == 0),
                after.variables,
                after.opt_state,
                ema,
                state.best,
                totals,
                guard,
                state.offset,
            )

        before = State(state.step, state.variables, state.opt_state)
        return update(learner, scaled, guarded)(before, noise.model, batch)

    def init(stream: Keys, x, y) -> TrainState:
        # Two rows, for losses that compare examples, with the noise of a step that never comes.
        own = jax.random.fold_in(stream.noise, 2**32 - 1)
        example = make_batch(own, x[:2], None if y is None else y[:2])
        begin = init_state(recipe, descent, stream.init, example.x, example.y)
        variables, params = begin.variables, begin.variables["params"]
        _, (metrics, _) = jax.eval_shape(recipe.loss, variables, stream.init, example, jnp.int32(0))
        if settings.skip_norm is not None:
            metrics |= {SKIPPED: jax.ShapeDtypeStruct((), jnp.int32)}
        return TrainState(
            step=begin.step,
            variables=variables,
            opt_state=begin.opt_state,
            ema=jax.tree.map(jnp.copy, params) if settings.ema is not None else {},
            best=jax.tree.map(jnp.copy, variables) if settings.patience is not None else {},
            totals=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics),
            guard=guards.fresh(),
            offset=jnp.int32(0),
        )

    def order(stream: Keys, epoch):
        permutation = jax.random.permutation(jax.random.fold_in(stream.order, epoch), len(train.x))
        return permutation[: steps_per_epoch * batch_size].reshape(steps_per_epoch, batch_size)

    def noise(stream: Keys, first, count):
        def of(i):
            return Noise(*jax.random.split(jax.random.fold_in(stream.noise, i)))

        return jax.vmap(of)(first + jnp.arange(count))

    return Program(steps_per_epoch, total_steps, schedule, init, order, noise, step)


def segment(
    functions: Program,
    longest: int,
    sharding: TrainState,
    stream: Keys,
    state: TrainState,
    rows: Images,
    steps: Array,
    tolerance: Array,
) -> TrainState:
    """The state after up to ``steps`` steps, at most ``longest``, or fewer if there is a fault."""
    # Before the loop: when a step derives its keys, a CPU draws the noise only after the
    # encoder, and the second core waits.
    noise = functions.noise(stream, state.step, longest)

    def going(carry):
        i, state = carry
        return (i < steps) & (state.guard.fault == 0)

    def body(carry):
        i, state = carry
        now = jax.tree.map(lambda keys: keys[i], noise)
        x, y = rows.batch(state.step - state.offset)
        state = functions.step(state, now, x, y, tolerance)
        return i + 1, jax.lax.with_sharding_constraint(state, sharding)

    return jax.lax.while_loop(going, body, (0, state))[1]


def images_and_labels(recipe: Recipe, data: Data) -> tuple[Any, Any]:
    """All training images x, as stored, and for a conditional recipe their labels y."""
    return data.train.x, data.train.classes if recipe.classes is not None else None


def trainer(
    recipe: Recipe, data: Data, settings: TrainSettings, mesh: Mesh, epochs: int
) -> Trainer:
    """Compile ``recipe`` for training on data that stay on every device, as stored, or stream."""
    check(recipe, data, settings, mesh)
    stream, whole = keys(settings.seed), meshes.replicated(mesh)
    constrain = jax.lax.with_sharding_constraint
    sharding_of = meshes.shared_out if settings.shard_params else meshes.all_whole
    functions = program(
        recipe,
        data,
        settings,
        epochs,
        gathered=lambda tree: constrain(tree, whole),
        shared_out=lambda tree: constrain(tree, sharding_of(tree, mesh)),
    )
    given, per_epoch = images_and_labels(recipe, data), functions.steps_per_epoch

    def order(epoch):
        return functions.order(stream, epoch)

    placed_order = jax.jit(order, out_shardings=meshes.split(mesh, axis=1))
    feed: Feed
    if feeds.is_resident(*given, settings.data_placement, mesh):
        x_all, y_all = meshes.put([feeds.whole(a) for a in given], whole)
        feed = feeds.Resident(x_all, y_all, placed_order, per_epoch)
    else:
        shape, origin = (per_epoch, settings.batch_size), data.origin
        total = functions.total_steps
        feed = feeds.Streamed(*given, jax.jit(order), shape, total, mesh, origin)

    def init():
        # From the first rows only: constants cannot be on another process's devices.
        return functions.init(stream, *jax.tree.map(lambda rows: jnp.asarray(rows[:2]), given))

    sharding = sharding_of(jax.eval_shape(init), mesh)

    compute = functools.partial(segment, functions, feed.longest, sharding, stream)
    compiled = jax.jit(compute, donate_argnums=0, out_shardings=sharding)
    tolerance = guards.tolerance(settings.on_nan)
    return Trainer(
        steps_per_epoch=per_epoch,
        total_steps=functions.total_steps,
        learning_rate=functions.learning_rate,
        sharding=sharding,
        init=jax.jit(init, out_shardings=sharding),
        order=placed_order,
        feed=feed,
        segment=lambda state, rows, steps: compiled(state, rows, steps, tolerance),
    )
