"""The sketch student's glue for microcontrollers in C, as programs that targets.firmware builds.

    folder = write_raster(out, canvas_px=32, capacity=Capacity())        # model.c, raster.h, model.json
    with Emulator(build(folder, "m4", "O2", out / "m4")) as board:
        canvas = np.frombuffer(board.ask(request(sketch, Capacity())), np.float32)

raster.h        the rasteriser: the same bits as compressor/tasks/sketch/raster.py
simplify.h      Ramer-Douglas-Peucker: the same points as compressor/tasks/sketch/simplify.py
index.h         search in the gallery: the same rows in the same order as compressor/tasks/sketch/index.py
*_model.c       frames as a model with the functions NAME_run, NAME_input, NAME_output: drawing alone, the index
                alone, and a student's whole query (programs.py)
"""

from compressor.tasks.sketch.firmware.frames import SOURCES, Capacity, request, write_raster
from compressor.tasks.sketch.firmware.programs import query_program, write_index, write_student

__all__ = ["SOURCES", "Capacity", "query_program", "request", "write_index", "write_raster", "write_student"]
