"""Models over HTTP: one process speaks with the clients, one for each device computes."""
