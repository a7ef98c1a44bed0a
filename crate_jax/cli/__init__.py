"""One small file a command: flags, config and a call. Each has `add_arguments(parser)` and `run(arguments)`."""
