"""One torch thread for each test process: those of `-n auto` share the cores, and waiting threads cost more than they give."""

import torch

torch.set_num_threads(1)
