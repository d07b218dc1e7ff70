"""Training of teacher and student, in two stages each."""
