"""One list of properties for every recipe; a new one is tested by standing in RECIPES."""

import dataclasses
import functools
import math

import chex
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

from flaxvae import zoo
from flaxvae.data.pipeline import Data, Split
from flaxvae.errors import UsageError
from flaxvae.settings import TrainSettings
from flaxvae.training import mesh as meshes
from flaxvae.training import step as steps

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE, D, B, N = (8, 8, 1), 3, 16, 200
PER_EPOCH = N // B  # 12 steps, and 8 images left over

CASES = {
    f"{name}-{net}": (name, {"net": net, "latent_dim": D, "widths": (16,)})
    for name in zoo.RECIPES
    for net in ("mlp", "conv")
}
for likelihood in ("gaussian", "gaussian_shared", "gaussian_pixel"):
    name, arguments = CASES["vae-mlp"]
    CASES[f"vae-{likelihood}"] = name, arguments | {"likelihood": likelihood}
CASES["vae-monte_carlo"] = "vae", CASES["vae-mlp"][1] | {"kl": "monte_carlo", "samples": 2}

# Training compiles for seconds: every recipe once, and the convolutions once.
every_case = pytest.mark.parametrize("case", CASES)
every_recipe = pytest.mark.parametrize("case", [*(f"{n}-mlp" for n in zoo.RECIPES), "vae-conv"])


@functools.cache
def recipe(case: str) -> zoo.Recipe:
    name, arguments = CASES[case]
    return zoo.recipe(name)(zoo.DataSpec("noise", SHAPE, binary=True), **arguments)


@functools.cache
def data() -> Data:
    x = np.random.default_rng(0).integers(0, 256, (N, *SHAPE), np.uint8)
    split = Split(x, None, 255.0)
    spec = zoo.DataSpec("noise", SHAPE, binary=True)
    return Data(spec, split, None, split, 255.0, "dynamic", "nowhere", "")


@functools.cache
def trainer(case: str, devices: int, seed: int = 0) -> steps.Trainer:
    settings = TrainSettings(batch_size=B, seed=seed)
    return steps.trainer(recipe(case), data(), settings, meshes.make(devices), epochs=3)


@functools.cache
def variables(case: str):
    """Weights by NumPy, which compiles nothing, of the shapes that ``init`` gives."""
    example = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
    shapes = jax.eval_shape(recipe(case).model.init, jax.random.key(0), example)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: (
            np.float32(rng.normal(size=leaf.shape, scale=leaf.shape[0] ** -0.5))
            if leaf.shape
            else np.float32(rng.normal())
        ),
        shapes,
    )


def examples() -> jax.Array:
    return jnp.asarray(data().train.x[:B] / 255.0, jnp.float32)


def advance(made: steps.Trainer, state: steps.TrainState, count: int) -> steps.TrainState:
    """``count`` more steps, cut where an epoch ends, as ``training.loop`` does it."""
    while count:
        step = int(state.step)
        some = min(count, PER_EPOCH - step % PER_EPOCH)
        state = made.segment(state, made.order(step // PER_EPOCH), some)
        count -= some
        if int(state.step) % PER_EPOCH == 0:
            totals = jax.tree.map(jnp.zeros_like, state.totals)
            state = dataclasses.replace(state, totals=totals)
    return state


@every_case
def test_shapes_and_dtypes(case):
    model, x, key = recipe(case).model, jnp.zeros((5, *SHAPE)), jax.random.key(0)

    def run():
        variables = model.init(key, x[:1])
        latent = model.reparameterize(variables, key, model.encode(variables, x), False)
        p = model.decode(variables, latent.z)
        prior = model.decode(variables, model.prior_sample(variables, key, 7))
        values = {
            "rows": (p.log_prob(x), latent.log_ratio, latent.penalty),
            "latents": (latent.code, latent.z),
            "images": (p.mean, p.sample(key)),
            "drawn": prior.mean,
        }
        return variables, latent.kl, values

    variables, kl, values = jax.eval_shape(run)
    assert "params" in variables
    assert kl.shape[0] == 5 and kl.ndim == 2
    chex.assert_shape(values["rows"], (5,))
    chex.assert_shape(values["latents"], (5, D))
    chex.assert_shape(values["images"], (5, *SHAPE))
    assert values["drawn"].shape == (7, *SHAPE)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((variables, kl, values))}
    assert dtypes == {jnp.dtype("float32")}


@every_case
def test_a_key_decides_the_draws(case):
    model, x, weights = recipe(case).model, examples(), variables(case)

    @jax.jit
    def run(key, other):
        features = model.encode(weights, x)
        latents = [model.reparameterize(weights, k, features, False) for k in (key, other, None)]
        priors = [model.prior_sample(weights, k, B) for k in (key, other)]
        return [latent.z for latent in latents], priors, latents[0].code

    one, two = jax.random.key(1), jax.random.key(2)
    (z, other, at_mean), (prior, other_prior), code = run(one, two)
    (again, same, _), (prior_again, _), _ = run(one, one)
    chex.assert_trees_all_equal((z, prior), (again, prior_again), (same, prior))
    np.testing.assert_array_equal(at_mean, code)
    assert (np.asarray(prior) != np.asarray(other_prior)).all()
    if recipe(case).has_bound:
        assert (np.asarray(z) != np.asarray(other)).all()
        assert (np.asarray(z) != np.asarray(code)).all()
    else:
        np.testing.assert_array_equal(z, other)


@every_case
def test_gradients_reach_every_parameter(case):
    gradient = jax.jit(jax.grad(recipe(case).loss, has_aux=True))
    batch = steps.Batch(examples())
    grads, (metrics, updates) = gradient(variables(case), jax.random.key(1), batch, jnp.int32(0))
    chex.assert_tree_all_finite((grads, metrics, updates))
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads["params"]):
        assert np.abs(np.asarray(leaf)).max() > 1e-6, jax.tree_util.keystr(path)


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
    state, order, totals = made.init(), jnp.zeros((PER_EPOCH, B), jnp.int32), [0.0]
    for _ in range(5):
        state = made.segment(state, order, 1)
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


