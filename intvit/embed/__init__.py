"""C sources: what every compiled module holds; for programs without Python, an interface, a runtime and an example."""
