"""treadle: a plain NumPy function becomes native code.

The root only says where each public name lives. Nothing is loaded until it is asked for (PEP 562), so `import treadle`
costs next to nothing, and the one submodule that needs a compiler is loaded by the call that compiles.
The public modules (`treadle.nn`, `treadle.random`, ...) live in `frontend/`, because files of those names here would
shadow the standard library's and NumPy's whenever this directory is on the path; a finder makes the short name and
the long one the same module.
"""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec

__version__ = "0.1.0"

# Public modules: `treadle.nn` is `treadle.frontend.nn`.
MODULES = ("lax", "linalg", "nn", "numpy", "onnx", "optim", "quantize", "random", "torch", "tree")

# Public names, and the file that defines each.
NAMES = {
    **dict.fromkeys(("jit",), "frontend.jit"),
}


def __getattr__(name: str) -> object:
    if name in MODULES:
        if importlib.util.find_spec(f"treadle.frontend.{name}") is None:
            raise AttributeError(absence(name))
        return importlib.import_module(f"treadle.{name}")
    if name in NAMES:
        value = getattr(importlib.import_module(f"treadle.{NAMES[name]}"), name)
        globals()[name] = value  # the next look-up finds it without coming here
        return value
    raise AttributeError(f"module 'treadle' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *MODULES, *NAMES})


def absence(name: str) -> str:
    return f"treadle.{name} is not part of treadle {__version__}"


class PublicModules:
    """Finds `treadle.nn` by importing `treadle.frontend.nn` and giving out that very module."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != "treadle" or name not in MODULES:
            return None
        if importlib.util.find_spec(f"treadle.frontend.{name}") is None:
            raise ModuleNotFoundError(absence(name), name=fullname)
        return ModuleSpec(fullname, Alias(f"treadle.frontend.{name}"))


class Alias:
    """A loader that loads nothing: the module exists already under its own name."""

    def __init__(self, original: str) -> None:
        self.original = original

    def create_module(self, spec: ModuleSpec) -> object:
        module = importlib.import_module(self.original)
        self.own_spec = module.__spec__
        return module

    def exec_module(self, module: object) -> None:
        # The import system has just written the alias's spec over the module's own; reload and pickle need the latter.
        module.__spec__ = self.own_spec  # type: ignore[attr-defined]


# A second import of this file under another name (test runners do it) must not add a second finder.
if __name__ == "treadle" and not any(type(finder).__name__ == "PublicModules" for finder in sys.meta_path):
    sys.meta_path.insert(0, PublicModules())  # type: ignore[arg-type]
