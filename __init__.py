"""treadle: a plain NumPy function becomes native code.

The root only says where each public name lives. Nothing is loaded until it is asked for (PEP 562), so
`import treadle` costs next to nothing. The public modules (`treadle.nn`, `treadle.random`, ...) live in
`frontend/`, because files of those names here would shadow the standard library's and NumPy's whenever this
directory is on the path; a finder makes the short name and the long one the same module.
"""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

__version__ = "0.1.0"

# Public modules: `treadle.nn` is `treadle.frontend.nn`.
MODULES = ("lax", "linalg", "nn", "numpy", "onnx", "optim", "quantize", "random", "torch", "tree")

# Public names: the file that defines each, and its name there.
NAMES = {
    "jit": ("frontend.jit", "jit"),
    "ShapeDtype": ("frontend.arguments", "ShapeDtype"),
    "load": ("frontend.load", "load"),
    "config": ("frontend.options", "config"),
    "get_num_threads": ("frontend.options", "get_num_threads"),
    "set_num_threads": ("frontend.options", "set_num_threads"),
    "stats": ("frontend.compile", "stats"),
    "parse": ("frontend.texts", "parse"),
    "evaluate": ("frontend.texts", "evaluate"),
    "TreadleError": ("ir.errors", "TreadleError"),
    "remat": ("frontend.transforms", "checkpoint"),
    "custom_jvp": ("frontend.custom", "custom_jvp"),
    "custom_vjp": ("frontend.custom", "custom_vjp"),
} | {
    name: ("frontend.transforms", name)
    for name in (
        "checkpoint", "grad", "hessian", "jacfwd", "jacobian", "jacrev", "jvp",
        "linearize", "stop_gradient", "value_and_grad", "vjp", "vmap",
    )
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name in MODULES and _exists(f"treadle.frontend.{name}"):
        return importlib.import_module(f"treadle.{name}")
    if name in NAMES:
        file, there = NAMES[name]
        if _exists(f"treadle.{file}"):
            module = importlib.import_module(f"treadle.{file}")
            if hasattr(module, there):
                value: object = getattr(module, there)
                globals()[name] = value  # the next look-up does not come here
                return value
    if name.startswith("__"):
        raise AttributeError(f"module 'treadle' has no attribute {name!r}")
    errors = importlib.import_module("treadle.ir.errors")
    if name in MODULES or name in NAMES:
        raise errors.UnknownName(_absence(name), code="TD0600")
    from difflib import get_close_matches

    near = get_close_matches(name, [*MODULES, *NAMES], 1)
    raise errors.UnknownName(
        f"treadle has no {name!r}", code="TD0600", edit=f"did you mean td.{near[0]}?" if near else None
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *MODULES, *NAMES})


def _exists(module: str) -> bool:
    return module in sys.modules or importlib.util.find_spec(module) is not None


def _absence(name: str) -> str:
    return f"treadle.{name} is not part of treadle {__version__}"


class PublicModules:
    """Finds `treadle.nn` by importing `treadle.frontend.nn` and giving out that very module."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != "treadle" or name not in MODULES:
            return None
        original = f"treadle.frontend.{name}"
        if not _exists(original):
            # Named after the original: `from treadle import nn` swallows the error of a missing `treadle.nn`.
            error = importlib.import_module("treadle.ir.errors").UnknownModule(_absence(name), code="TD0600")
            error.name = original
            raise error
        return ModuleSpec(fullname, Alias(original))  # type: ignore[arg-type]


class Alias:
    """A loader that loads nothing: the module exists already under its own name."""

    def __init__(self, original: str) -> None:
        self.original = original

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.original)
        self.own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has just put the alias's spec in place of the module's own.
        module.__spec__ = self.own_spec


# A second import of this file under another name (test runners do it) must not add a second finder.
if __name__ == "treadle" and not any(type(finder).__name__ == "PublicModules" for finder in sys.meta_path):
    sys.meta_path.insert(0, PublicModules())
