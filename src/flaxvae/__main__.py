"""``python -m flaxvae`` is ``flaxvae``."""

from flaxvae.cli import main

main()
