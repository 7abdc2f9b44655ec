"""Put the GPUs to work, in a child process with a deadline; what comes back is facts."""