@pytest.mark.parametrize("name", zoo.RECIPES)
@pytest.mark.parametrize(
    "arguments",
    [
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
        {"net": "resnet"},
        {"activation": "sigmoid", "net": "mlp"},
        {"likelihood": "poisson"},
        {"kl": "closed"},
    ],
    ids=str,
)
def test_arguments_out_of_range(name, arguments):
    accepted = zoo.recipe(name).__kwdefaults__
    if not arguments.keys() <= accepted.keys():
        pytest.skip(f"{name} does not take it")
    wrong = next(iter(arguments))
    with pytest.raises(UsageError, match=f"^--{wrong.replace('_', '-')} .*: expected ") as error:
        zoo.recipe(name)(zoo.DataSpec("noise", SHAPE), **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", zoo.RECIPES)
def test_conv_needs_images(name):
    with pytest.raises(UsageError, match="use --net mlp"):
        zoo.recipe(name)(zoo.DataSpec("table", (5,)), net="conv")


def test_unknown_recipes_are_named_with_the_nearest():
    for name in zoo.RECIPES:
        assert zoo.recipe(name) is zoo.RECIPES[name]
    with pytest.raises(UsageError, match=r"unknown model 'betavae'; did you mean 'beta_vae'\?"):
        zoo.recipe("betavae")
    with pytest.raises(UsageError, match=r"unknown model 'xyzzy' \(models: .*beta_vae"):
        zoo.recipe("xyzzy")


def test_what_a_recipe_says_of_its_numbers():
    """Probabilities only of binary data under Bernoulli; a bound wherever there is a posterior."""
    for name, make in zoo.RECIPES.items():
        for binary in (True, False):
            spec = zoo.DataSpec("noise", SHAPE, binary=binary)
            made = make(spec)
            assert made.has_bound == (name != "ae")
            assert made.probabilities == (binary and made.has_bound)
            assert not make(spec, likelihood="gaussian").probabilities


def test_vae_is_beta_vae_with_beta_one():
    """And beta is 4 unless told."""
    arguments = CASES["beta_vae-mlp"][1]
    spec = zoo.DataSpec("noise", SHAPE)
    made = [recipe("vae-mlp"), zoo.beta_vae(spec, beta=1.0, **arguments), recipe("beta_vae-mlp")]
    batch, weights = steps.Batch(examples()), variables("vae-mlp")

    @jax.jit
    def losses(key):
        return [each.loss(weights, key, batch, jnp.int32(0)) for each in made]

    (plain, _), (one, _), (four, (metrics, _)) = losses(jax.random.key(0))
    np.testing.assert_array_equal(plain, one)
    assert metrics["kl"] > 0.1
    np.testing.assert_allclose(four, metrics["reconstruction"] + 4 * metrics["kl"], rtol=1e-6)


def test_arguments_have_help():
    """The command line takes its help from docstrings: every argument is in its recipe's."""
    for make in zoo.RECIPES.values():
        documented = (make.__doc__ or "").partition("Args:")[2]
        for name in make.__kwdefaults__:
            assert f"\n        {name}: " in documented, (make.__name__, name)
