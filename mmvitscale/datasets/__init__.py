"""Images read, data sets checked and looked at, and the embedded scenes."""
