"""The KL's weight of other programs: by hand, and by the gradients of both losses."""

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxvae import cli
from flaxvae.analysis.beta import Loss
from flaxvae.distributions import Normal, kl_normal, standard_normal
from flaxvae.errors import UsageError, typed_by
from flaxvae.parts import likelihoods

B, D, L = 6, 5, 3


@pytest.mark.parametrize(
    ("loss", "b", "variance"),
    [
        # mean squared error + b KL: b D / 2
        (Loss(pixels=784), 1.0, 392.0),
        (Loss(pixels=784), 0.00025, 0.098),
        # sum of squared errors + b KL: b / 2
        (Loss(reconstruction="sum"), 1.0, 0.5),
        # half the sum + KL is a unit Gaussian; half the mean: b D
        (Loss(reconstruction="sum", factor=0.5), 1.0, 1.0),
        (Loss(factor=0.5, pixels=784), 1.0, 784.0),
        # both means: b D / (2 L)
        (Loss(kl="mean", pixels=784, latent_dim=20), 1.0, 19.6),
        # both totals over a batch are sums; a total in one term counts the images
        (Loss(reconstruction="total", kl="total"), 1.0, 0.5),
        (Loss(kl="total", pixels=784, batch_size=100), 0.01, 392.0),
        (Loss(reconstruction="total", batch_size=100), 1.0, 0.005),
        # pixels from -1 to 1: four times the error
        (Loss(reconstruction="sum", span=2), 1.0, 0.125),
    ],
)
def test_by_hand(loss, b, variance):
    assert loss.sigma(b) ** 2 == pytest.approx(variance, rel=1e-12)
    assert loss.beta(b) == pytest.approx(variance, rel=1e-12)  # sigma 1
    for sigma in (0.1, 2.0):
        assert loss.beta(b, sigma) == pytest.approx(variance / sigma**2, rel=1e-12)
        assert loss.b(loss.beta(b, sigma), sigma) == pytest.approx(b, rel=1e-12)
    assert loss.beta(b, loss.sigma(b)) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "beta"),
    [
        (Loss("bce", pixels=784), 784.0),
        (Loss("bce", "sum"), 1.0),
        (Loss("bce", "mean", "mean", pixels=784, latent_dim=20), 39.2),
        (Loss("bce", "sum", "mean", latent_dim=20), 0.05),
        (Loss("bce", "total", "total"), 1.0),
        (Loss("bce", "total", batch_size=128), 1 / 128),
    ],
)
def test_cross_entropy_by_hand(loss, beta):
    assert loss.beta(1.0) == pytest.approx(beta, rel=1e-12)
    assert loss.b(loss.beta(0.3)) == pytest.approx(0.3, rel=1e-12)


REDUCED = {
    "mean": jnp.mean,
    "sum": lambda x: x.reshape(len(x), -1).sum(-1).mean(),
    "total": jnp.sum,
}


def theirs(loss, b, parameters, x):
    """The loss as other programs write it, on pixels that are ``span`` apart."""
    x, m = loss.span * x - 0.3, loss.span * parameters["m"] - 0.3
    mean, log_var = parameters["mean"], parameters["log_var"]
    error = jnp.square(x - m)
    if loss.loss == "bce":
        p = jax.nn.sigmoid(parameters["m"])
        error = -(parameters["x"] * jnp.log(p) + (1 - parameters["x"]) * jnp.log(1 - p))
    kl = -0.5 * (1 + log_var - mean**2 - jnp.exp(log_var))
    return loss.factor * REDUCED[loss.reconstruction](error) + b * REDUCED[loss.kl](kl)


def ours(likelihood, beta, parameters, x):
    """-E[log p(x|z)] + beta KL, from the parts that recipes are made of."""
    p = likelihood.distribution({}, parameters["m"])
    kl = kl_normal(Normal(parameters["mean"], parameters["log_var"]), standard_normal((B, L)))
    return -p.log_prob(x).mean() + beta * kl.sum(-1).mean()


