"""What a GPU computes is what the CPU computes: ``make test-gpu``, on a machine that has one."""

import os

import chex
import jax
import numpy as np
import pytest

from flaxvae import doctor
from flaxvae import plan as planning
from flaxvae.data import pipeline
from flaxvae.devices import batches
from flaxvae.devices import mesh as meshes
from flaxvae.parts import convolutions as cv
from flaxvae.training import step as steps

pytestmark = pytest.mark.gpu
# The other tests run on the CPU, and it is not this file that should start a backend for them.
if os.environ["JAX_PLATFORMS"] == "cpu" or jax.default_backend() != "gpu":
    pytest.skip("no GPU is visible to jax", allow_module_level=True)


@pytest.fixture
def gpu():
    return jax.devices()[0]


@pytest.fixture
def cpu():
    return jax.devices("cpu")[0]


@pytest.fixture
def exact():
    """float32 products in float32: by default a GPU may round their factors to 10 bits."""
    with jax.default_matmul_precision("highest"):
        yield


def trained(device, epochs, **choices):
    """The run of a VAE on one device: its plan's parts, and the state after some epochs."""
    plan = planning.make_plan(devices=1, epochs=epochs, latent_dim=8, **choices)
    data, mesh = pipeline.prepare(plan.data), jax.sharding.Mesh(np.array([device]), ("data",))
    recipe = plan.recipe(data.spec)
    with jax.default_device(device):
        trainer = steps.trainer(recipe, data, plan.training, mesh, epochs)
        state = trainer.init()
        for epoch in range(epochs):
            state = trainer.segment(state, *trainer.feed.at(epoch * trainer.steps_per_epoch))
    return recipe, data, mesh, state


@pytest.mark.parametrize("net", ["mlp", "conv"])
def test_training_equals_the_cpus(gpu, cpu, exact, net):
    ours = trained(gpu, 1, net=net)[-1]
    theirs = trained(cpu, 1, net=net, **({"convolutions": "gemm"} if net == "conv" else {}))[-1]
    assert int(ours.step) == int(theirs.step) > 5
    totals = jax.device_get((ours.totals, theirs.totals))
    chex.assert_trees_all_close(*totals, rtol=1e-4, atol=1e-3)  # nats
    params = jax.device_get([state.variables["params"] for state in (ours, theirs)])
    ours, theirs = (np.concatenate([x.ravel() for x in jax.tree.leaves(p)]) for p in params)
    # Where a gradient is nothing but rounding, Adam makes a whole step of it: here or there.
    assert np.mean(np.abs(ours - theirs) > 1e-4) < 0.01
    assert np.abs(ours - theirs).max() < 1e-2


def test_native_convolutions_equal_the_cpus(gpu, cpu, exact):
    rng = np.random.default_rng(0)
    shapes = ((4, 7, 8, 3), (3, 3, 3, 5), (5,))  # images, kernel, bias
    x, kernel, bias = (rng.normal(size=shape).astype(np.float32) for shape in shapes)

    def there_and_back(lowering, x, kernel):
        y = lowering.conv(lowering.enter(x), kernel, bias, 2)
        y = lowering.conv_transpose(y, kernel, bias[:3], 2, x.shape[1:3])
        return (lowering.leave(y) ** 2).mean()

    def computed(device, lowering):
        given = jax.device_put((x, kernel), device)
        gradient = jax.value_and_grad(lambda *a: there_and_back(lowering, *a), (0, 1))
        with jax.default_device(device):
            return jax.device_get(jax.jit(gradient)(*given))

    ours, theirs = computed(gpu, cv.NATIVE), computed(cpu, cv.GEMM)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_bf16_learns_as_float32_does(gpu):
    found = {}
    for precision in ("float32", "bf16"):
        recipe, data, mesh, state = trained(gpu, 20, net="conv", precision=precision)
        bound = batches.over_split(batches.bound_terms(recipe.model), mesh)
        terms = bound(data.test, state.variables, jax.random.key(0))
        found[precision] = terms["elbo"].mean(dtype="float64")
    assert found["bf16"] == pytest.approx(found["float32"], abs=0.1)  # nats


def test_doctor_names_it(gpu):
    (devices,) = doctor._devices()
    assert devices.ok and devices.said == f"{len(jax.devices())} x {gpu.device_kind}"
    assert meshes.make().size == len(jax.devices())
