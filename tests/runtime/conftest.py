"""Tiny native programs for the tests of the runtime, written as LLVM text: no other room of treadle takes
part."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest

from treadle.runtime.signature import Dim, Failure, Signature, Tensor

f32 = np.dtype(np.float32)


@functools.cache
def compile_text(text: str, triple: str = "") -> bytes:
    """The object of a module of LLVM text, as code generation makes them."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple = triple or llvm.get_process_triple()
    machine = llvm.Target.from_triple(triple).create_target_machine(opt=1, reloc="pic", codemodel="small")
    module = llvm.parse_assembly(f'target triple = "{triple}"\n{text}')
    module.verify()
    return machine.emit_object(module)


@pytest.fixture(scope="session")
def emit() -> Callable[..., bytes]:
    return compile_text


# y[b, j] = x[b, j] + w[j] for x, y: f32[B, 4] and the constant w: f32[4], by way of scratch. Site 1: x[0, 0]
# is negative. x[0, 0] == 1e30 loops until it is told to stop.
ENTRY = """
define i64 @treadle_arena_bytes(ptr %dims) nounwind {
  %b = load i64, ptr %dims
  %bytes = mul i64 %b, 16
  ret i64 %bytes
}

define i32 @treadle_entry(ptr %bufs, ptr %dims, ptr %arena, ptr %cx) nounwind {
entry:
  %b = load i64, ptr %dims
  %n = mul i64 %b, 4
  %x = load ptr, ptr %bufs
  %yp = getelementptr ptr, ptr %bufs, i64 1
  %y = load ptr, ptr %yp
  %wp = getelementptr ptr, ptr %bufs, i64 2
  %w = load ptr, ptr %wp
  %stop_place = getelementptr i8, ptr %cx, i64 16
  %stop = load ptr, ptr %stop_place
  %empty = icmp eq i64 %n, 0
  br i1 %empty, label %done, label %check
check:
  %first = load float, ptr %x
  %negative = fcmp olt float %first, 0.0
  br i1 %negative, label %fail, label %check_endless
fail:
  ret i32 1
check_endless:
  %endless = fcmp oeq float %first, 0x46293E5940000000
  br i1 %endless, label %watch, label %loop
watch:
  %unwatched = icmp eq ptr %stop, null
  br i1 %unwatched, label %watch, label %poll
poll:
  %word = load atomic i32, ptr %stop monotonic, align 4
  %told = icmp ne i32 %word, 0
  br i1 %told, label %stopped, label %watch
stopped:
  ret i32 -1
loop:
  %i = phi i64 [ 0, %check_endless ], [ %next, %loop ]
  %j = and i64 %i, 3
  %xi = getelementptr float, ptr %x, i64 %i
  %wj = getelementptr float, ptr %w, i64 %j
  %ti = getelementptr float, ptr %arena, i64 %i
  %yi = getelementptr float, ptr %y, i64 %i
  %a = load float, ptr %xi
  %c = load float, ptr %wj
  %s = fadd float %a, %c
  store float %s, ptr %ti
  %t = load float, ptr %ti
  store float %t, ptr %yi
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret i32 0
}
"""

INTERFACE = """
@treadle_weights = external constant [0 x i8]
@treadle_manifest = external constant [0 x i8]
@.negative = private unnamed_addr constant [33 x i8] c"x[0, 0] is negative at net.py:12\\00", align 1
@.unknown = private unnamed_addr constant [16 x i8] c"unknown failure\\00", align 1
declare ptr @malloc(i64)
declare void @free(ptr)

define ptr @NAME_manifest() nounwind { ret ptr @treadle_manifest }

define i64 @NAME_arena_bytes(ptr %dims) nounwind {
  %bytes = call i64 @treadle_arena_bytes(ptr %dims)
  ret i64 %bytes
}

define ptr @NAME_error(i32 %site) nounwind {
  %known = icmp eq i32 %site, 1
  %text = select i1 %known, ptr @.negative, ptr @.unknown
  ret ptr %text
}

define i32 @NAME_run(ptr %inputs, ptr %outputs, ptr %dims, ptr %arena, i32 %threads) nounwind {
entry:
  %bufs = alloca [3 x ptr]
  %cx = alloca { i32, i32, ptr, ptr }
  %x = load ptr, ptr %inputs
  store ptr %x, ptr %bufs
  %y = load ptr, ptr %outputs
  %yp = getelementptr ptr, ptr %bufs, i64 1
  store ptr %y, ptr %yp
  %wp = getelementptr ptr, ptr %bufs, i64 2
  store ptr @treadle_weights, ptr %wp
  store { i32, i32, ptr, ptr } { i32 1, i32 1, ptr null, ptr null }, ptr %cx
  %given = icmp ne ptr %arena, null
  br i1 %given, label %call, label %allocate
allocate:
  %bytes = call i64 @treadle_arena_bytes(ptr %dims)
  %own = call ptr @malloc(i64 %bytes)
  br label %call
call:
  %mine = phi ptr [ null, %entry ], [ %own, %allocate ]
  %scratch = phi ptr [ %arena, %entry ], [ %own, %allocate ]
  %status = call i32 @treadle_entry(ptr %bufs, ptr %dims, ptr %scratch, ptr %cx)
  call void @free(ptr %mine)
  ret i32 %status
}
"""


@pytest.fixture(scope="session")
def add_object() -> bytes:
    """The entry alone."""
    return compile_text(ENTRY)


@pytest.fixture(scope="session")
def model_object() -> Callable[..., bytes]:
    """The entry with the C interface under a name."""
    return lambda name, triple="": compile_text(ENTRY + INTERFACE.replace("NAME", name), triple)


@pytest.fixture(scope="session")
def add_signature() -> Signature:
    return Signature([Tensor("x", f32, ("B", 4))], [Tensor("result", f32, ("B", 4))], [Dim("B", low=0, high=1 << 40)])


@pytest.fixture(scope="session")
def add_failures() -> list[Failure]:
    return [Failure("IndexError", "TD0301", "x[0, 0] is negative at net.py:12")]


@pytest.fixture(scope="session")
def weights() -> np.ndarray[Any, Any]:
    return np.array([10, 20, 30, 40], f32)
