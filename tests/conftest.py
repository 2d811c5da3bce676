"""Settings for all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# The same examples at every run: a change fails the tests, not the hour. HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
