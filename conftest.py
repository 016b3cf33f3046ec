"""Makes ``pytest`` work from a bare checkout, where the plugin is not installed."""

NAME = "_pytest_unlearning"  # of its entry point, so that it is registered once


def pytest_addoption(parser, pluginmanager):
    """Load the plugin, with the short names of its options: this is too late for it to add them itself."""
    pluginmanager.import_plugin(NAME)
    if plugin := pluginmanager.get_plugin(NAME):
        plugin.register_short_names(parser)
