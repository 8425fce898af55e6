"""The commands of ``flaxvae``, one per file.

A command is a function: its signature defines the flags, its docstring their help, and its return
value is printed. It imports what it needs in its body, so that ``flaxvae --help`` is fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flaxvae.commands.arithmetic import arithmetic
from flaxvae.commands.beta import beta
from flaxvae.commands.cache import cache
from flaxvae.commands.compare import compare
from flaxvae.commands.diagnose import diagnose
from flaxvae.commands.disentangle import disentangle
from flaxvae.commands.doctor import doctor
from flaxvae.commands.encode import encode
from flaxvae.commands.evaluate import evaluate
from flaxvae.commands.export import export
from flaxvae.commands.figures import figures
from flaxvae.commands.fit_prior import fit_prior
from flaxvae.commands.import_ import import_
from flaxvae.commands.interpolate import interpolate
from flaxvae.commands.likelihood import likelihood
from flaxvae.commands.neighbours import neighbours
from flaxvae.commands.probe import probe
from flaxvae.commands.quality import quality
from flaxvae.commands.reconstruct import reconstruct
from flaxvae.commands.report import report
from flaxvae.commands.restore import restore
from flaxvae.commands.runs import runs
from flaxvae.commands.sample import sample
from flaxvae.commands.score import score
from flaxvae.commands.sweep import sweep
from flaxvae.commands.train import train
from flaxvae.commands.traverse import traverse
from flaxvae.commands.verify import verify

COMMANDS: dict[str, Callable[..., Any]] = {
    "train": train,
    "sweep": sweep,
    "eval": evaluate,
    "likelihood": likelihood,
    "diagnose": diagnose,
    "sample": sample,
    "reconstruct": reconstruct,
    "interpolate": interpolate,
    "traverse": traverse,
    "fit-prior": fit_prior,
    "arithmetic": arithmetic,
    "neighbours": neighbours,
    "restore": restore,
    "encode": encode,
    "score": score,
    "probe": probe,
    "quality": quality,
    "disentangle": disentangle,
    "figures": figures,
    "report": report,
    "export": export,
    "import": import_,
    "beta": beta,
    "compare": compare,
    "runs": runs,
    "verify": verify,
    "cache": cache,
    "doctor": doctor,
}
