"""The edit that a refusal suggests, found in the user's line: what it was calling, indexing or storing.

Only the paths of errors come here, so the source may be read and parsed. Where it is not at hand, the edit is general.
"""

from __future__ import annotations

import ast
import itertools
import linecache
import sys
from types import FrameType, ModuleType
from typing import Any, Final

import numpy as np

from .userline import doing, first_word, source, user_frame

STATIC: Final = "make it static (static_argnames=)"
_INDEXED: Final = "td.numpy.asarray({array})[{index}] instead of {array}[{index}]"
STORED: Final = "a = td.numpy.asarray(a).at[i].set(v) instead of a[i] = v"
_GENERAL: Final = "td.numpy has the same functions, and takes traced arrays in every position"
_JOINED: Final = {"r_": "np.concatenate([a, b])", "c_": "np.column_stack([a, b])", "mgrid": "td.numpy.indices(shape)",
                  "ogrid": "td.numpy.ix_(a, b)"}  # fmt: skip
# What `math` calls otherwise than NumPy does.
_MATH: Final = {"fsum": "sum", "pow": "power", "dist": "linalg.norm", "prod": "prod", "gamma": "", "comb": ""}


def expression() -> ast.expr | None:
    """The expression at which the user's line stands."""
    frame = user_frame()
    if frame is None:
        return None
    try:
        return ast.parse(source(frame).strip(), mode="eval").body
    except SyntaxError:
        return None


def _meaning(node: ast.expr, frame: FrameType) -> Any:
    """What a dotted name stands for, as long as it goes through modules; None for anything else."""
    if isinstance(node, ast.Name):
        return frame.f_locals.get(node.id, frame.f_globals.get(node.id, vars(sys.modules["builtins"]).get(node.id)))
    if isinstance(node, ast.Attribute):
        owner = _meaning(node.value, frame)
        return getattr(owner, node.attr, None) if isinstance(owner, ModuleType) else None
    return None


def for_elements() -> tuple[str, str]:
    """Where the elements of a traced array were asked for: what it was, and the edit."""
    node, frame, what = expression(), user_frame(), "asked for its elements as a NumPy array"
    if isinstance(node, ast.Subscript) and frame is not None:
        maker = ast.unparse(node.value).rsplit(".", 1)[-1]
        if maker in _JOINED and "." in ast.unparse(node.value):
            return what, f"{_JOINED[maker]} instead of {ast.unparse(node)}"
        return "used as an index of a concrete array", _subscript(node)
    if doing() == "index":
        return "used as an index of a concrete array", _INDEXED.format(array="a", index="i")
    if isinstance(node, ast.Call) and frame is not None:
        return what, _call(node, frame)
    return what, f"{_GENERAL}; np.stack([a, b]) for np.array([a, b])"


def _subscript(node: ast.Subscript) -> str:
    if any(isinstance(each, ast.Slice) and not _empty(each) for each in ast.walk(node.slice)):
        return "td.lax.dynamic_slice(a, starts, sizes), whose size is known"
    index = ast.unparse(node.slice)
    if isinstance(node.slice, ast.Tuple):
        index = index[1:-1]
    return _INDEXED.format(array=ast.unparse(node.value), index=index)


def _empty(node: ast.Slice) -> bool:
    return node.lower is None and node.upper is None and node.step is None


