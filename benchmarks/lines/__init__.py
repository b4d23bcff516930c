"""What is measured. Each file is a chapter of the table; this list is their order."""

from . import accuracy, calls, compiling, planning, products, streams, transforms, vectors

CHAPTERS = tuple(
    module.CHAPTER for module in (calls, vectors, streams, products, transforms, compiling, planning, accuracy)
)
