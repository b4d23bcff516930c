"""Arithmetic too long to stand in line: the exact remainder, f64 fma without the instruction, and scalef's spelling.

A routine is an internal function of the module, written once per type on first use, so no object calls a maths library.
Both work on the integers inside the floats and are exact by construction: the remainder subtracts the divisor's
significand bit by bit, the fma adds in 256 bits and rounds once.
"""

from __future__ import annotations

from ...ir.dtypes import DType, bool_, f32, f64, i32, i64
from .intrinsics import declaration, overload
from .writer import Value, Writer, flatten, literal, register_type


def call(w: Writer, name: str, args: tuple[Value, ...]) -> Value:
    """The routine `name` on values of one float type."""
    lanes = max([arg.lanes for arg in args])
    args = tuple([w.splat(arg, lanes) for arg in args])
    dtype = args[0].dtype
    full = f'@"routine.{name}.{overload(args[0].type)}"'
    if full not in w.needs.routines:
        w.needs.routines[full] = ""  # its place in the order of first use
        w.needs.routines[full] = _BUILDERS[name](w, full, dtype, lanes)
    listed = ", ".join([arg.typed for arg in args])
    level = max([arg.level for arg in args])
    return w.pure(f"call {args[0].type} {full}({listed})", dtype, lanes, level)


def scalef(w: Writer, x: Value, y: Value) -> Value:
    """AVX-512's x * 2**floor(y); 512 bits at a time."""
    dtype = x.dtype
    lanes = max(x.lanes, y.lanes)
    x, y = w.splat(x, lanes), w.splat(y, lanes)
    width = 512 // dtype.bits
    if not lanes:
        wide = [_first_lane(w, v, width) for v in (x, y)]
        whole = _scalef_whole(w, wide[0], wide[1])
        return w.pure(f"extractelement {whole.typed}, i64 0", dtype, 0, whole.level)
    parts = [_scalef_whole(w, a, b) for a, b in zip(pieces(w, x, width), pieces(w, y, width))]
    return joined(w, parts, lanes)


def _scalef_whole(w: Writer, x: Value, y: Value) -> Value:
    letter, mask = ("s", "i16") if x.dtype is f32 else ("d", "i8")
    name = f"llvm.x86.avx512.mask.scalef.p{letter}.512"
    w.needs.declare(declaration(x.type, name, (x.type, x.type, x.type, mask, "i32")))
    text = f"call {x.type} @{name}({x.typed}, {y.typed}, {x.type} zeroinitializer, {mask} -1, i32 4)"
    return w.pure(text, x.dtype, x.lanes, max(x.level, y.level))


def _first_lane(w: Writer, x: Value, lanes: int) -> Value:
    vector = register_type(x.dtype, lanes)
    return w.pure(f"insertelement {vector} zeroinitializer, {x.typed}, i64 0", x.dtype, lanes, x.level)


def pieces(w: Writer, x: Value, width: int) -> list[Value]:
    """A vector cut into vectors of `width` lanes; the last is filled up with whatever is cheapest."""
    if x.lanes == width:
        return [x]
    result = []
    for first in range(0, x.lanes, width):
        numbers = [first + lane if first + lane < x.lanes else -1 for lane in range(width)]
        result.append(shuffle(w, x, x, numbers))
    return result


def joined(w: Writer, parts: list[Value], lanes: int) -> Value:
    """The vectors one behind the other, cut to `lanes`."""
    while len(parts) > 1:
        paired = [
            shuffle(w, parts[i], parts[i + 1], list(range(parts[i].lanes * 2))) for i in range(0, len(parts) - 1, 2)
        ]
        if len(parts) % 2:
            # Equal widths, so that the next round can join it.
            last = parts[-1]
            paired.append(shuffle(w, last, last, [*range(last.lanes), *[-1] * last.lanes]))
        parts = paired
    whole = parts[0]
    return whole if whole.lanes == lanes else shuffle(w, whole, whole, list(range(lanes)))


def shuffle(w: Writer, x: Value, y: Value, numbers: list[int]) -> Value:
    """Lanes picked by number from x and then y; -1 is any lane."""
    if y is x:
        numbers = [n % x.lanes if n >= 0 else n for n in numbers]
    mask = ", ".join([f"i32 {n}" if n >= 0 else "i32 poison" for n in numbers])
    other = y.text if y is not x else "poison"
    text = f"shufflevector {x.typed}, {x.type} {other}, <{len(numbers)} x i32> <{mask}>"
    return w.pure(text, x.dtype, len(numbers), max(x.level, y.level))


def any_lane(w: Writer, mask: Value) -> Value:
    """Whether any lane of a mask is on; a scalar as it is."""
    if not mask.lanes:
        return mask
    name = f"llvm.vector.reduce.or.{overload(mask.type)}"
    w.needs.declare(declaration("i1", name, (mask.type,)))
    return w.pure(f"call i1 @{name}({mask.typed})", bool_, 0, mask.level)


