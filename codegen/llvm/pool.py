"""The thread pool, as LLVM text: pthread, futex and atomics, so that no helper library is needed to run
threads.

One region at a time is cut into contiguous pieces, and whoever is free claims the next one: the caller, who
always takes part, and the workers that have woken. So nothing waits for a worker that is late, and a region
ends even if no worker ever comes. That is also why the pool cannot deadlock: a caller that does not get it
(another thread's region, or a task that itself calls `run`) does its whole range alone. Kernels make their
results independent of where a range is cut; the pool promises only that every index is visited once.

After a fork the child has the pool's memory but not its threads. The control words therefore live in a page
that the kernel hands to a child as zeros, which reads as "no workers yet"; they are started again by the
child's next region. Workers are never joined and this code must never be unmapped: they sleep in it.
"""

from __future__ import annotations

from string import Template

from ...ir.errors import Unsupported

# The control page, in bytes. What a worker needs to begin is in one line with the word it watches, so that a
# region reaches it in one transfer; what the caller waits for, and what only callers touch, is two lines
# away, past the neighbour that the prefetcher pulls in. At 0 stands the claim, i64: epoch << 28 | free seats
# << 16 | unclaimed pieces
_TASK, _ARGS, _LO, _EXTENT = 8, 16, 24, 32
_PIECES, _HEADS = 40, 44  # i32: all pieces; the first of them that have _LARGE indices each
_LARGE = 48
_CONTROL = 56  # the caller's floating-point control register, which decides bits (flush to zero, rounding)
_DONE = 128  # i32: pieces finished by workers; the sign bit says that the caller sleeps on it
_LOCK, _WORKERS, _REFUSED = 256, 260, 264
_CPU = 268  # u32: where the caller ran when it last woke workers
_PARKED = 384

# A claim holds 16 bits of pieces and 12 of seats; three pieces for each of 4095 threads fit.
_MOST_THREADS = 4095

# About 20 us of watching before a worker sleeps: as long as waking it takes, so at most twice the best of
# both. A caller may watch longer, since the last pieces are already running; it sleeps when their threads
# lost their CPU.
_WORKER_SPINS = 1000
_CALLER_SPINS = 5000

_BUSY_WAIT = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    # `yield` is a no-op on most cores; an instruction barrier costs about what x86's pause does.
    "aarch64": ("declare void @llvm.aarch64.isb(i32)", "call void @llvm.aarch64.isb(i32 15)"),
}
# System calls by number: a libc has neither futex() nor, in every version, a getpid() that is not cached.
_FUTEX = {"x86_64": 202, "aarch64": 98}
_GETPID = {"x86_64": 39, "aarch64": 172}
_GETCPU = {"x86_64": 309, "aarch64": 168}
_YIELD = {"x86_64": 24, "aarch64": 124}
_SETAFFINITY = {"x86_64": 203, "aarch64": 122}
_GETAFFINITY = {"x86_64": 204, "aarch64": 123}

# The low six bits of MXCSR are sticky exception flags, not control; FPCR holds control only.
_CONTROL_REGISTER = {
    "x86_64": """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)

define internal i64 @treadle_pool_control() nounwind {
  %place = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %place)
  %word = load i32, ptr %place
  %control = and i32 %word, -64
  %wide = zext i32 %control to i64
  ret i64 %wide
}

define internal void @treadle_pool_set_control(i64 %wide) nounwind {
  %place = alloca i32
  %word = trunc i64 %wide to i32
  store i32 %word, ptr %place
  call void @llvm.x86.sse.ldmxcsr(ptr %place)
  ret void
}
""",
    "aarch64": """
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)

define internal i64 @treadle_pool_control() nounwind {
  %control = call i64 @llvm.aarch64.get.fpcr()
  ret i64 %control
}

define internal void @treadle_pool_set_control(i64 %control) nounwind {
  call void @llvm.aarch64.set.fpcr(i64 %control)
  ret void
}
""",
}

