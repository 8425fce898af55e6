"""One list of properties for every recipe; a new one is tested by standing in RECIPES."""

import dataclasses
import functools
import inspect
import itertools
import math
import threading
from pathlib import Path
from typing import get_args, get_type_hints

import chex
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from conftest import rare
from flaxvae import lookup, zoo
from flaxvae.analysis.evaluation import Estimate, Evaluation
from flaxvae.core import Batch, elbo_samples
from flaxvae.data.pipeline import Data, Split
from flaxvae.devices import mesh as meshes
from flaxvae.errors import DataError, UsageError
from flaxvae.parts import memory
from flaxvae.plan import Plan
from flaxvae.recipe import DataSpec, Recipe
from flaxvae.report import words
from flaxvae.runs.checkpoints import Checkpoints
from flaxvae.runs.folder import RunFolder
from flaxvae.runs.keeper import restored
from flaxvae.runs.run import Run
from flaxvae.settings import Body, DataSettings, TrainSettings
from flaxvae.training import loop
from flaxvae.training import step as steps

SHAPE, D, B, N = (8, 8, 1), 3, 16, 200
PER_EPOCH = N // B  # 12 steps, and 8 images left over
SPEC = DataSpec("noise", SHAPE, classes=10, binary=True, levels=2, examples=N)

SMALL = {
    "ladder_vae": {"latent_dims": (3, 2), "level_widths": (8, 6)},
    "gumbel_vae": {"variables": 3, "categories": 4, "temperature_rate": 0.01},
    "vq_vae": {"codes": 8, "code_dim": 2, "prior_width": 8, "prior_layers": 1},
    "iwae": {"latent_dim": D, "k": 3},
    "flow_vae": {"latent_dim": D, "flow_steps": 2, "flow_width": 8},
    "flow_prior_vae": {"latent_dim": D, "flow_steps": 2, "flow_width": 8},
    "vamp_vae": {"latent_dim": D, "pseudo_inputs": 4},
    "mog_vae": {"latent_dim": D, "prior_components": 4},
    "factor_vae": {"latent_dim": D, "discriminator": (8,)},
    "mmd_vae": {"latent_dim": D, "mmd_weight": 2.0},  # it multiplies rounding, too
}
MLP = {"net": "mlp", "widths": (16,)}
OWN_NETWORK = {"deep_vae": {"levels": ("4x2", "1x1"), "width": 4}}


def small(name: str) -> dict:
    """Arguments with which a recipe is small."""
    return OWN_NETWORK.get(name) or MLP | SMALL.get(name, {"latent_dim": D})


CASES = {f"{name}-mlp": (name, small(name)) for name in zoo.RECIPES}


def _more(case: str, **choices) -> None:
    """The case ``case`` with other choices, under the name of the last."""
    name, arguments = CASES[case]
    CASES[f"{name}-{list(choices.values())[-1]}"] = name, arguments | choices


for net in ("conv", "resnet"):
    for name in ("vae", "cvae", "vq_vae"):
        _more(f"{name}-mlp", channels=(4, 6), net=net)
for likelihood in (
    "continuous_bernoulli",
    "gaussian",
    "gaussian_shared",
    "gaussian_pixel",
    "discretized_logistic",
    "logistic_mixture",
):
    _more("vae-mlp", likelihood=likelihood)
_more("vae-mlp", samples=2, kl="monte_carlo")
_more("vae-mlp", anneal="cyclical")
_more("vae-mlp", free_bits_per="dimension", free_bits=0.5)
_more("beta_vae-mlp", capacity_steps=10, capacity=2.0)
_more("iwae-mlp", gradient="doubly_reparameterized")
_more("flow_vae-mlp", flow="coupling")
_more("flow_vae-mlp", flow="planar")
_more("gumbel_vae-mlp", straight_through=True)
_more("vq_vae-mlp", codebook="gradient")
_more("denoising_vae-mlp", noise="gaussian")

# Training compiles for seconds: every recipe once, and the convolutions once.
every_case = pytest.mark.parametrize("case", CASES)
every_latent = pytest.mark.parametrize(
    "case", [c for c in CASES if c.split("-")[0] not in ("vae", "beta_vae") or c.endswith("mlp")]
)
# Of those whose steps are made like another's, only the slow tests train all.
ALIKE = tuple(
    f"{name}-mlp"
    for name in (
        *("denoising_ae", "denoising_vae", "beta_vae", "iwae", "mmd_vae", "flow_vae", "vamp_vae"),
        *("mog_vae", "flow_prior_vae", "ladder_vae"),
    )
)
RECIPES = [f"{name}-mlp" for name in zoo.RECIPES]
every_recipe = pytest.mark.parametrize("case", rare([*RECIPES, "vae-conv"], *ALIKE, "deep_vae-mlp"))


@functools.cache
def recipe(case: str) -> Recipe:
    name, arguments = CASES[case]
    return lookup.build(name, SPEC, **arguments)


@functools.cache
def data() -> Data:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (N, *SHAPE), np.uint8)
    split = Split(x, rng.integers(0, 10, N, np.int32), 255.0)
    return Data(SPEC, split, None, split, 255.0, "dynamic", "nowhere", "")


@functools.cache
def trainer(case: str, devices: int, seed: int = 0) -> steps.Trainer:
    settings = TrainSettings(batch_size=B, seed=seed)
    return steps.trainer(recipe(case), data(), settings, meshes.make(devices), epochs=3)


@functools.cache
def variables(case: str):
    """Weights by NumPy, which compiles nothing, of the shapes that ``init`` gives.

    State that is not a weight (a codebook, a temperature) is as ``init`` made it.
    """
    return filled(recipe(case))


def fan_in(shape) -> int:
    """Inputs of a layer's output: of a convolution, those of all its taps."""
    return math.prod(shape[:-1]) if len(shape) == 4 else shape[0]


