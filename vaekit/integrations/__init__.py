"""vaekit's models in other libraries. Each module here needs a package that vaekit itself does not, and is imported by name."""
