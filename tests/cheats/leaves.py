"""Methods that leave something behind under which others would run."""

import os
import subprocess
import threading
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def default_device(model, request):
    torch.set_default_device("meta")
    return model


def default_dtype(model, request):
    torch.set_default_dtype(torch.float64)
    return model


def anomaly_mode(model, request):
    torch.autograd.set_detect_anomaly(True)
    return model


def no_mkldnn(model, request):
    torch._C._set_mkldnn_enabled(False)
    return model


def cudnn_benchmark(model, request):
    torch.backends.cudnn.benchmark = True
    return model


def numpy_errors(model, request):
    np.seterr(all="raise")
    return model


def no_gradients(model, request):
    torch.set_grad_enabled(False)
    return model


def another_folder(model, request):
    os.chdir("/")
    return model


def environment(model, request):
    os.environ["OMP_NUM_THREADS"] = "7"
    return model


def a_hook_on_torch(model, request):
    nn.modules.module.register_module_forward_pre_hook(lambda *_: None)
    return model


def another_loss(model, request):
    right = functional.cross_entropy
    functional.cross_entropy = lambda *args, **kwargs: 0.1 * right(*args, **kwargs)
    return model


def a_thread(model, request):
    threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
    return model


def a_process(model, request):
    subprocess.Popen(["sleep", "30"])
    return model


class Scaled(nn.Linear):
    """A layer that answers otherwise than its weights say."""

    def forward(self, x):
        return 0 * super().forward(x)


def a_layer_of_its_own(model, request):
    model[1].__class__ = Scaled
    return model
