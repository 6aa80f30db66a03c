"""The front's side of the worker links."""
