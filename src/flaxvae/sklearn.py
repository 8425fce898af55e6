"""A scikit-learn estimator: any recipe as a transformer, a density and a detector of outliers.

    from flaxvae.sklearn import VAE

    vae = VAE(latent_dim=2, random_state=0).fit(X)  # [N, D] rows of a table, standardised
    vae = VAE(shape=(28, 28), latent_dim=2).fit(X)  # [N, 784] images, values in [0, 1] or bytes
    vae.transform(X), vae.score_samples(X), vae.predict(X), vae.sample(10)

It trains as ``flaxvae.train`` does, but in memory: no folder, no figures, and all rows are used.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ParamSpec, Self, TypeVar, Unpack

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    OutlierMixin,
    TransformerMixin,
)
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from flaxvae import api, declared, in_memory
from flaxvae.choices import Choices
from flaxvae.data import pixels
from flaxvae.data.arrays import ARRAYS
from flaxvae.data.columns import Columns
from flaxvae.data.dataset import Dataset, Part, assembled, taken
from flaxvae.errors import DataError, Stopped, UsageError
from flaxvae.lookup import Variant
from flaxvae.plan import make_plan
from flaxvae.signals import Interrupted
from flaxvae.synonyms import hint
from flaxvae.trained import Trained
from flaxvae.training import observers

# Choices of flaxvae.train that an estimator of rows in memory does not have.
WITHOUT = (
    *("dataset", "data_dir", "image_size", "resize", "background", "normal", "strict"),  # files
    *("seed", "checkpoint_every"),  # random_state, and nothing is written
)
SETTINGS = tuple(name for name in Choices.__annotations__ if name not in WITHOUT)
ROWS = 64  # at least as many are computed at once, so that fewer give the same bits
Init = TypeVar("Init")
Given = ParamSpec("Given")
Result = TypeVar("Result")


class SettingError(UsageError, ValueError):
    """A setting or an argument that does not fit: a ValueError, as scikit-learn's users expect."""


class RowsError(DataError, ValueError):
    """Rows that do not fit."""


def _raising_value_errors(method: Callable[Given, Result]) -> Callable[Given, Result]:
    """A method whose complaints are ValueErrors, too."""

    @functools.wraps(method)
    def checked(*args: Given.args, **options: Given.kwargs) -> Result:
        try:
            return method(*args, **options)
        except ValueError:
            raise
        except UsageError as error:
            raise SettingError(*error.args) from None
        except DataError as error:
            raise RowsError(*error.args) from None

    return checked


def _with_settings(init: Init) -> Init:
    """An ``__init__`` whose signature names each setting: scikit-learn reads parameters there."""
    function: Any = init
    found = inspect.signature(function)
    own = [p for p in found.parameters.values() if p.kind is not p.VAR_KEYWORD]
    named = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in SETTINGS
    ]
    function.__signature__ = found.replace(parameters=[*own, *named])
    return init


class VAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, OutlierMixin, BaseEstimator):
    """A variational autoencoder, or any other recipe, for rows X [N, D].

    ``transform`` gives codes, ``score_samples`` the ELBO, a lower bound on log p(x) in nats (Kingma
    & Welling 2013), and ``predict`` marks the rows with the lowest ones as outliers.

    Args:
        model: a recipe's name, such as "vae", "beta_vae" or "mog_vae", or a recipe from outside.
        shape: None: rows are those of a table. Columns are any numbers; they are standardised, and
            what comes out is in their own units. Else each row is an image (H, W) or (H, W, C), or
            a vector (D,), of values in [0, 1] or [-1, 1], or of bytes, whole numbers or floats. All
            later rows are read on the scale of those of ``fit``.
        contamination: the fraction of the rows of ``fit`` that ``predict`` calls outliers, above 0
            and at most 0.5; None: those rows are not scored, and there is no ``predict``.
        draws: of z for each row that is scored.
        verbose: whether training reports its progress, or a function that is called with each
            epoch's row of metrics.
        random_state: decides the initial weights, the order of rows and all noise: a number is the
            seed of ``flaxvae.train``, a RandomState or None is drawn from.
        settings: those of ``flaxvae.train`` and of the recipe, such as latent_dim, epochs or beta;
            None leaves one to the recipe or the data. ``validation`` is 0 unless there is
            ``patience``.

    Attributes:
        trained_: the trained model, a ``flaxvae.Trained``.
        plan_: all settings, with what the data decided.
        history_: a row of metrics for each epoch.
        n_iter_: epochs trained.
        offset_: the threshold of ``predict``, a score in nats, unless contamination is None.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.
    """

    trained_: Trained

    @_with_settings
    def __init__(
        self,
        model: str | Variant = "vae",
        *,
        shape: tuple[int, ...] | None = None,
        contamination: float | None = 0.1,
        draws: int = 16,
        verbose: bool | api.Progress = False,
        random_state: int | np.random.RandomState | None = None,
        **settings: Unpack[Choices],
    ):
        for name in settings:
            if name not in SETTINGS:
                other = "; here it is 'random_state'"
                meant = other if name == "seed" else hint(name, SETTINGS)
                raise TypeError(f"VAE() got an unexpected keyword argument {name!r}{meant}")
        self.model = model
        self.shape = shape
        self.contamination = contamination
        self.draws = draws
        self.verbose = verbose
        self.random_state = random_state
        given: Mapping[str, Any] = settings
        for name in SETTINGS:
            setattr(self, name, given.get(name))

    @_raising_value_errors
    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on rows X [N, D]; labels y [N] are for conditional models, others ignore them.

        Raises:
            ValueError: X is no array of finite numbers, or has fewer than two rows.
            SettingError: one that does not fit the model, the data or the others.
            RowsError: images with values out of range.
            DivergedError: a loss, a gradient or a state is not finite.
        """
        share = declared.conform("contamination", _SHARE, self.contamination)
        declared.conform("draws", declared.Positive, self.draws)
        X = validate_data(self, X, dtype=self._dtype, ensure_min_samples=2)
        chosen = {name: getattr(self, name) for name in SETTINGS}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        if "patience" not in chosen:
            chosen.setdefault("validation", 0.0)
        plan = make_plan(self.model, dataset=ARRAYS, seed=_seed(self.random_state), **chosen)
        with _watching(self.verbose) as watch:
            try:
                found = in_memory.fit(plan, self._dataset(X, y), watch)
            except Stopped as stopped:  # a search stops, too, and does not go on to the next fit
                number = stopped.exit_code - 128
                raise (
                    KeyboardInterrupt() if number == signal.SIGINT else Interrupted(number)
                ) from None
        self.plan_, self.trained_, self.history_ = found
        self.n_iter_ = len(self.history_)
        self.__dict__.pop("offset_", None)
        if share is not None:
            self.offset_ = float(np.percentile(self._scores(X, y), 100 * share))
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """``fit``, then ``transform`` of the same rows."""
        return self.fit(X, y).transform(X, y)

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """``fit``, then ``predict`` of the same rows."""
        return self.fit(X, y).predict(X, y)

    @_raising_value_errors
    def transform(self, X: Any, y: Any = None) -> np.ndarray:
        """The code of each row, without noise, such as the mean of q(z|x): [N, latents] float32.

        A conditional model needs labels y [N], here and below.
        """
        X = self._validated(X)
        return self.trained_.encode(*self._padded(X, y))[: len(X)]

    @_raising_value_errors
    def inverse_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """The mean of p(x|z) for each code z: [N, latents] -> [N, D], on the scale of X."""
        check_is_fitted(self)
        return self._rows(self.trained_.decode(check_array(X, dtype=np.float32), y))

    @_raising_value_errors
    def score_samples(self, X: Any, y: Any = None) -> np.ndarray:
        """The ELBO of each row in nats, [N]: the higher, the more normal.

        It is averaged over ``draws`` of z, whose noise depends on the row alone. Of a table it
        bounds the log density in the units of X,

            ELBO(x) = ELBO(standardised x) - sum_j log std_j,

        so that it compares with other densities; of images it is that of pixels in [0, 1], as
        everywhere in flaxvae. A plain autoencoder gives log p(x | z = f(x)).
        """
        return self._scores(self._validated(X), y)

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of ``score_samples``, in nats."""
        return float(self.score_samples(X, y).mean())

    @_raising_value_errors
    def decision_function(self, X: Any, y: Any = None) -> np.ndarray:
        """``score_samples`` above the threshold ``offset_``, [N]: negative for outliers."""
        found = self.score_samples(X, y)
        if not hasattr(self, "offset_"):
            raise UsageError(
                "--contamination None: expected a fraction, for a threshold; fit again"
            )
        return found - self.offset_

    def predict(self, X: Any, y: Any = None) -> np.ndarray:
        """-1 for outliers, 1 for other rows, [N]."""
        return np.where(self.decision_function(X, y) >= 0, 1, -1)

    @_raising_value_errors
    def sample(
        self,
        n_samples: int = 1,
        *,
        y: Any = None,
        temperature: float | tuple[float, ...] = 1.0,
        means: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> np.ndarray:
        """Draws x ~ p(x|z), z ~ p(z), [n_samples, D], on the scale of X.

        With ``means`` those of p(x|z) instead, which look better as images. ``temperature`` scales
        the prior's standard deviation; of a conditional model y is one label, or one a draw.

        Raises SettingError where there is no prior to draw from, as over the codes of vq_vae.
        """
        check_is_fitted(self)
        how: dict[str, Any] = {"y": y, "temperature": temperature, "draw_pixels": not means}
        return self._rows(self.trained_.sample(n_samples, seed=_seed(random_state), **how))

    # ---- how rows become examples, and examples rows

    @property
    def _dtype(self) -> Any:
        """Whole numbers stay what they are where they may be bytes."""
        return np.float64 if self.shape is None else "numeric"

    def _dataset(self, X: np.ndarray, y: Any) -> Dataset:
        """The rows as examples, all of them for training."""
        y = _labels(y)
        facts: dict[str, Any]
        x: Any
        if self.shape is None:
            names = getattr(self, "feature_names_in_", [f"x{i}" for i in range(X.shape[1])])
            mean, std = X.mean(0), X.std(0)
            std = np.where(std > 1e-12 * np.abs(mean), std, 1.0)  # a constant's is rounding
            columns = Columns(tuple(map(str, names)), tuple(mean.tolist()), tuple(std.tolist()))
            x, peak = columns.standardized(X), 1.0
            facts = {"kind": "table", "columns": columns}
        else:
            (x,), form, _ = pixels.images({"X": self._shaped(X)})
            peak, facts = form.peak, {"signed": form.signed}
        whole = Part(x, y)
        parts = {"training": whole, "test": taken(whole, np.arange(0))}
        return assembled(ARRAYS, "X", parts, peak, **facts)

    def _shaped(self, X: np.ndarray) -> np.ndarray:
        """[N, D] as a model takes it."""
        if self.shape is None:
            return X
        shape = tuple(self.shape)
        if math.prod(shape) != X.shape[1]:
            raise UsageError(
                f"--shape {shape} of {math.prod(shape)} values: expected {X.shape[1]}, the columns "
                "of X"
            )
        return X.reshape(-1, *shape)

    def _images(self, X: np.ndarray) -> np.ndarray:
        """Rows [N, D] as images, black and white where ``fit`` found them, whatever X holds.

        A batch may hold dark images alone, and its own values would then say another scale.
        """
        trained = self.trained_
        peak, floats = trained.peak or 1.0, X.dtype.kind == "f"
        if trained.signed:
            pixels.check_range(X.dtype, pixels.Values(*_range((X + 1.0) / 2), False), 1.0, "X")
            return self._shaped(pixels.Form(np.float32, 1.0, signed=True).of(X))
        low, high = _range(X)
        pixels.check_range(X.dtype, pixels.Values(low, high, not floats), peak, "X")
        if peak > 1 and floats and (np.floor(X) != X).any():
            if high <= 1:
                raise DataError(
                    f"X are {X.dtype} from {low:.9g} to {high:.9g}; expected 0 to {peak:g}, as in "
                    f"fit: multiply by {peak:g}"
                )
            X, peak = X / peak, 1.0
        dtype = X.dtype if peak == 1 else np.uint8 if peak <= 255 else np.uint16
        return self._shaped(X.astype(dtype, copy=False))

    def _rows(self, x: np.ndarray) -> np.ndarray:
        """What a model decodes, [N, *shape], as rows on the scale of X."""
        trained = self.trained_
        if self.shape is not None:
            x = 2 * x - 1 if trained.signed else x * np.float32(trained.peak or 1)
            if len(self.shape) == 3 and pixels.channels_first(tuple(self.shape)):
                x = np.moveaxis(x, -1, 1)
        return x.reshape(len(x), -1)

    def _validated(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=self._dtype)

    def _padded(self, X: np.ndarray, y: Any) -> tuple[np.ndarray, Any]:
        """Rows as a model takes them, and labels: at least ROWS, by repeating them."""
        rows = np.arange(max(len(X), ROWS)) % len(X)
        y = _labels(y)
        x = X if self.shape is None else self._images(X)
        return x[rows], y[rows] if y is not None and y.shape == (len(X),) else y

    def _scores(self, X: np.ndarray, y: Any) -> np.ndarray:
        trained = self.trained_
        found = -trained.score(*self._padded(X, y), samples=self.draws)[: len(X)].astype(np.float64)
        return found if trained.columns is None else found - np.log(trained.columns.std).sum()

    # ---- what scikit-learn asks for

    @property
    def _n_features_out(self) -> int:
        return self.trained_.latent_size

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]  # in which all is computed
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """A recipe has functions, which are made again from the plan."""
        state = dict(super().__getstate__())
        if "trained_" in state:
            state["trained_"] = in_memory.packed(state["trained_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "trained_" in state:
            self.trained_ = in_memory.unpacked(state["plan_"], state["trained_"])


_SHARE = Annotated[float, declared.Within(lambda x: 0 < x <= 0.5, "above 0, at most 0.5")] | None


class _Warning(observers.Quiet):
    """A watcher whose remarks are warnings."""

    def note(self, text: str) -> None:
        warnings.warn(text, stacklevel=2)


@contextlib.contextmanager
def _watching(verbose: Any) -> Iterator[Any]:
    if verbose:
        with api.watching(verbose if callable(verbose) else True) as watch:
            yield watch
    else:
        yield _Warning()


def _seed(random_state: Any) -> int:
    """A seed of flaxvae: the number, or one that is drawn."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**32, dtype=np.uint32))


def _range(x: np.ndarray) -> tuple[float, float]:
    return float(x.min()), float(x.max())


def _labels(y: Any) -> np.ndarray | None:
    """Labels as an array, of text where Python's objects are."""
    if y is None:
        return None
    found = np.asarray(y)
    text = found.dtype == object and all(isinstance(value, str) for value in found.flat)
    return found.astype(np.str_) if text else found
