"""The command line: parses, calls what does the work, and turns errors into exits.

JAX is imported only once the arguments have been understood, so that ``--help`` is quick.
"""

from __future__ import annotations

import gc
import signal
import sys
from typing import Any

from flaxvae import flags, signals, streams
from flaxvae.commands import COMMANDS
from flaxvae.errors import FlaxvaeError, UsageError, remedy, typed_by, visible
from flaxvae.synonyms import hint


def _usage() -> str:
    lines = ["usage: flaxvae COMMAND [OPTIONS]      (flaxvae COMMAND --help lists its options)", ""]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:<12} {(command.__doc__ or '').splitlines()[0]}")
    lines += ["", "Try: flaxvae train      (a minute, no download)"]
    return "\n".join(lines)


def _run(argv: list[str]) -> str | list[str] | None:
    """What to print for these arguments, a line or several."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        return _usage()
    name, *rest = argv
    if name == "--version":
        from flaxvae import __version__

        return f"flaxvae {__version__}"
    if name not in COMMANDS:
        meant = hint(name, COMMANDS)
        raise UsageError(f"unknown command {name!r}{meant} (commands: {', '.join(COMMANDS)})")
    return flags.call(COMMANDS[name], rest, name)


_report = sys.unraisablehook


def _is_of_a_read(error: BaseException | None) -> bool:
    """Whether it is TensorStore's, of a read that went on when another one had failed."""
    return type(error) is RuntimeError and str(error) == "Event loop is closed"


def _hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if not _is_of_a_read(error):
        sys.__excepthook__(kind, error, trace)


def _unraisable_hook(found: Any) -> None:  # TensorStore's threads have nobody to raise it to
    if not _is_of_a_read(found.exc_value):
        _report(found)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the ``flaxvae`` command; exits with the codes that ``errors`` documents."""
    sys.excepthook, sys.unraisablehook = _hook, _unraisable_hook
    gc.set_threshold(50_000)  # imports and tracing make millions of objects, hardly any garbage
    with streams.steady(), signals.raised(), typed_by("flaxvae"):
        try:
            lines = _run(sys.argv[1:] if argv is None else argv) or []
            for line in lines.split("\n") if isinstance(lines, str) else lines:
                print(visible(line))
            return
        except FlaxvaeError as error:
            said, code = str(error), error.exit_code
        except KeyboardInterrupt as error:
            said, code = "interrupted", 128 + getattr(error, "number", signal.SIGINT)
        except OSError as error:  # a folder that cannot be written, a full disk
            where = f": {error.filename}" if error.filename else ""
            advice = remedy(error.strerror, "")
            said, code = f"{error.strerror or error}{where}" + f"; {advice}" * bool(advice), 3
        print(f"flaxvae: {visible(said)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
