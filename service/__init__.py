"""The service around the tracker: a gRPC front that keeps the sessions, and worker processes that own a device each."""
