"""What the nodes share and is no node."""
