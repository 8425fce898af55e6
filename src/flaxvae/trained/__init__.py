"""A trained model: a recipe with its variables, and what it can do with arrays.

    model = Trained(recipe, state.variables)
    model.encode(x), model.decode(z), model.sample(64), model.reconstruct(x), model.score(x)

It needs no folder; a ``Run`` is a Trained with the folder that it came from.
"""

from flaxvae.trained.completion import Restored as Restored
from flaxvae.trained.model import Path as Path
from flaxvae.trained.model import Trained as Trained
from flaxvae.trained.model import evaluate as evaluate
