"""The engine process: its protocol, its mailbox and loop, and the gateway's side of it.

The gateway uses `EngineSupervisor`, which starts the engine process, restarts it when it dies and
serves as a `TokenEngine`. Inside the process one thread owns scheduler and engine (`loop`), the main
thread owns the sockets (`server`), and the two meet in a bounded mailbox and bounded out-buffers.
"""
