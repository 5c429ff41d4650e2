"""``python -m regraft``: the same as the command ``regraft``."""

import sys

from regraft.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
