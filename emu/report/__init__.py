"""Tables, pictures and HTML from the records of a run."""
