"""Sentences from made-up numbers: each rule alone, at its edge, and a healthy model left alone."""

import dataclasses
import re

import numpy as np
import pytest

from flaxvae import declared, lookup, zoo
from flaxvae.analysis.aggregate_posterior import Aggregate, Bracket
from flaxvae.analysis.calibration import Bin, Calibration
from flaxvae.analysis.coverage import Coverage
from flaxvae.analysis.diagnosis import Measured, known
from flaxvae.analysis.evaluation import Evaluation
from flaxvae.analysis.judgement import RULES, judge
from flaxvae.analysis.story import Story, story
from flaxvae.plan import make_plan
from flaxvae.recipe import DataSpec
from flaxvae.settings import TrainSettings

TEST = Evaluation(
    images=1000,
    log_px="probability",
    mse=0.01,
    reconstruction=75.0,
    elbo=-100.0,
    elbo_standard_error=0.3,
    kl=25.0,
    kl_per_unit=(2.0,) * 12 + (0.125,) * 8,
    code_variance=(0.9,) * 20,
)
# A model that is well: 8 of its 20 dimensions are of little use, which is usual.
WELL = Measured(
    arguments=lookup.arguments("vae") | {"likelihood": "bernoulli"},
    learning_rate=1e-3,
    optimizer="adam",
    values=784,
    test=TEST,
    story=Story(20, 9000, fall=90.0, late=0.02, swings=0.001, best_epoch=19, lost=0.1),
    train=dataclasses.replace(TEST, elbo=-97.0),
    lowest=0.0,
    highest=1.0,
    variance=0.05,
    own=75.0,
    other=300.0,
    calibration=Calibration(0.1, 0.1, (), 0.02, Bin(0.1, 0.35, 0.4)),
    aggregate=Aggregate(1000, 25.0, Bracket(6.9, 20.0), Bracket(5, 18), Bracket(2, 9), 0.5),
    coverage=Coverage(1000, 0.4, 0.8, 0.7),
)


def changed(name, **fields):
    """WELL, with fields of one of its records changed."""
    return {name: dataclasses.replace(getattr(WELL, name), **fields)}


def asked(**arguments):
    return {"arguments": {**WELL.arguments, **arguments}}


def kl(*nats, **others):
    return changed("test", kl_per_unit=nats, kl=sum(nats), **others)


def told(**fields):
    return {"story": WELL.story._replace(**fields)}


DEAD = (0.001,) * 18 + (0.5, 3.0)
COLLAPSED = kl(*DEAD)
GAUSSIAN = asked(likelihood="gaussian", sigma=0.1)


def names(**changes):
    return [found.name for found in judge(dataclasses.replace(WELL, **changes))]


def test_weights_from_elsewhere_get_no_advice_on_training():
    (found,) = judge(dataclasses.replace(WELL, **COLLAPSED))
    assert found.name == "collapse" and found.advice
    (other,) = judge(dataclasses.replace(WELL, **COLLAPSED, trained=False))
    assert other.said == found.said and other.advice == ()
    recipe = make_plan("vae").recipe(DataSpec("digits", (8, 8, 1), levels=17))
    assert not known(recipe, make_plan("vae", epochs=0), [], None).trained
    assert known(recipe, make_plan("vae", epochs=1), [], None).trained


def test_nothing_is_said_of_a_model_that_is_well_or_unknown():
    assert names() == [] and judge(Measured()) == []
    known = ("arguments", "learning_rate", "optimizer", "values", "test", "story")
    alone = Measured(**{name: getattr(WELL, name) for name in known})  # after a training
    assert judge(alone) == []


# Each breaks one rule; what it would explain as well is broken with it.
WRONG = {
    "not finite": changed("test", elbo=float("nan")),
    "data range": {"highest": 1 / 255} | COLLAPSED,
    "mean loss": asked(beta=784.0) | COLLAPSED,
    "beta": asked(beta=50.0) | COLLAPSED,
    "sigma too large": asked(likelihood="gaussian", sigma=1.0) | COLLAPSED,
    "sigma too small": asked(likelihood="gaussian", sigma=0.02),
    "learning rate": {"learning_rate": 0.1} | COLLAPSED,
    "underfit": told(late=0.3),
    "dead codebook": {"codes": 512, "grid": 49} | changed("test", codes_used=12) | {"train": None},
    "collapse": COLLAPSED,
    "ignored z": {"other": 80.0},
    "overfit": told(best_epoch=4, lost=9.0),
    "calibration": {"calibration": WELL.calibration._replace(worst=Bin(0.05, 0.3, 0.52))},
    "no prior": {"has_bound": False},
    "idle levels": kl(0.02, 24.98, kl_units=("4x4", "1x1"), active_blocks=1, code_variance=()),
    "holes": {"aggregate": WELL.aggregate._replace(holes=0.95)},
    "coverage": {"coverage": WELL.coverage._replace(most=0.3)},
}