@pytest.mark.parametrize(
    ("loss", "sigma"),
    [
        (Loss(pixels=D), 1.0),
        (Loss(factor=0.5, kl="mean", pixels=D, latent_dim=L, span=2), 0.3),
        (Loss(reconstruction="total", batch_size=B), 2.0),
        (Loss(kl="total", pixels=D, batch_size=B), 1.0),
        (Loss("bce", pixels=D), None),
        (Loss("bce", "total", "mean", latent_dim=L, batch_size=B), None),
    ],
)
def test_gradients_are_parallel(loss, sigma):
    """And their lengths are ``scale`` to one."""
    keys = iter(jax.random.split(jax.random.key(0), 4))
    sizes = {"m": D, "mean": L, "log_var": L}
    parameters = {name: jax.random.normal(next(keys), (B, size)) for name, size in sizes.items()}
    x = jax.random.uniform(next(keys), (B, D))
    b = 0.7
    if sigma is None:
        likelihood, beta, scale = likelihoods.bernoulli(D), loss.beta(b), loss.scale()
    else:
        likelihood = likelihoods.gaussian(D, sigma)
        beta, scale = loss.beta(b, sigma), loss.scale(sigma)
    there = jax.grad(lambda p: theirs(loss, b, p | {"x": x}, x))(parameters)
    here = jax.grad(lambda p: ours(likelihood, beta, p, x))(parameters)
    for name in sizes:
        np.testing.assert_allclose(there[name], scale * here[name], rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "--reconstruction mean without --pixels"),
        ({"reconstruction": "sum", "pixels": 4}, "--pixels 4 has no effect"),
        ({"pixels": 4, "kl": "mean"}, "--kl mean without --latent-dim"),
        ({"pixels": 4, "latent_dim": 2}, "--latent-dim 2 has no effect"),
        ({"pixels": 4, "kl": "total"}, "without --batch-size"),
        ({"reconstruction": "total", "kl": "total", "batch_size": 9}, "--batch-size 9 has no"),
        ({"loss": "bce", "reconstruction": "sum", "span": 2}, "--span 2 with --loss bce"),
        ({"reconstruction": "sum", "factor": 0}, "--factor 0: expected a number above 0"),
    ],
)
def test_what_cannot_be(options, words):
    with typed_by("flaxvae"), pytest.raises(UsageError, match=words):
        Loss(**options)


@pytest.mark.parametrize("flag", ["--sigma 1e-200", "--factor 1e200", "--span 1e-40"])
def test_numbers_that_no_float_can_take(flag, capsys):
    code, _, err = said(f"beta 1 --pixels 784 {flag}", capsys)
    assert code == 2 and "from 1e-30 to 1e+30" in err and err.count("\n") == 1


def said(line, capsys):
    code = 0
    try:
        cli.main(line.split())
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert "--help" in line or all(len(line) <= 80 for line in out.splitlines())
    return code, " ".join(out.split()), err


def test_the_command(capsys):
    code, out, _ = said("beta 1 --pixels 784", capsys)
    assert code == 0 and "--likelihood gaussian --beta 392 or" in out
    assert "--sigma 19.799 " in out and "posterior collapse" in out
    code, out, _ = said("beta 0.00025 --pixels 784", capsys)
    assert code == 0 and "--sigma 0.31305 " in out and "collapse" not in out
    code, out, _ = said("beta 0.098 --pixels 784 --back", capsys)
    assert code == 0 and "+ 0.00025 * sum KL" in out and "--beta 0.098 " in out
    code, out, _ = said("beta 1 --pixels 784 --loss bce", capsys)
    assert code == 0 and "--beta 784" in out and "collapse" in out
    code, out, _ = said("beta 1 --loss bce --reconstruction sum", capsys)
    assert code == 0 and "ELBO of a Bernoulli scale" in out
    for line, words in [
        ("beta", "required"),
        ("beta 0", "weight 0: expected a number above 0"),
        ("beta nan --pixels 4", "nan"),
        ("beta 1 --loss bce --pixels 4 --sigma 2", "--sigma 2 with --loss bce"),
        ("beta 1", "--pixels N"),
    ]:
        code, out, err = said(line, capsys)
        assert (code, out) == (2, "") and words in err and err.count("\n") == 1


def test_the_help_derives_it(capsys):
    code, out, _ = said("beta --help", capsys)
    assert code == 0 and "sigma^2 = b D / 2" in out and "sigma^2 = c / (2 a)" in out


def test_it_needs_no_jax():
    code = (
        "import sys\nfrom flaxvae import cli\ncli.main(['beta', '1', '--pixels', '784'])\n"
        "print('jax' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    assert math.sqrt(392) == pytest.approx(19.799, rel=1e-4) and "19.799" in done.stdout
