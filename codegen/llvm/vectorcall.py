"""The dispatch routine, as LLVM text: what runs between Python's call and a program's entry.

It is one routine for all programs, driven by tables that `runtime/dispatch.py` writes, so it is compiled once
per pair of Python and NumPy and kept on disk. Everything it knows of their memory (field offsets, the place
of each function in the table, the words of a record) is handed in as plain numbers, measured and checked by
the process that will run it; the two rooms share no code and every number is said once, there.

Why it is right: until a signature has matched, nothing is changed and no Python code can run, so the
arguments hold still and a mismatch costs nothing; from then on everything borrowed from a container is held,
because the allocator and other threads may run. Whatever does not match goes to the callable that does
everything, with the same arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Template

# The functions of Python and NumPy that it calls, by way of the table; the result, then the parameters.
FUNCTIONS = {
    "PyArray_Empty": ("ptr", "i32", "ptr", "ptr", "i32"),
    "PyArray_Return": ("ptr", "ptr"),
    "PyArray_ScalarAsCtype": ("void", "ptr", "ptr"),
    "PyComplex_ImagAsDouble": ("double", "ptr"),
    "PyComplex_RealAsDouble": ("double", "ptr"),
    "PyDict_New": ("ptr",),
    "PyDict_Next": ("i32", "ptr", "ptr", "ptr", "ptr"),
    "PyDict_SetItem": ("i32", "ptr", "ptr", "ptr"),
    "PyDict_Size": ("i64", "ptr"),
    "PyErr_SetString": ("void", "ptr", "ptr"),
    "PyEval_RestoreThread": ("void", "ptr"),
    "PyEval_SaveThread": ("ptr",),
    "PyFloat_AsDouble": ("double", "ptr"),
    "PyList_New": ("ptr", "i64"),
    "PyList_SetItem": ("i32", "ptr", "i64", "ptr"),
    "PyLong_AsLongLongAndOverflow": ("i64", "ptr", "ptr"),
    "PyLong_FromLongLong": ("ptr", "i64"),
    "PyMethod_New": ("ptr", "ptr", "ptr"),
    "PyObject_CallNoArgs": ("ptr", "ptr"),
    "PyObject_CallOneArg": ("ptr", "ptr", "ptr"),
    "PyObject_ClearWeakRefs": ("void", "ptr"),
    "PyObject_GC_Del": ("void", "ptr"),
    "PyObject_GC_UnTrack": ("void", "ptr"),
    "PyObject_Vectorcall": ("ptr", "ptr", "ptr", "i64", "ptr"),
    "PyTuple_New": ("ptr", "i64"),
    "PyTuple_SetItem": ("i32", "ptr", "i64", "ptr"),
    "PyType_GenericAlloc": ("ptr", "ptr", "i64"),
    "PyUnicode_Compare": ("i32", "ptr", "ptr"),
    "Py_DecRef": ("void", "ptr"),
    "Py_IncRef": ("void", "ptr"),
}
_MESSAGES = {
    "allocator": "the allocator of outputs returned something else than an array of the dtype and rank asked for",
    "lost": "this compiled function has nothing to call: it was never initialised, or has been cleared",
}

# Five spellings that the text below uses for what LLVM needs more lines for: `field` and `set` reach a place by bytes,
# `item` and `put` by index; `part` is the place in a call's frame that the record gives.
_SHORTHAND = (
    (
        re.compile(r"^  (%[\w.]+) = part (%[\w.]+), (\d+)$", re.M),
        r"  \1.offset = field i64 %record, \3\n  \1 = getelementptr i8, ptr \2, i64 \1.offset",
    ),
    (
        re.compile(r"^  (%[\w.]+) = field (\w+) (%[\w.]+), (\S+)$", re.M),
        r"  \1.place = getelementptr i8, ptr \3, i64 \4\n  \1 = load \2, ptr \1.place",
    ),
    (
        re.compile(r"^  (%[\w.]+) = item (\w+) (%[\w.]+), (\S+)$", re.M),
        r"  \1.place = getelementptr \2, ptr \3, i64 \4\n  \1 = load \2, ptr \1.place",
    ),
)
_OBJECT = re.compile(r"@object\.(\w+)")
_STORES = re.compile(r"^  (set|put) (\w+) (\S+), (%[\w.]+), (\S+)$", re.M)

_TEXT = Template("""
@table = internal global [$table_size x ptr] zeroinitializer, align 16

; The addresses of this process: they may not be constants of a routine that is kept on disk.
define dso_local void @treadle_dispatch_init(ptr %addresses) nounwind {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %address = item ptr %addresses, %i
  %place = getelementptr ptr, ptr @table, i64 %i
  store ptr %address, ptr %place
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, $table_size
  br i1 %more, label %loop, label %end
end:
  ret void
}

; ---- matching: no Python code runs in here, and only the call's own scratch memory is written --------------

define internal i1 @same_text(ptr %x, ptr %y) nounwind noinline {
entry:
  %str = load ptr, ptr @object.str
  %x.type = field ptr %x, $object_type
  %y.type = field ptr %y, $object_type
  %x.text = icmp eq ptr %x.type, %str
  %y.text = icmp eq ptr %y.type, %str
  %both = and i1 %x.text, %y.text
  br i1 %both, label %compare, label %no
compare:
  %order = call i32 @PyUnicode_Compare(ptr %x, ptr %y)
  %equal = icmp eq i32 %order, 0
  ret i1 %equal
no:
  ret i1 false
}

; The names in a call are constants of the calling code: mostly the very tuple, always the very strings.
define internal i1 @keywords_match(ptr %record, ptr %names) nounwind alwaysinline {
entry:
  %wanted = field ptr %record, $record_names
  %same = icmp eq ptr %wanted, %names
  br i1 %same, label %yes, label %look
look:
  %wanted.none = icmp eq ptr %wanted, null
  %names.none = icmp eq ptr %names, null
  %none = or i1 %wanted.none, %names.none
  br i1 %none, label %no, label %sizes
sizes:
  %size = field i64 %names, $tuple_size
  %wanted.size = field i64 %wanted, $tuple_size
  %as.many = icmp eq i64 %size, %wanted.size
  br i1 %as.many, label %loop, label %no
loop:
  %i = phi i64 [ 0, %sizes ], [ %next, %each ]
  %more = icmp slt i64 %i, %size
  br i1 %more, label %each, label %yes
each:
  %items = getelementptr i8, ptr %names, i64 $tuple_items
  %wanted.items = getelementptr i8, ptr %wanted, i64 $tuple_items
  %name = item ptr %items, %i
  %wanted.name = item ptr %wanted.items, %i
  %next = add i64 %i, 1
  %equal = icmp eq ptr %name, %wanted.name
  br i1 %equal, label %loop, label %no
yes:
  ret i1 true
no:
  ret i1 false
}

