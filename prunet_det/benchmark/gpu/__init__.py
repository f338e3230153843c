"""`make gpu`: everything that only a GPU can show."""
