"""Where tasks run that take long: in processes of this machine, or on the nodes of a Ray cluster."""
