"""Says of the Python that runs it what no file describes: its version, its prefixes, its path."""

# Python 3.6 understands this file: a Python that is too old for torch is described too.

import sys

from . import channel


def main() -> None:
    """Report it."""
    site = sys.modules.get("site")
    channel.emit(
        "python",
        version=".".join(map(str, sys.version_info[:3])),
        prefix=sys.prefix,
        base_prefix=sys.base_prefix,
        path=[entry for entry in sys.path if entry],
        user_site=getattr(site, "USER_SITE", None),
    )
