"""Makes ``pytest`` work from a bare checkout, where the plugin is not installed."""

pytest_plugins = ["harness.plugin.hooks"]