def filled(recipe: Recipe):
    """``variables`` of a recipe."""
    example, label = jnp.zeros((2, *recipe.data.shape)), jnp.zeros(2, jnp.int32)
    made = jax.jit(recipe.model.init)
    if len(jax.eval_shape(made, jax.random.key(0), example, label)) > 1:
        found = jax.device_get(made(jax.random.key(0), example, label))
    else:
        found = jax.eval_shape(made, jax.random.key(0), example, label)
    rng = np.random.default_rng(0)
    return found | {
        "params": jax.tree.map(
            lambda leaf: (
                np.float32(rng.normal(size=leaf.shape, scale=fan_in(leaf.shape) ** -0.5))
                if leaf.shape
                else np.float32(rng.normal())
            ),
            found["params"],
        )
    }


def batch_of(case: str) -> Batch:
    y = jnp.asarray(data().train.y[:B]) if recipe(case).classes else None
    return Batch(examples(), y)


def examples() -> jax.Array:
    return jnp.asarray(data().train.x[:B] / 255.0, jnp.float32)


def advance(made: steps.Trainer, state: steps.TrainState, count: int) -> steps.TrainState:
    """``count`` more steps, cut where an epoch ends, as ``training.loop`` does it."""
    while count:
        step = int(state.step)
        rows, enough = made.feed.at(step)
        some = min(count, enough)
        state = made.segment(state, rows, some)
        count -= some
        if int(state.step) % PER_EPOCH == 0:
            totals = jax.tree.map(jnp.zeros_like, state.totals)
            state = dataclasses.replace(state, totals=totals)
    return state


@every_case
def test_shapes_and_dtypes(case):
    model, key = recipe(case).model, jax.random.key(0)
    x, y = jnp.zeros((5, *SHAPE)), jnp.arange(5)

    def run():
        variables = model.init(key, x[:2], y[:2])
        latent = model.reparameterize(variables, key, model.encode(variables, x, y), False)
        p = model.decode(variables, latent.z, y)
        values = {
            "rows": (p.log_prob(x), latent.log_ratio, latent.penalty),
            "latents": (latent.code, latent.z),
            "images": (p.mean, p.sample(key)),
        }
        assert latent.updates == {}  # not training
        return variables, latent.kl, values

    variables, kl, values = jax.eval_shape(run)
    assert "params" in variables
    assert kl.shape[0] == 5 and kl.ndim == 2
    size = values["latents"][0].shape[1]
    chex.assert_shape(values["rows"], (5,))
    chex.assert_shape(values["latents"], (5, size))
    chex.assert_shape(values["images"], (5, *SHAPE))
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((variables, kl, values))}
    assert dtypes == {jnp.dtype("float32")}
    if recipe(case).codes is None or recipe(case).codes.prior is None:
        prior = jax.eval_shape(lambda v: model.prior_sample(v, key, 7, None, 0.5), variables)
        chex.assert_shape(prior, (7, size))


@every_latent
def test_a_key_decides_the_draws(case):
    model, batch, weights = recipe(case).model, batch_of(case), variables(case)
    fitted = recipe(case).codes is None or recipe(case).codes.prior is None

    weights = jax.tree.map(jnp.asarray, weights)

    @jax.jit
    def run(key, other):
        features = model.encode(weights, batch.x, batch.y)
        latents = [model.reparameterize(weights, k, features, False) for k in (key, other, None)]
        priors = [model.prior_sample(weights, k, 32) for k in (key, other) if fitted]
        return [latent.z for latent in latents], priors, latents[0].code

    one, two = jax.random.key(1), jax.random.key(2)
    (z, other, at_mean), prior, code = run(one, two)
    (again, same, _), prior_again, _ = run(one, one)
    chex.assert_trees_all_equal((z, prior[:1]), (again, prior_again[:1]), (same, prior_again[1:]))
    np.testing.assert_array_equal(at_mean, code)
    if fitted:
        assert (np.asarray(prior[0]) != np.asarray(prior[1])).any()
    if recipe(case).has_bound and fitted:
        assert (np.asarray(z) != np.asarray(other)).any(1).mean() > 0.5
        assert (np.asarray(z) != np.asarray(code)).any(1).mean() > 0.5
    else:  # a point, or the nearest code
        np.testing.assert_array_equal(z, other)


@every_case
def test_gradients_reach_every_parameter(case):
    """And the metrics add up: -ELBO is reconstruction + KL."""
    gradient = jax.jit(jax.value_and_grad(recipe(case).loss, has_aux=True))
    # Late enough that no schedule is at zero.
    late = jnp.int32(2_000)
    with jax.debug_key_reuse(True):  # an error if a key is used twice
        value = gradient(variables(case), jax.random.key(1), batch_of(case), late)
    (loss, (metrics, updates)), grads = value
    chex.assert_tree_all_finite((grads["params"], metrics, updates))
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads["params"]):
        assert np.abs(np.asarray(leaf)).max() > 1e-7, jax.tree_util.keystr(path)
    assert loss == metrics["loss"]
    assert updates.keys() == variables(case).keys() - {"params"}
    if "elbo" in metrics:
        total = metrics["reconstruction"] + metrics["kl"]
        np.testing.assert_allclose(-metrics["elbo"], total, rtol=1e-5)


# Whose losses or state ask something else of a batch than their recipe's do.
OTHERS = (
    "vae-monte_carlo vae-0.5 vae-logistic_mixture beta_vae-2.0 cvae-conv gumbel_vae-True "
    "iwae-doubly_reparameterized vq_vae-gradient"
)


@pytest.mark.parametrize(
    "case", rare([*RECIPES, *OTHERS.split()], *ALIKE, "cvae-conv", "deep_vae-mlp")
)
def test_a_batch_in_parts_is_the_batch(case):
    """Loss, metrics, gradients and state are those of the whole, whatever the loss asks of it."""
    check_in_parts(recipe(case), variables(case), batch_of(case))


def test_codes_in_parts_are_the_codes():
    """Of the prior that is fitted to a codebook's codes."""
    found = recipe("vq_vae-mlp").codes
    grids = np.random.default_rng(0).integers(0, found.size, (B, *found.grid))
    batch = Batch(jnp.asarray(grids, jnp.float32))
    check_in_parts(found.prior, filled(found.prior), batch)


