"""CUDA: the stream everything runs on, captured graphs, the driver, uploads, memory."""
