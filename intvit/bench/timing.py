"""Latency of peers that take turns in one process: rounds of calls, percentiles, and ratios with their spread.

In a round every peer has one turn: a pause, one call that is not counted, and some calls that are. The pause is there
because runtimes let idle threads spin for some milliseconds (libgomp, TVM's and ONNX Runtime's pools), on a core that
the next peer needs; the uncounted call brings the peer's weights back to the caches and wakes its threads. Rounds make
drifts of the machine's clock or load meet all peers alike, so ratios are steadier than the times themselves.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Call = Callable[[], object]
Times = NDArray[np.float64]
"""Seconds of single calls, `[rounds, calls]`."""

RESAMPLES = 1000
LOW, HIGH = 5, 95
"""Percentiles of the resampled ratios that bound their spread: nine of ten lie between."""


@dataclass(frozen=True)
class Turns:
    """How peers take turns: a turn is `calls` calls, or so many as fit in `seconds`, and at least one."""

    rounds: int = 15
    calls: int = 10
    seconds: float = 0.5
    pause: float = 0.05
    warm_up: int = 3
    limit: float = 600.0
    """Seconds after which no further round begins; three rounds are always made, or `rounds` where that is fewer."""


@dataclass(frozen=True)
class Summary:
    """Milliseconds of a call: median, 10th and 90th percentile over all calls of all rounds."""

    median: float
    p10: float
    p90: float
    calls: int


@dataclass(frozen=True)
class Ratio:
    """A ratio of two medians; nine of ten resamples of the rounds lie between `low` and `high`."""

    value: float
    low: float
    high: float


def take_turns(
    peers: Mapping[str, Call], turns: Turns, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Times]:
    """Seconds of every counted call of every peer; `progress` is told how many rounds are done."""
    counts = {name: _calls_in(call, turns) for name, call in peers.items()}
    found: dict[str, list[list[float]]] = {name: [] for name in peers}
    start = time.perf_counter()
    for done in range(turns.rounds):
        if done >= 3 and time.perf_counter() - start > turns.limit:
            break
        for name, call in peers.items():
            time.sleep(turns.pause)
            call()
            found[name].append([seconds_of(call) for _ in range(counts[name])])
        progress(done + 1)
    return {name: np.array(rounds, np.float64) for name, rounds in found.items()}


def _calls_in(call: Call, turns: Turns) -> int:
    """Warms a peer up, and tells how many of its calls are a turn."""
    warm = [seconds_of(call) for _ in range(max(1, turns.warm_up))]
    return int(np.clip(turns.seconds / max(min(warm), 1e-9), 1, turns.calls))


def seconds_of(call: Call) -> float:
    """The time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def summary(times: Times) -> Summary:
    """Median and percentiles of seconds, in milliseconds."""
    low, middle, high = (float(value) for value in np.percentile(1000 * times, [10, 50, 90]))
    return Summary(median=middle, p10=low, p90=high, calls=times.size)


def ratio(above: Times, below: Times, seed: int = 0) -> Ratio:
    """Median of `above` divided by median of `below`, which were taken in the same rounds.

    The spread is a bootstrap over rounds, both peers with the same resampled rounds, because they ran side by side:
    calls of one round are not independent of each other. Raises `ValueError` for different numbers of rounds.
    """
    if len(above) != len(below):
        raise ValueError(f"{len(above)} rounds cannot be compared with {len(below)}")
    picks = np.random.default_rng(seed).integers(0, len(above), (RESAMPLES, len(above)))
    medians = [np.median(times[picks], axis=(1, 2)) for times in (above, below)]
    low, high = (float(value) for value in np.percentile(medians[0] / medians[1], [LOW, HIGH]))
    return Ratio(value=float(np.median(above) / np.median(below)), low=low, high=high)