def check_in_parts(made, weights, batch):
    late = jnp.int32(2_000)

    @jax.jit
    def gradients(weights):
        def of(params, count):
            loss = made.objective(memory.in_parts(made.model, count))
            return loss({**weights, "params": params}, jax.random.key(1), batch, late)

        gradient = jax.value_and_grad(of, has_aux=True)
        return [gradient(weights["params"], count) for count in (1, 2, 4)]

    ((_, (metrics, updates)), grads), *parts = gradients(weights)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads))
    for (_, (same, moved)), slopes in parts:
        chex.assert_trees_all_close(same, metrics, rtol=1e-5, atol=1e-5)
        chex.assert_trees_all_close(moved, updates, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(slopes, grads, rtol=1e-3, atol=1e-5 * largest)


@every_recipe
def test_one_and_eight_devices_learn_the_same(case):
    losses = {}
    for devices in (1, 8):
        made = trainer(case, devices)
        state = jax.device_put(trainer(case, 8).init(), made.sharding)
        losses[devices] = []
        for _ in range(6):
            state = advance(made, state, 1)
            losses[devices].append(float(state.totals["loss"]))
        assert all(leaf.sharding.num_devices == devices for leaf in jax.tree.leaves(state))
    np.testing.assert_allclose(losses[1], losses[8], rtol=2e-6)
    assert len(set(np.diff(losses[1]))) == 5  # no two batches are alike


def test_one_and_eight_devices_begin_the_same():
    with jax.debug_key_reuse(True):
        first, second = (jax.device_get(trainer("vae-mlp", devices).init()) for devices in (1, 8))
    chex.assert_trees_all_close(first, second, rtol=1e-6)


@every_recipe
def test_a_cut_changes_no_bit(case):
    """16 = 8 + 8 = 5 + 11 steps, across the end of an epoch."""
    made = trainer(case, 8)
    whole = jax.device_get(advance(made, made.init(), 16))
    assert whole.step == 16
    for first, second in [(8, 8), (5, 11)]:
        parts = jax.device_get(advance(made, advance(made, made.init(), first), second))
        chex.assert_trees_all_equal(whole, parts)


@every_recipe
def test_one_compilation_serves_all_segments(case):
    """Of any length, in any epoch, before and after the totals were set to zero."""
    made, seen = trainer(case, 8), []

    def hear(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    state = advance(made, made.init(), PER_EPOCH)  # compiles what an end of an epoch needs, too
    jax.monitoring.register_event_duration_secs_listener(hear)
    try:
        for count in (1, 3, PER_EPOCH, 2 * PER_EPOCH - 4):
            state = advance(made, state, count)
        assert not seen
        jax.jit(lambda x: x + len(seen))(jnp.ones(3))  # what would have been heard
        assert seen
    finally:
        jax.monitoring.unregister_event_duration_listener(hear)
    assert int(state.step) == 4 * PER_EPOCH


def test_every_step_has_noise_of_its_own():
    """The same images at a learning rate of nothing: what differs is z."""
    settings = TrainSettings(batch_size=B, learning_rate=1e-30)
    grey = data()._replace(binarization="none")
    made = steps.trainer(recipe("vae-mlp"), grey, settings, meshes.make(1), epochs=1)
    state, totals = made.init(), [0.0]
    rows = made.feed.at(0).rows._replace(order=jnp.zeros((PER_EPOCH, B), jnp.int32))
    for _ in range(5):
        state = made.segment(state, rows, 1)
        totals.append(float(state.totals["loss"]))
    losses = np.diff(totals)
    assert (np.abs(np.diff(np.sort(losses))) > 1e-5 * np.abs(losses).max()).all()


def test_order_is_a_function_of_seed_and_epoch():
    made = trainer("vae-mlp", 8)
    order = np.asarray(made.order(1))
    assert order.shape == (PER_EPOCH, B)
    rows = order.ravel()
    assert len(set(rows)) == PER_EPOCH * B  # without repetition
    assert set(rows) <= set(range(N))
    np.testing.assert_array_equal(order, made.order(1))
    np.testing.assert_array_equal(order, trainer("vae-mlp", 1).order(1))
    np.testing.assert_array_equal(order, trainer("ae-mlp", 8).order(1))
    left_over = [set(range(N)) - set(np.asarray(made.order(epoch)).ravel()) for epoch in range(20)]
    assert len(set.union(*left_over)) > 60  # 8 an epoch, other ones each time
    assert (order != np.asarray(made.order(0))).mean() > 0.9
    assert (order != np.asarray(trainer("vae-mlp", 8, seed=1).order(1))).mean() > 0.9


@every_recipe
def test_saved_and_loaded_is_equal(case, tmp_path):
    made = trainer(case, 8)
    state = advance(made, made.init(), 3)
    before = jax.device_get(state)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        after = loop.resume(
            made, functools.partial(restored, checkpoints, note=pytest.fail), pytest.fail
        )
    chex.assert_trees_all_equal(before, jax.device_get(after))


def test_training_goes_on_beside_a_save(tmp_path, monkeypatch):
    """And takes the memory of the state that is being written."""
    made, write, go = trainer("vae-mlp", 1), Checkpoints._write, threading.Event()

    def slowly(self, *rest):
        assert go.wait(60)
        write(self, *rest)

    monkeypatch.setattr(Checkpoints, "_write", slowly)
    state = advance(made, made.init(), 3)
    before = jax.tree.map(np.array, state)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state)
        state = advance(made, state, 3)
        assert checkpoints.busy()
        go.set()
        after = loop.resume(
            made, functools.partial(restored, checkpoints, note=pytest.fail), pytest.fail
        )
    chex.assert_trees_all_equal(before, jax.device_get(after))
    assert int(state.step) == 6


def run_of(case: str, devices: int = 1) -> Run:
    """A loaded run, of no folder, on images that are made binary."""
    name, arguments = CASES[case]
    settings = DataSettings(binarization="dynamic")
    plan, mesh = Plan(name, arguments, settings, TrainSettings()), meshes.make(devices)
    own = meshes.put(variables(case), meshes.replicated(mesh))
    return Run(
        recipe(case), own, mesh=mesh, peak=255.0, folder=RunFolder(Path("nowhere")), plan=plan
    )


@every_recipe
def test_a_score_is_an_images_own(case):
    """Alone on eight devices; on one in any order, beside its double and padding."""
    run, many, rng = run_of(case), run_of(case, 8), np.random.default_rng(1)
    x, y = data().train.x[:40], data().train.y[:40]
    scores = run.score(x, y, samples=2)
    order = rng.permutation(np.r_[:40, :7])  # 47 in a batch of 64
    close = {"rtol": 2e-6, "atol": 1e-4}
    np.testing.assert_allclose(run.score(x[order], y[order], samples=2), scores[order], **close)
    for i in (0, 39):
        alone = many.score(x[i : i + 1] / np.float64(255), y[i : i + 1], samples=2)
        np.testing.assert_allclose(alone, scores[i : i + 1], **close)
    np.testing.assert_array_equal(run.split(x[order], y[order]).x, run.split(x, y).x[order])
    drawn = run.recipe.has_bound and case != "vq_vae-mlp"  # others have no noise
    assert (run.score(x, y, samples=2, seed=1) != scores).all() == drawn


# --- estimators of the KL ------------------------------------------------------------------------

BOUND = {name: small(name) for name in zoo.RECIPES if "free_bits" in lookup.arguments(name)}


@pytest.mark.parametrize("name", BOUND)
def test_the_kl_by_monte_carlo_has_the_gradient_of_the_closed_form(name, assert_mean):
    """On average over draws, along random directions of the parameters; or it is refused."""
    closed = lookup.build(name, SPEC, **BOUND[name])
    try:
        sampled = lookup.build(name, SPEC, kl="monte_carlo", **BOUND[name])
    except UsageError as error:
        assert "expected closed_form" in str(error) and closed.codes is not None
        return
    weights, batch = variables(f"{name}-mlp"), batch_of(f"{name}-mlp")
    rng = np.random.default_rng(1)
    directions = jax.tree.map(
        lambda leaf: jnp.float32(rng.normal(size=(4, *leaf.shape))), weights["params"]
    )

    @jax.jit
    def slopes(directions):
        def one(made, key):
            def kl(params):
                return made.loss({**weights, "params": params}, key, batch, jnp.int32(0))[1][0][
                    "kl"
                ]

            gradient = jax.grad(kl)(weights["params"])
            products = jax.tree.map(
                lambda a, b: (a[None] * b).reshape(4, -1).sum(1), gradient, directions
            )
            return sum(jax.tree.leaves(products))

        keys = jax.random.split(jax.random.key(2), 1000)
        return [jax.lax.map(functools.partial(one, made), keys) for made in (closed, sampled)]

    exact, found = (np.float64(x) for x in slopes(directions))
    assert_mean(found - exact, rounding=1e-4 * np.abs(exact).max())
    error = (found - exact).std(0) / np.sqrt(len(exact))
    assert (np.abs(exact.mean(0)) > 10 * error).any()  # no gradient would be noticed


@pytest.mark.parametrize("per", ["dimension", "total"])
@pytest.mark.parametrize("name", BOUND)
def test_free_bits_are_paid_for_every_unit_that_there_is(name, per):
    """Far above the KL, they are what it costs; where it is one number, only the total is taken."""
    nats, arguments = 1e5, BOUND[name] | {"beta": 1.0}
    units = arguments.get("latent_dim", arguments.get("variables", arguments.get("latent_dims", 3)))
    units = len(units) if isinstance(units, tuple) else units
    weights, batch = variables(f"{name}-mlp"), batch_of(f"{name}-mlp")
    model, key = recipe(f"{name}-mlp").model, jax.random.key(0)

    features = jax.jit(model.encode)(weights, batch.x, batch.y)
    draw = jax.jit(lambda key: model.reparameterize(weights, key, features, True).kl)
    one, other = draw(key), draw(jax.random.key(1))
    try:
        made = lookup.build(name, SPEC, **arguments, free_bits=nats, free_bits_per=per)
    except UsageError as error:
        assert "free_bits=100000.0 for every dimension of a KL without closed form" in str(error)
        assert "expected free_bits_per='total'" in str(error)
        assert per == "dimension" and one.shape == (B, 1) and (one != other).any()
        return
    assert one.shape == (B, units) or per == "total"
    loss, (metrics, _) = jax.jit(made.loss)(weights, key, batch, jnp.int32(0))
    price = float(loss - metrics["reconstruction"])
    assert price == pytest.approx(nats * (1 if per == "total" else units), rel=1e-3)
    assert metrics["kl"] < nats


def test_free_bits_in_total_take_any_estimate():
    """Of the mean over the batch of one draw for each image."""
    made = lookup.build("vae", SPEC, **MLP, kl="monte_carlo", free_bits=1e5, free_bits_per="total")
    plain = lookup.build("vae", SPEC, **MLP, kl="monte_carlo")
    weights = jax.jit(made.model.init)(jax.random.key(0), examples())
    inputs = weights, jax.random.key(1), Batch(examples()), jnp.int32(0)
    (loss, (metrics, _)), (_, (same, _)) = (jax.jit(m.loss)(*inputs) for m in (made, plain))
    assert metrics["kl"] == same["kl"]
    np.testing.assert_allclose(loss, metrics["reconstruction"] + 1e5, rtol=1e-6)


# --- what a loss needs of a batch ----------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.RECIPES)
def test_the_least_batch_is_the_least(name):
    """Of fewer images the loss cannot be; and a training refuses them in one line."""
    made, batch = recipe(f"{name}-mlp"), batch_of(f"{name}-mlp")

    def loss(rows):
        few = jax.tree.map(lambda leaf: leaf[:rows], batch)
        return jax.eval_shape(
            made.loss, variables(f"{name}-mlp"), jax.random.key(0), few, jnp.int32(0)
        )

    def trainer(rows):
        return steps.trainer(made, data(), TrainSettings(batch_size=rows), meshes.make(1), 1)

    least = made.least_batch
    assert loss(least)[0].shape == () and trainer(least)
    if least > 1:
        with pytest.raises(ValueError):
            loss(least - 1)
        with pytest.raises(UsageError, match=f"^batch_size={least - 1}: expected {least} or more"):
            trainer(least - 1)


# --- against log p(x) ---------------------------------------------------------------------------

SIGMA = 2.0  # so weak a likelihood that q, near its start, is near the posterior
LINEAR = {"net": "mlp", "widths": (), "likelihood": "gaussian", "sigma": SIGMA}
FLAT = DataSpec("five numbers", (5,), classes=10, levels=256, examples=N)
WITH_TRUTH = {
    name: SMALL.get(name, {"latent_dim": D})
    for name in zoo.RECIPES
    if name not in ("ae", "denoising_ae", "flow_prior_vae", "ladder_vae", "deep_vae", "vq_vae")
}


def truth(name: str, made: Recipe, params, x, y) -> np.ndarray:
    """log p(x) [B] of a linear decoder with Gaussian noise, for every prior that allows it.

    N(m, S) for z makes x Gaussian with mean W m + b and variance W S W^T + sigma^2; a mixture of
    them makes a mixture. One-hot latents are a finite one.
    """
    out = params["decoder"]["out"]
    w, b = np.float64(out["kernel"]), np.float64(out["bias"])
    if made.classes is not None:  # z and the one-hot label enter one layer
        w, b = w[:D], b + w[D + y]
    means, variances, weights = np.zeros((1, len(w))), np.ones((1, len(w))), np.ones(1)
    if made.codes is not None:
        count, values = SMALL[name]["variables"], made.codes.size
        means = np.array(
            [
                np.eye(values)[list(z)].ravel()
                for z in itertools.product(range(values), repeat=count)
            ]
        )
        variances, weights = np.zeros_like(means), np.full(len(means), 1 / len(means))
    elif not made.standard_prior:
        z = np.asarray(prior_grid(made, params))
        means, variances, weights = z[0], z[1], z[2][:, 0]
    logs = []
    for m, s, weight in zip(means, variances, weights):
        covariance = (w.T * s) @ w + SIGMA**2 * np.eye(5)
        centred = x - (m @ w + b)
        logs.append(np.log(weight) + stats.multivariate_normal(None, covariance).logpdf(centred))
    return special.logsumexp(logs, axis=0)


def prior_grid(made: Recipe, params) -> np.ndarray:
    """Means, variances and weights [3, K, D] of a mixture prior's components."""
    own = params["prior"]
    if "logits" in own:
        weights = special.softmax(np.float64(own["logits"]))
        parts = np.float64(own["mean"]), np.exp(np.float64(own["log_var"]))
    else:
        inputs = special.expit(10 * np.float64(own["raw"]))
        features = made.model.encode({"params": params}, jnp.float32(inputs), None)
        parts = np.float64(features["mean"]), np.exp(np.float64(features["log_var"]))
        weights = np.full(len(parts[0]), 1 / len(parts[0]))
    return np.stack([*parts, np.broadcast_to(weights[:, None], parts[0].shape)])


@pytest.mark.parametrize("name", WITH_TRUTH)
def test_weights_average_to_the_likelihood(name, assert_mean):
    """E[p(x, z) / q(z|x)] = p(x) whatever q is, and the ELBO lies below; nothing is relaxed."""
    made = lookup.build(name, FLAT, **LINEAR, **WITH_TRUTH[name])
    rng, shape = np.random.default_rng(0), (4, 5)
    x, y = jnp.float32(rng.normal(size=shape)), jnp.arange(4) if made.classes else None
    fresh = jax.jit(made.model.init)(jax.random.key(0), x, y)
    weights = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype("f4"), fresh)
    heads = weights["params"]["encoder"]["heads"]
    if "log_var" in heads:  # q wider than the posterior, and so weights of finite variance
        heads["log_var"]["bias"] += 1.2
        heads["mean"]["kernel"] *= 0.3
    draws = jax.jit(elbo_samples, static_argnums=(0, 4))
    terms = draws(made.model, weights, jax.random.key(1), Batch(x, y), 4000)
    exact = truth(name, made, weights["params"], np.float64(x), y)
    assert_mean(np.exp(np.float64(terms.log_w) - exact), 1.0)
    assert_mean(terms.log_px - terms.kl.sum(-1) - terms.log_w, rounding=1e-4)
    assert (np.asarray(terms.log_w).mean(0) < exact).all()