def _build_fmod(outer: Writer, full: str, dtype: DType, lanes: int) -> str:
    """The remainder of x / y with the sign of x, exact. Long division of significands: one bit of quotient per round,
    as many rounds as the exponents differ."""
    w = Writer(outer.target, outer.needs)
    integer = i32 if dtype is f32 else i64
    fraction = 23 if dtype is f32 else 52
    top = integer.bits - 1 - fraction  # leading zeros of a normal significand
    special = ((1 << top) - 1) << fraction
    kind = register_type(dtype, lanes)
    whole = register_type(integer, lanes)

    def number(value: int) -> Value:
        return literal(value, integer)

    def significand(bits: Value) -> tuple[Value, Value]:
        """(significand with its leading bit in place, exponent field or what it would be)."""
        field = w.op("lshr", bits, number(fraction))
        low = w.op("and", bits, number((1 << fraction) - 1))
        zeros = w.call("llvm.ctlz", (low,), integer, extra="i1 false")
        shift = w.op("sub", zeros, number(top))
        # ctlz of 0 is the width; such lanes are answered elsewhere, and 31 (63) keeps the shift defined.
        shift = w.op("and", shift, number(integer.bits - 1))
        tiny = w.op("icmp eq", field, number(0), bool_)
        normal = w.op("or", low, number(1 << fraction))
        return (
            w.select(tiny, w.op("shl", low, shift), normal),
            w.select(tiny, w.op("sub", number(1), shift), field),
        )

    x, y = Value("%x", dtype, lanes), Value("%y", dtype, lanes)
    bits_x, bits_y = w.convert("bitcast", x, integer), w.convert("bitcast", y, integer)
    sign = w.op("and", bits_x, number(-(1 << (integer.bits - 1))))
    size_x = w.op("xor", bits_x, sign)
    size_y = w.op("and", bits_y, number((1 << (integer.bits - 1)) - 1))
    m_x, e_x = significand(size_x)
    m_y, e_y = significand(size_y)
    rounds = w.op("sub", e_x, e_y)
    w.put("  br label %test")
    head = w.scopes[-1].lines
    w.start("test")
    m = Value("%m", integer, lanes)
    going = Value("%going", bool_, lanes)
    head.append(f"  %m = phi {whole} [ {m_x.text}, %entry ], [ %m.next, %round ]")
    head.append(f"  %n = phi {whole} [ {rounds.text}, %entry ], [ %n.next, %round ]")
    zero = w.splat(number(0), lanes)
    one = w.splat(number(1), lanes)
    head.append(f"  %going = icmp sgt {whole} %n, {zero.text}")
    again = any_lane(w, going)
    w.put(f"  br i1 {again.text}, label %round, label %done")
    w.start("round")
    head.append(f"  %d = sub {whole} %m, {m_y.text}")
    head.append(f"  %fits = icmp sge {whole} %d, {zero.text}")
    fits_type = register_type(bool_, lanes)
    head.append(f"  %kept = select {fits_type} %fits, {whole} %d, {whole} %m")
    head.append(f"  %twice = shl {whole} %kept, {one.text}")
    head.append(f"  %m.next = select {fits_type} %going, {whole} %twice, {whole} %m")
    head.append(f"  %fewer = sub {whole} %n, {one.text}")
    head.append(f"  %n.next = select {fits_type} %going, {whole} %fewer, {whole} %n")
    w.put("  br label %test")
    w.start("done")
    last = w.op("sub", m, m_y)
    rest = w.select(w.op("icmp sge", last, number(0), bool_), last, m)
    zeros = w.call("llvm.ctlz", (rest,), integer, extra="i1 false")
    shift = w.op("sub", zeros, number(top))
    moved = w.op("shl", rest, w.op("and", shift, number(integer.bits - 1)))
    exponent = w.op("sub", e_y, shift)
    normal = w.op("or", w.op("sub", moved, number(1 << fraction)), w.op("shl", exponent, number(fraction)))
    down = w.op("and", w.op("sub", number(1), exponent), number(integer.bits - 1))
    small = w.op("lshr", moved, down)
    result = w.select(w.op("icmp sgt", exponent, number(0), bool_), normal, small)
    result = w.select(w.op("icmp eq", rest, number(0), bool_), number(0), result)
    result = w.select(w.op("icmp ult", size_x, size_y, bool_), size_x, result)
    answer = w.convert("bitcast", w.op("or", result, sign), dtype)
    wrong = w.op("icmp uge", size_x, number(special), bool_)
    wrong = w.op("or", wrong, w.op("icmp ugt", size_y, number(special), bool_))
    wrong = w.op("or", wrong, w.op("icmp eq", size_y, number(0), bool_))
    answer = w.select(wrong, literal(float("nan"), dtype), answer)
    body = flatten(w.scopes[0].lines, [])
    return "\n".join(
        [
            f"define internal {kind} {full}({kind} %x, {kind} %y) nounwind {{",
            "entry:",
            *body,
            f"  ret {answer.typed}",
            "}",
        ]
    )


