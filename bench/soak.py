"""Many calls of one module from many threads: every result as the single-threaded one, memory flat.

    python bench/soak.py m.so --calls 100000 --threads 8

Ends with exit code 1 where a result differs.
"""

import argparse
import resource
import sys
import threading
import time
from pathlib import Path

import numpy as np

import intvit
from intvit.runtime import CompiledModel

IMAGES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", type=Path, help="m.so")
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=8, help="that call the module, each with its own share of calls")
    options = parser.parse_args()
    model = intvit.load(options.module)
    assert isinstance(model, CompiledModel), "a compiled module is needed, m.so"
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (IMAGES, *_image_shape(model)), dtype=np.uint8)
    alone = intvit.load(options.module, threads=1)
    expected = [alone.integers(image[None]) for image in images]
    wrong = soak(model, images, expected, options.calls, options.threads)
    print(f"{wrong} of {options.calls} calls gave other integers than one thread alone")
    sys.exit(1 if wrong else 0)


def _image_shape(model: CompiledModel) -> tuple[int, int, int]:
    channels, height, width = model.metadata.input_grid.shape
    return height, width, channels


def soak(model: CompiledModel, images: np.ndarray, expected: list[tuple], calls: int, threads: int) -> int:
    """How many of the calls were wrong; prints memory and time at each tenth."""
    done, wrong, start = [0] * threads, [0] * threads, time.perf_counter()

    def work(number: int) -> None:
        for i in range(number, calls, threads):
            which = i % len(images)
            outputs = model.integers(images[which : which + 1])
            wrong[number] += not all(map(np.array_equal, outputs, expected[which]))
            done[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    reported = 0
    while any(worker.is_alive() for worker in workers):
        time.sleep(0.2)
        if sum(done) * 10 // calls > reported:
            reported = sum(done) * 10 // calls
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{sum(done):8} calls {time.perf_counter() - start:7.1f} s   {resident():.1f} MB, at most {peak:.1f}")
    for worker in workers:
        worker.join()
    return sum(wrong)


def resident() -> float:
    """Megabytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
