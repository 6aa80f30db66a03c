"""The front process: gRPC in and out, the sessions, and the link to the worker. Never imports torch."""
