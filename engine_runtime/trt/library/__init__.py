"""The TensorRT library of this machine: which, its messages, what a build lacks, child processes."""
