"""Live sessions over a WebSocket: the messages, a connection, and aiohttp routes that any server may mount."""
