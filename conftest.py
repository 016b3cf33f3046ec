"""Makes ``pytest`` work from a bare checkout, where the plugin is not installed."""

pytest_plugins = ["_pytest_unlearning"]  # the name of its entry point, so that it is registered once
