"""Takes: rendering requests, recording what a session receives, replaying it."""