; A size computed from the dims, in postfix; -1 if a divisor is not positive, which no size is.
define internal i64 @evaluate(ptr %code, ptr %dims) nounwind noinline {
entry:
  %stack = alloca [$expression_depth x i64], align 16
  br label %next
next:
  %pc = phi ptr [ %code, %entry ], [ %pc.next, %push ]
  %top = phi i64 [ 0, %entry ], [ %top.next, %push ]
  %op = item i64 %pc, 0
  %operand = item i64 %pc, 1
  %pc.next = getelementptr i64, ptr %pc, i64 2
  %left.index = sub i64 %top, 2
  %right.index = sub i64 %top, 1
  switch i64 %op, label %end [
    i64 $size_constant, label %constant
    i64 $size_dim, label %dim
    i64 $size_add, label %operands
    i64 $size_sub, label %operands
    i64 $size_mul, label %operands
    i64 $size_min, label %operands
    i64 $size_max, label %operands
    i64 $size_floordiv, label %operands
    i64 $size_mod, label %operands
  ]
constant:
  br label %push
dim:
  %dim.value = item i64 %dims, %operand
  br label %push
operands:
  %left = item i64 %stack, %left.index
  %right = item i64 %stack, %right.index
  switch i64 %op, label %divide [
    i64 $size_add, label %add
    i64 $size_sub, label %sub
    i64 $size_mul, label %mul
    i64 $size_min, label %min
    i64 $size_max, label %max
  ]
add:
  %sum = add i64 %left, %right
  br label %push
sub:
  %difference = sub i64 %left, %right
  br label %push
mul:
  %product = mul i64 %left, %right
  br label %push
min:
  %less = icmp slt i64 %left, %right
  %smaller = select i1 %less, i64 %left, i64 %right
  br label %push
max:
  %greater = icmp sgt i64 %left, %right
  %larger = select i1 %greater, i64 %left, i64 %right
  br label %push
divide:
  %divisible = icmp sgt i64 %right, 0
  br i1 %divisible, label %quotient, label %bad
quotient:
  ; Rounded down, as Python does: the remainder takes the sign of the divisor, which is positive.
  %cut = sdiv i64 %left, %right
  %rest = srem i64 %left, %right
  %below = icmp slt i64 %rest, 0
  %lower = sub i64 %cut, 1
  %wrapped = add i64 %rest, %right
  %floor = select i1 %below, i64 %lower, i64 %cut
  %modulo = select i1 %below, i64 %wrapped, i64 %rest
  %is.mod = icmp eq i64 %op, $size_mod
  %divided = select i1 %is.mod, i64 %modulo, i64 %floor
  br label %push
push:
  %value = phi i64 [ %operand, %constant ], [ %dim.value, %dim ], [ %sum, %add ], [ %difference, %sub ],
    [ %product, %mul ], [ %smaller, %min ], [ %larger, %max ], [ %divided, %quotient ]
  %at = phi i64 [ %top, %constant ], [ %top, %dim ], [ %left.index, %add ], [ %left.index, %sub ],
    [ %left.index, %mul ], [ %left.index, %min ], [ %left.index, %max ], [ %left.index, %quotient ]
  put i64 %value, %stack, %at
  %top.next = add i64 %at, 1
  br label %next
bad:
  ret i64 -1
end:
  %result = item i64 %stack, 0
  ret i64 %result
}

; Every step of a walk: [code, words, register, ...].

