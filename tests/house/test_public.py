"""The public surface: every name that users may write, and no name that leads nowhere.

The root's own tables say where each name lives. What they list and this version does not have is refused by
name; what it has must load, be one object under each of its spellings, and stay in the tables.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import treadle

ROOT = Path(__file__).resolve().parents[2]

# The contract that other people's scripts rely on. Adding is free, taking away is not.
NAMES = """
    jit ShapeDtype load config get_num_threads set_num_threads stats parse evaluate TreadleError
    grad value_and_grad jvp vjp linearize vmap jacfwd jacrev jacobian hessian checkpoint remat
    custom_jvp custom_vjp stop_gradient
""".split()
MODULES = "lax linalg nn numpy onnx optim quantize random torch tree".split()


# What stands inside of them, and on the objects that users hold.
MEMBERS = {
    "lax": "cond switch while_loop fori_loop scan map associative_scan pfor",
    "nn": """relu gelu silu sigmoid softplus tanh softmax log_softmax conv conv_transpose max_pool avg_pool layer_norm
        rms_norm batch_norm group_norm dot_product_attention one_hot embedding dropout cross_entropy
        binary_cross_entropy mse mae huber""",
    "linalg": "solve norm inv det cholesky qr svd eigh solve_triangular",
    "numpy": "zeros ones arange where take einsum linalg fft float32 pi",
    "optim": "sgd adam adamw constant cosine warm_up clip_by_norm global_norm glorot he",
    "random": """key split fold_in bits uniform normal truncated_normal bernoulli categorical gumbel exponential randint
        permutation choice""",
    "tree": "register flatten unflatten structure leaves paths map reduce",
    "jit": "trace lower compile bind cache_info clear_cache explain n_compiles inspect_llvm inspect_asm",
    "compile": "as_text cost_analysis memory_analysis profile save",
    "trace": "graph lower",
    "lower": "as_text compile",
    "load": "manifest texts",
    "config": "set num_threads debug check cache cache_dir cache_limit target alarm max_signatures",
}
COMMANDS = "dump run diff explain bench ops passes inspect verify".split()


def file_of(name: str) -> Path:
    module = f"frontend.{name}" if name in MODULES else treadle.NAMES[name][0]
    return ROOT / (module.replace(".", "/") + ".py")


def test_the_tables_hold_the_contract() -> None:
    """A name dropped from the tables would be missing only in somebody's script."""
    assert sorted(treadle.NAMES) == sorted(NAMES)
    assert sorted(treadle.MODULES) == sorted(MODULES)


@pytest.mark.parametrize("name", [*NAMES, *MODULES])
def test_a_name_loads_or_is_refused_by_name(name: str) -> None:
    """A file that is there must load; one that is not must say so, not fail somewhere inside."""
    if name == "torch" and importlib.util.find_spec("torch") is None:
        return
    if file_of(name).exists():
        original, there = (f"frontend.{name}", None) if name in MODULES else treadle.NAMES[name]
        module = importlib.import_module(f"treadle.{original}")
        if there is None:
            assert getattr(treadle, name) is module
            return
        if hasattr(module, there):
            assert getattr(treadle, name) is getattr(module, there)
            return
    with pytest.raises(AttributeError, match=f"treadle.{name} is not part of treadle"):
        getattr(treadle, name)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_one_identity(module: str) -> None:
    """`from treadle import nn`, `import treadle.nn` and the file itself: one module, or one clear refusal."""
    if file_of(module).exists():
        script = (
            f"import treadle.{module} as a; from treadle import {module} as b; "
            f"import treadle.frontend.{module} as c; assert a is b is c; "
            f"assert a.__spec__.name == a.__name__ == 'treadle.frontend.{module}'"
        )
        if module == "torch" and importlib.util.find_spec("torch") is None:
            return
        expected = ""
    else:
        script = f"from treadle import {module}"
        expected = f"TD0600: treadle.{module} is not part of treadle {treadle.__version__}\n"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.stderr.endswith(expected)
    assert (run.returncode == 0) == (expected == "")


def test_a_wrong_name_is_an_ordinary_error() -> None:
    """`hasattr` and completion must work as on any module."""
    assert not hasattr(treadle, "no_such_name")
    assert set(dir(treadle)) >= {*NAMES, *MODULES}


def holder(name: str, folder: Path) -> object:
    """The module, or an object as a user comes to hold it."""
    if name in MODULES or name == "config":
        return getattr(treadle, name)
    function = treadle.jit(lambda x: x + 1)
    match name:
        case "jit":
            return function
        case "trace":
            return function.trace(1.0)
        case "lower":
            return function.lower(1.0)
    compiled = function.compile(1.0)
    if name == "compile":
        return compiled
    compiled.save(folder / "model.so")
    return treadle.load(folder / "model.so")


@pytest.mark.parametrize("name", MEMBERS)
def test_what_stands_inside_is_there(name: str, tmp_path: Path) -> None:
    """A module that loads without its functions, or an object without its methods, keeps half of the contract."""
    found = holder(name, tmp_path)
    assert [member for member in MEMBERS[name].split() if not hasattr(found, member)] == []
    listed = getattr(found, "__all__", None)
    if listed is not None:
        assert [member for member in listed if not hasattr(found, member)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Scripts call the command line as others import modules."""
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module("treadle.frontend.cli").main([command, "--help"])
    assert stopped.value.code == 0 and f"treadle {command}" in capsys.readouterr().out


@pytest.mark.parametrize("module", [name for name in MODULES if name not in ("numpy", "linalg")])
def test_a_module_lists_its_names(module: str) -> None:
    """Completion and `import *` show what is the user's, not what the file itself imports."""
    if file_of(module).exists():
        if module == "torch" and importlib.util.find_spec("torch") is None:
            return
        found = getattr(treadle, module)
        shown = {name for name in getattr(found, "__all__", ()) if not name.startswith("_")}
        assert shown >= set(MEMBERS.get(module, "").split()), "__all__"
