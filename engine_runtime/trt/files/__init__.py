"""Files on disk: plans, their sidecars, their folder, and which of them are trusted."""