# --- the prior's density --------------------------------------------------------------------------

DISCRETE = ("gumbel_vae-mlp", "vq_vae-conv")  # of which all codes can be gone through
WITH_DENSITY = [n for n in zoo.RECIPES if n not in ("ae", "denoising_ae", "gumbel_vae", "vq_vae")]
every_density = pytest.mark.parametrize("name", WITH_DENSITY)


def in_two_dimensions(name: str) -> Recipe:
    if name == "deep_vae":
        return lookup.build(name, SPEC, levels=("1x2",), latent_channels=(1,), width=4)
    own = {k: v for k, v in SMALL.get(name, {}).items() if k != "latent_dim"}
    both = {"latent_dims": (1, 1)} if name == "ladder_vae" else {"latent_dim": 2}
    return lookup.build(name, SPEC, **MLP, **(own | both))


def all_codes(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices [N, positions] and z [N, D] of every code that there is."""
    found, weights = recipe(case).codes, variables(case)
    rows = np.array([*itertools.product(range(found.size), repeat=math.prod(found.grid))])
    table = weights["codebook"]["embedding"] if found.prior else np.eye(found.size)
    return rows, np.asarray(table, np.float32)[rows].reshape(len(rows), -1)


def test_autoencoders_have_no_prior():
    for name in zoo.RECIPES:
        made = recipe(f"{name}-mlp")
        assert (made.model.prior_log_prob is None) == (not made.has_bound)


@every_density
def test_the_prior_integrates_to_one(name):
    made, (line, step) = in_two_dimensions(name), np.linspace(-5, 5, 801, retstep=True)
    z = np.stack(np.meshgrid(np.sinh(line), np.sinh(line)), -1).reshape(-1, 2)
    volume = np.multiply.outer(np.cosh(line), np.cosh(line)).ravel() * step**2
    log_p = jax.jit(made.model.prior_log_prob)(filled(made), jnp.float32(z))
    assert (np.exp(np.float64(log_p)) * volume).sum() == pytest.approx(1, abs=1e-3)


@every_density
def test_the_prior_is_that_of_its_samples(name, assert_mean):
    """E_p[r(z) / p(z)] = 1 for a density r; and -E[log p(z)] is the entropy where it is known."""
    made, n = in_two_dimensions(name), 50_000
    weights = filled(made)
    z = jax.jit(made.model.prior_sample, static_argnums=2)(weights, jax.random.key(0), n)
    log_p = np.float64(jax.jit(made.model.prior_log_prob)(weights, z))
    near = np.float64(z[1])
    log_r = stats.multivariate_normal(near, 0.3**2 * np.eye(2)).logpdf(np.float64(z))
    assert_mean(np.exp(log_r - log_p), 1.0)
    if made.standard_prior:
        assert_mean(-log_p, stats.multivariate_normal(np.zeros(2)).entropy())
        np.testing.assert_allclose(log_p, stats.norm.logpdf(z).sum(1), atol=1e-5)
    elif "_vae" in name and name in WITH_TRUTH:
        means, variances, shares = prior_grid(made, weights["params"])
        parts = stats.norm.logpdf(z[:, None], means, np.sqrt(variances)).sum(-1)
        np.testing.assert_allclose(
            log_p, special.logsumexp(parts + np.log(shares[:, 0]), axis=1), atol=1e-4
        )


@pytest.mark.parametrize("case", DISCRETE)
def test_the_prior_of_all_codes_sums_to_one(case):
    made, weights = recipe(case), variables(case)
    log_prob = jax.jit(made.model.prior_log_prob)
    rows, z = all_codes(case)
    uniform = np.full(len(rows), -np.log(len(rows)))
    np.testing.assert_allclose(log_prob(weights, z), uniform, rtol=1e-6)
    none = z.copy()
    none[:, 0] += 1e-6  # near a code, and none
    np.testing.assert_array_equal(log_prob(weights, none), -np.inf)
    if made.codes.prior is None:
        return
    grids = jnp.float32(rows.reshape(-1, *made.codes.grid))
    fitted = filled(made.codes.prior)
    expected = jax.jit(lambda v: made.codes.prior.model.decode(v, z[:, :0]).log_prob(grids))(fitted)
    found = log_prob({**weights, "prior": fitted["params"]}, z)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.std(found) > 0.1
    assert special.logsumexp(np.float64(found)) == pytest.approx(0, abs=1e-5)


@every_latent
def test_a_draw_has_the_prior_and_the_posterior_of_its_z(case):
    """log p(z) is prior_log_prob's, log q(z|x) scipy's where q is what the features say."""
    made, batch = recipe(case), batch_of(case)
    weights = jax.tree.map(jnp.asarray, variables(case))
    model, log_prob = made.model, made.model.prior_log_prob

    @jax.jit
    def run(key):
        features = model.encode(weights, batch.x, batch.y)
        latent = model.reparameterize(weights, key, features, False)
        found = None if log_prob is None else log_prob(weights, latent.z, batch.y)
        return features, latent, found

    for key in (jax.random.key(1), None):
        features, latent, found = run(key)
        np.testing.assert_array_equal(latent.log_ratio, latent.log_p - latent.log_q)
        if found is None:
            np.testing.assert_array_equal([latent.log_p, latent.log_q, latent.kl.sum(1)], 0.0)
            continue
        np.testing.assert_allclose(latent.log_p, found, rtol=1e-5, atol=1e-5)
        log_q, z = None, np.float64(latent.z)
        if set(features) == {"mean", "log_var"}:
            mean, log_var = (np.float64(features[name]) for name in ("mean", "log_var"))
            log_q = stats.norm.logpdf(z, mean, np.exp(log_var / 2)).sum(1)
        elif set(features) == {"logits"}:
            logits = np.float64(features["logits"]).reshape(B, -1, made.codes.size)
            log_q = (z.reshape(logits.shape) * special.log_softmax(logits, -1)).sum((1, 2))
        elif set(features) == {"z"}:
            log_q = np.zeros(B)
        assert log_q is not None or case.split("-")[0] in ("flow_vae", "ladder_vae", "deep_vae")
        if log_q is not None:
            np.testing.assert_allclose(latent.log_q, log_q, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("name", [n for n in zoo.RECIPES if n not in ("ae", "denoising_ae")])
def test_the_prior_has_finite_gradients(name):
    """Near its mass and far out; what is only the prior's has one that is not zero."""
    case = f"{name}-mlp"
    model, weights = recipe(case).model, jax.tree.map(jnp.asarray, variables(case))
    discrete = recipe(case).codes is not None

    @jax.jit
    def at_mean(x, y):
        return model.reparameterize(weights, None, model.encode(weights, x, y), False).z

    z = at_mean(*batch_of(case)[:2])
    far = z if discrete else jnp.concatenate([z, 30 * jnp.sign(z)])

    def total(params, z):
        return model.prior_log_prob({**weights, "params": params}, z).sum()

    own, slope = jax.jit(jax.grad(total, argnums=(0, 1)))(weights["params"], far)
    chex.assert_tree_all_finite((own, slope))
    assert (np.abs(np.asarray(slope)).max() > 0) == (not discrete)
    for leaf in jax.tree.leaves(own.get("prior", {})):
        assert np.abs(np.asarray(leaf)).max() > 0


WRONG = [
    {"latent_dim": 0},
    {"latent_dim": -3},
    {"beta": -0.1},
    {"beta": math.inf},
    {"beta": math.nan},
    {"samples": 0},
    {"sigma": 0.0},
    {"sigma": -1.0},
    {"sigma": math.inf},
    {"sigma": math.nan},
    {"widths": (16, 0), "net": "mlp"},
    {"net": "transformer"},
    {"channels": (8, 0), "net": "resnet"},
    {"activation": "sigmoid", "net": "mlp"},
    {"likelihood": "poisson"},
    {"kl": "closed"},
    {"kl": "monte_carlo", "free_bits": 1.0},
    {"free_bits": -1.0},
    {"anneal": "cosine"},
    {"anneal_steps": 0},
    {"cycles": 0},
    {"capacity": -1.0},
    {"k": 0},
    {"gradient": "reinforce"},
    {"level": -0.1},
    {"level": 1.5, "noise": "mask"},
    {"noise": "blur"},
    {"temperature": 0.0},
    {"min_temperature": 0.0},
    {"categories": 1},
    {"variables": 0},
    {"codes": 1},
    {"decay": 1.0},
    {"commitment": -1.0},
    {"codebook": "frozen"},
    {"flow": "residual"},
    {"flow_steps": 0},
    {"pseudo_inputs": 0},
    {"prior_components": 0},
    {"latent_dims": ()},
    {"latent_dims": (4, 0)},
    {"level_widths": (4,)},
    {"alpha": -0.5, "gamma": 1.0},
    {"mmd_weight": -1.0},
]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [(name, a) for a in WRONG for name in zoo.RECIPES if a.keys() <= lookup.arguments(name).keys()],
    ids=str,
)
def test_arguments_out_of_range(name, arguments):
    wrong = next(iter(arguments))
    with pytest.raises(UsageError, match=f"^{wrong}=.*: expected ") as error:
        lookup.build(name, SPEC, **arguments)
    assert "\n" not in str(error.value)