def _build_fma(outer: Writer, full: str, dtype: DType, lanes: int) -> str:
    """x * y + z in f64, rounded once. A vector goes lane by lane: this is for machines without the instruction."""
    if not lanes:
        for name in ("smin", "smax", "umin"):
            outer.needs.declare(declaration("i64", f"llvm.{name}.i64", ("i64", "i64")))
        outer.needs.declare(declaration("i256", "llvm.ctlz.i256", ("i256", "i1")))
        return _SCALAR_FMA.replace("@fma64", full)
    scalars = tuple([Value("0x0000000000000000", f64)] * 3)
    call(outer, "fma", scalars)
    kind = register_type(dtype, lanes)
    lines = [f"define internal {kind} {full}({kind} %x, {kind} %y, {kind} %z) nounwind {{"]
    whole = "poison"
    for lane in range(lanes):
        lines += [f"  %{name}{lane} = extractelement {kind} %{name}, i64 {lane}" for name in "xyz"]
        lines.append(f'  %r{lane} = call double @"routine.fma.f64"(double %x{lane}, double %y{lane}, double %z{lane})')
        lines.append(f"  %w{lane} = insertelement {kind} {whole}, double %r{lane}, i64 {lane}")
        whole = f"%w{lane}"
    return "\n".join([*lines, f"  ret {kind} {whole}", "}"])


