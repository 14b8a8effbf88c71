"""Where the windows of a convolution lie in its image: one description for dialect, kernels and ONNX.

Pixels of an image `[H, W]` are tokens, row by row. Window `(y, x)` of the result holds `kernel` pixels, `dilation`
apart, from row `y · stride - top` and column `x · stride - left` on; those outside of the image are its padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

Pair = tuple[int, int]


@dataclass(frozen=True)
class Axis:
    """Windows along one axis: `size` pixels, `before` and `after` of padding."""

    size: int
    kernel: int
    stride: int
    before: int
    after: int
    dilation: int

    @property
    def span(self) -> int:
        """Pixels from the first of a window to its last."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def count(self) -> int:
        """Windows."""
        return (self.size + self.before + self.after - self.span) // self.stride + 1

    @property
    def covered(self) -> int:
        """Pixels, padding among them, from the first of the first window to the last of the last."""
        return (self.count - 1) * self.stride + self.span

    def first(self, window: int) -> int:
        """The first pixel of a window, negative in the padding."""
        return window * self.stride - self.before

    def inside(self, window: int) -> range:
        """The taps of a window whose pixels exist."""
        taps = range(self.kernel)
        found = [tap for tap in taps if 0 <= self.first(window) + tap * self.dilation < self.size]
        return range(found[0], found[-1] + 1) if found else range(0)

    @property
    def interior(self) -> range:
        """The windows without padding."""
        begin = min(-(-self.before // self.stride), self.count)
        end = (self.size - self.span + self.before) // self.stride + 1
        return range(begin, max(begin, min(end, self.count)))


@dataclass(frozen=True)
class Geometry:
    """Windows `kernel` of an image `size`, both `(height, width)`; `padding` is `(top, left, bottom, right)`."""

    size: Pair
    kernel: Pair
    stride: Pair
    padding: tuple[int, int, int, int]
    dilation: Pair = (1, 1)

    @classmethod
    def of(
        cls,
        size: Sequence[int],
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int] = (1, 1),
    ) -> "Geometry":
        """From lists, as the operations of a graph hold them. Raises `TypeError` for windows that make no sense."""
        lengths = (("size", size, 2), ("kernel", kernel, 2), ("stride", stride, 2), ("padding", padding, 4))
        for name, values, count in (*lengths, ("dilation", dilation, 2)):
            least = 0 if name == "padding" else 1
            if len(values) != count or min(values) < least:
                raise TypeError(f"{name} must be {count} integers from {least} on, not {list(values)}")
        (h, w), (kh, kw), (sh, sw), (top, left, bottom, right), (dh, dw) = size, kernel, stride, padding, dilation
        found = cls((h, w), (kh, kw), (sh, sw), (top, left, bottom, right), (dh, dw))
        if min(axis.size + axis.before + axis.after - axis.span for axis in (found.rows, found.columns)) < 0:
            raise TypeError(f"kernel must fit the padded image: {found}")
        return found

    @cached_property
    def rows(self) -> Axis:
        """The vertical axis."""
        top, _, bottom, _ = self.padding
        return Axis(self.size[0], self.kernel[0], self.stride[0], top, bottom, self.dilation[0])

    @cached_property
    def columns(self) -> Axis:
        """The horizontal axis."""
        _, left, _, right = self.padding
        return Axis(self.size[1], self.kernel[1], self.stride[1], left, right, self.dilation[1])

    @property
    def result(self) -> Pair:
        """Height and width of the result."""
        return self.rows.count, self.columns.count

    @property
    def pixels(self) -> int:
        """Tokens of the image."""
        return self.size[0] * self.size[1]

    @property
    def tokens(self) -> int:
        """Tokens of the result."""
        return self.rows.count * self.columns.count

    @property
    def taps(self) -> int:
        """Pixels of a window."""
        return self.kernel[0] * self.kernel[1]

    @property
    def padded(self) -> bool:
        """Whether a window reaches outside of the image."""
        axes = (self.rows, self.columns)
        return any(axis.before > 0 or axis.covered > axis.before + axis.size for axis in axes)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Pixels of each window that exist, a number for each token of the result."""
        heights, widths = ([len(axis.inside(i)) for i in range(axis.count)] for axis in (self.rows, self.columns))
        return tuple(h * w for h in heights for w in widths)
