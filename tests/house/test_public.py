"""The public surface: every name that users may write, and no name that leads nowhere.

The root's own tables say where each name lives. What they list and this version does not have is refused by
name; what it has must load, be one object under each of its spellings, and stay in the tables.
"""

from __future__ import annotations

import importlib
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
