"""What is measured. Each file is a chapter of the table; this list is their order."""

from . import accuracy, calls, compiling, convolutions, planning, products, streams, transforms, vectors

CHAPTERS = tuple(
    module.CHAPTER
    for module in (calls, vectors, streams, products, convolutions, transforms, compiling, planning, accuracy)
)
