"""Every test process uses one torch thread: the processes of `-n auto` share the cores, and waiting threads cost more than they give."""

import torch

torch.set_num_threads(1)
