"""CUDA: the stream all ticks run on, captured graphs, the driver, uploads, memory."""
