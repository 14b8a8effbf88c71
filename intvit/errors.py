"""The three ways in which intvit says no, and the exit code of each.

A legal non-match of a pass is none of them: it is a `Skip` value with a reason (see `intvit.passes.base`).
"""


class IntvitError(Exception):
    """The input is at fault: one line that says what is wrong and what to do. Exit code 2."""

    exit_code = 2


class UnsupportedOp(IntvitError):
    """Float operations that no pass can lower; the message lists every one with its module path. Exit code 3."""

    exit_code = 3


class VerifyError(IntvitError):
    """A proof failed: an overflow, a float operation or a differing bit, with the layer and the bound. Exit code 4."""

    exit_code = 4
