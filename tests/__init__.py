"""The tests. This file is read before all others of them, and before what they import."""

import os
import sys

# Without bytecode each of the many processes that the tests start compiles hundreds of files anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
