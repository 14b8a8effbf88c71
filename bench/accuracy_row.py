"""The accuracy of one form of a model, and what calibrating it took, in one process: JSON.

    python bench/accuracy_row.py W4A8 '{"model": "timm:deit_tiny_patch16_224", ...}' --out row.json

`bench/accuracy.py` runs this once for each form, with the fields of a `Setting`. Input at fault, which all forms
have in common, is one line and exit code 2; what keeps this form from being measured is written as its reason.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy_forms import FORMS, Form, Setting
from numpy.typing import NDArray
from torch import nn

import intvit
from intvit.bench.onnx_peers import OnnxPeers
from intvit.bench.openvino_peers import OpenVinoPeers
from intvit.cli.options import names_in
from intvit.data import Batch, Source
from intvit.evaluation import check_labels, first
from intvit.images import labels_for, read_labels
from intvit.models import resolve
from intvit.preprocess import Preprocessing
from intvit.report.accuracy import Accuracy, accuracy
from intvit.report.comparison import compared

BATCH = 10
SPINS = "TVM_THREAD_POOL_SPIN_COUNT"
"""Of TVM's threads before they sleep, each of which gives its core away: on a busy machine 300,000 of them keep a
process from ending for many minutes."""
Run = Callable[[Batch], NDArray[Any]]
"""A batch of images to its logits `[N, classes]`."""


@dataclass(frozen=True)
class Subject:
    """The float model, and where its images and their classes are."""

    module: nn.Module
    preprocessing: Preprocessing
    setting: Setting
    labels: dict[str, int]

    @classmethod
    def of(cls, setting: Setting) -> "Subject":
        """Raises `IntvitError` for what no form could be measured with."""
        resolved = resolve(setting.model, setting.weights)
        if resolved.preprocessing is None:
            raise intvit.IntvitError(f"{setting.model}: its preprocessing is not known, and is needed here")
        preprocessing = resolved.preprocessing.override(resize=setting.resize)
        subject = cls(resolved.module, preprocessing, setting, read_labels(setting.labels))
        source = Source(setting.data, preprocessing)
        names = names_in(Path(setting.data), (source.files or [])[setting.skip :][: setting.images])
        logits = subject.exact(next(source.batches(1)))
        check_labels(np.array(labels_for(names, subject.labels, setting.labels)), logits, setting.labels)
        return subject

    def exact(self, batch: Batch) -> NDArray[Any]:
        """The float model's logits."""
        with torch.inference_mode():
            leaves = torch.utils._pytree.tree_leaves(self.module(torch.from_numpy(batch.normalized())))
        logits: NDArray[Any] = leaves[0].numpy()
        return logits

    def calibrating(self) -> NDArray[np.float32]:
        """Normalized images `[N, C, H, W]`."""
        batches = Source(self.setting.data, self.preprocessing).batches(BATCH, self.setting.calib)
        return np.concatenate([batch.normalized() for batch in batches])

    def scored(self) -> Iterator[tuple[Batch, NDArray[Any]]]:
        """The other images, with their classes `[N]`."""
        source = Source(self.setting.data, self.preprocessing)
        for batch in source.batches(BATCH, self.setting.images, self.setting.skip):
            yield batch, np.array(labels_for(batch.names, self.labels, self.setting.labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("setting", type=lambda text: Setting(**json.loads(text)), metavar="JSON")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    os.environ.setdefault(SPINS, "0")
    torch.set_num_threads(options.setting.threads)
    try:
        subject = Subject.of(options.setting)
    except intvit.IntvitError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    options.out.write_text(json.dumps(row(subject, FORMS[options.form])) + "\n")


def row(subject: Subject, form: Form) -> dict[str, Any]:
    """What was measured, or the `reason` why not."""
    try:
        with tempfile.TemporaryDirectory(prefix="intvit-") as folder:
            return measured(subject, form, Path(folder))
    except Exception as error:  # runtimes' own exceptions have no common base
        traceback.print_exc()
        reason = " ".join(str(error).split()) or "nothing was said"
        return {"reason": reason if isinstance(error, intvit.IntvitError) else f"{type(error).__name__}: {reason}"}


def measured(subject: Subject, form: Form, folder: Path) -> dict[str, Any]:
    """`accuracy`, `bytes` of the artifact and `calibration`: seconds, and bytes that were resident at most.

    Calibration is all between the float module and image files and the artifact's file; it includes importing the
    libraries that it needs. What compiles or loads the artifact afterwards is not part of it.
    """
    if form.exact:
        size = sum(x.nbytes for x in (*subject.module.parameters(), *subject.module.buffers()))
        return {"bytes": size, "calibration": None, "accuracy": asdict(scores(subject))}
    before, start = peak(), time.perf_counter()
    opened = made(subject, form, folder)
    calibration = {"seconds": time.perf_counter() - start, "before": before, "peak": peak()}
    size = sum(file.stat().st_size for file in folder.iterdir())
    return {"bytes": size, "calibration": calibration, "accuracy": asdict(scores(subject, opened()))}


def made(subject: Subject, form: Form, folder: Path) -> Callable[[], Run]:
    """Writes the form's artifact to the empty `folder`; returns what makes it ready to run."""
    threads = subject.setting.threads
    if form.ours is not None:
        model = intvit.quantize(
            subject.module,
            subject.setting.data,
            calib=subject.setting.calib,
            preprocessing=subject.preprocessing,
            name=subject.setting.model,
            **form.ours,
        )
        model.save(folder / "model.intvit")

        def compiled() -> Run:
            module = intvit.compile(model, threads=threads)
            return lambda batch: first(module(batch.values))

        return compiled
    images = subject.calibrating()
    onnx = OnnxPeers(subject.module, images)
    if form.peer == "onnx-int8":
        shutil.copy(onnx.file("int8"), folder)
        return lambda: of_batches(onnx, images, threads)
    openvino = OpenVinoPeers(subject.module, images, onnx)
    openvino.save(folder / "model.xml")
    return lambda: of_batches(openvino, images, threads)


def of_batches(peers: OnnxPeers | OpenVinoPeers, images: NDArray[np.float32], threads: int) -> Run:
    """A runtime's int8 model, made for one batch size, on batches of up to `BATCH` images."""
    held = np.zeros((BATCH, *images.shape[1:]), np.float32)
    call: Callable[[], Any] = peers.make("int8", held, threads)

    def run(batch: Batch) -> NDArray[Any]:
        held[: len(batch.values)] = batch.normalized()
        return np.array(call()[0])[: len(batch.values)]

    return run


def scores(subject: Subject, run: Run | None = None) -> Accuracy:
    """Of `run` against the labels and the float model, image by image; by default of the float model itself."""
    results = []
    for batch, labels in subject.scored():
        exact = subject.exact(batch)
        results += compared(batch.names, exact if run is None else run(batch), labels, exact)
    return accuracy(results)


def peak() -> int:
    """Bytes of this process that were resident at most until now.

    Linux counts what started it with it, as far as that held more: `accuracy.py` holds little, and no torch.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
