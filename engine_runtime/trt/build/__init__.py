"""Building engines in a child process."""
