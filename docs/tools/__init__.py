"""What makes the documentation: pages from the code, pictures, notebooks, the layers, the changelog."""
