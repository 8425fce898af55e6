"""The floors of the house: imports run downwards only, heavy packages stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flaxvae
from flaxvae import parts, zoo

ROOT = Path(flaxvae.__file__).parent
FLOORS = [
    "errors",
    "synonyms",
    "declared",
    "settings",
    "streams",
    "signals",
    "machine",
    "writing",
    "compilation",
    "distributions",
    "logistic",
    "core",
    "parts",
    "recipe",
    "choosing",
    "zoo",
    "lookup",
    "choices",
    "outside",
    "data",
    "plan",
    "devices",
    "training",
    "analysis",
    "trained",
    "in_memory",
    "runs",
    "export",
]
FLOORS += [
    "report",
    "grid",
    "api",
    "sklearn",
    "code_prior",
    "latent_prior",
    "doctor",
    "sweeps",
    "flags",
    "commands",
    "cli",
]
# Who alone may import a package, anywhere in a file.
HOMES = {
    "orbax": ("runs/checkpoints.py",),
    "flax": ("parts/",),
    "matplotlib": ("report/",),
    "onnx": ("export/",),
    "tensorflow_datasets": ("data/",),
    "PIL": ("data/pictures.py", "data/tfds.py", "report/animation.py"),
    "sklearn.base": ("sklearn.py",),
    "tyro": ("flags.py",),
}
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
every_file = pytest.mark.parametrize("file", FILES)


def _is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _imports(node, package):
    """Absolute dotted names of all imports below ``node``, but for those under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if _is_type_checking(child):
            yield from _imports(ast.Module(child.orelse, []), package)
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                parents = package.split(".")[: len(package.split(".")) - child.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in child.names)
        else:
            yield from _imports(child, package)


def imports_of(source, file):
    package = ".".join(["flaxvae", *Path(file).parent.parts])
    return set(_imports(ast.parse(source), package))


def climbs(source, file):
    """Imports of ``file`` from a higher floor."""

    here = FLOORS.index(Path(file).parts[0].removesuffix(".py"))
    found = []
    for name in imports_of(source, file):
        package, _, rest = name.partition(".")
        floor = rest.split(".")[0]
        if package == "flaxvae" and floor != "__version__" and FLOORS.index(floor) > here:
            found.append(name)
    return found


def trespasses(source, file):
    """Imports that belong in other files."""
    names = imports_of(source, file)
    return [
        package
        for package, homes in HOMES.items()
        if any(f"{name}.".startswith(f"{package}.") for name in names)
        and not any(file.startswith(home) for home in homes)
    ]


def named_variants(source):
    """Comparisons of anything with the name of a recipe, and match cases of one."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            operands = [node.value]
        else:
            continue
        for operand in operands:
            inside = (
                operand.elts if isinstance(operand, ast.Tuple | ast.List | ast.Set) else [operand]
            )
            values = [part.value for part in inside if isinstance(part, ast.Constant)]
            found += [ast.unparse(node) for value in values if value in zoo.RECIPES]
    return found


def read(file):
    return (ROOT / file).read_text()


@pytest.mark.parametrize("file", [f for f in FILES if f not in ("__init__.py", "__main__.py")])
def test_imports_run_downwards(file):
    assert climbs(read(file), file) == []


@every_file
def test_heavy_packages_stay_at_home(file):
    assert trespasses(read(file), file) == []


@pytest.mark.parametrize("file", [f for f in FILES if f != "zoo.py"])
def test_only_the_zoo_knows_variants_by_name(file):
    assert named_variants(read(file)) == []


def test_the_rules_catch_what_they_forbid():
    assert climbs("from flaxvae import zoo", "parts/latents.py") == ["flaxvae.zoo"]
    assert climbs("def f():\n    import flaxvae.api", "training/loop.py") == ["flaxvae.api"]
    assert climbs("from ..report import plots", "data/idx.py") == ["flaxvae.report.plots"]
    assert climbs("from . import latents", "parts/assemble.py") == []
    guarded = "if TYPE_CHECKING:\n    from flaxvae import cli\nelse:\n    from flaxvae import api"
    assert climbs(guarded, "core.py") == ["flaxvae.api"]
    assert trespasses("import flax.linen as nn", "training/step.py") == ["flax"]
    assert trespasses("def f():\n    from orbax import checkpoint", "api.py") == ["orbax"]
    assert trespasses("import flax.linen as nn", "parts/networks.py") == []
    assert trespasses("from sklearn.base import clone", "sweeps.py") == ["sklearn.base"]
    assert trespasses("from sklearn import mixture", "analysis/mixtures.py") == []
    assert named_variants('if plan.model == "beta_vae": pass')
    assert named_variants('if model in ("ae", "x"): pass')
    assert named_variants('match m:\n    case "vae": pass')
    assert not named_variants('model = "vae"')


def test_every_floor_exists():
    assert {Path(file).parts[0].removesuffix(".py") for file in FILES} == {
        *FLOORS,
        "__init__",
        "__main__",
    }


def test_all_parts_load_on_first_use():
    """Whichever other module has been imported before."""
    assert parts.__all__ == sorted(path.stem for path in ROOT.glob("parts/[!_]*.py"))


def test_the_command_line_starts_light():
    """No heavy package before the arguments are understood, nor in reading recipes' flags."""
    script = """if True:
        import sys
        import flaxvae.cli
        from flaxvae import lookup
        lookup.recipe("vae")
        heavy = ["jax", "matplotlib", "orbax", "flax", "optax", "sklearn", "tensorflow_datasets"]
        print(*[name for name in heavy if name in sys.modules])
    """
    environment = {"PYTHONPATH": str(ROOT.parent), "PATH": ""}
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == []
