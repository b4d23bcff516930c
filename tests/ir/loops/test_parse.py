"""Reading kernels: what is accepted beyond what is printed, and errors that say where and what was expected."""

from __future__ import annotations

import contextlib
import textwrap

import pytest

from treadle.ir import dtypes as d
from treadle.ir.errors import ParseError
from treadle.ir.loops.build import lit
from treadle.ir.loops.nodes import Binary, Const, Let, Load, Store, Var
from treadle.ir.loops.parse import parse_kernel, parse_kernels
from treadle.ir.loops.text import show


def inside(body: str) -> str:
    return "kernel k(x: f32[4], n: i32[]) where N:\n" + textwrap.indent(textwrap.dedent(body).strip("\n"), "  ") + "\n"


# A buffer may be called what a store may be: only where the word stands tells them apart.
def test_stream() -> None:
    kernel = parse_kernel("kernel k(stream: out f32[2]):\n  stream stream[0] = 1.0\n  stream[1] = 2.0\n")
    assert [stmt.stream for stmt in kernel.body] == [True, False]  # type: ignore[union-attr]


# A text written by hand: comments, blank lines, deep indents, lines broken in brackets, spellings never printed.
def test_by_hand() -> None:
    kernel = parse_kernel(
        """
        # a kernel
        kernel k(
            x: f32[4],   # four
            y: out f32[2 * 2],
        ):

                for i in range(0, 4, 1):

                      y[i] = max(x[i],
                                 0x1p-1) + add(x[i], 2)   # an integer is a float here
        """
    )
    assert show(kernel) == textwrap.dedent(
        """\
        kernel k(x: f32[4], y: out f32[4]):
          for i in range(4):
            y[i] = max(x[i], 0.5) + (x[i] + 2.0)
        """
    )


# Neighbours read as one word say so; a word that no number of elements makes is refused.
def test_words() -> None:
    text = "kernel k(x: u8[4,8], y: out u32[]):\n  y[] = x[1, 4: u32]\n"
    kernel = parse_kernel(text)
    assert kernel.body == (Store("y", (), Load("x", (1, 4), d.u32)),)
    assert show(kernel) == text
    for word, held in (("u32", "bool"), ("i32", "u8"), ("u8", "u8"), ("f32", "u8"), ("u32", "c64")):
        with pytest.raises(ParseError, match="no number of neighbours") if word != held else contextlib.nullcontext():
            parse_kernel(f"kernel k(x: {held}[8]):\n  let y: {word} = x[0: {word}]\n")


def test_several_kernels() -> None:
    text = "kernel a():\n  pass\nkernel b(x: i8[N]) where N:\n  pass\n"
    assert [kernel.name for kernel in parse_kernels(text)] == ["a", "b"]
    assert "".join(map(show, parse_kernels(text))) == text
    with pytest.raises(ParseError, match="line 3, column 1: expected the end of the text"):
        parse_kernel(text)


# Python's own rules, where a wrong one would give another number: signs and powers, left to right, comparisons.
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("-2.0 ** t", "-((2.0) ** t)"),
        ("t - t - t", "(t - t) - t"),
        ("t ** t ** t", "t ** (t ** t)"),
        ("t + t * t", "t + (t * t)"),
        ("-t * t", "(-t) * t"),
        ("t / t // t % t", "((t / t) // t) % t"),
    ],
)
def test_precedence(text: str, meant: str) -> None:
    head = "let t: f32 = x[0]\nlet r: f32 = "
    assert parse_kernel(inside(head + text)) == parse_kernel(inside(head + meant))


# Literals take the type of what is beside them, wherever it stands, and of what is bound or stored.
def test_literal_types() -> None:
    kernel = parse_kernel(inside("let b: bool = 1 < n[]\nlet h: f16 = 0.1\nlet c: bool = i32(3) == 4\nlet z: f32 = -0"))
    one = Binary("lt", Const(1, d.i32), Load("n", (), d.i32))
    assert kernel.body == (
        Let("b", one),
        Let("h", lit(0.1, d.f16)),
        Let("c", Binary("eq", Const(3, d.i32), Const(4, d.i32))),
        Let("z", Const(-0.0, d.f32)),
    )
    assert lit(0.1, d.f16).value == 0.0999755859375


