"""What `import opkit` costs on top of `import torch`: medians over fresh interpreters, in one run.

python benchmarks/import_time.py
"""

import statistics
import subprocess
import sys
import time

RUNS = 7
CASES = {
    "python": "pass",
    "import opkit": "import opkit",
    "import torch": "import torch",
    "import torch, opkit": "import torch, opkit",
    "import torch; opkit.load, opkit.pdes, opkit.models, opkit.metrics": (
        "import torch, opkit; opkit.load, opkit.pdes, opkit.models, opkit.metrics"
    ),
}


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(RUNS):  # interleaved, so that a slow moment hits all alike
        for name, code in CASES.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            seconds[name].append(time.perf_counter() - start)
    print("command    python benchmarks/import_time.py")
    for name, values in seconds.items():
        print(f"{statistics.median(values):7.3f} s  {name}")


if __name__ == "__main__":
    main()
