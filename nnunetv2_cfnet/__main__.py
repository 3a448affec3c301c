"""`python -m nnunetv2_cfnet`: the console script, where that is not on the PATH."""

import sys

from nnunetv2_cfnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
