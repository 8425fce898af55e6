"""flaxvae doctor"""

from __future__ import annotations


def doctor() -> None:
    """Say what is well and what is wrong: versions, devices, data, disk; with a self-test."""
    from flaxvae import doctor as examination
    from flaxvae.commands import shared

    shared.tell(examination.examine())
