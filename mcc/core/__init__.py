"""What every other part stands on: errors, events, configuration, plug-ins, files. No torch here."""
