"""What importing costs, what is public, who imports whom, and where autodiff is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fbp

ROOT = Path(fbp.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
AUTODIFF = {
    *("grad", "value_and_grad", "vjp", "jvp", "linearize", "linear_transpose", "jacfwd", "jacrev"),
    *("hessian", "custom_vjp", "custom_jvp", "custom_gradient", "closure_convert", "checkpoint"),
    *("remat", "jacobian", "vjp3", "fwd_and_bwd", "custom_transpose", "saved_residuals"),
}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_fbp_does_not_import_jax() -> None:
    heavy = ("jax", "jaxlib", "numpy", "optax", "chex", "rich", "tyro", "matplotlib", "sklearn")
    code = f"import sys, fbp; dir(fbp); print([m for m in {heavy!r} if m in sys.modules])"
    assert run(code) == "[]"


def test_names_are_imported_when_first_used() -> None:
    code = "import sys, fbp; fbp.Dense; print('jax' in sys.modules, 'optax' in sys.modules)"
    assert run(code) == "True False"


def test_reading_weights_is_imported_when_first_used() -> None:
    code = (
        "import sys, fbp; fbp.models.mlp; print('fbp.interop' in sys.modules);"
        "fbp.models.from_pretrained, fbp.models.save_pretrained, fbp.text.generate"
    )
    assert run(code) == "False"
    assert {"mlp", "from_pretrained", "save_pretrained"} <= set(dir(fbp.models))
    with pytest.raises(AttributeError, match=r"^module 'fbp.models' has no attribute 'nothing'$"):
        fbp.models.nothing  # noqa: B018


def test_every_public_name_resolves() -> None:
    assert len(set(fbp.__all__)) == len(fbp.__all__)
    for name in fbp.__all__:
        value = getattr(fbp, name)
        assert value is getattr(fbp, name)
        assert name in dir(fbp)
        assert value.__doc__, name
    with pytest.raises(AttributeError, match=r"^module 'fbp' has no attribute 'Nothing'$"):
        fbp.Nothing  # noqa: B018


def test_what_is_typed_is_what_is_there() -> None:
    """The names a type checker sees, and from where, are those imported at run time."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (block,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    ]
    typed = set()
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name
            typed.add((node.module, alias.name))
    runtime = {(f"fbp.{room}", name) for room, names in fbp._ROOMS.items() for name in names}
    runtime |= {("fbp", "mesh"), ("fbp", "models"), ("fbp", "text")}
    assert typed == runtime


def autodiff_in(source: str) -> list[str]:
    """Every place that names a transformation of jax, however it got there."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            found += [n for n in names if n.startswith("jax") and set(n.split(".")) & AUTODIFF]
            found += [n for n in names if n.startswith(("jax.interpreters", "jax._src"))]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jax"):
            parts = {*(node.module or "").split("."), *(alias.name for alias in node.names)}
            found += [f"{node.module}: {name}" for name in parts & {*AUTODIFF, "*", "ad", "_src"}]
        elif isinstance(node, ast.Attribute) and node.attr in AUTODIFF:
            whole = ast.unparse(node)
            if whole.startswith(("jax.", "lax.")):
                found.append(whole)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
            words = [a.value for a in node.args if isinstance(a, ast.Constant)]
            found += [f"getattr {word}" for word in words if word in AUTODIFF]
    return found


# The doors to and from other people's autodiff (`_platform.py` lets it past kernels), what fbp is
# measured against, and the proofs. No layer of fbp needs autodiff.
BESIDE = ("_custom_vjp.py", "_platform.py", "bench", "interop", "verify")
TRAINING_PATH = [path for path in FILES if path.relative_to(ROOT).parts[0] not in BESIDE]


@pytest.mark.parametrize("path", TRAINING_PATH, ids=lambda path: str(path.relative_to(ROOT)))
def test_there_is_no_autodiff_on_the_training_path(path: Path) -> None:
    assert not autodiff_in(path.read_text())


def test_the_search_finds_what_it_looks_for() -> None:
    for source in (
        "import jax\njax.grad(f)",
        "from jax import grad",
        "from jax import vjp as pull",
        "import jax\n@jax.custom_vjp\ndef f(x): ...",
        "from jax.experimental import checkpoint",
        "import jax.interpreters.ad",
        "from jax.interpreters import ad",
        "import jax\ngetattr(jax, 'grad')",
        "from jax import *",
        "import jax\nf = jax.value_and_grad",
    ):
        assert autodiff_in(source), source
    assert not autodiff_in("objective.value_and_grad(params)\nfrom fbp import value_and_grad")
    assert any(autodiff_in(path.read_text()) for path in FILES if path not in TRAINING_PATH)


def imports(path: Path) -> set[str]:
    """The modules of fbp that a file imports, inside functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{a.name}" for a in node.names if node.module == "fbp"}
    return {name for name in found if name.split(".")[0] == "fbp" and name != "fbp"}


