"""The settings of the site under fire: the suite's, a page, and a pool where that is wanted."""

import os
from typing import Any

from tests.hammer import POOL_WANTED_IN
from tests.settings import *  # noqa: F403
from tests.settings import DATABASES

ROOT_URLCONF = "tests.hammer.urls"

default: dict[str, Any] = DATABASES["default"]
if os.environ.get(POOL_WANTED_IN):
    default["OPTIONS"] = {"pool": {"min_size": 2, "max_size": 4}}
else:
    default["CONN_MAX_AGE"] = 600
