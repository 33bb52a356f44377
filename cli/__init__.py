"""The command line: plays shared ComfyUI workflows with the pack's nodes, where no ComfyUI is installed."""
