"""Keep a running virtual machine alive when its host dies."""

__version__ = "0.1.0"
