"""Programs for JAX alone, by ``jax.export``: StableHLO for any number of images, with the weights
inside, for CPU, CUDA and TPU, whatever machine wrote them.
"""

from __future__ import annotations

from pathlib import Path

import jax
from jax import export as exporting

from flaxvae import writing
from flaxvae.errors import UsageError
from flaxvae.export import programs
from flaxvae.export.programs import Program
from flaxvae.runs.run import Run

PLATFORMS = ("cpu", "cuda", "tpu")
SUFFIX = ".jax"


def check(run: Run) -> None:
    """Raises UsageError without the package that serializes."""
    try:
        import flatbuffers  # noqa: F401
    except ImportError:
        raise UsageError(
            "--to jax needs flatbuffers: expected it installed; pip install 'flaxvae[export]', or "
            "choose npz"
        ) from None


def exported(program: Program) -> exporting.Exported:
    """A program for any batch, with the arguments in the order of ``program.inputs``."""
    (batch,) = exporting.symbolic_shape("b")
    like = [
        jax.ShapeDtypeStruct((batch, *shape), dtype) for dtype, shape in program.inputs.values()
    ]
    names = [*program.inputs]

    def function(*arrays):
        return program.function(**dict(zip(names, arrays, strict=True)))

    return exporting.export(jax.jit(function), platforms=PLATFORMS)(*like)


def write(run: Run, folder: Path) -> str:
    """Write each program as NAME.jax; returns how to call them, in Markdown."""
    found, rows = programs.programs(run), []
    for name, program in found.items():
        with writing.whole(folder / f"{name}{SUFFIX}") as file:
            file.write(exported(program).serialize())
        given = ", ".join(_said(each, *about) for each, about in program.inputs.items())
        rows.append(f"| `{name}{SUFFIX}` | {given} | {program.what} |")
    labels = ", y" if run.recipe.classes is not None else ""
    return f"""\
Programs for {", ".join(PLATFORMS)} and any number b of images, with the weights inside. They need
JAX and flatbuffers, not flaxvae:

```python
from pathlib import Path

from jax import export

encode = export.deserialize(bytearray(Path("encode{SUFFIX}").read_bytes())).call
codes = encode(x{labels})
```

| file | takes, in this order | gives |
|---|---|---|
{chr(10).join(rows)}

Each of `seeds` decides the draws of its row: take different ones.
"""


def _said(name: str, dtype: type, shape: tuple[int, ...]) -> str:
    return f"{name} [{', '.join(['b', *map(str, shape)])}] {jax.numpy.dtype(dtype).name}"
