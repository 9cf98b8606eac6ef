"""A study with people: a page on which they choose between two pictures, and the rates of their answers."""
