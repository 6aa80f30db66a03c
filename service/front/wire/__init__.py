"""Values and errors as gRPC carries them."""
