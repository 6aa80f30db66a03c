"""Sessions that outlive their front: in the store, and in their clients' hands."""
