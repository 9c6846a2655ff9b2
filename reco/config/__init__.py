"""Experiment configuration: frozen dataclasses, read from YAML files and ``key=value`` overrides.

A file may name others with ``base:`` and then only states what differs. Every mistake is one
:class:`ConfigError` that names the file (or ``--set``), the key, the value and what was expected.
"""

from reco.config.errors import ConfigError
from reco.config.layering import CONFIG_FOLDER, bases, find_beside, find_config
from reco.config.reading import (
    check_option,
    config_from_dict,
    config_name,
    explain_config,
    load_config,
)
from reco.config.sections import (
    FOLDER_KEYS,
    NOT_THE_EXPERIMENT,
    Config,
    DatasetConfig,
    PathText,
    TrainConfig,
)
from reco.config.yaml_text import read_yaml

__all__ = [
    "CONFIG_FOLDER",
    "FOLDER_KEYS",
    "NOT_THE_EXPERIMENT",
    "Config",
    "ConfigError",
    "DatasetConfig",
    "PathText",
    "TrainConfig",
    "bases",
    "check_option",
    "config_from_dict",
    "config_name",
    "explain_config",
    "find_beside",
    "find_config",
    "load_config",
    "read_yaml",
]
