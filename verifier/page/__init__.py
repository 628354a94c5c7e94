"""Reports as one HTML file that needs nothing else: one design, light and dark, for every command that writes one."""
