"""Tensor usage records of three published networks, op by op: what each layer writes, and who reads it last.

Layer tables: MobileNet v1 (Howard and others, arXiv 1704.04861, table 1), MobileNet v2 (Sandler and others, arXiv
1801.04381, table 2), Inception v3 (Szegedy and others, arXiv 1512.00567, in the variant with 2048 final channels that
every framework ships). Batch 1, f32; activations are part of the op before them. Inputs and weights are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Shape = tuple[int, int, int]  # height, width, channels


@dataclass
class Tape:
    """Ops in the order in which they run. A tensor is the number of the op that writes it; -1 is the input."""

    shapes: list[Shape] = field(default_factory=list)
    last: list[int] = field(default_factory=list)

    def op(self, shape: Shape, *reads: int) -> int:
        number = len(self.shapes)
        self.shapes.append(shape)
        self.last.append(number)
        for read in reads:
            if read >= 0:
                self.last[read] = number
        return number

    def conv(self, x: int, size: int, channels: int, shape: Shape | None = None) -> int:
        """A convolution, pooling or whatever else yields `size` x `size` x `channels`."""
        return self.op(shape or (size, size, channels), x)

    def records(self) -> list[tuple[int, int, int]]:
        """(bytes, first op, last op), bytes rounded up to 64. What the last op writes is the result, and not
        counted."""
        found = []
        for number, ((h, w, c), last) in enumerate(zip(self.shapes, self.last, strict=True)):
            if number + 1 < len(self.shapes):
                found.append((-(-h * w * c * 4 // 64) * 64, number, last))
        return found


def mobilenet() -> list[tuple[int, int, int]]:
    tape = Tape()
    x = tape.conv(-1, 112, 32)
    size, channels = 112, 32
    table = [
        (1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), (1, 512), (1, 512), (1, 512), (1, 512), (1, 512),
        (2, 1024), (1, 1024),
    ]  # fmt: skip
    for stride, wider in table:
        size = -(-size // stride)
        x = tape.conv(x, size, channels)  # depthwise
        x = tape.conv(x, size, wider)  # pointwise
        channels = wider
    return _classifier(tape, x, 1024)


def mobilenet_with_residuals() -> list[tuple[int, int, int]]:
    tape = Tape()
    size, channels = 112, 32
    x = tape.conv(-1, size, channels)
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, wider, repeats, first_stride in table:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            given = x
            if expansion > 1:
                x = tape.conv(x, size, channels * expansion)
            size = -(-size // stride)
            x = tape.conv(x, size, channels * expansion)  # depthwise
            x = tape.conv(x, size, wider)
            if stride == 1 and channels == wider:
                x = tape.op((size, size, wider), given, x)  # residual sum
            channels = wider
    x = tape.conv(x, 7, 1280)
    return _classifier(tape, x, 1280)


def _classifier(tape: Tape, x: int, channels: int) -> list[tuple[int, int, int]]:
    x = tape.conv(x, 1, channels)  # average
    x = tape.conv(x, 1, 1001)
    tape.conv(x, 1, 1001)  # softmax
    return tape.records()


def inception() -> list[tuple[int, int, int]]:
    tape = Tape()

    def chain(x: int, *layers: tuple[int, int]) -> int:
        for size, channels in layers:
            x = tape.conv(x, size, channels)
        return x

    def join(size: int, *branches: int) -> int:
        return tape.op((size, size, sum(tape.shapes[b][2] for b in branches)), *branches)

    x = chain(-1, (149, 32), (147, 32), (147, 64), (73, 64), (73, 80), (71, 192), (35, 192))
    for pooled in (32, 64, 64):
        channels = tape.shapes[x][2]
        x = join(
            35,
            chain(x, (35, 64)),
            chain(x, (35, 48), (35, 64)),
            chain(x, (35, 64), (35, 96), (35, 96)),
            chain(x, (35, channels), (35, pooled)),
        )
    x = join(17, chain(x, (17, 384)), chain(x, (35, 64), (35, 96), (17, 96)), chain(x, (17, 288)))
    for inner in (128, 160, 160, 192):
        x = join(
            17,
            chain(x, (17, 192)),
            chain(x, (17, inner), (17, inner), (17, 192)),
            chain(x, (17, inner), (17, inner), (17, inner), (17, inner), (17, 192)),
            chain(x, (17, 768), (17, 192)),
        )
    x = join(
        8,
        chain(x, (17, 192), (8, 320)),
        chain(x, (17, 192), (17, 192), (17, 192), (8, 192)),
        chain(x, (8, 768)),
    )
    for _ in range(2):
        channels = tape.shapes[x][2]
        first = chain(x, (8, 320))
        wide = chain(x, (8, 384))
        second = join(8, chain(wide, (8, 384)), chain(wide, (8, 384)))
        deep = chain(x, (8, 448), (8, 384))
        third = join(8, chain(deep, (8, 384)), chain(deep, (8, 384)))
        x = join(8, first, second, third, chain(x, (8, channels), (8, 192)))
    return _classifier(tape, x, 2048)
