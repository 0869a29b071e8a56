"""What people bring from outside the package, by "module:Name"."""
