"""``python -m stoker.worker`` is the engine process; the supervisor starts it."""

from stoker.worker.native import main

main()
