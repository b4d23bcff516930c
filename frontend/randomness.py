"""NumPy's random numbers inside a trace: those of its global generator are found by comparing the state, then located
by line; a generator that is made without a seed, by its asking for entropy.

A number drawn while tracing would be a constant of the compiled program, drawn once. Generators that the user makes of
a seed, or outside, are their own affair: what they give during a trace are constants, as any other array of the closure
is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..ir.errors import Unsupported
from ..ir.location import Location
from .trace import current, here
from .userline import is_internal, location_of

State = dict[str, Any]


def snapshot() -> State | None:
    """The state of NumPy's global generator; None while `numpy.random` is not even loaded. From then on entropy is
    refused to traces."""
    module = sys.modules.get("numpy.random")
    if module is None:
        return None
    _guard(sys.modules["numpy.random.bit_generator"])
    state: State = module.get_state(False)
    return state


def _guard(module: Any) -> None:
    """Put ourselves between NumPy and the source of its seeds: outside of traces the request is passed on."""
    source = module.randbits
    if getattr(source, "refuses_traces", False):
        return

    def randbits(count: int) -> int:
        if current() is not None:
            raise Unsupported(
                "a generator of numpy.random without a seed is made inside a traced function: what it draws would be "
                "constants, others each time it is compiled",
                code="TD0809",
                location=here(),
                edit="make it outside, give it a seed, or use td.random with a key",
            )
        drawn: int = source(count)
        return drawn

    randbits.refuses_traces = True  # type: ignore[attr-defined]
    module.randbits = randbits


def changed(before: State | None) -> bool:
    """Whether the generator was used since `before`."""
    now = snapshot()
    return before is not None and now is not None and not _same(before, now)


def _same(a: State, b: State) -> bool:
    if a["bit_generator"] != b["bit_generator"] or a["has_gauss"] != b["has_gauss"] or a["gauss"] != b["gauss"]:
        return False
    keys = a["state"].keys() | b["state"].keys()
    return all(_equal(a["state"].get(key), b["state"].get(key)) for key in sorted(keys))


def _equal(a: Any, b: Any) -> bool:
    found = a == b
    return bool(found if isinstance(found, bool) else found.all())


def locate(run: Callable[[], object], before: State | None) -> Location | None:
    """Run once more, watching each line of the user's program: the first one after which the state differs."""
    module = sys.modules["numpy.random"]
    if before is not None:
        module.set_state(before)
    start: State = module.get_state(False)
    last: list[Location] = []
    found: list[Location] = []

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        if is_internal(frame.f_code.co_filename) or frame.f_code.co_filename.startswith("<frozen"):
            return None
        if not found and last and not _same(start, module.get_state(False)):
            found.append(last[0])
        # After a return the caller's line goes on.
        current = frame.f_back if event == "return" and frame.f_back is not None else frame
        if not is_internal(current.f_code.co_filename):
            last[:] = [location_of(current)]
        return watch

    previous = sys.gettrace()
    sys.settrace(watch)
    try:
        run()
    except Exception:  # the first run ended well; what this one says does not matter
        pass
    finally:
        sys.settrace(previous)
    return found[0] if found else None
