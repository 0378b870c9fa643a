"""`python -m npu_runtime.cli` is `npu`."""

import sys

from npu_runtime.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
