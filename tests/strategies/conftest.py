from tests.strategies.fakes import fake_device

__all__ = ["fake_device"]