; [.., type, count, first register]
define internal i1 @walk_tuple(ptr %pc, ptr %registers) nounwind alwaysinline {
entry:
  %register = item i64 %pc, 2
  %type = item ptr %pc, 3
  %count = item i64 %pc, 4
  %first = item i64 %pc, 5
  %object = item ptr %registers, %register
  %object.type = field ptr %object, $object_type
  %exact = icmp eq ptr %object.type, %type
  br i1 %exact, label %sizes, label %no
sizes:
  %size = field i64 %object, $tuple_size
  %as.many = icmp eq i64 %size, %count
  br i1 %as.many, label %open, label %no
open:
  %items = getelementptr i8, ptr %object, i64 $tuple_items
  %targets = getelementptr ptr, ptr %registers, i64 %first
  br label %loop
loop:
  %i = phi i64 [ 0, %open ], [ %next, %each ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %each, label %yes
each:
  %item = item ptr %items, %i
  put ptr %item, %targets, %i
  %next = add i64 %i, 1
  br label %loop
yes:
  ret i1 true
no:
  ret i1 false
}

; [.., count, first register]
define internal i1 @walk_list(ptr %pc, ptr %registers) nounwind alwaysinline {
entry:
  %register = item i64 %pc, 2
  %count = item i64 %pc, 3
  %first = item i64 %pc, 4
  %object = item ptr %registers, %register
  %object.type = field ptr %object, $object_type
  %list = load ptr, ptr @object.list
  %exact = icmp eq ptr %object.type, %list
  br i1 %exact, label %sizes, label %no
sizes:
  %size = field i64 %object, $list_size
  %as.many = icmp eq i64 %size, %count
  br i1 %as.many, label %open, label %no
open:
  %items = field ptr %object, $list_items
  %targets = getelementptr ptr, ptr %registers, i64 %first
  br label %loop
loop:
  %i = phi i64 [ 0, %open ], [ %next, %each ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %each, label %yes
each:
  %item = item ptr %items, %i
  put ptr %item, %targets, %i
  %next = add i64 %i, 1
  br label %loop
yes:
  ret i1 true
no:
  ret i1 false
}

; [.., count, first register, keys ...]: the keys in the order of the record. Iterating runs no code, looking
; up might. Where this process was found to keep its dicts in the known way, a dict whose keys are all texts and of
; which nothing was deleted is read in place: its entries, key and value, stand in order in its table.
define internal i1 @walk_dict(ptr %pc, ptr %registers) nounwind noinline {
entry:
  %position = alloca i64
  %key.out = alloca ptr
  %value.out = alloca ptr
  %register = item i64 %pc, 2
  %count = item i64 %pc, 3
  %first = item i64 %pc, 4
  %keys = getelementptr i64, ptr %pc, i64 5
  %object = item ptr %registers, %register
  %object.type = field ptr %object, $object_type
  %dict = load ptr, ptr @object.dict
  %exact = icmp eq ptr %object.type, %dict
  br i1 %exact, label %sizes, label %no
sizes:
  %targets = getelementptr ptr, ptr %registers, i64 %first
  %may.look = icmp ne i64 $dict_direct, 0
  br i1 %may.look, label %look, label %ask
look:
  %table = field ptr %object, $dict_keys
  %values = field ptr %object, $dict_values
  %used = field i64 %object, $dict_used
  %kind = field i8 %table, $keys_kind
  %filled = field i64 %table, $keys_filled
  %whole = icmp eq ptr %values, null
  %texts = icmp eq i8 %kind, $keys_texts
  %full = icmp eq i64 %filled, %count
  %all = icmp eq i64 %used, %count
  %plain.table = and i1 %whole, %texts
  %plain.count = and i1 %full, %all
  %plain = and i1 %plain.table, %plain.count
  br i1 %plain, label %direct, label %ask
direct:
  %log.bytes = field i8 %table, $keys_index_bytes
  %log.wide = zext i8 %log.bytes to i64
  %index.bytes = shl i64 1, %log.wide
  %entries.at = add i64 %index.bytes, $keys_indices
  %entries = getelementptr i8, ptr %table, i64 %entries.at
  br label %entry.loop
entry.loop:
  %e = phi i64 [ 0, %direct ], [ %e.next, %entry.keep ]
  %e.more = icmp slt i64 %e, %count
  br i1 %e.more, label %entry.each, label %yes
entry.each:
  %pair = getelementptr [2 x ptr], ptr %entries, i64 %e
  %entry.key = item ptr %pair, 0
  %entry.wanted = item ptr %keys, %e
  %entry.same = icmp eq ptr %entry.key, %entry.wanted
  br i1 %entry.same, label %entry.keep, label %entry.spell
entry.spell:
  %entry.equal = call i1 @same_text(ptr %entry.key, ptr %entry.wanted)
  br i1 %entry.equal, label %entry.keep, label %no
entry.keep:
  %entry.value = item ptr %pair, 1
  put ptr %entry.value, %targets, %e
  %e.next = add i64 %e, 1
  br label %entry.loop
ask:
  %size = call i64 @PyDict_Size(ptr %object)
  %as.many = icmp eq i64 %size, %count
  br i1 %as.many, label %open, label %no
open:
  store i64 0, ptr %position
  br label %loop
loop:
  %i = phi i64 [ 0, %open ], [ %next, %keep ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %each, label %yes
each:
  %found = call i32 @PyDict_Next(ptr %object, ptr %position, ptr %key.out, ptr %value.out)
  %ended = icmp eq i32 %found, 0
  br i1 %ended, label %no, label %compare
compare:
  %key = load ptr, ptr %key.out
  %wanted = item ptr %keys, %i
  %same = icmp eq ptr %key, %wanted
  br i1 %same, label %keep, label %spell
spell:
  ; Keys that were computed or unpickled are equal strings, but not the same ones.
  %equal = call i1 @same_text(ptr %key, ptr %wanted)
  br i1 %equal, label %keep, label %no
keep:
  %value = load ptr, ptr %value.out
  put ptr %value, %targets, %i
  %next = add i64 %i, 1
  br label %loop
yes:
  ret i1 true
no:
  ret i1 false
}

; An exact array of that dtype, rank and flags. Dtypes are nearly always the one object; an unpickled one is
; equal without being it, and then the type number and the byte order say all there is to say of a number.
define internal i1 @is_array(ptr %object, ptr %descr, i64 %flags, i64 %rank) nounwind alwaysinline {
entry:
  %type = field ptr %object, $object_type
  %ndarray = load ptr, ptr @object.ndarray
  %exact = icmp eq ptr %type, %ndarray
  br i1 %exact, label %ranks, label %no
ranks:
  %object.rank32 = field i32 %object, $array_rank
  %object.rank = sext i32 %object.rank32 to i64
  %as.deep = icmp eq i64 %object.rank, %rank
  %object.flags32 = field i32 %object, $array_flags
  %object.flags = zext i32 %object.flags32 to i64
  %kept = and i64 %object.flags, %flags
  %flagged = icmp eq i64 %kept, %flags
  %fits = and i1 %as.deep, %flagged
  br i1 %fits, label %dtypes, label %no
dtypes:
  %object.descr = field ptr %object, $array_descr
  %same = icmp eq ptr %object.descr, %descr
  br i1 %same, label %yes, label %compare
compare:
  %number = field i32 %descr, $descr_number
  %object.number = field i32 %object.descr, $descr_number
  %order = field i8 %descr, $descr_order
  %object.order = field i8 %object.descr, $descr_order
  %numbers = icmp eq i32 %number, %object.number
  %orders = icmp eq i8 %order, %object.order
  %equal = and i1 %numbers, %orders
  ret i1 %equal
yes:
  ret i1 true
no:
  ret i1 false
}

; [.., buffer, dtype, flags, rank, bytes, sizes ...]
define internal i1 @walk_array(ptr %pc, ptr %registers, ptr %buffers, ptr %bytes) nounwind alwaysinline {
entry:
  %register = item i64 %pc, 2
  %buffer = item i64 %pc, 3
  %descr = item ptr %pc, 4
  %flags = item i64 %pc, 5
  %rank = item i64 %pc, 6
  %size = item i64 %pc, 7
  %sizes = getelementptr i64, ptr %pc, i64 8
  %object = item ptr %registers, %register
  %suits = call i1 @is_array(ptr %object, ptr %descr, i64 %flags, i64 %rank)
  br i1 %suits, label %shape, label %no
shape:
  %dims = field ptr %object, $array_dims
  %data = field ptr %object, $array_data
  put ptr %data, %buffers, %buffer
  put i64 %size, %bytes, %buffer
  br label %loop
loop:
  %i = phi i64 [ 0, %shape ], [ %next, %each ]
  %more = icmp slt i64 %i, %rank
  br i1 %more, label %each, label %yes
each:
  %is = item i64 %dims, %i
  %wanted = item i64 %sizes, %i
  %next = add i64 %i, 1
  %equal = icmp eq i64 %is, %wanted
  br i1 %equal, label %loop, label %no
yes:
  ret i1 true
no:
  ret i1 false
}

; [.., buffer, dtype, flags, rank, bytes of an element, (kind, operand) ...]: a size is a number, names a dim
; for the first time, or is left to a later step.
define internal i1 @walk_shaped(ptr %record, ptr %pc, ptr %registers, ptr %buffers, ptr %bytes,
    ptr %dims) nounwind noinline {
entry:
  %register = item i64 %pc, 2
  %buffer = item i64 %pc, 3
  %descr = item ptr %pc, 4
  %flags = item i64 %pc, 5
  %rank = item i64 %pc, 6
  %element = item i64 %pc, 7
  %sizes = getelementptr i64, ptr %pc, i64 8
  %object = item ptr %registers, %register
  %suits = call i1 @is_array(ptr %object, ptr %descr, i64 %flags, i64 %rank)
  br i1 %suits, label %shape, label %no
shape:
  %shape.dims = field ptr %object, $array_dims
  %data = field ptr %object, $array_data
  put ptr %data, %buffers, %buffer
  br label %loop
loop:
  %i = phi i64 [ 0, %shape ], [ %next, %keep ]
  %total = phi i64 [ %element, %shape ], [ %total.next, %keep ]
  %more = icmp slt i64 %i, %rank
  br i1 %more, label %each, label %yes
each:
  %is = item i64 %shape.dims, %i
  %pair = mul i64 %i, 2
  %kind = item i64 %sizes, %pair
  %operands = getelementptr i64, ptr %sizes, i64 1
  %operand = item i64 %operands, %pair
  switch i64 %kind, label %keep [
    i64 $extent_number, label %number
    i64 $extent_names, label %names
  ]
number:
  %equal = icmp eq i64 %is, %operand
  br i1 %equal, label %keep, label %no
names:
  %ranges = field ptr %record, $record_ranges
  %range = mul i64 %operand, 3
  %range.low = getelementptr i64, ptr %ranges, i64 %range
  %low = item i64 %range.low, 0
  %high = item i64 %range.low, 1
  %multiple = item i64 %range.low, 2
  %above = icmp sge i64 %is, %low
  %below = icmp sle i64 %is, %high
  %rest = urem i64 %is, %multiple
  %divides = icmp eq i64 %rest, 0
  %within = and i1 %above, %below
  %allowed = and i1 %within, %divides
  put i64 %is, %dims, %operand
  br i1 %allowed, label %keep, label %no
keep:
  %total.next = mul i64 %total, %is
  %next = add i64 %i, 1
  br label %loop
yes:
  put i64 %total, %bytes, %buffer
  ret i1 true
no:
  ret i1 false
}

; [.., axis, expression]: a size that must be what the dims make of it. The register holds an array already.
define internal i1 @walk_size(ptr %pc, ptr %registers, ptr %dims) nounwind noinline {
  %register = item i64 %pc, 2
  %axis = item i64 %pc, 3
  %code = item ptr %pc, 4
  %object = item ptr %registers, %register
  %shape = field ptr %object, $array_dims
  %is = item i64 %shape, %axis
  %wanted = call i64 @evaluate(ptr %code, ptr %dims)
  %equal = icmp eq i64 %is, %wanted
  ret i1 %equal
}

; [code, words, expression]: a size of an output, which has to be one.
define internal i1 @walk_whole(ptr %pc, ptr %dims) nounwind noinline {
  %code = item ptr %pc, 2
  %size = call i64 @evaluate(ptr %code, ptr %dims)
  %whole = icmp sge i64 %size, 0
  ret i1 %whole
}

; [.., buffer, slot, kind, type, least, most]: a Python number, or a NumPy scalar of that type, written where
; the program can read it; an integer in eight bytes, of which a shorter type reads the first.
define internal i1 @walk_scalar(ptr %pc, ptr %registers, ptr %buffers, ptr %scratch) nounwind noinline {
entry:
  %overflow = alloca i32
  %register = item i64 %pc, 2
  %buffer = item i64 %pc, 3
  %slot = item i64 %pc, 4
  %kind = item i64 %pc, 5
  %type = item ptr %pc, 6
  %object = item ptr %registers, %register
  %object.type = field ptr %object, $object_type
  %exact = icmp eq ptr %object.type, %type
  br i1 %exact, label %write, label %no
write:
  %offset = mul i64 %slot, $scratch_bytes
  %place = getelementptr i8, ptr %scratch, i64 %offset
  put ptr %place, %buffers, %buffer
  switch i64 %kind, label %numpy [
    i64 $scalar_float, label %float
    i64 $scalar_float32, label %float32
    i64 $scalar_int, label %int
    i64 $scalar_bool, label %bool
    i64 $scalar_complex, label %complex
  ]
float:
  %real = call double @PyFloat_AsDouble(ptr %object)
  store double %real, ptr %place
  ret i1 true
float32:
  %wide = call double @PyFloat_AsDouble(ptr %object)
  %narrow = fptrunc double %wide to float
  store float %narrow, ptr %place
  ret i1 true
int:
  %least = item i64 %pc, 7
  %most = item i64 %pc, 8
  %integer = call i64 @PyLong_AsLongLongAndOverflow(ptr %object, ptr %overflow)
  store i64 %integer, ptr %place
  %beyond = load i32, ptr %overflow
  %inside = icmp eq i32 %beyond, 0
  %above = icmp sge i64 %integer, %least
  %below = icmp sle i64 %integer, %most
  %within = and i1 %above, %below
  %fits = and i1 %inside, %within
  ret i1 %fits
bool:
  %true = load ptr, ptr @object.True
  %is.true = icmp eq ptr %object, %true
  %bit = zext i1 %is.true to i64
  store i64 %bit, ptr %place
  ret i1 true
complex:
  %re = call double @PyComplex_RealAsDouble(ptr %object)
  %im = call double @PyComplex_ImagAsDouble(ptr %object)
  put double %re, %place, 0
  put double %im, %place, 1
  ret i1 true
numpy:
  call void @PyArray_ScalarAsCtype(ptr %object, ptr %place)
  ret i1 true
no:
  ret i1 false
}

; [.., kind, value]: what the program was made for; by identity, by spelling, or as a number of exactly that
; type.
define internal i1 @walk_static(ptr %pc, ptr %registers) nounwind alwaysinline {
entry:
  %overflow = alloca i32
  %register = item i64 %pc, 2
  %kind = item i64 %pc, 3
  %value = item i64 %pc, 4
  %object = item ptr %registers, %register
  %wanted = inttoptr i64 %value to ptr
  switch i64 %kind, label %identity [
    i64 $static_text, label %text
    i64 $static_int, label %int
    i64 $static_float, label %float
  ]
identity:
  %is = icmp eq ptr %object, %wanted
  ret i1 %is
text:
  %is.text = icmp eq ptr %object, %wanted
  br i1 %is.text, label %yes, label %spell
spell:
  %equal = call i1 @same_text(ptr %object, ptr %wanted)
  ret i1 %equal
int:
  %int.type = load ptr, ptr @object.int
  %int.object = field ptr %object, $object_type
  %int.exact = icmp eq ptr %int.object, %int.type
  br i1 %int.exact, label %int.value, label %no
int.value:
  %integer = call i64 @PyLong_AsLongLongAndOverflow(ptr %object, ptr %overflow)
  %beyond = load i32, ptr %overflow
  %fits = icmp eq i32 %beyond, 0
  %int.equal = icmp eq i64 %integer, %value
  %int.both = and i1 %fits, %int.equal
  ret i1 %int.both
float:
  %float.type = load ptr, ptr @object.float
  %float.object = field ptr %object, $object_type
  %float.exact = icmp eq ptr %float.object, %float.type
  br i1 %float.exact, label %float.value, label %no
float.value:
  ; By bits: 0.0 and -0.0 are different programs, and NaN is itself.
  %real = call double @PyFloat_AsDouble(ptr %object)
  %bits = bitcast double %real to i64
  %float.equal = icmp eq i64 %bits, %value
  ret i1 %float.equal
yes:
  ret i1 true
no:
  ret i1 false
}

; Whether a buffer that the program will write lies apart from all others it is handed.
define internal i1 @apart(ptr %record, ptr %buffers, ptr %bytes) nounwind noinline {
entry:
  %written.count = field i64 %record, $record_written_count
  %written = field ptr %record, $record_written
  %arrays.count = field i64 %record, $record_arrays_count
  %arrays = field ptr %record, $record_arrays
  br label %outer
outer:
  %i = phi i64 [ 0, %entry ], [ %i.next, %outer.next ]
  %i.more = icmp slt i64 %i, %written.count
  br i1 %i.more, label %one, label %yes
one:
  %x = item i64 %written, %i
  %x.data = item i64 %buffers, %x
  %x.bytes = item i64 %bytes, %x
  %x.end = add i64 %x.data, %x.bytes
  br label %inner
inner:
  %j = phi i64 [ 0, %one ], [ %j.next, %apart ]
  %j.more = icmp slt i64 %j, %arrays.count
  br i1 %j.more, label %other, label %outer.next
other:
  %y = item i64 %arrays, %j
  %y.data = item i64 %buffers, %y
  %y.bytes = item i64 %bytes, %y
  %y.end = add i64 %y.data, %y.bytes
  %before = icmp ule i64 %x.end, %y.data
  %after = icmp ule i64 %y.end, %x.data
  %itself = icmp eq i64 %x, %y
  %clear = or i1 %before, %after
  %fine = or i1 %clear, %itself
  br i1 %fine, label %apart, label %no
apart:
  %j.next = add i64 %j, 1
  br label %inner
outer.next:
  %i.next = add i64 %i, 1
  br label %outer
yes:
  ret i1 true
no:
  ret i1 false
}

define internal i1 @walk(ptr %record, ptr %registers, ptr %buffers, ptr %bytes, ptr %dims,
    ptr %scratch) nounwind alwaysinline {
entry:
  %begin = field ptr %record, $record_walk
  br label %next
next:
  %pc = phi ptr [ %begin, %entry ], [ %pc.next, %after ]
  %op = item i64 %pc, 0
  switch i64 %op, label %end [
    i64 $walk_array, label %array
    i64 $walk_tuple, label %tuple
    i64 $walk_list, label %list
    i64 $walk_dict, label %dict
    i64 $walk_shaped, label %shaped
    i64 $walk_size, label %size
    i64 $walk_whole, label %whole
    i64 $walk_scalar, label %scalar
    i64 $walk_static, label %static
  ]
array:
  %array.ok = call i1 @walk_array(ptr %pc, ptr %registers, ptr %buffers, ptr %bytes)
  br label %after
tuple:
  %tuple.ok = call i1 @walk_tuple(ptr %pc, ptr %registers)
  br label %after
list:
  %list.ok = call i1 @walk_list(ptr %pc, ptr %registers)
  br label %after
dict:
  %dict.ok = call i1 @walk_dict(ptr %pc, ptr %registers)
  br label %after
shaped:
  %shaped.ok = call i1 @walk_shaped(ptr %record, ptr %pc, ptr %registers, ptr %buffers, ptr %bytes, ptr %dims)
  br label %after
size:
  %size.ok = call i1 @walk_size(ptr %pc, ptr %registers, ptr %dims)
  br label %after
whole:
  %whole.ok = call i1 @walk_whole(ptr %pc, ptr %dims)
  br label %after
scalar:
  %scalar.ok = call i1 @walk_scalar(ptr %pc, ptr %registers, ptr %buffers, ptr %scratch)
  br label %after
static:
  %static.ok = call i1 @walk_static(ptr %pc, ptr %registers)
  br label %after
after:
  %ok = phi i1 [ %array.ok, %array ], [ %tuple.ok, %tuple ], [ %list.ok, %list ], [ %dict.ok, %dict ],
    [ %shaped.ok, %shaped ], [ %size.ok, %size ], [ %whole.ok, %whole ],
    [ %scalar.ok, %scalar ], [ %static.ok, %static ]
  %words = item i64 %pc, 1
  %pc.next = getelementptr i64, ptr %pc, i64 %words
  br i1 %ok, label %next, label %no
end:
  ret i1 true
no:
  ret i1 false
}

; ---- outputs -----------------------------------------------------------------------------------------------

; Ask the allocator of large memory, which is Python code, for an array of that shape; null with an exception
; set if it failed. It is ours, so that it returns an array of the right kind is checked, but not its sizes.
define internal ptr @ask(ptr %output, ptr %shape) nounwind noinline {
entry:
  %allocator = field ptr %output, $output_allocator
  %descr = field ptr %output, $output_descr
  %rank = field i64 %output, $output_rank
  %array = call ptr @PyObject_CallOneArg(ptr %allocator, ptr %shape)
  %failed = icmp eq ptr %array, null
  br i1 %failed, label %end, label %check
check:
  %suits = call i1 @is_array(ptr %array, ptr %descr, i64 $flags_written, i64 %rank)
  br i1 %suits, label %end, label %refuse
refuse:
  call void @Py_DecRef(ptr %array)
  %exception = load ptr, ptr @object.RuntimeError
  call void @PyErr_SetString(ptr %exception, ptr @message.allocator)
  ret ptr null
end:
  ret ptr %array
}

; An output array whose sizes follow from the dims.
define internal ptr @make_shaped(ptr %output, ptr %dims) nounwind noinline {
entry:
  %sizes = alloca [64 x i64], align 16
  %rank = field i64 %output, $output_rank
  %codes = field ptr %output, $output_sizes
  %element = field i64 %output, $output_bytes
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %each ]
  %total = phi i64 [ %element, %entry ], [ %total.next, %each ]
  %more = icmp slt i64 %i, %rank
  br i1 %more, label %each, label %choose
each:
  %code = item ptr %codes, %i
  %size = call i64 @evaluate(ptr %code, ptr %dims)
  put i64 %size, %sizes, %i
  %total.next = mul i64 %total, %size
  %next = add i64 %i, 1
  br label %loop
choose:
  %allocator = field ptr %output, $output_allocator
  %plain = icmp eq ptr %allocator, null
  %small = icmp slt i64 %total, $large_bytes
  %simple = or i1 %plain, %small
  br i1 %simple, label %empty, label %tuple
empty:
  %descr = field ptr %output, $output_descr
  call void @Py_IncRef(ptr %descr)
  %rank32 = trunc i64 %rank to i32
  %array = call ptr @PyArray_Empty(i32 %rank32, ptr %sizes, ptr %descr, i32 0)
  ret ptr %array
tuple:
  %shape = call ptr @PyTuple_New(i64 %rank)
  %no.shape = icmp eq ptr %shape, null
  br i1 %no.shape, label %failed, label %fill
fill:
  %k = phi i64 [ 0, %tuple ], [ %k.next, %put ]
  %k.more = icmp slt i64 %k, %rank
  br i1 %k.more, label %number, label %ask
number:
  %k.size = item i64 %sizes, %k
  %long = call ptr @PyLong_FromLongLong(i64 %k.size)
  %no.long = icmp eq ptr %long, null
  br i1 %no.long, label %drop, label %put
put:
  %ignored = call i32 @PyTuple_SetItem(ptr %shape, i64 %k, ptr %long)
  %k.next = add i64 %k, 1
  br label %fill
ask:
  %given = call ptr @ask(ptr %output, ptr %shape)
  call void @Py_DecRef(ptr %shape)
  ret ptr %given
drop:
  call void @Py_DecRef(ptr %shape)
  br label %failed
failed:
  ret ptr null
}

; A new reference to the array of one output, its data noted for the program; null with an exception set on
; failure.
define internal ptr @make_output(ptr %output, ptr %registers, ptr %buffers, ptr %dims) nounwind alwaysinline {
entry:
  %kind = field i64 %output, $output_source
  switch i64 %kind, label %fixed [
    i64 $source_large, label %large
    i64 $source_shaped, label %shaped
    i64 $source_given, label %given
  ]
fixed:
  %descr = field ptr %output, $output_descr
  %rank = field i64 %output, $output_rank
  %sizes = field ptr %output, $output_sizes
  %rank32 = trunc i64 %rank to i32
  call void @Py_IncRef(ptr %descr)
  %new = call ptr @PyArray_Empty(i32 %rank32, ptr %sizes, ptr %descr, i32 0)
  br label %made
large:
  %shape = field ptr %output, $output_sizes
  %asked = call ptr @ask(ptr %output, ptr %shape)
  br label %made
shaped:
  %sized = call ptr @make_shaped(ptr %output, ptr %dims)
  br label %made
given:
  %register = field i64 %output, $output_register
  %old = item ptr %registers, %register
  call void @Py_IncRef(ptr %old)
  br label %made
made:
  %array = phi ptr [ %new, %fixed ], [ %asked, %large ], [ %sized, %shaped ], [ %old, %given ]
  %failed = icmp eq ptr %array, null
  br i1 %failed, label %end, label %note
note:
  %data = field ptr %array, $array_data
  %buffer = field i64 %output, $output_buffer
  put ptr %data, %buffers, %buffer
  br label %end
end:
  ret ptr %array
}

; ---- results -----------------------------------------------------------------------------------------------

; Build what the function returns, from the outputs, in postfix: [code, words, ...]. Takes each output it
; uses.
define internal ptr @build(ptr %record, ptr %outputs, ptr %stack) nounwind alwaysinline {
entry:
  %begin = field ptr %record, $record_result
  br label %next
next:
  %pc = phi ptr [ %begin, %entry ], [ %pc.next, %push ]
  %top = phi i64 [ 0, %entry ], [ %top.next, %push ]
  %op = item i64 %pc, 0
  %operand = item i64 %pc, 2
  %words = item i64 %pc, 1
  switch i64 %op, label %end [
    i64 $result_output, label %output
    i64 $result_scalar, label %scalar
    i64 $result_static, label %static
    i64 $result_tuple, label %group
    i64 $result_list, label %group
    i64 $result_dict, label %group
    i64 $result_call, label %group
  ]
output:
  %array = item ptr %outputs, %operand
  put ptr null, %outputs, %operand
  br label %push
scalar:
  %zero.rank = item ptr %outputs, %operand
  put ptr null, %outputs, %operand
  %number = call ptr @PyArray_Return(ptr %zero.rank)
  %no.number = icmp eq ptr %number, null
  br i1 %no.number, label %failed, label %push
static:
  %object = inttoptr i64 %operand to ptr
  call void @Py_IncRef(ptr %object)
  br label %push
group:
  %base = sub i64 %top, %operand
  %members = getelementptr ptr, ptr %stack, i64 %base
  %made = call ptr @gather(ptr %pc, ptr %members)
  %no.group = icmp eq ptr %made, null
  br i1 %no.group, label %failed, label %push
push:
  %value = phi ptr [ %array, %output ], [ %number, %scalar ], [ %object, %static ], [ %made, %group ]
  %at = phi i64 [ %top, %output ], [ %top, %scalar ], [ %top, %static ], [ %base, %group ]
  put ptr %value, %stack, %at
  %top.next = add i64 %at, 1
  %pc.next = getelementptr i64, ptr %pc, i64 %words
  br label %next
failed:
  ; What a failed group was given is gone already.
  %left = phi i64 [ %top, %scalar ], [ %base, %group ]
  call void @drop(ptr %stack, i64 %left)
  ret ptr null
end:
  %result = item ptr %stack, 0
  ret ptr %result
}

; One container of the last members of the stack, whose references it takes whatever happens.
; [code, words, count, keys ...] or [code, words, count, callable]
define internal ptr @gather(ptr %pc, ptr %members) nounwind noinline {
entry:
  %op = item i64 %pc, 0
  %count = item i64 %pc, 2
  %keys = getelementptr i64, ptr %pc, i64 3
  switch i64 %op, label %tuple [
    i64 $result_list, label %list
    i64 $result_dict, label %dict
    i64 $result_call, label %call
  ]
tuple:
  %tuple.new = call ptr @PyTuple_New(i64 %count)
  %tuple.failed = icmp eq ptr %tuple.new, null
  br i1 %tuple.failed, label %failed, label %tuple.loop
tuple.loop:
  %i = phi i64 [ 0, %tuple ], [ %i.next, %tuple.each ]
  %i.more = icmp slt i64 %i, %count
  br i1 %i.more, label %tuple.each, label %tuple.end
tuple.each:
  %i.member = item ptr %members, %i
  %i.set = call i32 @PyTuple_SetItem(ptr %tuple.new, i64 %i, ptr %i.member)
  %i.next = add i64 %i, 1
  br label %tuple.loop
tuple.end:
  ret ptr %tuple.new
list:
  %list.new = call ptr @PyList_New(i64 %count)
  %list.failed = icmp eq ptr %list.new, null
  br i1 %list.failed, label %failed, label %list.loop
list.loop:
  %j = phi i64 [ 0, %list ], [ %j.next, %list.each ]
  %j.more = icmp slt i64 %j, %count
  br i1 %j.more, label %list.each, label %list.end
list.each:
  %j.member = item ptr %members, %j
  %j.set = call i32 @PyList_SetItem(ptr %list.new, i64 %j, ptr %j.member)
  %j.next = add i64 %j, 1
  br label %list.loop
list.end:
  ret ptr %list.new
dict:
  %dict.new = call ptr @PyDict_New()
  %dict.failed = icmp eq ptr %dict.new, null
  br i1 %dict.failed, label %failed, label %dict.loop
dict.loop:
  %k = phi i64 [ 0, %dict ], [ %k.next, %dict.each ]
  %k.more = icmp slt i64 %k, %count
  br i1 %k.more, label %dict.each, label %dict.end
dict.each:
  %k.key = item ptr %keys, %k
  %k.member = item ptr %members, %k
  %k.set = call i32 @PyDict_SetItem(ptr %dict.new, ptr %k.key, ptr %k.member)
  %k.next = add i64 %k, 1
  %k.ok = icmp eq i32 %k.set, 0
  br i1 %k.ok, label %dict.loop, label %dict.drop
dict.drop:
  call void @Py_DecRef(ptr %dict.new)
  br label %failed
dict.end:
  call void @drop(ptr %members, i64 %count)
  ret ptr %dict.new
call:
  %callable = item ptr %keys, 0
  %called = call ptr @PyObject_Vectorcall(ptr %callable, ptr %members, i64 %count, ptr null)
  call void @drop(ptr %members, i64 %count)
  ret ptr %called
failed:
  call void @drop(ptr %members, i64 %count)
  ret ptr null
}

; Give back references; null stands for one that was taken.
define internal void @drop(ptr %objects, i64 %count) nounwind alwaysinline {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %step ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %each, label %end
each:
  %object = item ptr %objects, %i
  %none = icmp eq ptr %object, null
  br i1 %none, label %step, label %give
give:
  call void @Py_DecRef(ptr %object)
  br label %step
step:
  %next = add i64 %i, 1
  br label %loop
end:
  ret void
}

; ---- one call ----------------------------------------------------------------------------------------------

; Memory that calls share: [lock, bytes, data]. Taken by whoever comes first; the others go the complete way.
define dso_local i32 @treadle_dispatch_take(ptr %arena) nounwind alwaysinline {
  %pair = cmpxchg ptr %arena, i64 0, i64 1 acquire monotonic
  %taken = extractvalue { i64, i1 } %pair, 1
  %result = zext i1 %taken to i32
  ret i32 %result
}

define dso_local void @treadle_dispatch_give(ptr %arena) nounwind alwaysinline {
  store atomic i64 0, ptr %arena release, align 8
  ret void
}

define internal ptr @take_arena(ptr %record, ptr %arena, ptr %dims) nounwind alwaysinline {
entry:
  %fixed = field i64 %record, $record_arena_bytes
  %function = field ptr %record, $record_arena_function
  %plain = icmp eq ptr %function, null
  br i1 %plain, label %try, label %compute
compute:
  %computed = call i64 %function(ptr %dims)
  br label %try
try:
  %need = phi i64 [ %fixed, %entry ], [ %computed, %compute ]
  %taken = call i32 @treadle_dispatch_take(ptr %arena)
  %busy = icmp eq i32 %taken, 0
  br i1 %busy, label %no, label %fits
fits:
  %bytes = item i64 %arena, 1
  %data = item ptr %arena, 2
  %short = icmp slt i64 %bytes, %need
  %trimmed = icmp eq ptr %data, null
  %unfit = or i1 %short, %trimmed
  br i1 %unfit, label %leave, label %yes
yes:
  ret ptr %data
leave:
  call void @treadle_dispatch_give(ptr %arena)
  br label %no
no:
  ret ptr null
}

; The result, or null with an exception set, or 1 if this record is not for these arguments.
; Large frames are touched page by page, so that a stack that is full is found and not stepped over.
define internal ptr @attempt(ptr %record, ptr %args) nounwind noinline "probe-stack"="inline-asm" {
entry:
  ; One block for all that the call needs; the record says where each part begins.
  %frame.bytes = field i64 %record, $record_frame
  %argument.count = field i64 %record, $record_arguments
  %pair = alloca [2 x ptr], align 8
  %registers = alloca i8, i64 %frame.bytes, align 16
  %buffers = part %registers, $record_at_buffers
  %bytes = part %registers, $record_at_bytes
  %dims = part %registers, $record_at_dims
  %scratch = part %registers, $record_at_scratch
  br label %arguments
arguments:
  %a = phi i64 [ 0, %entry ], [ %a.next, %argument ]
  %a.more = icmp slt i64 %a, %argument.count
  br i1 %a.more, label %argument, label %match
argument:
  %object = item ptr %args, %a
  put ptr %object, %registers, %a
  %a.next = add i64 %a, 1
  br label %arguments

match:
  %matches = call i1 @walk(ptr %record, ptr %registers, ptr %buffers, ptr %bytes, ptr %dims, ptr %scratch)
  br i1 %matches, label %overlap, label %miss
overlap:
  %written = field i64 %record, $record_written_count
  %writes = icmp ne i64 %written, 0
  br i1 %writes, label %distances, label %memory
distances:
  %clear = call i1 @apart(ptr %record, ptr %buffers, ptr %bytes)
  br i1 %clear, label %memory, label %miss
memory:
  %arena = field ptr %record, $record_arena
  %no.arena = icmp eq ptr %arena, null
  br i1 %no.arena, label %hold, label %take
take:
  %taken = call ptr @take_arena(ptr %record, ptr %arena, ptr %dims)
  %not.taken = icmp eq ptr %taken, null
  br i1 %not.taken, label %miss, label %hold
miss:
  ret ptr inttoptr (i64 1 to ptr)

; From here on other code may run: the record may be replaced, and containers may lose what was found in them.
hold:
  %scratch.arena = phi ptr [ null, %memory ], [ %taken, %take ]
  %owner = field ptr %record, $record_owner
  %held.count = field i64 %record, $record_held_count
  %held = field ptr %record, $record_held
  call void @Py_IncRef(ptr %owner)
  br label %holding
holding:
  %h = phi i64 [ 0, %hold ], [ %h.next, %holds ]
  %h.more = icmp slt i64 %h, %held.count
  br i1 %h.more, label %holds, label %allocate
holds:
  %h.register = item i64 %held, %h
  %h.object = item ptr %registers, %h.register
  call void @Py_IncRef(ptr %h.object)
  %h.next = add i64 %h, 1
  br label %holding

allocate:
  %outputs = part %registers, $record_at_outputs
  %output.count = field i64 %record, $record_outputs_count
  %output.table = field ptr %record, $record_outputs
  br label %allocating
allocating:
  %o = phi i64 [ 0, %allocate ], [ %o.next, %allocated ]
  %o.more = icmp slt i64 %o, %output.count
  br i1 %o.more, label %one, label %constants
one:
  %o.offset = mul i64 %o, $output_size
  %output = getelementptr i8, ptr %output.table, i64 %o.offset
  %array = call ptr @make_output(ptr %output, ptr %registers, ptr %buffers, ptr %dims)
  %no.array = icmp eq ptr %array, null
  br i1 %no.array, label %no.memory, label %allocated
allocated:
  put ptr %array, %outputs, %o
  %o.next = add i64 %o, 1
  br label %allocating
no.memory:
  br i1 %no.arena, label %clean, label %no.memory.give
no.memory.give:
  call void @treadle_dispatch_give(ptr %arena)
  br label %clean

constants:
  %constant.count = field i64 %record, $record_constants_count
  %constant.table = field ptr %record, $record_constants
  %constant.buffers = part %registers, $record_at_constants
  br label %constant
constant:
  %c = phi i64 [ 0, %constants ], [ %c.next, %each.constant ]
  %c.more = icmp slt i64 %c, %constant.count
  br i1 %c.more, label %each.constant, label %run
each.constant:
  %pointer = item ptr %constant.table, %c
  put ptr %pointer, %constant.buffers, %c
  %c.next = add i64 %c, 1
  br label %constant

run:
  %program = field ptr %record, $record_entry
  %begin = field ptr %record, $record_begin
  %no.begin = icmp eq ptr %begin, null
  br i1 %no.begin, label %context.fixed, label %context.asked
context.fixed:
  %fixed = field ptr %record, $record_context
  br label %enter
context.asked:
  %beyond = alloca i32
  %asked = call ptr @PyObject_CallNoArgs(ptr %begin)
  %not.asked = icmp eq ptr %asked, null
  br i1 %not.asked, label %no.memory, label %context.read
context.read:
  %asked.address = call i64 @PyLong_AsLongLongAndOverflow(ptr %asked, ptr %beyond)
  call void @Py_DecRef(ptr %asked)
  %asked.context = inttoptr i64 %asked.address to ptr
  %not.read = icmp eq i64 %asked.address, -1
  br i1 %not.read, label %no.memory, label %enter
enter:
  %context = phi ptr [ %fixed, %context.fixed ], [ %asked.context, %context.read ]
  %releases = field i64 %record, $record_releases
  %keeps = icmp eq i64 %releases, 0
  br i1 %keeps, label %run.held, label %run.free
run.held:
  %status.held = call i32 %program(ptr %buffers, ptr %dims, ptr %scratch.arena, ptr %context)
  br label %ran
run.free:
  %thread = call ptr @PyEval_SaveThread()
  %status.free = call i32 %program(ptr %buffers, ptr %dims, ptr %scratch.arena, ptr %context)
  call void @PyEval_RestoreThread(ptr %thread)
  br label %ran
ran:
  %status = phi i32 [ %status.held, %run.held ], [ %status.free, %run.free ]
  br i1 %no.arena, label %judge, label %give
give:
  call void @treadle_dispatch_give(ptr %arena)
  br label %judge
judge:
  %fine = icmp eq i32 %status, 0
  br i1 %fine, label %finish, label %refused
finish:
  %stack = part %registers, $record_at_stack
  %result = call ptr @build(ptr %record, ptr %outputs, ptr %stack)
  br label %clean
refused:
  %failed = field ptr %record, $record_failed
  %status.wide = sext i32 %status to i64
  %code = call ptr @PyLong_FromLongLong(i64 %status.wide)
  %no.code = icmp eq ptr %code, null
  br i1 %no.code, label %clean, label %found
found:
  ; The entry has left there what the failure tells.
  %found.address = ptrtoint ptr %buffers to i64
  %where = call ptr @PyLong_FromLongLong(i64 %found.address)
  %no.where = icmp eq ptr %where, null
  br i1 %no.where, label %found.drop, label %tell
found.drop:
  call void @Py_DecRef(ptr %code)
  br label %clean
tell:
  put ptr %code, %pair, 0
  put ptr %where, %pair, 1
  %told = call ptr @PyObject_Vectorcall(ptr %failed, ptr %pair, i64 2, ptr null)
  call void @Py_DecRef(ptr %code)
  call void @Py_DecRef(ptr %where)
  br label %clean

clean:
  %returned = phi ptr [ %result, %finish ], [ null, %no.memory ], [ null, %no.memory.give ], [ null, %refused ],
    [ null, %found.drop ], [ %told, %tell ]
  %made = phi i64 [ %output.count, %finish ], [ %o, %no.memory ], [ %o, %no.memory.give ],
    [ %output.count, %refused ], [ %output.count, %found.drop ], [ %output.count, %tell ]
  call void @drop(ptr %outputs, i64 %made)
  br label %releasing
releasing:
  %r = phi i64 [ 0, %clean ], [ %r.next, %release ]
  %r.more = icmp slt i64 %r, %held.count
  br i1 %r.more, label %release, label %done
release:
  %r.register = item i64 %held, %r
  %r.object = item ptr %registers, %r.register
  call void @Py_DecRef(ptr %r.object)
  %r.next = add i64 %r, 1
  br label %releasing
done:
  call void @Py_DecRef(ptr %owner)
  ret ptr %returned
}

define internal ptr @vectorcall(ptr %self, ptr %args, i64 %flagged, ptr %names) nounwind {
entry:
  ; The top bit only says that the place before the arguments may be used.
  %count = and i64 %flagged, 9223372036854775807
  %records = getelementptr i8, ptr %self, i64 $instance_records
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %step ]
  %more = icmp slt i64 %i, $instance_slots
  br i1 %more, label %each, label %slow
each:
  %record = item ptr %records, %i
  %empty = icmp eq ptr %record, null
  br i1 %empty, label %slow, label %counts
counts:
  %wanted = field i64 %record, $record_positional
  %as.many = icmp eq i64 %wanted, %count
  br i1 %as.many, label %named, label %step
named:
  %alike = call i1 @keywords_match(ptr %record, ptr %names)
  br i1 %alike, label %try, label %step
try:
  %result = call ptr @attempt(ptr %record, ptr %args)
  %missed = icmp eq ptr %result, inttoptr (i64 1 to ptr)
  br i1 %missed, label %step, label %hit
step:
  %i.next = add i64 %i, 1
  br label %next
hit:
  ret ptr %result
slow:
  %complete = field ptr %self, $instance_slow
  %lost = icmp eq ptr %complete, null
  br i1 %lost, label %broken, label %call
call:
  ; Held: the call may make this object forget it.
  call void @Py_IncRef(ptr %complete)
  %answer = call ptr @PyObject_Vectorcall(ptr %complete, ptr %args, i64 %flagged, ptr %names)
  call void @Py_DecRef(ptr %complete)
  ret ptr %answer
broken:
  %exception = load ptr, ptr @object.RuntimeError
  call void @PyErr_SetString(ptr %exception, ptr @message.lost)
  ret ptr null
}

; ---- the object --------------------------------------------------------------------------------------------

define dso_local ptr @treadle_dispatch_new(ptr %type, ptr %args, ptr %keywords) nounwind {
entry:
  %self = call ptr @PyType_GenericAlloc(ptr %type, i64 0)
  %failed = icmp eq ptr %self, null
  br i1 %failed, label %end, label %fill
fill:
  set ptr @vectorcall, %self, $instance_vectorcall
  br label %end
end:
  ret ptr %self
}

define dso_local i32 @treadle_dispatch_traverse(ptr %self, ptr %visit, ptr %arg) nounwind {
entry:
  %type = field ptr %self, $object_type
  %first = call i32 %visit(ptr %type, ptr %arg)
  %stop = icmp ne i32 %first, 0
  br i1 %stop, label %stopped, label %loop
loop:
  ; The dict, the callable and the owners stand side by side.
  %i = phi i64 [ 0, %entry ], [ %i.next, %step ]
  %more = icmp slt i64 %i, $instance_references
  br i1 %more, label %each, label %end
each:
  %references = getelementptr i8, ptr %self, i64 $instance_dict
  %object = item ptr %references, %i
  %none = icmp eq ptr %object, null
  br i1 %none, label %step, label %visited
visited:
  %answer = call i32 %visit(ptr %object, ptr %arg)
  %halt = icmp ne i32 %answer, 0
  br i1 %halt, label %halted, label %step
step:
  %i.next = add i64 %i, 1
  br label %loop
stopped:
  ret i32 %first
halted:
  ret i32 %answer
end:
  ret i32 0
}

define dso_local i32 @treadle_dispatch_clear(ptr %self) nounwind {
entry:
  br label %records
records:
  %r = phi i64 [ 0, %entry ], [ %r.next, %records ]
  %records.base = getelementptr i8, ptr %self, i64 $instance_records
  put ptr null, %records.base, %r
  %r.next = add i64 %r, 1
  %r.more = icmp slt i64 %r.next, $instance_slots
  br i1 %r.more, label %records, label %loop
loop:
  %i = phi i64 [ 0, %records ], [ %i.next, %step ]
  %more = icmp slt i64 %i, $instance_references
  br i1 %more, label %each, label %end
each:
  %references = getelementptr i8, ptr %self, i64 $instance_dict
  %object = item ptr %references, %i
  put ptr null, %references, %i
  %none = icmp eq ptr %object, null
  br i1 %none, label %step, label %give
give:
  call void @Py_DecRef(ptr %object)
  br label %step
step:
  %i.next = add i64 %i, 1
  br label %loop
end:
  ret i32 0
}

define dso_local void @treadle_dispatch_dealloc(ptr %self) nounwind {
entry:
  %type = field ptr %self, $object_type
  call void @PyObject_GC_UnTrack(ptr %self)
  %weak = field ptr %self, $instance_weak
  %unwatched = icmp eq ptr %weak, null
  br i1 %unwatched, label %free, label %watched
watched:
  call void @PyObject_ClearWeakRefs(ptr %self)
  br label %free
free:
  %cleared = call i32 @treadle_dispatch_clear(ptr %self)
  call void @PyObject_GC_Del(ptr %self)
  call void @Py_DecRef(ptr %type)
  ret void
}

; As a function in a class body: bound to the instance it is read from.
define dso_local ptr @treadle_dispatch_get(ptr %self, ptr %instance, ptr %class) nounwind {
entry:
  %nothing = load ptr, ptr @object.None
  %absent = icmp eq ptr %instance, null
  %is.none = icmp eq ptr %instance, %nothing
  %unbound = or i1 %absent, %is.none
  br i1 %unbound, label %itself, label %bind
itself:
  call void @Py_IncRef(ptr %self)
  ret ptr %self
bind:
  %method = call ptr @PyMethod_New(ptr %self, ptr %instance)
  ret ptr %method
}

define dso_local void @treadle_dispatch_set_slow(ptr %self, ptr %callable) nounwind {
entry:
  %old = field ptr %self, $instance_slow
  call void @Py_IncRef(ptr %callable)
  set ptr %callable, %self, $instance_slow
  %none = icmp eq ptr %old, null
  br i1 %none, label %end, label %give
give:
  call void @Py_DecRef(ptr %old)
  br label %end
end:
  ret void
}

define dso_local ptr @treadle_dispatch_slow(ptr %self) nounwind {
  %callable = field ptr %self, $instance_slow
  %nothing = load ptr, ptr @object.None
  %none = icmp eq ptr %callable, null
  %answer = select i1 %none, ptr %nothing, ptr %callable
  call void @Py_IncRef(ptr %answer)
  ret ptr %answer
}

; Put a record into the next slot, in turn. The owner keeps alive all that the record points to.
define dso_local void @treadle_dispatch_install(ptr %self, ptr %record, ptr %owner) nounwind {
entry:
  %slot = field i64 %self, $instance_next
  %after = add i64 %slot, 1
  %slot.next = urem i64 %after, $instance_slots
  set i64 %slot.next, %self, $instance_next
  %records = getelementptr i8, ptr %self, i64 $instance_records
  %owners = getelementptr i8, ptr %self, i64 $instance_owners
  %old = item ptr %owners, %slot
  call void @Py_IncRef(ptr %owner)
  put ptr %owner, %owners, %slot
  put ptr %record, %records, %slot
  %none = icmp eq ptr %old, null
  br i1 %none, label %end, label %give
give:
  call void @Py_DecRef(ptr %old)
  br label %end
end:
  ret void
}

; What keeps the record in a slot alive, or None.
define dso_local ptr @treadle_dispatch_owner(ptr %self, i64 %slot) nounwind {
  %owners = getelementptr i8, ptr %self, i64 $instance_owners
  %owner = item ptr %owners, %slot
  %nothing = load ptr, ptr @object.None
  %none = icmp eq ptr %owner, null
  %answer = select i1 %none, ptr %nothing, ptr %owner
  call void @Py_IncRef(ptr %answer)
  ret ptr %answer
}

define dso_local void @treadle_dispatch_forget(ptr %self) nounwind {
entry:
  %records = getelementptr i8, ptr %self, i64 $instance_records
  %owners = getelementptr i8, ptr %self, i64 $instance_owners
  set i64 0, %self, $instance_next
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %step ]
  put ptr null, %records, %i
  %old = item ptr %owners, %i
  put ptr null, %owners, %i
  %none = icmp eq ptr %old, null
  br i1 %none, label %step, label %give
give:
  call void @Py_DecRef(ptr %old)
  br label %step
step:
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, $instance_slots
  br i1 %more, label %loop, label %end
end:
  ret void
}
""")


def dispatch_module(triple: str, numbers: Mapping[str, int]) -> str:
    """The routine as LLVM text. `numbers` is what `runtime.dispatch.measure()` gives: all names in the text."""
    text = _TEXT.substitute(numbers)
    for pattern, long in _SHORTHAND:
        text = pattern.sub(long, text)
    count = 0

    def store(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        how, kind, value, base, where = match.groups()
        step = "i8" if how == "set" else kind
        return (
            f"  %store.{count} = getelementptr {step}, ptr {base}, i64 {where}\n"
            f"  store {kind} {value}, ptr %store.{count}"
        )

    text = _STORES.sub(store, text)
    text = _OBJECT.sub(lambda match: f"getelementptr (ptr, ptr @table, i64 {numbers[f'table_{match[1]}']})", text)
    doors = [_door(name, numbers[f"table_{name}"]) for name in FUNCTIONS]
    messages = [
        f'@message.{name} = internal constant [{len(message) + 1} x i8] c"{message}\\00"'
        for name, message in _MESSAGES.items()
    ]
    return "\n".join([f'target triple = "{triple}"', *messages, text, *doors, ""])


def _door(name: str, index: int) -> str:
    """A function of the name, that calls the address in the table."""
    result, *parameters = FUNCTIONS[name]
    taken = ", ".join(f"{kind} %{i}" for i, kind in enumerate(parameters))
    answer = "ret void" if result == "void" else f"ret {result} %answer"
    call = "call" if result == "void" else "%answer = call"
    return (
        f"define internal {result} @{name}({taken}) nounwind alwaysinline {{\n"
        f"entry:\n"
        f"  %place = getelementptr ptr, ptr @table, i64 {index}\n"
        f"  %function = load ptr, ptr %place\n"
        f"  {call} {result} %function({taken})\n"
        f"  {answer}\n}}\n"
    )