# Both terms as integers times a power of two, brought to one exponent in 256 bits. A term too far below the other is
# only kept as a last bit that says "a little more"; it lies more than 60 places under the rounding, so the result is
# the same. q is the exponent of the result's last place, which is -1074 from the subnormals down.
_SCALAR_FMA = """\
define internal double @fma64(double %x, double %y, double %z) nounwind {
entry:
  %bx = bitcast double %x to i64
  %by = bitcast double %y to i64
  %bz = bitcast double %z to i64
  %fx0 = lshr i64 %bx, 52
  %fx = and i64 %fx0, 2047
  %fy0 = lshr i64 %by, 52
  %fy = and i64 %fy0, 2047
  %fz0 = lshr i64 %bz, 52
  %fz = and i64 %fz0, 2047
  %wild.x = icmp eq i64 %fx, 2047
  %wild.y = icmp eq i64 %fy, 2047
  %wild.z = icmp eq i64 %fz, 2047
  %wild.p = or i1 %wild.x, %wild.y
  %plain.p = fmul double %x, %y
  %plain = fadd double %plain.p, %z
  %lx = and i64 %bx, 4503599627370495
  %ly = and i64 %by, 4503599627370495
  %lz = and i64 %bz, 4503599627370495
  %nx = icmp ne i64 %fx, 0
  %ny = icmp ne i64 %fy, 0
  %nz = icmp ne i64 %fz, 0
  %ix = select i1 %nx, i64 4503599627370496, i64 0
  %iy = select i1 %ny, i64 4503599627370496, i64 0
  %iz = select i1 %nz, i64 4503599627370496, i64 0
  %mx = or i64 %lx, %ix
  %my = or i64 %ly, %iy
  %mz = or i64 %lz, %iz
  %gx = select i1 %nx, i64 %fx, i64 1
  %gy = select i1 %ny, i64 %fy, i64 1
  %gz = select i1 %nz, i64 %fz, i64 1
  %ex = sub i64 %gx, 1075
  %ey = sub i64 %gy, 1075
  %ez0 = sub i64 %gz, 1075
  %ep = add i64 %ex, %ey
  %mx.wide = zext i64 %mx to i128
  %my.wide = zext i64 %my to i128
  %p.wide = mul i128 %mx.wide, %my.wide
  %p = zext i128 %p.wide to i256
  %c = zext i64 %mz to i256
  %p.zero = icmp eq i128 %p.wide, 0
  %c.zero = icmp eq i64 %mz, 0
  %simple = or i1 %p.zero, %wild.p
  br i1 %simple, label %easy, label %finite
easy:
  ret double %plain
finite:
  br i1 %wild.z, label %same, label %sum
same:
  %quiet = fadd double %z, 1.0
  ret double %quiet
sum:
  %ez = select i1 %c.zero, i64 %ep, i64 %ez0
  %d = sub i64 %ep, %ez
  %back = sub i64 0, %d
  %p.above = icmp sge i64 %d, 0
  %up.p0 = call i64 @llvm.smin.i64(i64 %d, i64 120)
  %up.p = select i1 %p.above, i64 %up.p0, i64 0
  %down.c0 = sub i64 %d, 120
  %down.c1 = call i64 @llvm.smax.i64(i64 %down.c0, i64 0)
  %down.c = call i64 @llvm.smin.i64(i64 %down.c1, i64 255)
  %up.c0 = call i64 @llvm.smin.i64(i64 %back, i64 190)
  %up.c = select i1 %p.above, i64 0, i64 %up.c0
  %down.p0 = sub i64 %back, 190
  %down.p1 = call i64 @llvm.smax.i64(i64 %down.p0, i64 0)
  %down.p = call i64 @llvm.smin.i64(i64 %down.p1, i64 255)
  %up.p.w = zext i64 %up.p to i256
  %up.c.w = zext i64 %up.c to i256
  %down.p.w = zext i64 %down.p to i256
  %down.c.w = zext i64 %down.c to i256
  %p.up = shl i256 %p, %up.p.w
  %p.down = lshr i256 %p.up, %down.p.w
  %p.again = shl i256 %p.down, %down.p.w
  %p.lost = icmp ne i256 %p.again, %p.up
  %p.last = zext i1 %p.lost to i256
  %P = or i256 %p.down, %p.last
  %c.up = shl i256 %c, %up.c.w
  %c.down = lshr i256 %c.up, %down.c.w
  %c.again = shl i256 %c.down, %down.c.w
  %c.lost = icmp ne i256 %c.again, %c.up
  %c.last = zext i1 %c.lost to i256
  %C = or i256 %c.down, %c.last
  %e.p = sub i64 %ep, %up.p
  %e.c = sub i64 %ez, %up.c
  %e = select i1 %p.above, i64 %e.p, i64 %e.c
  %s.xy = xor i64 %bx, %by
  %s.p = icmp slt i64 %s.xy, 0
  %s.c = icmp slt i64 %bz, 0
  %unlike = xor i1 %s.p, %s.c
  %plus = add i256 %P, %C
  %larger = icmp uge i256 %P, %C
  %P.minus.C = sub i256 %P, %C
  %C.minus.P = sub i256 %C, %P
  %minus = select i1 %larger, i256 %P.minus.C, i256 %C.minus.P
  %M = select i1 %unlike, i256 %minus, i256 %plus
  %sign.minus = select i1 %larger, i1 %s.p, i1 %s.c
  %sign = select i1 %unlike, i1 %sign.minus, i1 %s.p
  %nothing = icmp eq i256 %M, 0
  br i1 %nothing, label %zero, label %round
zero:
  ret double 0.0
round:
  %zeros.w = call i256 @llvm.ctlz.i256(i256 %M, i1 false)
  %zeros = trunc i256 %zeros.w to i64
  %len = sub i64 256, %zeros
  %q0 = add i64 %e, %len
  %q1 = sub i64 %q0, 53
  %q = call i64 @llvm.smax.i64(i64 %q1, i64 -1074)
  %shift = sub i64 %q, %e
  %left0 = sub i64 %e, %q
  %left1 = call i64 @llvm.smax.i64(i64 %left0, i64 0)
  %left = zext i64 %left1 to i256
  %right0 = call i64 @llvm.smax.i64(i64 %shift, i64 0)
  %right1 = call i64 @llvm.smin.i64(i64 %right0, i64 255)
  %right = zext i64 %right1 to i256
  %raised = shl i256 %M, %left
  %kept = lshr i256 %raised, %right
  %kept.again = shl i256 %kept, %right
  %rest = sub i256 %raised, %kept.again
  %twice = shl i256 %rest, 1
  %unit = shl i256 1, %right
  %inexact = icmp ne i256 %rest, 0
  %over = icmp ugt i256 %twice, %unit
  %tie = icmp eq i256 %twice, %unit
  %bit = trunc i256 %kept to i1
  %tie.up = and i1 %tie, %bit
  %up0 = or i1 %over, %tie.up
  %up = and i1 %up0, %inexact
  %mant0 = trunc i256 %kept to i64
  %inc = zext i1 %up to i64
  %mant = add i64 %mant0, %inc
  %field0 = add i64 %q, 1074
  %field = call i64 @llvm.smin.i64(i64 %field0, i64 2046)
  %high = shl i64 %field, 52
  %bits0 = add i64 %high, %mant
  %bits1 = call i64 @llvm.umin.i64(i64 %bits0, i64 9218868437227405312)
  %sign.bit = select i1 %sign, i64 -9223372036854775808, i64 0
  %bits = or i64 %bits1, %sign.bit
  %result = bitcast i64 %bits to double
  ret double %result
}"""

_BUILDERS = {"fmod": _build_fmod, "fma": _build_fma}
