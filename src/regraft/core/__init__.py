"""What every room may use: files, text, the machine, random numbers, progress."""
