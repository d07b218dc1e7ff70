"""The methods, a folder each, and the code that they share."""