_TEXT = Template("""
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i64 @syscall(i64, ...)
declare ptr @mmap(ptr, i64, i32, i32, i32, i64)
declare i32 @munmap(ptr, i64)
declare i32 @madvise(ptr, i64, i32)
declare i32 @pthread_setname_np(i64, ptr)
$declare_busy_wait
$control_register
; run, the control page, the most workers asked for, and the process that owns the page where the kernel does
; not clear it on fork (else 0). Outside the page: a child keeps these. Filled at run time, so that it needs
; no relocation.
@treadle_pool = internal global { ptr, ptr, i32, i32 } zeroinitializer, align 16

; The process's pool, for at most this many threads beside the caller's; asking again can only make it larger.
; Null if there is no memory for it, which callers take as "serial". Threads are started by the first region
; that wants them.
define $linkage ptr @treadle_pool_create(i32 %workers) nounwind {
entry:
  %page_place = getelementptr i8, ptr @treadle_pool, i64 8
  %wanted_place = getelementptr i8, ptr @treadle_pool, i64 16
  %owner_place = getelementptr i8, ptr @treadle_pool, i64 20
  %present = load atomic ptr, ptr %page_place acquire, align 8
  %absent = icmp eq ptr %present, null
  br i1 %absent, label %allocate, label %ready

allocate:
  %mapped = call ptr @mmap(ptr null, i64 4096, i32 3, i32 34, i32 -1, i64 0)
  %failed = icmp eq ptr %mapped, inttoptr (i64 -1 to ptr)
  br i1 %failed, label %none, label %advise

none:
  ret ptr null

advise:
  %refusal = call i32 @madvise(ptr %mapped, i64 4096, i32 $wipe_on_fork)
  %wiped = icmp eq i32 %refusal, 0
  br i1 %wiped, label %publish, label %own

own:
  %process.wide = call i64 (i64, ...) @syscall(i64 $getpid)
  %process = trunc i64 %process.wide to i32
  store atomic i32 %process, ptr %owner_place monotonic, align 4
  br label %publish

publish:
  %pair = cmpxchg ptr %page_place, ptr null, ptr %mapped acq_rel acquire
  %won = extractvalue { ptr, i1 } %pair, 1
  br i1 %won, label %ready, label %lost

lost:
  %other = extractvalue { ptr, i1 } %pair, 0
  %ignored = call i32 @munmap(ptr %mapped, i64 4096)
  br label %ready

ready:
  %page = phi ptr [ %present, %entry ], [ %mapped, %publish ], [ %other, %lost ]
  %before = atomicrmw max ptr %wanted_place, i32 %workers monotonic
  %refused_place = getelementptr i8, ptr %page, i64 $refused
  store atomic i32 0, ptr %refused_place monotonic, align 4
  store atomic ptr @treadle_pool_run, ptr @treadle_pool release, align 8
  ret ptr @treadle_pool
}

; How many workers this process has.
define $linkage i32 @treadle_pool_workers() nounwind {
  %page_place = getelementptr i8, ptr @treadle_pool, i64 8
  %page = load atomic ptr, ptr %page_place acquire, align 8
  %absent = icmp eq ptr %page, null
  br i1 %absent, label %none, label %some

none:
  ret i32 0

some:
  %workers_place = getelementptr i8, ptr %page, i64 $workers
  %workers = load atomic i32, ptr %workers_place monotonic, align 4
  ret i32 %workers
}

define internal void @treadle_pool_run(ptr %pool, ptr %task, ptr %args, i64 %lo, i64 %hi, i64 %threads)
nounwind { entry:
  %extent = sub i64 %hi, %lo
  %empty = icmp sle i64 %extent, 0
  br i1 %empty, label %return, label %choose

choose:
  %page_place = getelementptr i8, ptr %pool, i64 8
  %page = load atomic ptr, ptr %page_place acquire, align 8
  %wanted_place = getelementptr i8, ptr %pool, i64 16
  %wanted = load atomic i32, ptr %wanted_place monotonic, align 4
  %wanted.wide = sext i32 %wanted to i64
  %have = add i64 %wanted.wide, 1
  %fewer = icmp slt i64 %threads, %have
  %asked = select i1 %fewer, i64 %threads, i64 %have
  %short = icmp slt i64 %extent, %asked
  %useful = select i1 %short, i64 %extent, i64 %asked
  %many = icmp sgt i64 %useful, $most_threads
  %team.wide = select i1 %many, i64 $most_threads, i64 %useful
  %alone = icmp sle i64 %team.wide, 1
  br i1 %alone, label %serial, label %whose

whose:
  %owner_place = getelementptr i8, ptr %pool, i64 20
  %owner = load atomic i32, ptr %owner_place acquire, align 4
  %unowned = icmp eq i32 %owner, 0
  br i1 %unowned, label %try, label %check

check:
  %mine = call i1 @treadle_pool_owned(ptr %page, ptr %owner_place, i32 %owner)
  br i1 %mine, label %try, label %serial

try:
  %lock_place = getelementptr i8, ptr %page, i64 $lock
  %attempt = cmpxchg ptr %lock_place, i32 0, i32 1 acquire monotonic
  %taken = extractvalue { i32, i1 } %attempt, 1
  br i1 %taken, label %recruit, label %serial

recruit:
  %team.asked = trunc i64 %team.wide to i32
  %others = sub i32 %team.asked, 1
  %workers_place = getelementptr i8, ptr %page, i64 $workers
  %present = load atomic i32, ptr %workers_place monotonic, align 4
  %enough = icmp sge i32 %present, %others
  br i1 %enough, label %divide, label %grow

grow:
  %grown = call i32 @treadle_pool_grow(ptr %page, i32 %present, i32 %others)
  %none = icmp eq i32 %grown, 0
  br i1 %none, label %deserted, label %divide

deserted:
  store atomic i32 0, ptr %lock_place release, align 4
  br label %serial

; Few indices: a piece each. Many: three quarters in one piece per thread, which keeps neighbours together,
; and the rest in up to two small ones per thread, for whoever is free. A thread that is a third slower than
; the others costs nothing then.
divide:
  %helpers = phi i32 [ %others, %recruit ], [ %grown, %grow ]
  %helpers.fewer = icmp slt i32 %helpers, %others
  %seats = select i1 %helpers.fewer, i32 %helpers, i32 %others
  %team = add i32 %seats, 1
  %team64 = zext i32 %team to i64
  %team.four = shl i64 %team64, 2
  %few = icmp sle i64 %extent, %team.four
  br i1 %few, label %publish, label %split

split:
  %three = mul i64 %extent, 3
  %large.many = udiv i64 %three, %team.four
  %heads.cover = mul i64 %large.many, %team64
  %rest = sub i64 %extent, %heads.cover
  %tails.most = shl i64 %team64, 1
  %tails.fewer = icmp slt i64 %rest, %tails.most
  %tails = select i1 %tails.fewer, i64 %rest, i64 %tails.most
  %pieces.many = add i64 %team64, %tails
  br label %publish

publish:
  %large = phi i64 [ 1, %divide ], [ %large.many, %split ]
  %heads64 = phi i64 [ %extent, %divide ], [ %team64, %split ]
  %pieces64 = phi i64 [ %extent, %divide ], [ %pieces.many, %split ]
  %heads = trunc i64 %heads64 to i32
  %pieces = trunc i64 %pieces64 to i32
  %task_place = getelementptr i8, ptr %page, i64 $task
  %args_place = getelementptr i8, ptr %page, i64 $args
  %lo_place = getelementptr i8, ptr %page, i64 $lo
  %extent_place = getelementptr i8, ptr %page, i64 $extent
  %pieces_place = getelementptr i8, ptr %page, i64 $pieces
  %heads_place = getelementptr i8, ptr %page, i64 $heads
  %large_place = getelementptr i8, ptr %page, i64 $large
  %control_place = getelementptr i8, ptr %page, i64 $control
  %done_place = getelementptr i8, ptr %page, i64 $done
  %parked_place = getelementptr i8, ptr %page, i64 $parked
  %control = call i64 @treadle_pool_control()
  store ptr %task, ptr %task_place, align 8
  store ptr %args, ptr %args_place, align 8
  store i64 %lo, ptr %lo_place, align 8
  store i64 %extent, ptr %extent_place, align 8
  store i32 %pieces, ptr %pieces_place, align 4
  store i32 %heads, ptr %heads_place, align 4
  store i64 %large, ptr %large_place, align 8
  store i64 %control, ptr %control_place, align 8
  store atomic i32 0, ptr %done_place monotonic, align 4
  %old = load atomic i64, ptr %page monotonic, align 8
  %old.epoch = lshr i64 %old, 28
  %next.epoch = add i64 %old.epoch, 1
  %epoch.placed = shl i64 %next.epoch, 28
  %epoch = lshr i64 %epoch.placed, 28
  %seats64 = zext i32 %seats to i64
  %seats.placed = shl i64 %seats64, 16
  %left = sub i64 %pieces64, 1
  %low = or i64 %seats.placed, %left
  %claim = or i64 %epoch.placed, %low
  ; In one order with the count of parked workers: either a worker sees this before it sleeps, or it is
  ; counted here.
  store atomic i64 %claim, ptr %page seq_cst, align 8
  %parked = load atomic i32, ptr %parked_place seq_cst, align 4
  %asleep = icmp sgt i32 %parked, 0
  br i1 %asleep, label %wake, label %work

wake:
  %cpu_place = getelementptr i8, ptr %page, i64 $cpu
  %placed = call i64 (i64, ...) @syscall(i64 $getcpu, ptr %cpu_place, ptr null, ptr null)
  %woken = call i64 (i64, ...) @syscall(i64 $futex, ptr %page, i64 129, i64 %seats64)
  ; One that was woken on this processor gets to run, and goes to another.
  %yielded = call i64 (i64, ...) @syscall(i64 $yield_)
  br label %work

work:
  %own = call i32 @treadle_pool_work(ptr %page, i64 %epoch, i64 0)
  %rest.pieces = sub i32 %pieces, %own
  br label %watch

watch:
  %spins = phi i32 [ 0, %work ], [ %spins.next, %pause ]
  %done = load atomic i32, ptr %done_place acquire, align 4
  %complete = icmp eq i32 %done, %rest.pieces
  br i1 %complete, label %release, label %impatient

impatient:
  %spins.next = add i32 %spins, 1
  %tired = icmp sgt i32 %spins, $caller_spins
  br i1 %tired, label %announce, label %pause

pause:
  $busy_wait
  br label %watch

announce:
  %flagged = atomicrmw or ptr %done_place, i32 -2147483648 acq_rel
  br label %sleep

sleep:
  %seen = phi i32 [ %flagged, %announce ], [ %again, %slept ]
  %count = and i32 %seen, 2147483647
  %arrived = icmp eq i32 %count, %rest.pieces
  br i1 %arrived, label %release, label %doze

doze:
  %expected = or i32 %seen, -2147483648
  %expected.wide = zext i32 %expected to i64
  %waited = call i64 (i64, ...) @syscall(i64 $futex, ptr %done_place, i64 128, i64 %expected.wide, ptr null)
  br label %slept

slept:
  %again = load atomic i32, ptr %done_place acquire, align 4
  br label %sleep

release:
  store atomic i32 0, ptr %lock_place release, align 4
  br label %return

serial:
  call void %task(ptr %args, i64 %lo, i64 %hi)
  br label %return

return:
  ret void
}

; Do one claimed piece, then claim and do others of the same epoch until none is left; how many were done. The
; fields of the region hold still meanwhile: it cannot end before the claimed piece is counted.
define internal i32 @treadle_pool_work(ptr %page, i64 %epoch, i64 %first) nounwind {
entry:
  %task_place = getelementptr i8, ptr %page, i64 $task
  %args_place = getelementptr i8, ptr %page, i64 $args
  %lo_place = getelementptr i8, ptr %page, i64 $lo
  %extent_place = getelementptr i8, ptr %page, i64 $extent
  %pieces_place = getelementptr i8, ptr %page, i64 $pieces
  %heads_place = getelementptr i8, ptr %page, i64 $heads
  %large_place = getelementptr i8, ptr %page, i64 $large
  %task = load ptr, ptr %task_place, align 8
  %args = load ptr, ptr %args_place, align 8
  %lo = load i64, ptr %lo_place, align 8
  %extent = load i64, ptr %extent_place, align 8
  %pieces32 = load i32, ptr %pieces_place, align 4
  %pieces = zext i32 %pieces32 to i64
  %heads32 = load i32, ptr %heads_place, align 4
  %heads = zext i32 %heads32 to i64
  %large = load i64, ptr %large_place, align 8
  %cover = mul i64 %large, %heads
  %rest = sub i64 %extent, %cover
  %tails = sub i64 %pieces, %heads
  br label %piece

piece:
  %index = phi i64 [ %first, %entry ], [ %index.next, %claimed ]
  %count = phi i32 [ 1, %entry ], [ %count.next, %claimed ]
  %is.head = icmp ult i64 %index, %heads
  br i1 %is.head, label %head, label %tail

head:
  %head.begin = mul i64 %index, %large
  %head.end = add i64 %head.begin, %large
  br label %call

tail:
  %step = sub i64 %index, %heads
  %step.next = add i64 %step, 1
  %begin.scaled = mul i64 %rest, %step
  %end.scaled = mul i64 %rest, %step.next
  %begin.share = udiv i64 %begin.scaled, %tails
  %end.share = udiv i64 %end.scaled, %tails
  %tail.begin = add i64 %cover, %begin.share
  %tail.end = add i64 %cover, %end.share
  br label %call

call:
  %begin = phi i64 [ %head.begin, %head ], [ %tail.begin, %tail ]
  %end = phi i64 [ %head.end, %head ], [ %tail.end, %tail ]
  %from = add i64 %lo, %begin
  %to = add i64 %lo, %end
  call void %task(ptr %args, i64 %from, i64 %to)
  %current = load atomic i64, ptr %page acquire, align 8
  br label %look

look:
  %claim = phi i64 [ %current, %call ], [ %actual, %take ]
  %claim.epoch = lshr i64 %claim, 28
  %same = icmp eq i64 %claim.epoch, %epoch
  %left = and i64 %claim, 65535
  %some = icmp ne i64 %left, 0
  %more = and i1 %same, %some
  br i1 %more, label %take, label %leave

take:
  %desired = sub i64 %claim, 1
  %pair = cmpxchg ptr %page, i64 %claim, i64 %desired acq_rel acquire
  %actual = extractvalue { i64, i1 } %pair, 0
  %won = extractvalue { i64, i1 } %pair, 1
  br i1 %won, label %claimed, label %look

claimed:
  %index.next = sub i64 %pieces, %left
  %count.next = add i32 %count, 1
  br label %piece

leave:
  ret i32 %count
}

; A worker's life: watch for a region with a free seat and an unclaimed piece, take both at once, work,
; report; sleep after a while without one. Missing a region is harmless, so the futex compares only the low
; half of the claim.
define internal ptr @treadle_pool_worker(ptr %page) nounwind {
entry:
  %done_place = getelementptr i8, ptr %page, i64 $done
  %parked_place = getelementptr i8, ptr %page, i64 $parked
  %pieces_place = getelementptr i8, ptr %page, i64 $pieces
  %control_place = getelementptr i8, ptr %page, i64 $control
  br label %watch

watch:
  %spins = phi i32 [ 0, %entry ], [ 0, %report ], [ 0, %wake ], [ 0, %slept ], [ %spins.next, %pause ]
  %seen = load atomic i64, ptr %page acquire, align 8
  br label %judge

judge:
  %claim = phi i64 [ %seen, %watch ], [ %actual, %take ]
  %left = and i64 %claim, 65535
  %seats = and i64 %claim, $seats_mask
  %any.left = icmp ne i64 %left, 0
  %any.seat = icmp ne i64 %seats, 0
  %open = and i1 %any.left, %any.seat
  br i1 %open, label %take, label %idle

take:
  %desired = sub i64 %claim, $seat_and_piece
  %pair = cmpxchg ptr %page, i64 %claim, i64 %desired acq_rel acquire
  %actual = extractvalue { i64, i1 } %pair, 0
  %won = extractvalue { i64, i1 } %pair, 1
  br i1 %won, label %adopt, label %judge

adopt:
  %wanted = load i64, ptr %control_place, align 8
  %control = call i64 @treadle_pool_control()
  %differs = icmp ne i64 %wanted, %control
  br i1 %differs, label %set, label %work

set:
  call void @treadle_pool_set_control(i64 %wanted)
  br label %work

work:
  %pieces32 = load i32, ptr %pieces_place, align 4
  %pieces = zext i32 %pieces32 to i64
  %first = sub i64 %pieces, %left
  %epoch = lshr i64 %claim, 28
  %count = call i32 @treadle_pool_work(ptr %page, i64 %epoch, i64 %first)
  %before = atomicrmw add ptr %done_place, i32 %count acq_rel
  %caller.sleeps = icmp slt i32 %before, 0
  br i1 %caller.sleeps, label %wake, label %report

wake:
  %woken = call i64 (i64, ...) @syscall(i64 $futex, ptr %done_place, i64 129, i64 1)
  br label %watch

report:
  br label %watch

idle:
  %spins.next = add i32 %spins, 1
  %tired = icmp sgt i32 %spins, $worker_spins
  br i1 %tired, label %park, label %pause

pause:
  $busy_wait
  br label %watch

park:
  %counted = atomicrmw add ptr %parked_place, i32 1 seq_cst
  %last = load atomic i64, ptr %page seq_cst, align 8
  %last.left = and i64 %last, 65535
  %last.seats = and i64 %last, $seats_mask
  %last.any.left = icmp ne i64 %last.left, 0
  %last.any.seat = icmp ne i64 %last.seats, 0
  %last.open = and i1 %last.any.left, %last.any.seat
  br i1 %last.open, label %slept, label %sleep

sleep:
  %expected = and i64 %last, 4294967295
  %waited = call i64 (i64, ...) @syscall(i64 $futex, ptr %page, i64 128, i64 %expected, ptr null)
  call void @treadle_pool_apart(ptr %page)
  br label %slept

slept:
  %uncounted = atomicrmw sub ptr %parked_place, i32 1 seq_cst
  br label %watch
}

; A kernel may wake a worker on the processor of its caller, where it only takes turns with it, and may leave it
; there for as long as a whole burst of calls. Then the worker leaves that processor, and takes back the set that
; it is allowed: nothing is pinned. What the system refuses is left as it is.
define internal void @treadle_pool_apart(ptr %page) nounwind noinline {
entry:
  %mine_place = alloca i32, align 4
  %mask = alloca [16 x i64], align 8
  %theirs_place = getelementptr i8, ptr %page, i64 $cpu
  %asked = call i64 (i64, ...) @syscall(i64 $getcpu, ptr %mine_place, ptr null, ptr null)
  %mine = load i32, ptr %mine_place, align 4
  %theirs = load i32, ptr %theirs_place, align 4
  %same = icmp eq i32 %mine, %theirs
  br i1 %same, label %read, label %leave

read:
  %bytes = call i64 (i64, ...) @syscall(i64 $getaffinity, i64 0, i64 128, ptr %mask)
  %known = icmp sgt i64 %bytes, 0
  %within = icmp ult i32 %mine, 1024
  %both = and i1 %known, %within
  br i1 %both, label %move, label %leave

move:
  %cpu = zext i32 %mine to i64
  %word = lshr i64 %cpu, 6
  %place = getelementptr i64, ptr %mask, i64 %word
  %number = and i64 %cpu, 63
  %bit = shl i64 1, %number
  %others = xor i64 %bit, -1
  %old = load i64, ptr %place, align 8
  %without = and i64 %old, %others
  store i64 %without, ptr %place, align 8
  %moved = call i64 (i64, ...) @syscall(i64 $setaffinity, i64 0, i64 %bytes, ptr %mask)
  store i64 %old, ptr %place, align 8
  %back = call i64 (i64, ...) @syscall(i64 $setaffinity, i64 0, i64 %bytes, ptr %mask)
  br label %leave

leave:
  ret void
}

; Start workers until there are `wanted`; how many there are. They inherit the caller's signal mask, so every
; signal that can be sent from outside is blocked round their creation: handlers run on the program's own
; threads. The five that only a fault of the thread itself raises stay open (ILL, TRAP, BUS, FPE, SEGV), so
; that a report of it is made.
define internal i32 @treadle_pool_grow(ptr %page, i32 %present, i32 %wanted) nounwind noinline {
entry:
  %refused_place = getelementptr i8, ptr %page, i64 $refused
  %refused = load atomic i32, ptr %refused_place monotonic, align 4
  %hopeless = icmp ne i32 %refused, 0
  br i1 %hopeless, label %as_is, label %mask

as_is:
  ret i32 %present

mask:
  %thread = alloca i64, align 16
  %name = alloca i64, align 16
  %blocked = alloca [16 x i64], align 16
  %previous = alloca [16 x i64], align 16
  %workers_place = getelementptr i8, ptr %page, i64 $workers
  store i64 $outside_signals, ptr %blocked
  br label %fill

fill:
  %word = phi i64 [ 1, %mask ], [ %word.next, %fill ]
  %word_place = getelementptr i64, ptr %blocked, i64 %word
  store i64 -1, ptr %word_place
  %word.next = add i64 %word, 1
  %filled = icmp eq i64 %word.next, 16
  br i1 %filled, label %block, label %fill

block:
  %masked = call i32 @pthread_sigmask(i32 2, ptr %blocked, ptr %previous)
  br label %start

start:
  %count = phi i32 [ %present, %block ], [ %count.next, %started ]
  %enough = icmp sge i32 %count, %wanted
  br i1 %enough, label %restore, label %create

create:
  %error = call i32 @pthread_create(ptr %thread, ptr null, ptr @treadle_pool_worker, ptr %page)
  %ok = icmp eq i32 %error, 0
  br i1 %ok, label %started, label %refuse

started:
  ; "treadle", for whoever lists the threads of a process.
  store i64 28548151034344052, ptr %name
  %identity = load i64, ptr %thread
  %named = call i32 @pthread_setname_np(i64 %identity, ptr %name)
  %count.next = add i32 %count, 1
  store atomic i32 %count.next, ptr %workers_place monotonic, align 4
  br label %start

; A limit on threads: not tried again at every region, only once someone asks for the pool anew.
refuse:
  store atomic i32 1, ptr %refused_place monotonic, align 4
  br label %restore

restore:
  %unmasked = call i32 @pthread_sigmask(i32 2, ptr %previous, ptr null)
  ret i32 %count
}

; Only where the kernel refused to clear the page on fork: the first caller in a child clears it, the others
; are serial meanwhile. -1 marks the clearing.
define internal i1 @treadle_pool_owned(ptr %page, ptr %owner_place, i32 %owner) nounwind noinline {
entry:
  %process.wide = call i64 (i64, ...) @syscall(i64 $getpid)
  %process = trunc i64 %process.wide to i32
  %same = icmp eq i32 %process, %owner
  br i1 %same, label %yes, label %foreign

foreign:
  %clearing = icmp eq i32 %owner, -1
  br i1 %clearing, label %no, label %take

take:
  %pair = cmpxchg ptr %owner_place, i32 %owner, i32 -1 acquire monotonic
  %won = extractvalue { i32, i1 } %pair, 1
  br i1 %won, label %clear, label %no

clear:
  %word = phi i64 [ 0, %take ], [ %word.next, %clear ]
  %word_place = getelementptr i64, ptr %page, i64 %word
  store atomic i64 0, ptr %word_place monotonic, align 8
  %word.next = add i64 %word, 1
  %cleared = icmp eq i64 %word.next, 64
  br i1 %cleared, label %own, label %clear

own:
  store atomic i32 %process, ptr %owner_place release, align 4
  br label %yes

yes:
  ret i1 true

no:
  ret i1 false
}
""")

