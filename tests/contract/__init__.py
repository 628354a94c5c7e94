"""Every operator and every bound method against the same laws."""
