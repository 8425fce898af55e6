"""Many trainings of one shape side by side: the whole of each, vmapped, in one compiled program.

Members of a group differ in their seed and in numbers (``template``); what has another shape or
another program is another group. A member draws the order and the noise that it would draw alone,
and computes what it would compute alone but for rounding: a product of many matrices may add in
another order than one of them. With several devices each trains members of its own, and nothing
passes between them. Arrays of a group have an axis of its M members in front.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from flaxvae.core import Batch, Variables
from flaxvae.data.pipeline import Data, Split
from flaxvae.devices import batches
from flaxvae.devices import mesh as meshes
from flaxvae.plan import Plan
from flaxvae.recipe import Recipe
from flaxvae.training import guard, loop, template
from flaxvae.training import step as steps
from flaxvae.training.step import TrainState

Array = jax.Array
Measure = Callable[[Recipe], Callable[[Variables, Array, Batch], dict[str, Array]]]


class Member(NamedTuple):
    """One training of a group, written down and not compiled."""

    plan: Plan
    recipe: Recipe
    program: steps.Program
    init: template.Outline
    step: template.Outline
    terms: template.Outline | None  # of the validation images
    measure: template.Outline  # of the test images

    def outlines(self) -> list[template.Outline]:
        return [x for x in (self.init, self.step, self.terms, self.measure) if x is not None]


Group = list[Member]


def groups(plans: Sequence[Plan], data: Data, measure: Measure) -> list[Group]:
    """Members that can share a compilation, together; groups and members in the order of plans.

    Args:
        plans: of one dataset and number of epochs.
        data: what they train on.
        measure: what will be measured of a trained model's test images.

    Raises:
        UsageError: a value that a recipe cannot have.
    """
    outlined: dict[str, Member] = {}
    found: dict[tuple[str, ...], Group] = {}
    for plan in plans:
        anyone = dataclasses.replace(plan.training, seed=0)
        settings = repr((plan.model, plan.arguments, plan.data, anyone))
        if settings not in outlined:
            outlined[settings] = _outline(plan, data, measure)
        member = outlined[settings]._replace(plan=plan)
        structure = tuple(outline.structure for outline in member.outlines())
        found.setdefault(structure, []).append(member)
    return [part for group in found.values() for part in _parts(group)]


def _parts(group: Group) -> list[Group]:
    """A group of one structure, or one for each of its settings if they cannot share."""
    if all(map(template.alike, zip(*map(Member.outlines, group)))):
        return [group]
    found: dict[int, Group] = {}
    for member in group:
        found.setdefault(id(member.step), []).append(member)
    return list(found.values())


def _outline(plan: Plan, data: Data, measure: Measure) -> Member:
    recipe, shape = plan.recipe(data.spec), jax.ShapeDtypeStruct
    # A loop over members all at once would choose anyway, and hide numbers from the outline.
    program = steps.program(
        recipe, data, plan.training, plan.training.epochs or 0, only_if=guard.choose
    )
    x, y = jax.tree.map(lambda a: shape(a.shape, a.dtype), steps.images_and_labels(recipe, data))
    stream = jax.eval_shape(lambda: steps.keys(0))
    order = jax.eval_shape(program.order, stream, 0)
    noise = jax.tree.map(
        lambda keys: shape(keys.shape[1:], keys.dtype), jax.eval_shape(program.noise, stream, 0)
    )
    init = template.outline(program.init, stream, x, y)
    state = jax.eval_shape(program.init, stream, x, y)
    variables = jax.eval_shape(TrainState.evaluated, state)

    def of_split(function: Any, split: Split) -> template.Outline:
        rows = batches.rows_at_once(len(split.x), split.x.shape[1:])
        images: Any = shape((rows, *split.x.shape[1:]), jnp.float32)
        classes: Any = None if split.y is None else shape((rows,), jnp.int32)
        return template.outline(function, variables, stream.init, Batch(images, classes))

    terms = batches.bound_terms(recipe.model)
    return Member(
        plan,
        recipe,
        program,
        init,
        template.outline(program.step, state, noise, order, x, y, shape((), jnp.int32)),
        of_split(terms, data.validation) if data.validation else None,
        of_split(measure(recipe), data.test),
    )


def mesh_of(count: int, devices: int | None = None) -> Mesh:
    """The most devices, of those asked for, between which ``count`` members can be shared out."""
    available = meshes.make(devices).size
    return meshes.make(max(n for n in range(1, available + 1) if count % n == 0))


SHARED = ("step", "offset")  # of a state: its members' is one


def _each(member: Any, step: Any) -> Any:
    """A TrainState that says of each field where its members lie."""
    names = [field.name for field in dataclasses.fields(TrainState)]
    return TrainState(**{name: step if name in SHARED else member for name in names})


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _streams(group: Group) -> steps.Keys:
    return _stack([steps.keys(member.plan.training.seed) for member in group])


def trainer(group: Group, data: Data, mesh: Mesh) -> steps.Trainer:
    """Compile a group. The data are on every device once, not once a member.

    Returns:
        As ``step.trainer``, all with an axis of members but for the number of steps done;
        ``learning_rate`` gives a list.
    """
    programs = [member.program for member in group]
    first, each, whole = programs[0], meshes.split(mesh), meshes.replicated(mesh)
    x_all, y_all = meshes.put(steps.images_and_labels(group[0].recipe, data), whole)
    apply_init, of_init = template.shared([member.init for member in group])
    apply_step, of_step = template.shared([member.step for member in group])
    streams, of_init, of_step = meshes.put(
        (_streams(group), _stack(of_init), _stack(of_step)), each
    )
    shared, own = PartitionSpec(), each.spec
    state_axes, state_specs = _each(0, None), _each(own, shared)

    def on_each_device(function, *specs, out):
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)

    def init_one(numbers, stream, x, y):
        return apply_init(numbers, stream, x, y)

    def step_one(numbers, state, noise, order, tolerance, x, y):
        done = apply_step(numbers, state, noise, order, x, y, tolerance)
        frozen = state.guard.fault != 0  # for good, at its last good step
        done = jax.tree.map(lambda old, new: jnp.where(frozen, old, new), state, done)
        return dataclasses.replace(done, step=state.step + 1, offset=state.offset)

    init_all = jax.vmap(init_one, (0, 0, None, None), state_axes)
    step_all = jax.vmap(step_one, (0, state_axes, 0, 0, None, None, None), state_axes)

    def segment(state, numbers, streams, order, steps, tolerance, x, y):
        noise = jax.vmap(first.noise, (0, None))(streams, state.step)

        def step(i, state):
            now = jax.tree.map(lambda keys: keys[:, i], noise)
            return step_all(numbers, state, now, order, tolerance, x, y)

        return jax.lax.fori_loop(0, steps, step, state)

    init = on_each_device(init_all, own, own, shared, shared, out=state_specs)
    run = on_each_device(segment, state_specs, own, own, own, *[shared] * 4, out=state_specs)
    order = jax.vmap(first.order, (0, None))
    init, order = jax.jit(init), jax.jit(order, out_shardings=each)
    compiled = jax.jit(run, donate_argnums=0)
    tolerance = guard.tolerance(group[0].plan.training.on_nan)
    shapes = jax.eval_shape(init, of_init, streams, x_all, y_all)
    return steps.Trainer(
        steps_per_epoch=first.steps_per_epoch,
        total_steps=first.total_steps,
        learning_rate=lambda step: [float(p.learning_rate(step)) for p in programs],
        sharding=jax.tree.map(
            lambda sharding, field: jax.tree.map(lambda _: sharding, field),
            _each(each, whole),
            shapes,
        ),
        init=lambda: init(of_init, streams, x_all, y_all),
        order=lambda epoch: order(streams, epoch),
        segment=lambda state, order, steps: compiled(
            state, of_step, streams, order, steps, tolerance, x_all, y_all
        ),
        together=True,
    )


def alone(state: TrainState, i: int) -> TrainState:
    """The state of one member, as its own training would have it on one device."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    one = {
        name: x if name in SHARED else jax.tree.map(lambda leaf: leaf[i], x)
        for name, x in fields.items()
    }
    return meshes.put(TrainState(**one), meshes.replicated(meshes.make(1)))


