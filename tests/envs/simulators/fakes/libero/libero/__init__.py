"""As the package prints for its authors."""

print("what LIBERO says when it is imported")  # noqa: T201
