"""`python datasets/generate.py --pde darcy [key=value ...]`: make the data of a PDE, or what is missing of it.

The same as `opkit generate`; the work is done in opkit/generate.py.
"""

import sys

from opkit.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
