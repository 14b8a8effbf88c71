"""C sources that go into every compiled module, and the interface for programs without Python."""
