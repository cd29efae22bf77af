"""`python evaluate.py runs/fno-darcy [key=value ...]`: measure a trained surrogate again; rewrites runs/*/evaluation.

The same as `opkit evaluate`; what is measured is told in opkit/evaluation/protocol.py.
"""

import sys

from opkit.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
