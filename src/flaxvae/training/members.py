"""Many trainings side by side, vmapped into one compiled program.

Members of a group differ in their seed and in numbers, such as beta or the learning rate, that are
inputs of the program: while it is traced, the recipe is built with traced numbers in place of the
settings. There is no list of these settings: one that decides the program itself (a layer's width,
the number of draws) cannot be traced, and its values form groups of their own.

A member draws the same order and noise as if trained alone, and computes the same up to rounding:
a batched matrix product may sum in another order. Each of several devices trains its own members,
without communication. Arrays of a group have a leading axis of its M members.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from flaxvae import declared
from flaxvae.core import Batch, Variables
from flaxvae.data.pipeline import Data, Split
from flaxvae.devices import batches
from flaxvae.devices import mesh as meshes
from flaxvae.errors import UsageError, counted
from flaxvae.plan import Plan
from flaxvae.recipe import Recipe
from flaxvae.settings import TrainSettings
from flaxvae.training import feed as feeds
from flaxvae.training import guard, loop, observers, optimizers
from flaxvae.training import step as steps
from flaxvae.training.feed import Whole
from flaxvae.training.step import TrainState

Array = jax.Array
Numbers = dict[str, Any]  # values of settings, by name
OfBatch = Callable[[Variables, Array, Batch], Any]
Measure = Callable[[Recipe], OfBatch]


class Member(NamedTuple):
    """One training of a group."""

    name: str
    plan: Plan
    recipe: Recipe


@dataclasses.dataclass(frozen=True)
class Group:
    """Members that share a compiled program."""

    members: Sequence[Member]
    varied: Sequence[str] = ()  # the settings that are its inputs

    def numbers(self) -> Numbers:
        """The values of these settings, [M] each, weakly typed like Python numbers."""
        flat = [_settings(member.plan) for member in self.members]
        return {
            name: jnp.stack([jnp.asarray(settings[name]) for settings in flat])
            for name in self.varied
        }

    def given(self, numbers: Numbers, function: Callable[[Plan], Any]) -> Any:
        """``function(plan)`` for a member with these numbers, which may be traced."""
        flat, plan = [_settings(member.plan) for member in self.members], self.members[0].plan
        own = {name: x for name, x in numbers.items() if name in plan.arguments}
        trained = {name: x for name, x in numbers.items() if name not in plan.arguments}
        on = [x for name, x in numbers.items() if all(settings[name] for settings in flat)]
        with declared.not_zero(on):
            training = dataclasses.replace(plan.training, **trained)
            arguments = {**plan.arguments, **own}
            return function(dataclasses.replace(plan, arguments=arguments, training=training))


def _settings(plan: Plan) -> dict[str, Any]:
    """The settings that decide a member's program; its seed does not."""
    return {**vars(plan.training), **plan.arguments, "seed": 0}


def groups(members: Sequence[Member], data: Data, measure: Measure) -> list[Group]:
    """Groups of members that can share a compiled program; the order is kept.

    Args:
        members: with the same model, dataset and number of epochs.
        data: what they train on.
        measure: what will be measured on test images.
    """
    found: dict[str, list[Member]] = {}
    for member in members:
        settings = _settings(member.plan)
        alike = {name: type(x) if _is_number(x) else x for name, x in settings.items()}
        found.setdefault(repr(alike), []).append(member)
    return [part for alike in found.values() for part in _parts(alike, data, measure)]


def _is_number(x: Any) -> bool:
    return type(x) in (int, float)


def _parts(members: Sequence[Member], data: Data, measure: Measure) -> list[Group]:
    """Split members that differ only in numbers by those that cannot be inputs of a program."""
    flat = [_settings(member.plan) for member in members]
    differ = [name for name, x in flat[0].items() if any(other[name] != x for other in flat)]
    whole = Group(members, differ)
    if _traces(whole, data, measure):
        return [whole]
    fixed = [name for name in differ if not _traces(Group(members, [name]), data, measure)]
    name = (fixed or differ)[0]
    values = [settings[name] for settings in flat]
    zeros = any(values) and not all(values)  # zero often turns off what the setting scales
    found: dict[Any, list[Member]] = {}
    for member, x in zip(members, values, strict=True):
        found.setdefault(bool(x) if zeros else x, []).append(member)
    return [part for alike in found.values() for part in _parts(alike, data, measure)]


