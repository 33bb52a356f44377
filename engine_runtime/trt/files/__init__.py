"""What lies on disk: plans, their sidecars, the folder they are in, and which of them are trusted."""