def test_every_wrong_argument_is_some_recipes():
    taken = {a for name in zoo.RECIPES for a in lookup.arguments(name)}
    assert all(arguments.keys() <= taken for arguments in WRONG)


def test_what_data_cannot_have():
    with pytest.raises(UsageError, match="without labels: expected labels"):
        zoo.cvae(SPEC._replace(classes=None))
    for likelihood in ("discretized_logistic", "logistic_mixture"):
        with pytest.raises(UsageError, match="expected images stored as integers"):
            lookup.build("vae", SPEC._replace(levels=None), likelihood=likelihood)


@pytest.mark.parametrize("net", ["conv", "resnet"])
@pytest.mark.parametrize("name", zoo.RECIPES)
def test_convolutions_need_images(name, net):
    words = "a network of its own" if name in OWN_NETWORK else "use net='mlp'"
    with pytest.raises(UsageError, match=words):
        lookup.build(name, SPEC._replace(shape=(5,)), net=net)


def test_state_that_would_be_lost_is_refused():
    """A loss that forgets the codebook would train on, with a codebook that never changes."""
    made = recipe("vq_vae-mlp")

    def forgetful(*inputs):
        loss, (metrics, _) = made.loss(*inputs)
        return loss, (metrics, {})

    broken = made._replace(objective=lambda model: forgetful)
    with pytest.raises(ValueError, match="no updates of codebook"):
        steps.trainer(broken, data(), TrainSettings(batch_size=B), meshes.make(1), 1).init()


