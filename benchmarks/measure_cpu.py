"""Measure all that docs/performance.md tells of a CPU, and write its tables; it says how long each part took.

The cores should be quiet.

python benchmarks/measure_cpu.py            # all
python benchmarks/measure_cpu.py training   # one of inference, training, linear-cost
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
# what -> the command, as it is run in the checkout and as the page shows it
COMMANDS = {
    "inference": "scalablevit bench scalablevit_small scalablevit_small@optimized scalablevit_small@compile "
    "plain:scalablevit_small swin_tiny_patch4_window7_224 twins_svt_small twins_svt_small:4d convnext_tiny "
    "vit_pytorch:scalable_vit_paper --batch 8 --rounds 15 --threads 2 --device cpu "
    "--output benchmarks/results/cpu-inference.json",
    "training": "scalablevit bench scalablevit_small plain:scalablevit_small swin_tiny_patch4_window7_224 "
    "twins_svt_small twins_svt_small:4d convnext_tiny --task training --batch 8 --rounds 5 --warm-up 1 --threads 2 "
    "--device cpu --memory --output benchmarks/results/cpu-training.json",
    "linear-cost": "python benchmarks/linear_cost.py --threads 2",
}


def words(command: str) -> list[str]:
    """The command's words, with the programs of the environment that runs this script."""
    program, *rest = shlex.split(command)
    return [sys.executable, *(["-m", "scalablevit"] if program == "scalablevit" else []), *rest]


def main() -> int:
    """Run what is named, one after the other; 1 where one fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"of {', '.join(COMMANDS)} (default: all)")
    chosen = parser.parse_args().what or list(COMMANDS)
    for what in chosen:
        if what not in COMMANDS:
            parser.error(f"there is no {what!r}; choose from {', '.join(COMMANDS)}")
    # A variable that says one thread would go before --threads for a part of the libraries.
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    failed = False
    for what in chosen:
        print(f"$ {COMMANDS[what]}", flush=True)
        start = time.perf_counter()
        failed |= subprocess.run(words(COMMANDS[what]), cwd=ROOT, env=environment, check=False).returncode != 0
        print(f"{what}: {time.perf_counter() - start:.0f} s\n", flush=True)
    page = subprocess.run([sys.executable, "benchmarks/write_performance.py"], cwd=ROOT, check=False)
    return 1 if failed or page.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
