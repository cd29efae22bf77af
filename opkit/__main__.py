"""`python -m opkit`: the same as the command `opkit`."""

from opkit.cli import entry

if __name__ == "__main__":
    entry()