def test_unknown_recipes_are_named_with_the_nearest():
    for name in zoo.RECIPES:
        assert lookup.recipe(name) is zoo.RECIPES[name]
    with pytest.raises(UsageError, match=r"unknown model 'betavae'; did you mean 'beta_vae'\?"):
        lookup.recipe("betavae")
    with pytest.raises(UsageError, match=r"unknown model 'xyzzy' \(models: .*beta_vae"):
        lookup.recipe("xyzzy")


def test_what_a_recipe_says_of_its_numbers():
    """Probabilities only of discrete data; a bound wherever there is a posterior."""
    for name in zoo.RECIPES:
        for binary in (True, False):
            spec = SPEC._replace(binary=binary, levels=2 if binary else 256)
            made = lookup.build(name, spec)
            assert made.has_bound == (name not in ("ae", "denoising_ae"))
            assert made.log_px == ("probability" if binary else "cross_entropy")
            assert lookup.build(name, spec, likelihood="gaussian").log_px == "density"
            levels = lookup.build(name, spec, likelihood="discretized_logistic")
            assert levels.log_px == "probability"


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("likelihood", get_args(get_type_hints(Body)["likelihood"]))
def test_what_log_px_is_the_logarithm_of(likelihood, binary):
    """Summed over all images of one pixel it is 1, or integrated, or neither."""
    levels = 2 if binary else 256
    spec = DataSpec("one pixel", (1, 1, 1), binary=binary, levels=levels, examples=N)
    made = lookup.build("vae", spec, net="mlp", widths=(4,), latent_dim=2, likelihood=likelihood)

    @jax.jit
    def log_px(x):
        weights = made.model.init(jax.random.key(0), jnp.zeros((1, 1, 1, 1)))
        z = jnp.broadcast_to(jnp.array([[2.0, -1.0]]), (len(x), 2))
        return made.model.decode(weights, z).log_prob(x.reshape(-1, 1, 1, 1))

    x = np.linspace(-9, 10, 40_001) if "gaussian" in likelihood else np.linspace(0, 1, 2001)
    both = np.concatenate([np.linspace(0, 1, levels), x])
    px = np.exp(np.float64(log_px(jnp.float32(both))))
    totals = {
        "probability": px[:levels].sum(),
        "density": np.trapezoid(px[levels:], x),
    }
    for log_px, total in totals.items():
        assert (abs(total - 1) < 1e-4) == (log_px == made.log_px), totals


