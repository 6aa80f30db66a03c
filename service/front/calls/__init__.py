"""gRPC calls and streams: messages in, results out, errors as status."""
