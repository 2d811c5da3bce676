"""lm-evaluation-harness without its chatter: it prints progress bars and notes of its own to both streams."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
from collections.abc import Iterator

_LOGGER = "lm_eval"
# The harness asks for it where it would fork a pool of workers, which is not safe beside torch's threads.
_NO_POOL = "DISABLE_MULTIPROC"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, the harness logs warnings only, shows no bars, prints nothing to stdout, and forks no workers."""
    import tqdm  # type: ignore[import-untyped]

    logger, bar = logging.getLogger(_LOGGER), tqdm.tqdm
    level, start, pool = logger.level, bar.__init__, os.environ.get(_NO_POOL)
    logger.setLevel(logging.WARNING)
    bar.__init__ = functools.partialmethod(start, disable=True)
    os.environ[_NO_POOL] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        bar.__init__ = start
        if pool is None:
            del os.environ[_NO_POOL]
        else:
            os.environ[_NO_POOL] = pool
