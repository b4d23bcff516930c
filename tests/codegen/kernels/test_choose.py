"""The table of generators: what none of them takes is refused by name; what one takes has a kernel on every target.

Every row of the op table goes through it in `together/test_op_table.py`.
"""

from __future__ import annotations

import pytest
from kernel_cases import graph_of, tensor

from treadle.codegen.cpus import MODELS
from treadle.codegen.kernels import choose
from treadle.ir.errors import TreadleError, Unsupported
from treadle.ir.graph import from_function
from treadle.ir.ops.elementwise import Exp
from treadle.ir.ops.reduce import Sum
from treadle.ir.program import KernelDef

TARGET = MODELS["avx512"]


# What no generator takes is refused by the names of its ops.
def test_refused_by_name() -> None:
    graph = from_function("odd", [tensor(6, 6)], lambda x: (Sum(x, (0,)), Sum(Exp(x), (1,))))
    assert not choose.accepts(graph, TARGET)
    with pytest.raises(Unsupported) as error:
        choose.kernel(KernelDef("odd", graph), TARGET)
    assert error.value.code == "TD0434" and "sum, exp" in str(error.value)


# A size that the graph does not declare could not be passed to the kernel.
def test_undeclared_size() -> None:
    graph = graph_of([tensor("B")], lambda x: x + x)
    open_ = from_function("open", graph.param_types, lambda x: x + x)
    with pytest.raises(TreadleError) as error:
        choose.kernel(KernelDef("open", open_), TARGET)
    assert error.value.code == "TD0436"


# Names of generators are how remarks speak of them.
def test_names_are_distinct() -> None:
    names = [generator.name for generator in choose.GENERATORS]
    assert len(dict.fromkeys(names)) == len(names)
