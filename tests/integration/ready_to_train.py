"""What a process that trains imports, in ten seconds: a server that has it forks off others that have it at once."""

from __future__ import annotations

import gc
import os

os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}  # no thread is forked

import fettle.train.stage  # noqa: F401
import gloo  # noqa: F401
from fettle.train.zero import load_deepspeed

load_deepspeed()
gc.freeze()
