"""The crash-point sweep: every command, struck at every statement that it sends to the server.

For each command, each statement and each way to strike, a child process runs the command on real
databases and is struck there. Another process then looks at what is left, goes on working with
it, and has the doctor clear up. Run all of it with `python -m tests.sweep`; a sample of it is part
of the suite.

- `points`: strikes at one statement, or lists them all;
- `world`: the databases that each case begins with, made anew in a few milliseconds;
- `commands`: what is swept, and in which states a command may leave the world;
- `verdict`: looks at what is left, and goes on working with it;
- `forks`: runs a function in a child process that may be killed;
- `sweeper`: puts these together to cases.
"""

import os

import django

# A process that is started for the sweep, a worker too, comes here first.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()
