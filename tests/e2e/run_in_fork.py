"""flowertune in a copy of a process that has imported what it needs, which saves it some seconds.

Run by runpy.run_path, which gives it CALL: the words, the working directory, the environment, and
the files that stdout and stderr go to.
"""

import os
import sys

from flowertune import cli

words, folder, environment, outputs = globals()["CALL"]
os.chdir(folder)
os.environ.clear()
os.environ.update(environment)
for number, path in enumerate(outputs, start=1):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
sys.exit(cli.main(words))