def test_every_rule_is_tested():
    assert list(WRONG) == [rule.name for rule in RULES]
    known = {rule.name for rule in RULES}
    for i, rule in enumerate(RULES):  # what a rule explains comes after it
        assert {*rule.explains} <= known - {other.name for other in RULES[: i + 1]}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_alone(name):
    found = judge(dataclasses.replace(WELL, **WRONG[name]))
    assert [one.name for one in found] == [name]
    (one,) = found
    assert one.serious == (name not in ("no prior", "idle levels", "holes", "coverage"))
    assert re.fullmatch(r"[A-Z0-9bs].*[.]", one.text) and len(one.text) < 240
    assert one.text.count(" Try ") == bool(one.advice)


@pytest.mark.parametrize(
    "changes",
    [
        # one step short of each rule
        {"highest": 0.6},
        asked(beta=784.0 * 1.1),
        asked(beta=50.0),
        asked(beta=4.0),
        GAUSSIAN | asked(likelihood="gaussian", sigma=0.19),
        asked(likelihood="gaussian", sigma=0.06),
        asked(likelihood="gaussian_shared", sigma=1.0),
        {"learning_rate": 0.1},  # fast, but well
        told(swings=0.05),  # shaky, but not fast
        {"codes": 512, "grid": 49} | changed("test", codes_used=200) | {"train": None},
        # few images can show few codes
        {"codes": 512, "grid": 1} | changed("test", codes_used=12) | {"train": None},
        told(late=0.08),
        told(steps=250),
        kl(*(0.001,) * 17, *(1.0,) * 3),  # 3 of 20 dimensions are in use
        kl(1.0, 2.0),
        {"other": 95.0},
        told(best_epoch=4, lost=1.9),
        {"train": dataclasses.replace(TEST, elbo=-80.0)},  # a gap below the KL
        {"calibration": WELL.calibration._replace(worst=Bin(0.05, 0.3, 0.42))},
        # grey pixels under a Bernoulli are no probabilities
        changed("test", log_px="cross_entropy") | WRONG["calibration"],
        kl(0.2, 24.8, kl_units=("4x4", "1x1"), active_blocks=2, code_variance=()),
        {"highest": 0.1, "any_values": True},  # of a table
    ],
)
def test_no_false_alarm(changes):
    assert names(**changes) == []


def sentence(name, **changes):
    found = judge(dataclasses.replace(WELL, **WRONG[name] | changes))
    return found[0].text


