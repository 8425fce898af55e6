"""``python -m benchmarks [GROUP …]``: time what is named (by default all), and write the results.

    training     images/s against PyTorch and plain flax, part of the GEMM peak, memory
    growth       training by batch size, size of image, devices
    photographs  resnet and deep_vae against PyTorch, by batch and size of image, memory
    evaluation   images/s of the ELBO
    likelihood   images/s and memory of log p(x) by 5,000 importance samples
    sprites      images/s that are drawn, against those that a network takes
    start        seconds to --help, and to the first step with a cold and a warm compilation cache
    streaming    training on images that are streamed from a file, against images on the device
    overhead     what the guard against NaN, the metrics and checkpoints add to a training
    data         pictures/s into the cache, and seconds to the first step of a second start
    ways_out     milliseconds to score one image: by the run, in onnxruntime and in PyTorch

About 40 minutes in all on two cores, with nothing else running. Each group writes
results/<group>.json; docs/benchmarks.md and its plot are made from all that are there, so groups
can be run one by one. PyTorch is timed where it is installed (`pip install torch==2.13.0`), here or
under --torch-python. Absolute numbers are those of one machine; ratios are of neighbours in one
interleaved run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from benchmarks import claims, machine, report
from benchmarks.groups import GROUPS, How


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--label", default="", help="added to the results' names, such as h100")
    parser.add_argument("--pictures", default="", help="a zip of 32x32 pictures, for data")
    parser.add_argument("--quick", action="store_true", help="see that all runs; writes nothing")
    asked = parser.parse_args()
    unknown = [name for name in asked.groups if name not in GROUPS]
    if unknown:
        parser.error(f"unknown group {unknown[0]!r}: expected one of {', '.join(GROUPS)}")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # contenders share a GPU
    how = How(asked.torch_python, asked.quick, asked.pictures)
    if not how.has_torch():
        print("PyTorch is not installed: timing without it (pip install torch==2.13.0)")
    for name in asked.groups or GROUPS:
        begun = time.monotonic()
        rows = GROUPS[name](how)
        print(f"{name}: {(time.monotonic() - begun) / 60:.1f} minutes", flush=True)
        print(*claims.table({name: rows}), sep="\n", flush=True)
        if asked.quick:
            continue
        report.RESULTS.mkdir(exist_ok=True)
        path = report.RESULTS / f"{name}{'-' + asked.label if asked.label else ''}.json"
        record = {"machine": machine.describe(), "rows": rows}
        path.write_text(json.dumps(record, indent=1) + "\n")
    if not asked.quick:
        report.write()


if __name__ == "__main__":
    main()
