"""flaxvae doctor"""

from __future__ import annotations


def doctor() -> None:
    """Check versions, devices, data and disk, and run a self-test."""
    from flaxvae import doctor as examination
    from flaxvae.commands import shared

    shared.tell(examination.examine())
