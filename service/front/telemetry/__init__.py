"""What is told of the front and the workers: metrics and traces."""
