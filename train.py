"""`python train.py --model fno --pde darcy [key=value ...]`: train a surrogate, evaluate it, save it.

The same as `opkit train`; the story is told in opkit/training.py.
"""

import sys

from opkit.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
