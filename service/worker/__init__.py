"""The worker process: the queue, the memory slots and the network on its device."""