# What each may import of fbp. The rest (train, explain, verify, cli) may import these, and only
# those beside the training path may import `_custom_vjp`.
# The contract, and what is said and done in its words.
BASE = ("_contract", "_described", "_gradients", "_layer", "_require", "_tree")
MAY_IMPORT = {
    "_described.py": (),
    "_contract.py": ("_described",),
    "_positions.py": (),
    "_layer.py": ("_contract", "_described", "_positions"),
    "_gradients.py": ("_contract", "_layer", "_platform"),
    "_require.py": ("_described", "_layer"),
    "_cell.py": BASE,
    "_tree.py": ("_layer",),
    "_turn.py": BASE,
    "_objective.py": (*BASE, "_turn"),
    "_microbatch.py": (*BASE, "_objective"),
    "_value_and_grad.py": (*BASE, "_microbatch", "_objective"),
    "_custom_vjp.py": (*BASE, "_objective", "_turn"),
    "_html.py": ("_columns",),
    "_platform.py": (),
    "_order.py": (),
    "_schedules": (*BASE, "_platform", "_schedules"),
    "layers": (*BASE, "_cell", "_schedules", "layers"),
    "combinators": (*BASE, "_cell", "combinators"),
    "ports": (*BASE, "_objective", "_platform", "_turn", "combinators", "layers", "ports"),
    "losses": (*BASE, "_schedules", "_turn", "losses"),
    "text": (*BASE, "_errors", "_order", "combinators", "text"),
    "step": (
        *(*BASE, "_columns", "_html", "_microbatch", "_objective"),
        *("combinators", "layers", "mesh", "ports", "step"),
    ),
    "mesh": (
        *(*BASE, "_columns", "_errors", "_microbatch", "_objective"),
        *("combinators", "layers", "losses", "mesh", "models", "ports", "step"),
    ),
    # Weights that others have made come in through `interop`.
    "models": (*BASE, "combinators", "interop", "layers", "losses", "models", "ports"),
    "interop": (
        *(*BASE, "_custom_vjp", "_positions"),
        *("combinators", "interop", "layers", "models", "ports"),
    ),
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_who_imports_whom(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    got = {name.split(".")[1] for name in imports(path)}
    if room in MAY_IMPORT:
        assert got <= set(MAY_IMPORT[room])
    if room not in BESIDE:
        assert "_custom_vjp" not in got
    if room not in ("cli", "cli.py", "__main__.py"):
        assert "cli" not in got


# What reads or writes files, or prints.
IO = {"os", "pathlib", "shutil", "tempfile", "io", "json", "csv", "open", "print", "input"}


def io_in(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            names.add(node.func.id)
    return names & IO


@pytest.mark.parametrize("path", (ROOT / "step").glob("*.py"), ids=lambda path: path.name)
def test_a_step_reads_and_writes_no_files(path: Path) -> None:
    assert not io_in(path.read_text())
    assert io_in("from pathlib import Path\nprint(open('x'))") == {"pathlib", "print", "open"}


# The verifier's rooms and files along the way of a check: each imports only those before it.
VERIFY = (
    *("report", "program", "rule", "probe", "judge", "diagnose", "sites"),
    *("domains.py", "_deadline.py", "_summing_up.py", "_other_sizes.py", "_stages.py"),
    *("_check.py", "_audit_site.py", "_audit.py", "_at_numbers.py", "_cross_check.py"),
    *("registry", "pytest_plugin.py", "mutate"),
)


def test_every_room_of_the_verifier_has_its_place() -> None:
    there = {path.relative_to(ROOT / "verify").parts[0] for path in (ROOT / "verify").rglob("*.py")}
    assert there == {*VERIFY, "__init__.py"}


@pytest.mark.parametrize("room", VERIFY)
def test_a_check_goes_one_way(room: str) -> None:
    """Imports inside functions, and for types alone, count too."""
    before = {name.removesuffix(".py") for name in VERIFY[: VERIFY.index(room) + 1]}
    for path in [ROOT / "verify" / room, *(ROOT / "verify" / room).rglob("*.py")]:
        if path.is_file():
            got = {m.split(".")[2] for m in imports(path) if m.startswith("fbp.verify.")}
            assert got <= before, path


def circles(graph: dict[str, set[str]]) -> list[str]:
    """The nodes that are left when those that lead only to nodes without circles are taken out."""
    left = dict(graph)
    while ends := [name for name, to in left.items() if not to & set(left)]:
        for name in ends:
            del left[name]
    return sorted(left)


def test_no_files_import_each_other_in_a_circle() -> None:
    """Not even inside functions, but for the faces of rooms, which resolve names when asked."""

    def module(path: Path) -> str:
        return ".".join(("fbp", *path.relative_to(ROOT).with_suffix("").parts))

    graph = {module(path): imports(path) for path in FILES if path.name != "__init__.py"}
    assert not circles(graph)
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
