"""Low-rank adapters (LoRA, arXiv 2106.09685): files, and the factors that engines add to their linear layers."""
