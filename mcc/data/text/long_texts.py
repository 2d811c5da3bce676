"""NLTK on texts of any length: its newest versions end every match after five seconds of the clock."""

from __future__ import annotations


def no_time_limit() -> None:
    """Let NLTK's own patterns take as long as a text needs; a busy machine and a long text would end the run.

    The limit (`nltk.redos`, since 3.10) is against patterns that strangers write; here there are only NLTK's.
    """
    try:
        from nltk import redos
    except ImportError:  # an older one, without limits
        return
    redos.DEFAULT_TIMEOUT = None
