"""The tasks, one file each. Their modules import torch only when a task is used."""
