"""The networks that are timed in PyTorch are flaxvae's: the same weights give the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks.case import Case
from benchmarks.contenders import ours

from flaxvae.core import Batch, elbo


def _exchanged(params, case):
    """Weights as PyTorch has them, under the same names."""
    kernels = {"kernel": "weight"}

    def one(path, leaf):
        *above, last = (key.key for key in path)
        a = np.asarray(leaf)
        if above[-1:] in (["dense"], ["dense_1"]):  # features are [h, w, c] here, [c, h, w] there
            a = _features_first(a, above[-1] == "dense", case)
        if last == "start":
            a = a.transpose(0, 3, 1, 2)
        elif last == "kernel":
            a = a.transpose(3, 2, 0, 1) if a.ndim == 4 else a.T
        name = ".".join([*above, kernels.get(last, last)]).removeprefix("decoder.start")
        return name or "start", a

    found = jax.tree_util.tree_leaves_with_path(params)
    return dict(one(path, leaf) for path, leaf in found)


def _features_first(a, rows, case):
    """A matrix's rows, or its columns, or a bias, reordered; their bias of ``dense`` is not."""
    if rows and a.ndim == 1:
        return a
    axis = 0 if rows else a.ndim - 1
    maps = (case.size // 4, case.size // 4, -1)
    order = np.arange(a.shape[axis]).reshape(maps).transpose(2, 0, 1).ravel()
    return np.take(a, order, axis)


def _noise(key, case):
    """What ``reparameterize`` draws with this key: of deep_vae [B, h, w, c] for each block."""
    if case.net == "resnet":
        return jax.random.normal(key, (case.images, case.shape.latents))
    from benchmarks.contenders.photographs import LEVELS

    shapes = [(s, s, c) for s, blocks, _, c in reversed(LEVELS[28]) for _ in range(blocks)]
    keys = jax.random.split(key, len(shapes))
    return [jax.random.normal(k, (case.images, *s)) for k, s in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize(
    "case",
    [Case("resnet", size=16, channels=3, images=4), Case("deep", images=4)],
    ids=lambda case: case.net,
)
def test_the_networks_of_photographs_are_the_same_in_pytorch(case):
    torch = pytest.importorskip("torch")
    from benchmarks.contenders import photographs

    recipe, data = ours.parts(case)
    model, key = recipe.model, jax.random.key(3)
    x = jnp.asarray(data.train.x, jnp.float32) / 255
    variables = jax.jit(model.init)(jax.random.key(0), x)
    ours_loss, ours_gradient = jax.jit(jax.value_and_grad(_loss), static_argnums=1)(
        variables["params"], model, key, x
    )
    theirs = photographs.MODELS[case.net](case)
    given = _exchanged(variables["params"], case)
    theirs.load_state_dict({name: torch.tensor(a) for name, a in given.items()})
    noise = _noise(key, case)

    def tensor(a):
        a = torch.tensor(np.asarray(a))
        return a.permute(0, 3, 1, 2) if a.ndim == 4 else a

    loss = theirs(tensor(x), jax.tree.map(tensor, noise))
    loss.backward()
    np.testing.assert_allclose(loss.item(), ours_loss, rtol=1e-6)
    expected = _exchanged(ours_gradient, case)
    for name, parameter in theirs.named_parameters():
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(
            parameter.grad.numpy(), expected[name], rtol=1e-5, atol=1e-5 * scale, err_msg=name
        )


def _loss(params, model, key, x):
    return -elbo(model, {"params": params}, key, Batch(x), train=True).elbo.mean()