def _traces(group: Group, data: Data, measure: Measure) -> bool:
    """Whether a group's program can take its numbers as inputs. Nothing is compiled."""
    if not group.varied:
        return True

    def everything(plan, x, y):
        program, recipe = _program(plan, data), plan.recipe(data.spec)
        stream = steps.keys(0)
        state, order = program.init(stream, x, y), program.order(stream, 0)
        noise = jax.tree.map(lambda keys: keys[0], program.noise(stream, 0, 1))
        state = program.step(state, noise, *Whole(order, x, y).batch(state.step))
        batch = Batch(jnp.zeros((2, *data.spec.shape)), None if y is None else y[:2])
        return state, measure(recipe)(state.evaluated(), stream.evaluation, batch)

    def of_numbers(numbers, x, y):
        return group.given(numbers, lambda plan: everything(plan, x, y))

    try:  # a recipe may do anything with a traced number
        given = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype),
            steps.images_and_labels(group.members[0].recipe, data),
        )
        jax.eval_shape(jax.vmap(of_numbers, (0, None, None)), group.numbers(), *given)
    except Exception:
        return False
    return True


def _program(plan: Plan, data: Data) -> steps.Program:
    recipe, settings = plan.recipe(data.spec), plan.training
    # A vmapped loop would choose anyway.
    return steps.program(recipe, data, settings, settings.epochs or 0, only_if=guard.choose)


def mesh_of(count: int, devices: int | None = None) -> Mesh:
    """As many of the requested devices as ``count`` members can be evenly divided among."""
    available = meshes.make(devices).size
    return meshes.make(max(n for n in range(1, available + 1) if count % n == 0))


SHARED = ("step", "offset")  # fields of a state that all members share


def _each(member: Any, step: Any) -> Any:
    """A TrainState with ``step`` for the shared fields and ``member`` for the others."""
    names = [field.name for field in dataclasses.fields(TrainState)]
    return TrainState(**{name: step if name in SHARED else member for name in names})


def _streams(group: Group) -> steps.Keys:
    """The keys of each member's seed, [M]."""
    seeds = [steps.keys(member.plan.training.seed) for member in group.members]
    return jax.tree.map(lambda *keys: jnp.stack(keys), *seeds)


def check_resident(recipe: Recipe, data: Data, settings: TrainSettings) -> None:
    """Raises UsageError if images are to be streamed: each member has an order of its own."""
    given, placement = steps.images_and_labels(recipe, data), settings.data_placement
    if not feeds.is_resident(*given, placement, meshes.make(1)):
        count = counted(len(data.train.x), "image")
        why = ", more than a quarter of the device's free memory" if placement == "auto" else ""
        raise UsageError(
            f"--data-placement {placement} with a sweep of {count}{why}: expected all of them on "
            "the device, for each member has an order of its own; train one model at a time, or "
            "give --data-placement device"
        )


def trainer(group: Group, data: Data, mesh: Mesh) -> steps.Trainer:
    """Compile a group. Every device holds the data once, not once per member.

    Returns:
        As ``step.trainer``; everything has an axis of members except the number of steps done;
        ``learning_rate`` returns a list.
    """
    first = group.members[0]
    program = _program(first.plan, data)
    rates = [optimizers.learning_rate(m.plan.training, program.total_steps) for m in group.members]
    each, whole = meshes.split(mesh), meshes.replicated(mesh)
    given = steps.images_and_labels(first.recipe, data)
    x_all, y_all = meshes.put([feeds.whole(a) for a in given], whole)
    streams, numbers = meshes.put((_streams(group), group.numbers()), each)
    shared, own = PartitionSpec(), each.spec
    state_axes, state_specs = _each(0, None), _each(own, shared)

    def on_each_device(function, *specs, out):
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)

    def init_one(numbers, stream, x, y):
        return group.given(numbers, lambda plan: _program(plan, data).init(stream, x, y))

    def step_one(numbers, state, noise, rows, tolerance):
        x, y = rows.batch(state.step - state.offset)

        def of(plan):
            return _program(plan, data).step(state, noise, x, y, tolerance)

        done = group.given(numbers, of)
        frozen = state.guard.fault != 0  # permanently, at its last good step
        done = jax.tree.map(lambda old, new: jnp.where(frozen, old, new), state, done)
        return dataclasses.replace(done, step=state.step + 1, offset=state.offset)

    init_all = jax.vmap(init_one, (0, 0, None, None), state_axes)
    step_all = jax.vmap(step_one, (0, state_axes, 0, Whole(0, None, None), None), state_axes)

    def segment(state, numbers, streams, rows, steps, tolerance):
        count = program.steps_per_epoch
        noise = jax.vmap(lambda stream: program.noise(stream, state.step, count))(streams)

        def step(i, state):
            now = jax.tree.map(lambda keys: keys[:, i], noise)
            return step_all(numbers, state, now, rows, tolerance)

        return jax.lax.fori_loop(0, steps, step, state)

    init = jax.jit(on_each_device(init_all, own, own, shared, shared, out=state_specs))
    specs = (state_specs, own, own, Whole(own, shared, shared), shared, shared)
    compiled = jax.jit(on_each_device(segment, *specs, out=state_specs), donate_argnums=0)
    placed_order = jax.jit(jax.vmap(program.order, (0, None)), out_shardings=each)

    def order(epoch):
        return placed_order(streams, epoch)

    tolerance = guard.tolerance(first.plan.training.on_nan)
    shapes = jax.eval_shape(init, numbers, streams, x_all, y_all)
    return steps.Trainer(
        steps_per_epoch=program.steps_per_epoch,
        total_steps=program.total_steps,
        learning_rate=lambda step: [float(rate(step)) for rate in rates],
        sharding=jax.tree.map(
            lambda sharding, field: jax.tree.map(lambda _: sharding, field),
            _each(each, whole),
            shapes,
        ),
        init=lambda: init(numbers, streams, x_all, y_all),
        order=order,
        feed=feeds.Resident(x_all, y_all, order, program.steps_per_epoch),
        segment=lambda state, rows, steps: compiled(
            state, numbers, streams, rows, steps, tolerance
        ),
        together=True,
    )


def alone(state: TrainState, i: int) -> TrainState:
    """The state of one member, as if trained by itself on one device."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    one = {
        name: x if name in SHARED else jax.tree.map(lambda leaf: leaf[i], x)
        for name, x in fields.items()
    }
    return meshes.put(TrainState(**one), meshes.replicated(meshes.make(1)))


def over_split(
    group: Group, of_batch: Callable[[Recipe], OfBatch], data: Data, mesh: Mesh
) -> Callable[[Split, Variables, Array], Any]:
    """``batches.over_split`` for a function of a batch that depends on each member's recipe.

    Returns:
        ``run(split, variables, keys)``, for M variables and keys: NumPy arrays [N, M, ...].
    """
    numbers = meshes.put(group.numbers(), meshes.split(mesh))

    def one(numbers, variables, key, batch):
        return group.given(
            numbers, lambda plan: of_batch(plan.recipe(data.spec))(variables, key, batch)
        )

    def function(given, keys, batch):
        numbers, variables = given
        return jax.vmap(one, (0, 0, 0, None), out_axes=1)(numbers, variables, keys, batch)

    run = batches.over_split(function, mesh, whole=True)
    return lambda split, variables, keys: run(split, (numbers, variables), keys)


def fit(
    group: Group,
    run: steps.Trainer,
    data: Data,
    mesh: Mesh,
    keeper: observers.Keeper,
    watch: observers.Watcher,
) -> tuple[TrainState, observers.Histories]:
    """Train a group to the end, from the newest saved state if there is one.

    Args:
        group, run, data, mesh: what to train, compiled by ``trainer``.
        keeper: saves states and rows, for an interrupted sweep.
        watch: is told of progress: means over the members that are still finite, and their images
            per second in total.

    Returns:
        The last state, whose guard says which members are no longer finite, and each member's
        rows of metrics.jsonl.

    Raises:
        Stopped, DataError: as ``loop.fit``.
    """
    validate, held = None, data.validation
    if held is not None:
        terms = over_split(group, lambda recipe: batches.bound_terms(recipe.model), data, mesh)
        keys = meshes.put(_streams(group).evaluation, meshes.split(mesh))

        def validate(variables):
            return terms(held, variables, keys)

    of_each = [(member.recipe, member.plan.training) for member in group.members]
    return loop.Training(of_each, run, validate, keeper, watch).run()
