"""What is drawn: fonts, a colour for each class, and the curves of a run."""
