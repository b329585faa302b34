"""Who may import whom, and what may not be written anywhere: read from the syntax trees of all modules."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("diffsim", "surrogate")
    for path in sorted((ROOT / package).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(), str(path)) for name, path in MODULES.items()}
DIFFSIM = [name for name in MODULES if name.split(".")[0] == "diffsim"]
KERNELS = [name for name in MODULES if name.startswith("diffsim.kernels.")]
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))

every_module = pytest.mark.parametrize("name", MODULES)


def imported(name: str, tree: ast.AST | None = None) -> set[str]:
    """Full names of the modules that `name` imports, also inside functions."""
    package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(TREES[name] if tree is None else tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found |= {origin} | {f"{origin}.{alias.name}" for alias in node.names}
    return found


def at_the_top(name: str) -> set[str]:
    """What importing `name` imports: outside functions and outside ``if TYPE_CHECKING``."""
    found = set()
    waiting = list(TREES[name].body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        found |= imported(name, ast.Module([node], [])) if isinstance(node, ast.Import | ast.ImportFrom) else set()
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.ExceptHandler)]
    return found


def within(modules: set[str], *packages: str) -> set[str]:
    return {m for m in modules for package in packages if m == package or m.startswith(f"{package}.")}


def calls(name: str) -> list[ast.Call]:
    return [node for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]


def test_the_tree_is_seen():
    assert {"diffsim.simulate", "diffsim.store.atomic", "surrogate.training"} <= set(MODULES)
    assert len(KERNELS) >= 3
    assert "diffsim.errors" in imported("diffsim.store.hdf5") and "h5py" in imported("diffsim.store.hdf5")
    assert "h5py" not in at_the_top("diffsim.store.hdf5")


@pytest.mark.parametrize("name", DIFFSIM)
def test_the_simulator_knows_nothing_of_learning(name):
    assert not within(imported(name), "surrogate", "torch", "safetensors.torch")


@pytest.mark.parametrize("name", DIFFSIM)
def test_heavy_libraries_are_imported_where_they_are_used(name):
    assert not within(at_the_top(name), "matplotlib", "h5py", "pyamg", "xarray", "PIL", "pint", "dask")


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_import_only_what_compiles_them(name):
    """numpy, numba (with llvmlite, in whose terms it takes new types of numbers), the standard library, and `team`."""
    allowed = {"numpy", "numba", "llvmlite"} | sys.stdlib_module_names
    others = {module for module in imported(name) if not within({module}, "diffsim.kernels.team")}
    assert {module.split(".")[0] for module in others} <= allowed


def test_kernels_live_only_in_kernels():
    for name in set(MODULES) - set(KERNELS):
        names = {node.id for node in ast.walk(TREES[name]) if isinstance(node, ast.Name)}
        assert not names & {"njit", "jit", "prange", "vectorize", "guvectorize"}, name


def test_errors_import_nothing():
    assert imported("diffsim.errors") == set()


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ("diffsim.grid", ("diffsim.problem", "diffsim.operator", "diffsim.simulate")),
        ("diffsim.boundary", ("diffsim.problem", "diffsim.operator")),
        ("diffsim.schemes", ("diffsim.operator", "diffsim.problem", "diffsim.stability", "diffsim.steppers")),
        ("diffsim.problem", ("diffsim.operator", "diffsim.simulate", "diffsim.equilibrium")),
        ("diffsim.operator", ("diffsim.simulate", "diffsim.stability", "diffsim.steppers", "diffsim.equilibrium")),
        ("diffsim.stability", ("diffsim.simulate", "diffsim.tuning")),
        ("diffsim.multigrid", ("diffsim.equilibrium", "diffsim.simulate", "diffsim.problem")),
        ("diffsim.equilibrium", ("diffsim.simulate", "diffsim.applications")),
        ("diffsim.simulate", ("diffsim.tuning", "diffsim.applications", "diffsim.cli", "diffsim.plots")),
    ],
)
def test_imports_run_one_way(low, high):
    assert not within(at_the_top(low), *high)


def test_only_the_store_opens_files():
    """Except `resources`, which reads what the system says of the machine, and `bench`, which hands arrays to peers."""
    openers = {"open", "h5py.File", "np.load", "np.save", "np.savez", "np.savez_compressed", "np.loadtxt", "np.savetxt"}
    openers |= {"np.fromfile", "np.memmap", "np.genfromtxt", "torch.save", "torch.load", "Image.open"}
    methods = {"read_text", "write_text", "read_bytes", "write_bytes", "tofile", "savefig"}
    found = []
    for name in MODULES:
        if name.startswith("diffsim.store") or name in ("diffsim.resources", "diffsim.bench"):
            continue
        for call in calls(name):
            called = ast.unparse(call.func)
            method = called.rpartition(".")[2]
            through_store = called.startswith(("store.", "Journal"))
            to_memory = method == "savefig" and call.args and ast.unparse(call.args[0]) in ("buffer", "temporary")
            if called in openers or (method in methods and not through_store and not to_memory and "." in called):
                found.append(f"{name}:{call.lineno} {called}")
    assert not found


@every_module
def test_nothing_runs_code_from_data_or_hides_errors(name):
    banned = {"eval", "exec", "compile", "__import__", "yaml.load", "os.system", "joblib.load"}
    for call in calls(name):
        called = ast.unparse(call.func)
        assert called not in banned, f"{called} in line {call.lineno}"
        for keyword in call.keywords:
            value = ast.unparse(keyword.value)
            assert (keyword.arg, value) not in {
                ("fastmath", "True"), ("allow_pickle", "True"), ("weights_only", "False"), ("shell", "True")
            }, f"{keyword.arg}={value} in line {call.lineno}"  # fmt: skip
    assert not within(imported(name), "pickle", "dill", "cloudpickle", "shelve", "marshal", "yaml")
    bare = [node.lineno for node in ast.walk(TREES[name]) if isinstance(node, ast.ExceptHandler) and node.type is None]
    assert not bare


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_compiled_with_flags_that_keep_nan_and_order(name):
    allowed = {"contract", "nsz", "arcp", "afn"}
    compiled = 0
    for node in ast.walk(TREES[name]):
        for decorator in getattr(node, "decorator_list", []):
            options = decorator.keywords if isinstance(decorator, ast.Call) else []
            if "njit" not in ast.unparse(decorator) and not isinstance(decorator, ast.Name | ast.Call):
                continue
            compiled += 1
            for option in options:
                if option.arg == "fastmath":
                    assert set(ast.literal_eval(option.value)) <= allowed
    assert compiled


@pytest.mark.parametrize("name", ["diffsim.stability", "diffsim.simulate", "diffsim.steppers", "diffsim.preflight"])
def test_stability_limits_are_computed_not_typed(name):
    """The real intervals of the classical schemes must come from the table."""
    typed = {2.785, 2.7853, 2.78529, 2.51, 2.5127}
    numbers = {
        node.value for node in ast.walk(TREES[name]) if isinstance(node, ast.Constant) and isinstance(node.value, float)
    }
    assert not {n for n in numbers if round(n, 4) in typed}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_scripts_have_a_main_and_no_logic(path):
    tree = ast.parse(path.read_text())
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert [a.arg for a in functions["main"].args.args] == ["argv"]
    assert not any(isinstance(node, ast.While | ast.ClassDef) for node in ast.walk(tree))
    assert len(path.read_text().splitlines()) <= 200
    assert ast.get_docstring(tree)


@every_module
def test_every_module_says_what_it_is(name):
    assert ast.get_docstring(TREES[name])


@pytest.mark.parametrize("name", DIFFSIM)
def test_nothing_happens_at_import(name):
    """No statement at the top of a module that only has an effect."""
    effects = [
        node.lineno for node in TREES[name].body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    assert not effects