def test_the_sentences():
    assert sentence("collapse") == (
        "18 of 20 dimensions carry less than 0.01 nats: posterior collapse. Try --anneal linear, "
        "or --free-bits 0.2."
    )
    assert "Try --beta 1, or --anneal linear" in sentence("collapse", **asked(beta=4.0))
    annealed = asked(anneal="linear", free_bits=0.2)
    assert sentence("collapse", **annealed).endswith("Try a smaller --latent-dim.")
    other = dict.fromkeys(("alpha", "beta", "latent_dim"), 1)  # a recipe without annealing
    assert sentence("collapse", arguments=other).endswith("Try a smaller --latent-dim.")
    # A constant code says nothing, whatever it costs.
    still = changed("test", code_variance=(0.0,) * 20)
    assert sentence("collapse", **still).startswith("20 of 20 dimensions are the same for all")
    assert "sigma 1 is far above the residual's, 0.1:" in sentence("sigma too large")
    assert "--sigma 0.1." in sentence("sigma too large")
    # Without a calibration the residual is that of the reconstruction.
    assert "the residual's, 0.1:" in sentence("sigma too large", calibration=None)
    assert "beta 784 on 784 values" in sentence("mean loss")
    assert "beta 392 on 784" in sentence(
        "mean loss", **asked(likelihood="gaussian", sigma=1.0, beta=392.0)
    )
    assert "--learning-rate 0.001" in sentence("learning rate")
    assert "up and down by 20 %" in sentence("learning rate", **told(swings=0.2))
    still = COLLAPSED | {"learning_rate": 1e-3} | told(fall=-1.0, late=None)
    assert "has not fallen" in sentence("learning rate", **still)
    assert "12 of 512 codes are used by 1,000 images:" in sentence(
        "dead codebook"
    ) and "30 %" in sentence("underfit")
    assert "30 steps only. Try --epochs 8." in sentence("underfit", **told(steps=30, epochs=2))
    slow = sentence("underfit", learning_rate=1e-6)
    assert "Try --learning-rate 0.001, or --epochs 80." in slow
    far_too_slow = told(fall=-0.01, late=None) | {"learning_rate": 1e-7}
    assert sentence("learning rate", **far_too_slow).endswith("Try --learning-rate 0.001.")
    assert "--patience" not in sentence("overfit", patience=20)
    unknown = told(best_epoch=None, lost=None) | {"train": dataclasses.replace(TEST, elbo=-60.0)}
    assert "Try --validation 0.1 --patience 20" in sentence("overfit", **unknown)
    assert "5.00 nats more, and the KL is 25.00" in sentence("ignored z")
    assert "9.0 nats more than after epoch 4 of 20, and test images cost 3.0" in sentence("overfit")
    assert "after epoch 4 of 20. Try --patience 20" in sentence("overfit", train=None)
    apart = {"train": dataclasses.replace(TEST, elbo=-60.0)}
    assert "test images cost 40.0 nats more than training images" in sentence("overfit", **apart)
    assert "probability 0.30 are on in 52 %" in sentence("calibration")
    assert "each: 4x4 carries nearly" in sentence(
        "idle levels", arguments=lookup.arguments("ladder_vae")
    )
    assert "--free-bits-per level" in sentence(
        "idle levels", arguments=lookup.arguments("ladder_vae")
    )
    assert "95 %" in sentence("holes") and "30 %" in sentence("coverage")


def test_few_images_whose_loss_has_risen_steadily():
    """They differ, but they are the same after every epoch: its noise is that of the history."""
    test = changed("test", elbo_standard_error=5.0)
    assert names(**test | told(best_epoch=4, lost=9.0)) == []
    assert names(**test | told(best_epoch=4, lost=9.0, noise=0.5)) == ["overfit"]
    assert names(**test | told(best_epoch=4, lost=9.0, noise=1.0)) == []


def test_a_codebook_that_was_hardly_trained_is_not_dead():
    assert names(**WRONG["dead codebook"] | told(steps=30)) == ["underfit"]


def test_a_loss_that_validation_has_lost_asks_for_no_more_epochs():
    """Training images still gain, as they do when a model learns them by heart."""
    assert names(**told(late=0.3, best_epoch=4, lost=9.0)) == ["overfit"]


def test_a_kl_in_one_number():
    """Of a posterior without closed form the codes' variances say which dimensions are used."""
    one = {"kl_per_unit": (12.0,), "kl": 12.0}
    assert names(**changed("test", **one)) == []
    still = changed("test", **one, code_variance=(0.0,) * 18 + (0.5, 0.9))
    assert names(**still) == ["collapse"]


def test_discrete_variables():
    """Each has a KL; that of a codebook is one number, which says nothing."""
    assert names(codes=10, **kl(*(0.001,) * 20, code_variance=()), train=None) == ["collapse"]
    assert names(codes=10, **kl(0.0, code_variance=()), train=None) == []


def test_all_blocks_of_a_hierarchy():
    fields = {"kl_units": ("4x4", "1x1"), "active_blocks": 0, "code_variance": ()}
    assert names(**kl(0.02, 0.01, **fields), train=None) == ["collapse"]


def test_a_model_that_diverged_gets_no_other_advice():
    """Nor does JSON get a number that it has not."""
    nan = float("nan")
    test = dataclasses.replace(TEST, mse=nan, elbo=nan, reconstruction=nan)
    worst = Calibration(nan, nan, (), nan, Bin(0.1, nan, 1.0))
    made = dataclasses.replace(WELL, test=test, calibration=worst)
    assert [found.name for found in judge(made)] == ["not finite"]
    assert made.as_json()["calibration"]["spread"] is None


