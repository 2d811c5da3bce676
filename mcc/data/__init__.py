"""From raw text to token files: one module a step, each streaming. No torch here."""
