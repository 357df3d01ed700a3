"""The package reads downwards: a module imports from its own folder and from the rows above it."""

import ast
import pathlib
import subprocess
import sys

import pytest

# Folders in one row do not import each other.
ROWS = (
    {"core"},
    {"actions", "runtime"},
    {"tokens"},
    {"data", "models"},
    {"train", "policy"},
    {"envs", "eval"},
    {"experiment"},
    {"sweep"},
    {"cli"},
)
ROW = {folder: row for row, folders in enumerate(ROWS) for folder in folders}

# The loop takes an iterator of batches, whoever makes them.
FORBIDDEN = {("train", "data")}

# Third-party packages that may be imported in some places only: a file or a folder each.
HOMES = {
    "av": ("data/ingest", "eval/report.py"),
    "dlimp": (),  # a DLataset is handed over by the user
    "fsspec": ("runtime/storage.py",),
    "flax": ("models", "train", "policy", "experiment"),
    "grain": ("data",),
    "gymnasium": ("envs", "eval"),
    "h5py": ("data/ingest",),
    "huggingface_hub": ("models/pretrained/storage.py",),
    "jinja2": ("eval/html.py",),
    "markupsafe": ("eval/html.py",),
    "ml_dtypes": ("models/pretrained/tensors.py",),
    "orbax": ("runtime/checkpoint_store.py",),
    "psutil": ("runtime/memory.py",),
    "pyarrow": ("data/ingest",),
    "scipy": (
        "eval/compare.py",
        "models/pretrained/filling.py",
        "sweep/significance.py",
        "tokens/fast.py",
    ),
    "tensorboardX": ("runtime/metrics.py",),
    "tensorflow": (),
    "tensorflow_datasets": ("data/records.py", "data/ingest", "envs/tabletop"),
    "torch": ("policy/torch_policy.py", "policy/torch_model.py", "policy/torch_hf.py"),
    "transformers": ("policy/torch_hf.py",),
    "wandb": ("runtime/metrics.py",),
}
# Programs that exports carry: they import each other as they lie in a folder, and nothing of ours.
ALONE = {
    f"policy/{name}.py"
    for name in (
        "exported_checks",
        "exported_images",
        "exported_manifest",
        "exported_policy",
        "exported_tensors",
        "exported_tokens",
        "jax_policy",
        "selftest",
        "torch_hf",
        "torch_model",
        "torch_policy",
    )
}
# And these never at the head of a module, where they would cost every user seconds.
LAZY = {
    "av",
    "h5py",
    "huggingface_hub",
    "pyarrow",
    "tensorflow",
    "tensorflow_datasets",
    "transformers",
    "wandb",
}