def over_split(
    outlines: Sequence[template.Outline], mesh: Mesh
) -> Callable[[Split, Variables, Array], Any]:
    """``batches.over_split`` for the functions of a group, of its variables and of M keys.

    Returns:
        ``run(split, variables, keys)``: NumPy arrays [N, M, ...].
    """
    apply, numbers = template.shared(outlines)
    stacked = meshes.put(_stack(numbers), meshes.split(mesh))

    def function(given, keys, batch):
        return jax.vmap(apply, (0, 0, 0, None), out_axes=1)(*given, keys, batch)

    run = batches.over_split(function, mesh, whole=True)
    return lambda split, variables, keys: run(split, (stacked, variables), keys)


def fit(
    group: Group,
    run: steps.Trainer,
    data: Data,
    mesh: Mesh,
    keeper: loop.Keeper,
    watch: loop.Watcher,
) -> tuple[TrainState, loop.Histories]:
    """Train a group to the end, from the newest state that was kept if there is one.

    Args:
        group, run, data, mesh: what to train, compiled by ``trainer``.
        keeper: takes states, and what was measured so far, for an interrupted sweep.
        watch: hears of progress: means over the members that are finite so far, and their images a
            second all together.

    Returns:
        The last state, whose guard says which members are finite no longer, and for each member
        its rows of metrics.jsonl.

    Raises:
        Stopped, DataError: as ``loop.fit``.
    """
    validate = None
    held = data.validation
    if held is not None:
        terms = over_split([member.terms for member in group if member.terms], mesh)
        keys = meshes.put(_streams(group).evaluation, meshes.split(mesh))

        def validate(variables):
            return terms(held, variables, keys)

    of_each = [(member.recipe, member.plan.training) for member in group]
    return loop.Training(of_each, run, validate, keeper, watch).run()