# Each error names its line, its column and what should have stood there.
@pytest.mark.parametrize(
    ("body", "line", "column", "message"),
    [
        ("x[0] = 2.0 +", 2, 15, "expected an expression, found the end of the line"),
        ("x[i] = 2.0", 2, 5, "the name 'i' is not bound here"),
        ("x[0] = q", 2, 10, "the name 'q' is not bound here"),
        ("q[0] = 1.0", 2, 3, "the buffer 'q' is not known here"),
        ("x[0] = q[1]", 2, 10, "the buffer 'q' is not known here"),
        ("let t: i32 = 2.5", 2, 16, "expected a value of i32"),
        ("let t: u8 = 300", 2, 15, "expected a value of u8"),
        ("let t: f33 = 1.0", 2, 10, "expected a dtype such as f32, found 'f33'"),
        ("if 2.0 < 3.0:\n  pass", 2, 6, "the type of this number is not known here"),
        ("x[0] = foo(x[0])", 2, 10, "there is no function 'foo'"),
        ("x[0] = min(x[0])", 2, 10, "min takes 2 operands, found 1"),
        ("x[0] = select(True, x[0], x[0], x[0])", 2, 10, "select takes 3 operands, found 4"),
        ("if 1 < n[] < 3:\n  pass", 2, 14, "comparisons do not chain"),
        ("x[0] = x[0] $ 2", 2, 15, "'$' is not part of the language"),
        ("x[0] = (x[0]\nx[1] = 1.0", 2, 10, "'(' is never closed"),
        ("x[0] = (x[0]]", 2, 15, "expected ')', found ']'"),
        ("x[0] = x[0])", 2, 14, "expected an operator or the end of the line, found ')'"),
        ("for i in rang(3):\n  pass", 2, 12, "expected range, prefetched, unrolled, vector or parallel, found 'rang'"),
        ("for i in range(3)\n  pass", 2, 20, "expected ':', found the end of the line"),
        ("for i in range(3):\npass", 3, 3, "expected a deeper block, found 'pass'"),
        ("for i in vector(N):\n  pass", 2, 18, "says lanes="),
        ("for i in range(0, 4, N):\n  pass", 2, 17, "the step of a loop is a number"),
        ("for i in range(1, 2, 3, 4):\n  pass", 2, 17, "takes one to three bounds"),
        ("x[1 +] = 1.0", 2, 5, "not a position"),
        ("let f: f32 = x[0]\nx[f] = 1.0", 3, 5, "f is f32: only integers stand in positions"),
        ("let for: f32 = x[0]", 2, 7, "expected a name, found the word 'for'"),
        ("fail if True", 2, 8, "expected the number of the failure, found 'if'"),
        ("fail 1 (2 3) if True", 2, 13, "expected ')', found '3'"),
        ("fail 1.5 if True", 2, 8, "expected the number of the failure, found '1.5'"),
        ("do:\n  pass\nx[0] = 1.0", 4, 3, "expected 'while', found 'x'"),
        ("acc: heap f32[3]", 2, 8, "expected stack or registers, found 'heap'"),
        ("if True:\n    pass\n  pass", 4, 5, "this line is as deep as no line around it"),
        ("42", 2, 3, "expected a statement"),
        ("let t: c64 = c64(1.0)", 2, 23, "expected ','"),
        ("let t: f32 = " + "(" * 200 + "x[0]" + ")" * 200, 2, 166, "deeper than 150 levels"),
        ("let t: f32 = " + "x[0] + " * 200 + "x[0]", 2, 1071, "more than 150 operators in a row"),
    ],
)
def test_errors(body: str, line: int, column: int, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_kernel(inside(body))
    assert caught.value.message.startswith(f"line {line}, column {column}: "), caught.value.message
    assert message in caught.value.message
    assert caught.value.code == "TD0401"
    # A caret stands under the column.
    assert caught.value.message.splitlines()[2].index("^") == 4 + column - 1


@pytest.mark.parametrize(
    "text",
    ["", "kernel", "kernel k", "kernel k(x: f32[N]):\n  pass\n", "kernel k():\npass\n", "x", "  pass\nx", "kernel k("],
)
def test_broken_heads(text: str) -> None:
    with pytest.raises(ParseError):
        parse_kernel(text)


# Names end with the block that binds them, so a later statement cannot see them by accident.
def test_scopes_end() -> None:
    with pytest.raises(ParseError, match="the name 't' is not bound here"):
        parse_kernel(inside("if True:\n  let t: f32 = x[0]\nx[0] = t"))
    with pytest.raises(ParseError, match="the name 'i' is not bound here"):
        parse_kernel(inside("for i in range(3):\n  pass\nx[i] = 1.0"))
    # but a do loop's condition is evaluated inside its last iteration
    kernel = parse_kernel(inside("do:\n  let t: f32 = x[0]\n  x[0] = t + 1.0\nwhile t < 9.0"))
    assert isinstance(kernel.body[0].body[1], Store)  # type: ignore[union-attr]
    assert kernel.body[0].condition == Binary("lt", Var("t", d.f32), Const(9.0, d.f32))  # type: ignore[union-attr]
