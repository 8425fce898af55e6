"""Flax's own VAE example, reproduced.

784-500-20 MLP, relu, batch 128, Adam 1e-3, all 60,000 training images, binarized dynamically.
The log in flax's examples/vae, which evaluates one draw of z on the fixed binarization, ends its
10th epoch at 103.6 nats and its 20th at 101.8. Here 20 epochs are 10, resumed.
"""

from __future__ import annotations

from experiments import runs
from experiments.table import Row
from flaxvae.analysis import bounds


def study() -> list[Row]:
    choices = {
        "dataset": "mnist",
        "binarization": "dynamic",
        "validation": 0.0,
        "net": "mlp",
        "widths": (500,),
        "latent_dim": 20,
    }
    rows = []
    run = runs.train("flax_example", "vae", epochs=10, **choices)
    for epochs, theirs, asked in ((10, 103.6, 102.0), (20, 101.8, 100.0)):
        if epochs > 10:
            run = runs.extend(run, epochs=epochs, **choices)
        found = bounds.evaluate(run, run.data().test)
        rows.append(
            Row(
                "test -ELBO, nats",
                run.spec.name,
                f"{epochs} epochs",
                f"{-found['elbo']:.2f} ± {found['elbo_standard_error']:.2f}",
                f"flax: {theirs}; asked: at most {asked:.1f}",
            )
        )
    return rows
