"""`python -m forebay` is the command `forebay`."""

import sys

from ._command import forebay

sys.exit(forebay())
