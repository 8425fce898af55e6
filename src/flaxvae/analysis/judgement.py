"""From numbers to sentences: a table of rules, each a condition, what it means, and what helps.

A rule is a pure function of ``diagnosis.Measured``; what is not known, it leaves alone. The table
is in the order of importance. A rule that explains others (a sigma far too large makes posteriors
collapse) is before them, and names them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from flaxvae.analysis.diagnosis import Measured
from flaxvae.analysis.evaluation import USED
from flaxvae.analysis.symptoms import (
    HEAVY,
    IDLE,
    collapsed,
    deviations,
    dimensions,
    flags,
    gap,
    idle_blocks,
    is_mean_loss,
    lost,
    setting,
)

WIDE = 2.0  # sigma over the residual's, above which (or below 1 over which) it is wrong
FAST, SHAKY, SHAKEN = 5e-3, 0.015, 0.1  # a learning rate of Adam's; swings of the loss
SLOW, USUAL = 1e-4, 1e-3  # learning rates
LATE, SHORT = 0.1, 200  # part of the loss's fall in the last quarter; steps of a training
WHITE = 0.5  # the largest value of images below which their scale is wrong
OFF = 0.15  # between predicted and seen, of a tenth of probabilities
CODES, TIMES = 0.25, 10  # part of a codebook that is used; codes seen for each entry
HOLES, NARROW = 0.8, 0.5  # prior draws in holes; coverage of 90 % intervals


class Found(NamedTuple):
    said: str  # one sentence, with the numbers
    advice: tuple[str, ...] = ()  # flags


class Rule(NamedTuple):
    name: str
    find: Callable[[Measured], Found | None]
    explains: tuple[str, ...] = ()  # rules further down that need not be looked at then
    serious: bool = True  # False: worth knowing


class Judgement(NamedTuple):
    """What is wrong with a model, or worth knowing."""

    name: str
    said: str
    advice: tuple[str, ...]
    serious: bool

    @property
    def text(self) -> str:
        """The sentence, and the flags that help: "... Try --anneal linear, or --free-bits 0.2."."""
        return self.said + f" Try {', or '.join(self.advice)}." * bool(self.advice)


def judge(measured: Measured) -> list[Judgement]:
    """What the numbers mean, the most important first; nothing for a model that is well."""
    judgements: list[Judgement] = []
    explained: set[str] = set()
    for rule in RULES:
        found = None if rule.name in explained else rule.find(measured)
        if found is not None:
            explained.update(rule.explains)
            judgements.append(Judgement(rule.name, *found, rule.serious))
    return judgements


# --- what is wrong with what was asked for ------------------------------------------------------


def _not_finite(m: Measured) -> Found | None:
    values = [] if m.test is None else [m.test.mse, m.test.reconstruction, m.test.elbo or 0.0]
    if all(map(math.isfinite, values)):
        return None
    return Found("The loss of the test images is not finite.", _slower(m))


def _data_range(m: Measured) -> Found | None:
    if m.highest is None or m.any_values or m.highest >= WHITE:
        return None
    return Found(
        f"No value of the images is above {m.highest:.2g}, where white is 1: they may have been "
        "divided by 255 twice."
    )


def _mean_loss(m: Measured) -> Found | None:
    if not is_mean_loss(m):
        return None
    beta = setting(m, "beta")
    return Found(
        f"beta {beta:g} on {m.values:,} values is the loss of a program that averages the error "
        f"over them, where here it is summed: see `flaxvae beta --help`.",
        ("--beta 1",),
    )


def _beta(m: Measured) -> Found | None:
    beta = setting(m, "beta", 1.0)
    if beta < HEAVY or not collapsed(m):
        return None
    return Found(f"beta {beta:g}, and {_silence(m)}: posterior collapse.", ("--beta 1",))


def _wide(m: Measured) -> Found | None:
    found = deviations(m)
    if found is None or found[0] <= WIDE * found[1]:
        return None
    sigma, residual = found
    return Found(
        f"sigma {sigma:.3g} is far above the residual's, {residual:.3g}: the KL costs too much.",
        ("--likelihood gaussian_shared", f"--sigma {residual:.2g}"),
    )


def _narrow(m: Measured) -> Found | None:
    found = deviations(m)
    if found is None or found[0] >= found[1] / WIDE:
        return None
    sigma, residual = found
    return Found(
        f"sigma {sigma:.3g} is far below the residual's, {residual:.3g}: the KL costs too "
        "little, so samples will be poor.",
        ("--likelihood gaussian_shared", f"--sigma {residual:.2g}"),
    )


def _learning_rate(m: Measured) -> Found | None:
    rate, swings = m.learning_rate or 0.0, (m.story.swings if m.story else None) or 0.0
    fast = m.optimizer == "adam" and rate >= FAST
    said = f"The learning rate {rate:g} is too high: "
    if swings > SHAKEN or (fast and swings > SHAKY):
        part = f"by {100 * swings:.0f} % of all that it fell"
        return Found(f"{said}the validation loss goes up and down {part}.", _slower(m))
    if fast and collapsed(m):
        return Found(f"{said}{_silence(m)}.", _slower(m))
    fall = m.story.fall if m.story else None
    if fall is None or fall > 0 or setting(m, "beta", 1.0) > 1:  # then -ELBO is not the loss
        return None
    slow = rate < SLOW
    advice = (f"--learning-rate {USUAL:g}",) if slow else _slower(m)
    return Found("The training loss has not fallen since the first epoch.", advice)


def _slower(m: Measured) -> tuple[str, ...]:
    return (f"--learning-rate {min((m.learning_rate or USUAL) / 10, USUAL):g}", "--clip-norm 10")


# --- what is wrong with what was learnt ---------------------------------------------------------


def _underfit(m: Measured) -> Found | None:
    story = m.story
    if story is None or lost(m) is not None:  # then a longer training makes it worse
        return None
    slow = (m.learning_rate or USUAL) < SLOW
    more = (f"--learning-rate {USUAL:g}",) * slow + (f"--epochs {4 * story.epochs}",)
    if story.late is not None and story.late > LATE:
        part = f"{100 * story.late:.0f} % of its fall was in {story.last_quarter}"
        return Found(f"The training loss is still falling: {part}.", more)
    if story.steps < SHORT:
        return Found(f"It has been trained for {story.steps} steps only.", more)
    return None


def _dead_codes(m: Measured) -> Found | None:
    found = m.train or m.test  # there may be more of the former
    if m.codes is None or found is None or found.codes_used is None:
        return None
    if m.story is not None and m.story.steps < SHORT:  # too few to tell
        return None
    if found.images * m.grid < TIMES * m.codes or found.codes_used >= CODES * m.codes:
        return None
    fewer = f"--codes {1 << (2 * found.codes_used - 1).bit_length()}"
    average = setting(m, "codebook") == "gradient"
    return Found(
        f"{found.codes_used} of {m.codes:,} codes are used by {found.images:,} images: a dead "
        "codebook.",
        ("--codebook ema", fewer) if average else flags(m, codes=fewer),
    )


def _collapse(m: Measured) -> Found | None:
    if not collapsed(m):
        return None
    said = _silence(m)
    return Found(f"{said[0].upper()}{said[1:]}: posterior collapse.", _unfold(m))


def _silence(m: Measured) -> str:
    """Who says nothing."""
    size, idle, silent = dimensions(m)
    if not size:
        return f"all blocks carry less than {USED:g} nats"
    if silent == idle:
        return f"{idle} of {size} dimensions carry less than {IDLE:g} nats"
    return f"{silent} of {size} dimensions are the same for all images"


def _unfold(m: Measured) -> tuple[str, ...]:
    if not m.trained:
        return ()  # no setting here has made it so
    known = {}
    if setting(m, "beta", 1.0) > 1:
        known["beta"] = "--beta 1"
    if setting(m, "anneal") == "none":
        known["anneal"] = "--anneal linear"
    if not setting(m, "free_bits"):
        known["free_bits"] = "--free-bits 0.2"
    return flags(m, **known) or flags(m, latent_dim="a smaller --latent-dim")


def _ignored(m: Measured) -> Found | None:
    # The KL of a codebook is the same for all that z says: it is no price.
    kl = m.test.kl if m.test is not None and m.codes is None else None
    if m.own is None or m.other is None or not kl or m.other - m.own >= kl / 2:
        return None
    return Found(
        f"The decoder hardly uses z: with that of another image, an image costs "
        f"{m.other - m.own:.2f} nats more, and the KL is {kl:.2f}.",
        _unfold(m),
    )


def _overfit(m: Measured) -> Found | None:
    apart, since, kl = gap(m), lost(m), (m.test.kl if m.test is not None else None) or 0.0
    parts = []
    if since is not None and m.story is not None:
        best = f"epoch {m.story.best_epoch} of {m.story.epochs}"
        parts.append(f"validation images cost {since:.1f} nats more than after {best}")
    if apart is not None and (parts or apart > kl):
        parts.append(f"test images cost {apart:.1f} nats more than training images")
    if not parts:
        return None
    smaller = flags(m, latent_dim="a smaller --latent-dim")
    return Found(f"Overfitting: {', and '.join(parts)}.", (*_stop_early(m), *smaller))


def _stop_early(m: Measured) -> tuple[str, ...]:
    """--patience, with validation images if there are none; nothing where it was set."""
    if m.patience is not None or not m.trained:
        return ()
    held = "" if m.story is None or m.story.best_epoch is not None else "--validation 0.1 "
    return (f"{held}--patience 20",)


def _too_sure(m: Measured) -> Found | None:
    worst = m.calibration.worst if m.calibration is not None else None
    binary = m.test is not None and m.test.log_px == "probability"
    if worst is None or not binary or setting(m, "likelihood") != "bernoulli":
        return None
    if abs(worst.predicted - worst.seen) <= OFF:
        return None
    return Found(
        f"Pixels of predicted probability {worst.predicted:.2f} are on in {100 * worst.seen:.0f} % "
        "of test images.",
        _stop_early(m),
    )


# --- what is worth knowing ----------------------------------------------------------------------


def _no_prior(m: Measured) -> Found | None:
    if m.has_bound:
        return None
    return Found(
        "An autoencoder has no prior: samples and walks between codes mean little.",
        ("--model vae",),
    )


def _idle_levels(m: Measured) -> Found | None:
    idle = idle_blocks(m.test)
    if not idle or collapsed(m):
        return None
    advice = flags(m, free_bits="--free-bits 1 --free-bits-per level")
    named, carry = ", ".join(idle), "carries" if len(idle) == 1 else "carry"
    return Found(f"Less than {USED:g} nats each: {named} {carry} nearly nothing.", advice)


def _holes(m: Measured) -> Found | None:
    holes = m.aggregate.holes if m.aggregate is not None else None
    if holes is None or holes <= HOLES:
        return None
    return Found(
        f"{100 * holes:.0f} % of the prior's draws lie where only 1 % of the posteriors' do.",
        ("--model mog_vae", "--model vamp_vae"),
    )


def _coverage(m: Measured) -> Found | None:
    if m.coverage is None or m.coverage.most >= NARROW:
        return None
    return Found(
        f"90 % intervals of q(z|x) hold {100 * m.coverage.most:.0f} % of the z that the model's "
        "own draws of x came from.",
        ("--model flow_vae", "--model iwae"),
    )


_OF_Z = ("collapse", "ignored z")
_WHERE = ("holes", "coverage")
_SCALE = ("sigma too large", "sigma too small", "calibration", "learning rate", "underfit")
RULES = (
    Rule("not finite", _not_finite, (*_SCALE, "overfit", "dead codebook", *_OF_Z, *_WHERE)),
    Rule("data range", _data_range, ("sigma too large", "learning rate", "underfit", *_OF_Z)),
    Rule("mean loss", _mean_loss, ("beta", "sigma too large", "learning rate", *_OF_Z)),
    Rule("beta", _beta, ("sigma too large", "learning rate", *_OF_Z)),
    Rule("sigma too large", _wide, ("learning rate", *_OF_Z)),
    Rule("sigma too small", _narrow, _WHERE),
    Rule("learning rate", _learning_rate, ("underfit", "overfit", *_OF_Z, *_WHERE)),
    Rule("underfit", _underfit, (*_OF_Z, *_WHERE)),
    Rule("dead codebook", _dead_codes),
    Rule("collapse", _collapse, ("ignored z",)),
    Rule("ignored z", _ignored),
    Rule("overfit", _overfit, ("calibration", *_WHERE)),
    Rule("calibration", _too_sure),
    Rule("no prior", _no_prior, serious=False),
    Rule("idle levels", _idle_levels, serious=False),
    Rule("holes", _holes, serious=False),
    Rule("coverage", _coverage, serious=False),
)
