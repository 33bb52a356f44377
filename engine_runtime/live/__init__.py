"""Live sessions: a ring that plays on while its knobs move, and the sound of what it makes."""
