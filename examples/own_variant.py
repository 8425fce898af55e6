"""A variant of your own: a recipe that trains, saves and loads like one of the package's.

    python examples/own_variant.py
    flaxvae train --recipes examples/own_variant.py --model sigmoid_vae --middle 2000

The KL's weight rises along a sigmoid, as in Bowman et al. 2016. The flags of the command, and their
help, come from the signature and the docstring.
"""

from functools import partial

import jax
import numpy as np
from sklearn.datasets import load_digits

import flaxvae as fv
from flaxvae.parts import objectives


def sigmoid_vae(
    data: fv.DataSpec,
    body: fv.Body = fv.Body(),
    *,
    latent_dim: int = 20,
    middle: float = 1000.0,
    width: float = 200.0,
) -> fv.Recipe:
    """VAE whose KL weight rises along a sigmoid (Bowman et al. 2016).

    Args:
        latent_dim: latent dimensions.
        middle: step at which the weight is one half.
        width: steps in which the sigmoid rises around its middle from 0.5 to 0.73.
    """

    def weight(step):
        return jax.nn.sigmoid((step - middle) / width)

    plain = fv.vae(data, body, latent_dim=latent_dim)
    return plain._replace(
        objective=partial(objectives.negative_elbo, price=objectives.weighted(weight)),
        schedules={"kl_weight": weight},  # a column of the history
    )


def main(epochs: int = 40, run: str | None = None) -> fv.Run:
    digits = load_digits()
    data = {"x_train": digits.images / 16, "y_train": digits.target}  # as in an .npz
    settings = {"net": "mlp", "widths": (256, 128), "middle": 200, "width": 40}
    trained = fv.train(data, model=sigmoid_vae, epochs=epochs, run=run, **settings)
    print(trained)
    weights = trained.history["kl_weight"]
    print(f"KL weight {weights[0]:.3f} -> {weights[-1]:.3f}")

    # A run folder names its model. Only you can say which code that is.
    loaded = fv.load(trained.path, recipes={"sigmoid_vae": sigmoid_vae})
    x = np.asarray(data["x_train"], np.float32)
    np.testing.assert_array_equal(loaded.encode(x), trained.encode(x))
    return loaded


if __name__ == "__main__":
    main()
