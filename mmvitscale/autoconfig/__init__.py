"""A config for own data: the data set inspected, a recipe proposed and written."""
