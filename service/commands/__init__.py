"""The subcommands of `mixformer`, a module each with `run(arguments) -> exit code`, and what they read, draw and count with."""
