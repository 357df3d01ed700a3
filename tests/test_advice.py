"""What messages advise can be typed: its verbs, flags, fields, files and extras exist.

Every text of the package is looked through, by its syntax tree; what a program of an export says is
about that program.
"""

import ast
import importlib
import pathlib
import re
import runpy

import pytest
from absl import flags as absl_flags

from vla_jax.cli import flags as cli_flags
from vla_jax.cli import main
from vla_jax.core import overrides
from vla_jax.core.errors import UserError
from vla_jax.experiment.config import RunConfig

ROOT = pathlib.Path(__file__).parents[1]
ALONE = ("selftest.py", "torch_policy.py", "torch_hf.py", "torch_model.py", "jax_policy.py")
ALONE += ("exported_policy.py", "exported_tokens.py")
# Of programs that are not ours, in texts that hand them on.
FOREIGN = {"xla_tpu_use_enhanced_launch_barrier", "no-install-recommends"}
HOLE = "\0"  # what is filled in at run time


def texts():
    """Yields file, line and text of every string, what is filled in as HOLE; no docstrings."""
    for path in sorted((ROOT / "vla_jax").rglob("*.py")):
        if path.name in ALONE:
            continue
        tree = ast.parse(path.read_text())
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
        }
        parts = {
            id(value)
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for value in node.values
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                found = "".join(
                    str(v.value) if isinstance(v, ast.Constant) else HOLE for v in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                if id(node) in docs or id(node) in parts:
                    continue
                found = node.value
            else:
                continue
            yield f"{path.relative_to(ROOT)}:{node.lineno}", found


TEXTS = list(texts())


def verb_flags():
    """Returns the flags of every verb."""
    out = {}
    for verb in main.VERBS:
        module = importlib.import_module(f"vla_jax.cli.{main._MODULES.get(verb, verb)}")
        values = absl_flags.FlagValues()
        getattr(module, "_define", lambda values: None)(values)
        out[verb] = {name.replace("_", "-") for name in values}
    for verb in ("train", "inspect", "plan", "dist-check"):
        out[verb].add("config")
    return out


FLAGS = verb_flags()


def matches(pattern):
    return [(where, m) for where, text in TEXTS for m in re.finditer(pattern, text)]


def test_there_is_advice():
    assert len(matches(r"vla-jax \w")) > 20
    assert len(matches(r"config\.\w")) > 50


def test_every_verb_that_is_named_exists():
    found = matches(r"vla-jax (?:--help|([a-z][a-z-]+))")
    assert [(w, m[1]) for w, m in found if m[1] and m[1] not in main.VERBS] == []


def test_every_flag_behind_a_verb_is_one_of_its_own():
    wrong = []
    for where, match in matches(r"vla-jax ([a-z][a-z-]+)([^.,;\n]*)"):
        typed = {
            f.replace("_", "-") for f in re.findall(r"--(?!config\.)([a-z][a-z_-]+)", match[2])
        }
        if not typed <= FLAGS.get(match[1], set()) | {"help"}:
            wrong.append((where, match[0]))
    assert wrong == []


class ParsedError(Exception):
    """Stands for all that a verb does once its arguments are taken."""


@pytest.fixture
def typed(monkeypatch):
    """Hands arguments to a verb, whose own parser reads them; nothing is executed after it.

    Where a text names the verb and flags alone, the rest is what the verb asks for.
    """
    parse, parse_run = cli_flags.parse, cli_flags.parse_run

    def only_parse(verb, arguments, define, positional=()):
        has_paths = any(not argument.startswith("-") for argument in arguments)
        parse(verb, [*arguments, *(() if has_paths else positional)], define, positional)
        raise ParsedError

    def only_parse_run(verb, arguments, define, required=("config",)):
        with monkeypatch.context() as real:
            real.setattr(cli_flags, "parse", parse)
            given = [argument for argument in arguments if not argument.startswith("--config=")]
            named = {argument.partition("=")[0].lstrip("-") for argument in given}
            more = [f"--{name}=a" for name in required if name not in named | {"config"}]
            parse_run(verb, [SMOKE, *given, *more], define, required)
        raise ParsedError

    monkeypatch.setattr(cli_flags, "parse", only_parse)
    monkeypatch.setattr(cli_flags, "parse_run", only_parse_run)

    def call(verb, arguments):
        """Returns what the parser says against them; None where it takes them."""
        module = importlib.import_module(f"vla_jax.cli.{main._MODULES.get(verb, verb)}")
        try:
            module.main(list(arguments))
        except ParsedError:
            return None
        except UserError as error:
            return str(error)
        raise AssertionError(f"{verb} {arguments}: nothing was parsed")

    return call


def words(text):
    """The arguments that begin a text: flags, what is filled in, and names in capitals."""
    for word in text.split():
        plain = word.rstrip(",.")
        if not re.fullmatch(r"--[\w.-]+(=\S+)?|\0|[A-Z][A-Z.]*", plain):
            return
        yield plain
        if plain != word:  # the sentence goes on
            return


def test_every_command_is_taken_by_the_parser_of_its_verb(typed):
    found = matches(r"vla-jax ([a-z][a-z-]+)(?: (?!--help)([^;:\n]*))?")
    commands = {(where, match[1], tuple(words(match[2] or ""))) for where, match in found}
    assert sum(bool(arguments) for _, _, arguments in commands) >= 8
    wrong = []
    for where, verb, arguments in sorted(commands):
        if f"{verb} {' '.join(arguments)}" in ("act --state",):  # how a message begins
            continue
        # What is filled in is a path, or all flags.
        path = [argument.replace(HOLE, "a") for argument in arguments]
        flags = [argument for argument in arguments if argument != HOLE]
        said = typed(verb, path)
        if said is not None and typed(verb, flags) is not None:
            wrong.append((where, verb, arguments, said))
    assert wrong == []


def fixed(pattern):
    """Flags with a value that is neither filled in nor a name in capitals."""
    return {
        (where, match[1], value)
        for where, match in matches(pattern)
        if (value := match[2].rstrip(".,:)'\"")) and not re.search(r"[A-Z\0]|\.\.\.", value)
    }


def test_every_flag_with_a_value_is_taken_by_a_verb(typed):
    found = fixed(r"(?<![\w-])--(?!config\b)([a-z][a-z0-9_-]*)=([^\s;]+)")
    wrong, known = [], 0
    for where, name, value in sorted(found):
        verbs = [verb for verb in main.VERBS if name.replace("_", "-") in FLAGS[verb]]
        said = [typed(verb, [f"--{name}={value}"]) for verb in verbs]
        known += bool(verbs)  # others are those of other programs
        wrong += [(where, said)] if said and None not in said else []
    assert known >= 5
    assert wrong == []


def test_every_field_with_a_value_is_taken(typed):
    # A text that begins with one names what is refused.
    found = fixed(r"(?<=[^\w.])(?:--)?(config\.[a-z_.]+)=([^\s;]+)")
    assert len(found) >= 5
    wrong = [
        (where, said)
        for where, name, value in sorted(found)
        if not name.startswith("config.a.")  # as --help spells it
        if (said := typed("train", [f"--{name}={value}", "--workdir=a"]))
    ]
    assert wrong == []


def test_the_parsers_do_refuse(typed):
    assert "absent" in typed("eval", ["--absent=1"])
    assert typed("index", ["--on_corrupt=maybe"]) is not None
    assert typed("report", ["a", "b"]) is not None
    assert "no such field" in typed("train", ["--config.loader.absent=1"])
    assert typed("train", ["--config.loader.on_corrupt=maybe"]) is not None


def test_every_flag_that_is_named_is_one_of_some_verb():
    known = set().union(*FLAGS.values())
    known |= {f"no{name}" for name in known} | FOREIGN | {"help", "config", "flag"}
    found = matches(r"(?<![\w-])--(?!config\.)([a-z][a-z0-9_-]*[a-z])")
    wrong = [(where, m[1]) for where, m in found if m[1].replace("_", "-") not in known]
    allowed = ("tpu_scripts", "sweep/slurm.py", "sweep/cluster.py", "sweep/jobset.py", "git")
    theirs = ("runtime/provenance.py", "policy/export/")  # git's, and those of exported programs
    assert [x for x in wrong if not any(part in x[0] for part in (*allowed, *theirs))] == []


def test_every_field_that_is_named_exists():
    wrong = []
    for where, match in matches(r"(?<![\w./'])(?:--)?config((?:\.[a-z_A-Z\0]+(?:\[\d\])?)+)"):
        names = match[1].strip(".").split(".")
        if names[0] in ("json", "py", "a") or HOLE in names[0]:
            continue  # a file, or all of it filled in
        known = names[: next((n for n, name in enumerate(names) if HOLE in name), len(names))]
        known = [name for name in known if not name.isupper()] if known else known
        try:
            overrides.kind(RunConfig, ".".join(["config", *known]))
        except UserError as error:
            wrong.append((where, str(error)))
    assert wrong == []


def test_every_extra_that_is_named_can_be_installed(monkeypatch):
    import setuptools

    kept = {}
    monkeypatch.setattr(setuptools, "setup", lambda **values: kept.update(values))
    runpy.run_path(str(ROOT / "setup.py"))
    found = matches(r"(?:vla_jax|\.)\[([a-z,-]+)\]")
    assert len(found) >= 5
    wrong = [
        (where, extra)
        for where, m in found
        for extra in m[1].split(",")
        if extra not in kept["extras_require"]
    ]
    assert wrong == []


def test_every_file_that_is_named_is_there():
    found = matches(r"\b(?:configs|experiments|tpu_scripts)/[\w/.]+\.(?:py|sh|md)\b")
    theirs = "envs/libero/protocol.py"  # names the source of its numbers
    assert [(w, m[0]) for w, m in found if theirs not in w and not (ROOT / m[0]).exists()] == []


SMOKE = f"--config={ROOT}/configs/tabletop.py:smoke"


@pytest.mark.parametrize(
    "advice",
    [
        "--config.mixture.robots.tabletop.dir={folder}",
        "--config.mixture.web.tabletop_questions.dir={folder}",
        "--config.metrics.wandb=None",
        "--config.tokenizer.path=None",
        "--config.loader.on_corrupt=skip",
        "--config.pretrained.path=None",
        "--config.model.backend=auto",
        "--config.cache_dir={folder}",
    ],
)
def test_advice_that_is_typed_is_taken(tmp_path, advice):
    typed = advice.format(folder=tmp_path)
    config, _ = cli_flags.parse_run("train", [SMOKE, typed], lambda values: None)
    node, (path, _, text) = config, typed.partition("=")
    for name in path.split(".")[1:]:
        node = node[name] if isinstance(node, dict) else getattr(node, name)
    assert node == (None if text == "None" else text)


def test_a_dataset_of_a_mixture_that_is_named_keeps_its_weight(tmp_path):
    fields = (
        "--config.mixture.name=oxe_magic_soup_plus_plus",
        "--config.sequence.suffix=40",
        f"--config.mixture.robots.kuka.dir={tmp_path}",
    )
    config, _ = cli_flags.parse_run("train", [SMOKE, *fields], lambda values: None)
    plain, _ = cli_flags.parse_run("train", [SMOKE, *fields[:-1]], lambda values: None)
    from vla_jax.data import mixture

    weights = {n: r.weight for n, r in mixture.resolve(config.mixture).items()}
    assert weights == {n: r.weight for n, r in mixture.resolve(plain.mixture).items()}
    assert config.mixture.robots["kuka"].dir == str(tmp_path)