@pytest.mark.parametrize(
    "name", rare([n for n in zoo.RECIPES if n not in ("ae", "denoising_ae")], "deep_vae")
)
def test_what_a_recipe_says_of_its_codes(name, assert_mean):
    """A posterior mean is the mean of the draws, and nothing else is called so."""
    case = f"{name}-mlp"
    made, batch = recipe(case), batch_of(case)
    weights = jax.tree.map(lambda leaf: 2 * jnp.asarray(leaf), variables(case))
    draws = 1_000 if name in OWN_NETWORK else 20_000

    @jax.jit
    def distances(key):
        features = made.model.encode(weights, batch.x, batch.y)
        code = made.model.reparameterize(weights, None, features, False).code

        def distance(key):
            return made.model.reparameterize(weights, key, features, False).z - code

        return jax.vmap(distance)(jax.random.split(key, draws))

    found = distances(jax.random.key(0))
    if made.code == "posterior mean":
        assert_mean(found, rounding=1e-5)
    elif name == "vq_vae":  # one point
        assert made.code == "nearest codes" and np.abs(found).max() == 0
    else:
        with pytest.raises(AssertionError):
            assert_mean(found, rounding=1e-5)


@pytest.mark.parametrize("likelihood", get_args(get_type_hints(Body)["likelihood"]))
def test_what_is_decoded_can_be_encoded_again(likelihood):
    """As it is; means of a Gaussian once they are clipped, as the error says."""
    name, arguments = CASES["vae-mlp"]
    run = run_of("vae-mlp")
    run = dataclasses.replace(
        run,
        plan=dataclasses.replace(run.plan, data=DataSettings()),
        recipe=lookup.build(
            name, SPEC._replace(binary=False, levels=256), **arguments, likelihood=likelihood
        ),
    )
    init = run.recipe.model.init(jax.random.key(0), examples())
    run = dataclasses.replace(run, variables=init)
    out = init["params"]["decoder"]["out"]
    out["bias"] = out["bias"].at[:].set(1.1 + jnp.arange(len(out["bias"])) % 2 * -0.2)
    decoded = run.reconstruct(np.asarray(examples()))
    if likelihood.startswith("gaussian"):
        assert 1 < decoded.max() < 1.5
        with pytest.raises(DataError, match=r"np\.clip\(x, 0, 1\) if .* Gaussian"):
            run.reconstruct(decoded)
        decoded = np.clip(decoded, 0, 1)
    again = run.reconstruct(decoded)
    assert np.isfinite(again).all() and (decoded.min() >= 0) and (decoded.max() <= 1)