ROOT = pathlib.Path(__file__).parents[1] / "vla_jax"
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def imports_of(tree):
    """Yields the dotted names that a syntax tree imports, wherever in it, however spelled."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).rpartition(".")[2] in {"import_module", "__import__"}
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.args[0].value


def imports_at_the_head(tree):
    """Yields those that run when the module is imported, which an annotation does not need."""
    later = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    for node in ast.iter_child_nodes(tree):
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not isinstance(node, later) and not for_types:
            yield from imports_of(ast.Module(body=[node], type_ignores=[]))


def home_of(path):
    return path.with_suffix("").parts[0]


def complaints(path, source):
    """Lists what a module of the package imports against the rules."""
    tree, home = ast.parse(source), home_of(path)
    out = []
    for name in imports_of(tree):
        package, _, rest = name.partition(".")
        if package == "vla_jax":
            folder = rest.partition(".")[0]
            allowed = folder == home or ROW.get(folder, len(ROWS)) < ROW.get(home, 1)
            if not allowed or (home, folder) in FORBIDDEN:
                out.append(f"{home} imports {folder}")
            if str(path) in ALONE:
                out.append("stands alone")
        places = HOMES.get(package)
        if places is not None and not any(path.is_relative_to(place) for place in places):
            out.append(f"{package} belongs in {', '.join(places)}")
    # Who imports a program that stands alone, wants what it needs.
    heads = {name.partition(".")[0] for name in imports_at_the_head(tree)}
    heads -= set() if str(path) not in ALONE else LAZY
    return out + [f"{package} is imported at the head" for package in sorted(heads & LAZY)]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_up_the_table(path):
    assert complaints(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_every_module_lies_in_a_row(path):
    assert home_of(path) in ROW or path == pathlib.Path("__init__.py")


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("core/a.py", "from vla_jax.models import gemma", "core imports models"),
        ("core/a.py", "from vla_jax import models", "core imports models"),
        ("core/a.py", "import vla_jax.models.gemma", "core imports models"),
        ("tokens/a.py", "def f():\n  from vla_jax.train import loop", "tokens imports train"),
        ("train/a.py", "import vla_jax.policy", "train imports policy"),
        ("train/a.py", "import vla_jax.data", "train imports data"),
        ("__init__.py", "from vla_jax import models", "__init__ imports models"),
        ("core/a.py", "import importlib; importlib.import_module('torch.nn')", "torch belongs"),
        ("data/a.py", "def f():\n  import tensorflow as tf", "tensorflow belongs"),
        ("envs/tabletop/a.py", "import tensorflow", "tensorflow is imported at the head"),
        ("envs/tabletop/a.py", "try:\n  import tensorflow\nexcept ImportError: pass", "the head"),
        ("policy/selftest.py", "from vla_jax.core import errors", "stands alone"),
        ("policy/export/a.py", "import torch", "torch belongs"),
        (
            "runtime/mesh.py",
            "import orbax.checkpoint",
            "orbax belongs in runtime/checkpoint_store.py",
        ),
    ],
)
def test_the_rules_catch_what_they_forbid(path, source, complaint):
    assert any(complaint in line for line in complaints(pathlib.Path(path), source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("envs/tabletop/a.py", "def f():\n  import tensorflow_datasets"),
        ("envs/tabletop/a.py", "if typing.TYPE_CHECKING:\n  import tensorflow_datasets"),
        ("cli/a.py", "from vla_jax import experiment"),
        ("policy/torch_hf.py", "import torch\nimport transformers\nimport exported_policy"),
        ("models/a.py", "from flax import nnx\nfrom vla_jax.models import gemma"),
    ],
)
def test_the_rules_let_pass_what_they_allow(path, source):
    assert complaints(pathlib.Path(path), source) == []


def test_relative_imports_are_refused():
    with pytest.raises(AssertionError, match="absolute"):
        complaints(pathlib.Path("core/a.py"), "from . import errors")


@pytest.mark.parametrize("folder", sorted({home_of(path) for path in MODULES if path.parts[1:]}))
def test_every_folder_has_tests(folder):
    assert list((ROOT.parent / "tests" / folder).rglob("test_*.py"))


LIGHT = """
import importlib, importlib.abc, pkgutil, sys

BLOCKED = {"tensorflow", "tensorflow_datasets", "gymnasium", "torch", "transformers"}

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in BLOCKED:
            raise ImportError(f"{fullname} is blocked")

sys.meta_path.insert(0, Blocker())
import vla_jax

ALONE = set(sys.argv.pop(1).split())
for folder in sys.argv[1:]:
    package = importlib.import_module(f"vla_jax.{folder}")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if module.name not in ALONE:
            importlib.import_module(module.name)
            print(module.name)
"""


def test_training_and_acting_need_no_other_framework():
    folders = ["core", "actions", "runtime", "tokens", "models", "train", "policy"]
    alone = [f"vla_jax.{path.removesuffix('.py').replace('/', '.')}" for path in ALONE]
    present = [folder for folder in folders if (ROOT / folder).is_dir()]
    run = subprocess.run(
        [sys.executable, "-c", LIGHT, " ".join(alone), *present],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert "vla_jax.runtime.checkpoint" in run.stdout.split()
