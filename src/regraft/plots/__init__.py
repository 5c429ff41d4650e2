"""Numbers in, PNG files out."""

import logging

_log = logging.getLogger("matplotlib")
_level = _log.level
_log.setLevel(logging.ERROR)  # where the home is read-only, it tells of its temporary folder
try:
    import matplotlib as mpl

    mpl.get_configdir()
    mpl.get_cachedir()
finally:
    _log.setLevel(_level)
