"""What goes wrong with a configuration."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names file, key, value and remedy."""
