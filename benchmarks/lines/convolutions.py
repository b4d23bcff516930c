"""Convolutions of one image against the multiply-add peak: the layers of residual networks, in both layouts.

Each engine gets the same arrays. torch is handed views with the channels last in memory where they stand last, which it
keeps so; what it is measured with is then the form it likes best.
"""

from __future__ import annotations

from typing import Any

from harness.lines import Chapter, Limit, normal

CHAPTER = Chapter("convolutions")

# Side of the image, channels in and out, side of the window.
LAYERS = ((56, 64, 64, 3), (14, 256, 256, 3), (56, 64, 256, 1))


def arrays(layout: str, side: int, channels: int, out: int, window: int) -> list[Any]:
    if layout == "NHWC":
        return [normal(1, side, side, channels), normal(window, window, channels, out, seed=1)]
    return [normal(1, channels, side, side), normal(out, channels, window, window, seed=1)]


def _torch(torch: Any, layout: str, padding: int) -> Any:
    conv = torch.nn.functional.conv2d
    if layout == "NCHW":
        return lambda x, w: conv(x, w, padding=padding)

    def channels_last(x: Any, w: Any) -> Any:
        y = conv(x.permute(0, 3, 1, 2), w.permute(3, 2, 0, 1), padding=padding)
        return y.permute(0, 2, 3, 1)

    return channels_last


def _jax(jax: Any, layout: str) -> Any:
    filters = "HWIO" if layout == "NHWC" else "OIHW"
    return jax.jit(
        lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=(layout, filters, layout))
    )


for _side, _in, _out, _window in LAYERS:
    for _layout in ("NHWC", "NCHW"):
        _padding = _window // 2
        CHAPTER.line(
            f"{_layout} {_window}x{_window}, {_side}x{_side}, {_in} to {_out}",
            arguments=lambda layout=_layout, layer=(_side, _in, _out, _window): arrays(layout, *layer),
            limit=Limit("fma f32", 2.0 * _side**2 * _in * _out * _window**2),
            treadle=lambda td, layout=_layout, padding=_padding: td.jit(
                lambda x, w: td.nn.conv(x, w, padding=padding, layout=layout)
            ),
            torch=lambda torch, layout=_layout, padding=_padding: _torch(torch, layout, padding),
            jax=lambda jax, layout=_layout: _jax(jax, layout),
        )
