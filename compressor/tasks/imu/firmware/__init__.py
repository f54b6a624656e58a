"""The activity recogniser for microcontrollers in C: encoder and streaming glue as one program.

    folder = write_stream(out, artifact)              # model.c, encoder.c, stream.h, model.json
    with Emulator(build(folder, "m4", "O2", out / "m4")) as board:
        reply = board.ask(requests(counts, hop)[0])   # decision int32, scores float32

stream.h         scaling, ring of samples, smoothing: the same bits as compressor/tasks/imu/stream.py
stream_model.c   the frame: takes some samples and decides once per hop
"""

from compressor.tasks.imu.firmware.program import NAME, on_this_machine, query_program, requests, write_stream

__all__ = ["NAME", "on_this_machine", "query_program", "requests", "write_stream"]
