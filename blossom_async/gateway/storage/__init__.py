"""What is kept: rows, files, what was looked up, and which processes are alive."""