def _call(node: ast.Call, frame: FrameType) -> str:
    name, function = ast.unparse(node.func), _meaning(node.func, frame)
    last = name.rsplit(".", 1)[-1]
    module = _meaning(node.func.value, frame) if isinstance(node.func, ast.Attribute) else None
    if module is np.random:
        return "td.random with a key, or draw before the call"
    if isinstance(function, type) and issubclass(function, np.generic):
        return f"x.astype({name}) instead of {name}(x)"
    if function is np.array:
        return f"np.stack([a, b]) instead of {name}([a, b]), or td.numpy.array, which takes traced arrays"
    if function is np.arange:
        return "count to a known size: start + step * np.arange(n)"
    if "vectorize" in name:
        return "functions of whole arrays, or td.vmap of one for an element"
    if function is not None and function is getattr(np, last, None) and not isinstance(function, type):
        return f"td.numpy.{last}, which takes traced arrays in every position, instead of {name}"
    method = isinstance(node.func, ast.Attribute) and not isinstance(module, ModuleType)
    if method and hasattr(np.ndarray, last) and hasattr(np, last):
        return f"td.numpy.{last}({name.rpartition('.')[0]}, ...) instead of {name}(...)"
    return _GENERAL


def _whole_quotient(node: Any, name: str = "floor") -> str:
    """A quotient of sizes that is to be a whole number, as a size."""
    above, below = (
        f"({ast.unparse(x)})" if isinstance(x, ast.BinOp) else ast.unparse(x) for x in (node.left, node.right)
    )
    return f"-(-{above} // {below})" if name == "ceil" else f"{above} // {below}"


def for_number(kind: str) -> str:
    """Where a Python number was asked for."""
    node, frame = expression(), user_frame()
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and frame is not None:
        name, module = node.func.attr, _meaning(node.func.value, frame)
        if getattr(module, "__name__", "") in ("math", "cmath"):
            theirs = _MATH.get(name, name)
            if theirs and (hasattr(np, theirs) or "." in theirs):
                quotient = node.args[0] if len(node.args) == 1 else None
                divided = isinstance(quotient, ast.BinOp) and isinstance(quotient.op, ast.Div)
                sizes = (
                    f", or of sizes {_whole_quotient(quotient, name)}" if divided and name in ("ceil", "floor") else ""
                )
                return f"np.{theirs} instead of {ast.unparse(node.func)}{sizes}"
            return "write it in functions of NumPy, td.nn or td.lax"
    if isinstance(node, ast.Call) and len(node.args) == 1 and isinstance(node.args[0], ast.BinOp) and kind == "int":
        if isinstance(node.args[0].op, ast.Div):
            return f"x.astype(int) instead of int(x), or of sizes {_whole_quotient(node.args[0])}"
    static = f", or {STATIC}" if kind == "int" else ""
    return f"x.astype({kind}) instead of {kind}(x){static}"


def for_integer() -> str:
    """Where an index or a length was asked for."""
    what = doing()
    if what == "store":
        return STORED
    node = expression()
    if isinstance(node, ast.Subscript):
        return _subscript(node)
    if what == "index":
        return _INDEXED.format(array="a", index="i")
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "range":
        return f"{STATIC}, or loop with td.lax.fori_loop instead of range()"
    return f"{STATIC}, or compute it from shapes and Python numbers"


def for_size(otherwise: str) -> str:
    """Where the number was asked for that a size will be."""
    node, frame = expression(), user_frame()
    if isinstance(node, ast.Subscript):
        return _INDEXED.format(array=ast.unparse(node.value), index=ast.unparse(node.slice))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return "td.numpy.full(n, v) instead of [v] * n"
    if not isinstance(node, ast.Call) or frame is None:
        return otherwise
    name, function = ast.unparse(node.func), _meaning(node.func, frame)
    last = name.rsplit(".", 1)[-1]
    if function is range:
        return "loop with td.lax.fori_loop, td.lax.scan or td.lax.map instead of range()"
    if function is not None and function is getattr(np, last, None) and not isinstance(function, type):
        return f"td.numpy.{last}, which takes sizes, instead of {name}"
    if getattr(getattr(function, "__self__", None), "__name__", "") == "math":
        theirs = _MATH.get(last, last)
        return f"np.{theirs} instead of {name}" if theirs and hasattr(np, theirs) else otherwise
    return otherwise


_SIGNS: Final = {ast.Eq: "equal", ast.NotEq: "not_equal", ast.Lt: "less", ast.LtE: "less_equal", ast.Gt: "greater",
                 ast.GtE: "greater_equal"}  # fmt: skip


