"""Blocks that were copied out and back give the same logits as those that were computed."""

import numpy as np
import pytest

from stoker import _native
from stoker.testing.native_models import random_model