def test_nats_are_called_what_they_are():
    """-log p(x) only where there is one; a code by its own name."""
    bound = {"elbo": -23.0, "elbo_standard_error": 0.5, "kl": 3.0, "kl_per_unit": (1.0,) * D}
    estimate = Estimate(7, -22.0, 0.25)
    numbers = Evaluation(9, "density", 0.1, 20.0, **bound, importance_weighted_elbo=estimate)
    for name in zoo.RECIPES:
        run = run_of(f"{name}-mlp")
        grey = SPEC._replace(binary=False, levels=None)
        for likelihood, spec in [("bernoulli", grey), ("gaussian", SPEC)]:
            arguments = {**run.plan.arguments, "likelihood": likelihood}
            made = lookup.build(name, spec, **arguments)
            columns = D if made.hierarchy is None else len(made.hierarchy.columns)
            numbers = dataclasses.replace(numbers, kl_per_unit=(1.0,) * columns)
            said = words.numbers(dataclasses.replace(run, recipe=made), numbers)
            assert ("log p(x" in str(said)) == (likelihood == "gaussian"), said
            assert ("cross-entropy" in said["reconstruction"]) == (likelihood == "bernoulli")
            assert said["MSE"].endswith(f"from the {made.code}")
            bound = [text for key, text in said.items() if "22.00 ± 0.25 nats" in text]
            assert len(bound) == 1 and ("7 importance samples" in bound[0])
            assert ("cross-entropies" in words.units([made])) == (likelihood == "bernoulli")


def test_vae_is_beta_vae_with_beta_one():
    """And beta is 4 unless told."""
    arguments = CASES["beta_vae-mlp"][1]
    made = [lookup.build("vae", SPEC, **arguments)]
    made += [lookup.build("beta_vae", SPEC, **arguments, **more) for more in ({"beta": 1.0}, {})]
    batch, weights = Batch(examples()), variables("vae-mlp")

    @jax.jit
    def losses(key):
        return [each.loss(weights, key, batch, jnp.int32(0)) for each in made]

    (plain, _), (one, _), (four, (metrics, _)) = losses(jax.random.key(0))
    np.testing.assert_array_equal(plain, one)
    assert metrics["kl"] > 0.1
    np.testing.assert_allclose(four, metrics["reconstruction"] + 4 * metrics["kl"], rtol=1e-6)


def test_one_draw_of_an_iwae_is_a_vae():
    """With the KL by Monte Carlo, and the same gradient, doubly reparameterized or not (k = 1)."""
    arguments = MLP | {"latent_dim": D}
    made = [
        lookup.build("vae", SPEC, kl="monte_carlo", **arguments),
        lookup.build("iwae", SPEC, k=1, **arguments),
    ]
    batch, weights = Batch(examples()), variables("vae-mlp")

    @jax.jit
    def gradients(key):
        return [jax.value_and_grad(m.loss, has_aux=True)(weights, key, batch, 0) for m in made]

    ((plain, _), first), ((one, _), second) = gradients(jax.random.key(0))
    np.testing.assert_allclose(plain, one, rtol=1e-6)
    chex.assert_trees_all_close(first, second, rtol=1e-4, atol=1e-6)


def test_arguments_have_help():
    """The command line takes its help from docstrings: every argument is in its recipe's."""
    for name, make in zoo.RECIPES.items():
        documented = (inspect.getdoc(make) or "").partition("Args:")[2]
        for argument in lookup.own(name):
            assert f"\n    {argument}: " in documented, (name, argument)


def test_flat_arguments_reach_their_records():
    given = {"net": "mlp", "widths": (7,), "beta": 2.0, "latent_dim": 5}
    seen = {}

    @functools.wraps(zoo.vae)
    def spy(data, body, bound, *, latent_dim):
        seen.update(body=body, bound=bound, latent_dim=latent_dim)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(zoo.RECIPES, "vae", spy)
        lookup.build("vae", SPEC, **given)
    assert (seen["body"].net, seen["body"].widths, seen["bound"].beta) == ("mlp", (7,), 2.0)
    assert seen["latent_dim"] == 5
    assert lookup.arguments("beta_vae")["beta"] == 4.0 and lookup.arguments("vae")["beta"] == 1.0
    with pytest.raises(UsageError, match="unknown argument 'temperature' for model 'vae'"):
        lookup.build("vae", SPEC, temperature=1.0)