def for_size_test() -> str:
    """Where a size was compared, or asked whether it is 0."""
    node, frame = expression(), user_frame()
    if isinstance(node, ast.Call) and frame is not None and _meaning(node.func, frame) in (max, min):
        kind = ast.unparse(node.func)
        return f"np.{kind}imum(a, b), which of sizes is a size, instead of {kind}(a, b)"
    if isinstance(node, ast.Call):
        return for_size("compile for a known size")
    if first_word() == "while":
        return "loop with td.lax.while_loop(condition, body, init) or td.lax.fori_loop"
    if first_word() == "assert":
        return "promise it, and every call is checked: td.jit(f, dims={name: (least, greatest, multiple)})"
    test = "np.equal(n, m)" if isinstance(node, ast.Compare) else "np.not_equal(n, 0)"
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _SIGNS:
        a, b = (ast.unparse(each) for each in (node.left, node.comparators[0]))
        shapes = isinstance(node.comparators[0], ast.Tuple) or a.endswith("shape") or b.endswith("shape")
        test = f"np.{_SIGNS[type(node.ops[0])]}({'n, m' if shapes else f'{a}, {b}'})"
    return (
        f"choose with np.where({test}, x, y) or td.lax.cond({test}, f, g, *operands), or compile for a known size"
        " or one of which enough is promised (td.jit(dims=))"
    )


def for_truth() -> str:
    """Where it mattered whether a traced array is true."""
    frame = user_frame()
    around = [] if frame is None else _around(frame)
    choice = _CHOICES.get(first_word(), _CHOOSE)
    tested = first_word() in ("if", "elif", *_CHOICES) or any(isinstance(node, ast.IfExp) for node in around)
    for i, node in enumerate(map(_tested, around)):
        if isinstance(node, ast.Call) and frame is not None:
            found = _builtin(node, frame)
            if found:
                return found
        if _elementwise(node) is not None:
            # Of `a < b < c or d` the whole.
            whole = [_elementwise(each) for each in map(_tested, around[i:])]
            condition = next(c for c, after in zip(whole, [*whole[1:], None], strict=True) if after is None)
            return choice.format(condition) if tested else f"{condition}, element by element"
    return choice.format("condition")


_CHOOSE: Final = "choose with np.where({0}, a, b) or branch with td.lax.cond({0}, f, g, *operands)"
_CHOICES: Final = {
    "while": "loop with td.lax.while_loop(condition, body, init)",
    "assert": "check it outside of the traced function",
}


