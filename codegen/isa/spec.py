"""What an instruction is: a signature, the ability it needs, and a loop body that is its meaning.

The body is written in the scalar language of the loops over the instruction's own parameters. It is what the evaluator
runs, what the emitter writes on machines without the instruction, and what the native emission is tested against; so
there is nothing else to believe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_never

from ...ir.classes import dataclass
from ...ir.dtypes import DType
from ...ir.errors import Unsupported
from ...ir.loops import scalars
from ...ir.loops.nodes import Binary, Call, Cast, Const, Expr, Fma, Index, Let, Load, Select, Unary, Var

Emission = Callable[..., Any]  # (writer, one value per parameter) -> value; all of one number of lanes, or scalar


@dataclass(frozen=True)
class Instruction:
    """`result` is an expression over the parameters and `lets`. `needs` says in words what holds for all operands; the
    meaning is total, so where nothing is said nothing is needed."""

    name: str
    params: tuple[Var, ...]
    lets: tuple[Let, ...]
    result: Expr
    ability: str
    needs: str = ""

    @property
    def dtype(self) -> DType:
        return self.result.dtype

    def __call__(self, *args: Expr) -> Call:
        """The instruction on these operands, as an expression of the loops."""
        expected = [param.dtype for param in self.params]
        given = [arg.dtype for arg in args]
        if given != expected:
            raise Unsupported(
                f"{self.name} takes {', '.join(map(str, expected))}, not {', '.join(map(str, given))}", code="TD0531"
            )
        return Call(self.name, args, self.dtype)


def meaning(instruction: Instruction) -> Callable[..., Any]:
    """The instruction as a function of NumPy scalars (or arrays of one shape)."""

    def run(*args: Any) -> Any:
        scope = {param.name: param.dtype.numpy.type(arg) for param, arg in zip(instruction.params, args)}
        for let in instruction.lets:
            scope[let.name] = _evaluate(let.value, scope)
        return _evaluate(instruction.result, scope)

    return run


def _evaluate(expr: Expr, scope: dict[str, Any]) -> Any:
    match expr:
        case Var(name):
            return scope[name]
        case Const(value, dtype):
            return dtype.numpy.type(value)
        case Unary(op, x):
            return scalars.unary(op, _evaluate(x, scope))
        case Binary(op, x, y):
            return scalars.binary(op, _evaluate(x, scope), _evaluate(y, scope))
        case Fma(x, y, z):
            return scalars.fma(_evaluate(x, scope), _evaluate(y, scope), _evaluate(z, scope))
        case Select(c, x, y):
            return scalars.select(_evaluate(c, scope), _evaluate(x, scope), _evaluate(y, scope))
        case Cast(x, dtype, bits):
            inner = _evaluate(x, scope)
            return scalars.bits(inner, dtype) if bits else scalars.cast(inner, dtype)
        case Load() | Index() | Call():
            raise AssertionError("an instruction's meaning is made of its operands only")
        case _:
            assert_never(expr)
