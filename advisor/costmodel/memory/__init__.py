"""Peak memory of a run: traced storages replayed through a model of the device's allocator."""
