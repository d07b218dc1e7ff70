"""Training of teachers and students, in two stages each."""