def test_flags_that_are_advised_exist():
    """And models, and options."""
    known = {declared.flag(f.name) for f in dataclasses.fields(TrainSettings)} | {"--model"}
    for model in zoo.RECIPES:
        known |= {declared.flag(name) for name in lookup.arguments(model)}
    for name, changes in WRONG.items():
        for one in judge(dataclasses.replace(WELL, **changes)):
            text = " ".join(one.advice)
            assert {*re.findall(r"--[a-z-]+", text)} <= known, name
            assert {*re.findall(r"--model (\w+)", text)} <= {*zoo.RECIPES}


# ---- the history


def rows(training, validation=None, what="elbo"):
    sign = -1 if what == "elbo" else 1
    found = [
        {"epoch": i + 1, "step": 10 * (i + 1), f"train_{what}": sign * loss}
        for i, loss in enumerate(training)
    ]
    for row, loss in zip(found, validation or [], strict=bool(validation)):
        row[f"validation_{what}"] = sign * loss
    return found


@pytest.mark.parametrize("what", ["elbo", "reconstruction"])
def test_a_story_by_hand(what):
    falling = [100, 60, 40, 30, 25, 23, 21, 20]
    found = story(rows(falling, [100, 50, 40, 30, 34, 32, 36, 35], what))
    assert (found.epochs, found.steps, found.fall) == (8, 80, 80)
    assert found.late == pytest.approx((23 - 20) / 80)
    # The last half's changes are +4, -2, +4, -1: falls of 3/4 on average, of one of 70 in all.
    assert found.swings == pytest.approx(0.75 / 70)
    assert (found.best_epoch, found.lost) == (4, 5)


def test_the_noise_of_a_history():
    """Of a loss that only shakes it is large enough, and of one that only rises 0."""
    shaken = [100.0, *(30 + 5 * np.random.default_rng(0).normal(size=1000))]
    found = story(rows(range(1001, 0, -1), shaken))
    assert 0.5 * 5 < found.noise < 0.65 * 5 and found.lost < 10 * found.noise
    risen = story(rows(range(41, 0, -1), [100, *range(30, 70)]))
    assert (risen.noise, risen.lost) == (0, 39)


def test_what_training_loses_as_well_is_no_overfitting():
    """Under a large beta -ELBO may rise on all images, and the loss fall."""
    found = story(rows([100, 60, 62, 67], [110, 60, 63, 70]))
    assert (found.best_epoch, found.lost) == (2, 3)
    assert story(rows([100, 60, 70], [110, 60, 65])).lost == 0


def test_a_story_that_is_short_or_missing():
    assert story([]) is None
    assert story(rows([50.0])) == Story(1, 10, None, None, None, None, None)
    found = story(rows([50.0, 45.0], [50.0, 60.0]))  # of two epochs all is in the last
    assert (found.fall, found.late, found.swings) == (5, None, None)
    assert (found.best_epoch, found.lost) == (1, 10)
    found = story(rows([50.0, 45.0, 44.0]))
    assert found.late == 1 / 6 and found.last_quarter == "the last of 3 epochs"
    assert found._replace(epochs=20).last_quarter == "the last 5 of 20 epochs"
    assert story(rows([50.0, 60.0])).late is None  # it only rose
    assert story(rows([50.0, 60.0, 45.0, 40.0])).late == 5 / 20  # it rose first
    assert story(rows([50.0, float("nan")])).fall is None
    (_, second) = rows([50.0, 40.0], [60.0, 50.0])
    assert story([second]).best_epoch == 2  # a damaged row is left out


def test_of_patience_the_best_variables_are_kept():
    spec = DataSpec("digits", (8, 8, 1), levels=17, examples=100)
    history = rows([100, 60, 40, 20], [100, 60, 80, 90])
    for patience, lost in ((5, None), (None, 30)):
        plan = make_plan("vae", patience=patience)
        found = known(plan.recipe(spec), plan.settled(spec), history, TEST)
        assert found.story.lost == lost
        overfit = [one.name for one in judge(found)].count("overfit")
        assert overfit == (lost is not None)
    # A training that patience has ended was long enough; one that it has not, was not.
    for epochs, late in ((4, 20 / 80), (50, None)):
        plan = make_plan("vae", patience=5, epochs=epochs)
        assert known(plan.recipe(spec), plan.settled(spec), history, TEST).story.late == late
    assert found.values == 64 and found.arguments["likelihood"] == "bernoulli"
