"""How much memory of a GPU was in use while something ran."""

import subprocess
import threading


class PeakMemory:
    """The driver's, of the fullest GPU, in GiB, asked for every so many seconds."""

    def __init__(self, seconds=0.3):
        self.seconds = seconds

    def __enter__(self):
        self.gib, self.ended = 0.0, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def watch(self):
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self.ended.wait(self.seconds):
            used = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
            self.gib = max([self.gib, *(int(mib) / 1024 for mib in used)])