def _around(frame: FrameType) -> list[ast.expr]:
    """The expressions of the user's line in which the frame stands, the innermost first, up to the next function."""
    lines = linecache.getlines(frame.f_code.co_filename)
    place = next(itertools.islice(frame.f_code.co_positions(), max(frame.f_lasti, 0) // 2, None), None)
    if not lines or place is None or None in place:
        return []
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:
        return []
    first, last, begin, end = place
    found: list[ast.AST] = []
    for node in ast.walk(tree):  # from the outside in, for one path
        if isinstance(node, ast.expr | ast.stmt | ast.comprehension):
            span = _span(node)
            if span is not None and span[0] <= (first, begin) and (last, end) <= span[1]:
                found.append(node)
    inner = itertools.takewhile(lambda node: not isinstance(node, ast.stmt | ast.Lambda), reversed(found))
    return [node for node in inner if isinstance(node, ast.expr)]


def _tested(node: ast.expr) -> ast.expr:
    return node.test if isinstance(node, ast.IfExp) else node


def _span(node: ast.AST) -> tuple[tuple[int, int], tuple[int, int]] | None:
    if not isinstance(node, ast.expr | ast.stmt) or node.end_lineno is None or node.end_col_offset is None:
        return None
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _builtin(node: ast.Call, frame: FrameType) -> str | None:
    """NumPy's word for a function of Python's that compares or tests elements one by one."""
    function = _meaning(node.func, frame)
    if function not in (sorted, max, min, any, all) or any(isinstance(each, ast.Starred) for each in node.args):
        return None
    if any(each.arg == "key" for each in node.keywords) or isinstance(node.args[0], ast.GeneratorExp | ast.ListComp):
        name = ast.unparse(node.func)
        return f"np.{'sort' if function is sorted else name} of one whole array instead of {name}"
    operand = _closed(node.args[0])
    if function is sorted:
        backwards = "[::-1]" if node.keywords else ""
        return f"np.sort({ast.unparse(node.args[0])}){backwards} instead of {ast.unparse(node)}"
    if len(node.args) == 1:
        return f"{operand}.{function.__name__}() instead of {ast.unparse(node)}"
    pair = f"np.{function.__name__}imum(" + ", ".join(map(ast.unparse, node.args)) + ")"
    stack = f"np.stack([{', '.join(map(ast.unparse, node.args))}]).{function.__name__}(0)"
    return f"{pair if len(node.args) == 2 else stack} instead of {ast.unparse(node)}"


def _elementwise(node: ast.expr) -> str | None:
    """`and`, `or`, `not` or a chain of comparisons, as NumPy has it for arrays; None for another expression."""
    match node:
        case ast.Compare(left, ops, right) if len(ops) > 1:
            terms = [left, *right]
            pairs = (ast.Compare(terms[i], [each], [terms[i + 1]]) for i, each in enumerate(ops))
            return " & ".join(f"({ast.unparse(pair)})" for pair in pairs)
        case ast.BoolOp(op, values):
            both = isinstance(op, ast.And)
            spelt = [_elementwise(value) or ast.unparse(value) for value in values]
            if all(map(_is_condition, values)):
                return (" & " if both else " | ").join(f"({each})" for each in spelt)
            # Numbers have no bitwise `and`.
            joined = spelt[0]
            for each in spelt[1:]:
                joined = f"np.logical_{'and' if both else 'or'}({joined}, {each})"
            return joined
        case ast.UnaryOp(ast.Not(), operand):
            term = _elementwise(operand) or ast.unparse(operand)
            return f"~({term})" if _is_condition(operand) else f"np.logical_not({term})"
    return None


def _is_condition(node: ast.expr) -> bool:
    """Whether it is made of comparisons, as far as one can see, so that its elements are bools."""
    match node:
        case ast.Compare():
            return True
        case ast.BoolOp(_, values):
            return all(map(_is_condition, values))
        case ast.UnaryOp(ast.Not(), operand):
            return _is_condition(operand)
    return False


def _closed(node: ast.expr) -> str:
    """The expression as it stands before a dot."""
    text = ast.unparse(node)
    return text if isinstance(node, ast.Name | ast.Attribute | ast.Subscript | ast.Call) else f"({text})"


_PRODUCTS: Final = ("matmul", "dot", "tensordot", "inner", "vecdot", "matvec", "vecmat")


def operands() -> tuple[str, str] | None:
    """What the user's line calls the operands of a product; None where it does not show them."""
    node, frame = expression(), user_frame()
    pair: tuple[ast.expr, ast.expr] | None = None
    match node:
        case ast.BinOp(left, ast.MatMult(), right):
            pair = left, right
        case ast.Call(func, [left, right, *_]) if ast.unparse(func).rsplit(".", 1)[-1] in _PRODUCTS:
            pair = left, right
        case ast.Call(ast.Attribute(owner, name), [right]) if name in _PRODUCTS and frame is not None:
            pair = None if isinstance(_meaning(owner, frame), ModuleType) else (owner, right)
    if pair is None or any(isinstance(each, ast.Starred) or len(ast.unparse(each)) > 40 for each in pair):
        return None
    return _closed(pair[0]), _closed(pair[1])
