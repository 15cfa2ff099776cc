"""Small parts without a room of their own: atomic writes, error translation, CPU features, processes."""
