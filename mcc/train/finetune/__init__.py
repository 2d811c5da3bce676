"""Fine-tuning on labelled texts: reading them, their tokens, their metrics. The tasks are in `mcc.train.tasks`."""
