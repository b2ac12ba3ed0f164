"""What `native/` gives, as far as a type checker can see it: cffi's own objects have no types."""

from typing import Any

ffi: Any
lib: Any