_FAULTS = (4, 5, 7, 8, 11)


def pool_module(triple: str, embed: bool = False) -> str:
    """The pool as LLVM text for an x86-64 or 64-bit Arm Linux.

    A whole module, exporting `treadle_pool_create(i32) -> ptr` and `treadle_pool_workers() -> i32`; with
    `embed` the same functions for another module to contain, all internal and without a header. Every name
    begins with `treadle_pool`, except the C library's.
    """
    architecture, _, system = triple.partition("-")
    if architecture not in _FUTEX or "linux" not in system:
        raise Unsupported(
            f"the thread pool is made of futexes for x86_64 and aarch64 Linux, not {triple}", code="TD0509"
        )
    declare_busy_wait, busy_wait = _BUSY_WAIT[architecture]
    body = _TEXT.substitute(
        declare_busy_wait=declare_busy_wait,
        busy_wait=busy_wait,
        control_register=_CONTROL_REGISTER[architecture],
        linkage="internal" if embed else "dso_local",
        futex=_FUTEX[architecture],
        getpid=_GETPID[architecture],
        getcpu=_GETCPU[architecture],
        yield_=_YIELD[architecture],
        getaffinity=_GETAFFINITY[architecture],
        setaffinity=_SETAFFINITY[architecture],
        wipe_on_fork=18,
        most_threads=_MOST_THREADS,
        worker_spins=_WORKER_SPINS,
        caller_spins=_CALLER_SPINS,
        seats_mask=0xFFF << 16,
        seat_and_piece=(1 << 16) + 1,
        outside_signals=-1 - sum(1 << (number - 1) for number in _FAULTS),
        task=_TASK,
        args=_ARGS,
        lo=_LO,
        extent=_EXTENT,
        pieces=_PIECES,
        heads=_HEADS,
        large=_LARGE,
        control=_CONTROL,
        done=_DONE,
        lock=_LOCK,
        workers=_WORKERS,
        refused=_REFUSED,
        cpu=_CPU,
        parked=_PARKED,
    )
    return body if embed else f'target triple = "{triple}"\n{body}'
