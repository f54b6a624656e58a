"""A pickle that a data set comes in gives its numbers and runs nothing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressor.data.pickles import read_arrays
from profiles.errors import RequestError


class Trap:
    """What a hostile file holds: unpickled as usual, it makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def write(path: Path, value: Any, protocol: int = 3) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_what_pickle_itself_would_give(tmp_path: Path, protocol: int) -> None:
    rng = np.random.default_rng(protocol)
    arrays = {
        "lines": rng.random((5, 3)),
        "columns": np.asfortranarray(rng.random((4, 3)).astype(np.float32)),
        "big end first": np.arange(6, dtype=">i2").reshape(2, 3),
        "pen": np.array([True, False]),
        "none": np.zeros((0, 3)),
        "number": np.array(7, np.uint8),
    }
    found = read_arrays(write(tmp_path / "arrays", arrays, protocol))
    assert list(found) == list(arrays)
    for name, array in pickle.loads(pickle.dumps(arrays, protocol)).items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("=")


def test_a_file_of_python_2_and_numpy_1_is_read(tmp_path: Path) -> None:
    """Written by hand, opcode by opcode: text where Python 3 has bytes, and numpy's old module."""
    raw = np.array([[1.5, 2.0, 1.0]]).tobytes()
    file = tmp_path / "old"
    file.write_bytes(
        b"\x80\x02}U\x09/test/a_1cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01K\x03\x86cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89U" + bytes([len(raw)]) + raw + b"tbs."
    )
    assert {name: array.tolist() for name, array in read_arrays(file).items()} == {"/test/a_1": [[1.5, 2.0, 1.0]]}


def test_a_trap_is_refused_and_does_not_go_off(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    for number, value in enumerate(
        [Trap(trap), {"a": Trap(trap)}, {"a": np.array([Trap(trap)], object)}, [Trap(trap)]]
    ):
        file = write(tmp_path / f"trap{number}", value)
        with pytest.raises(RequestError, match=rf"trap{number}: not a pickle of arrays") as caught:
            read_arrays(file)
        assert "\n" not in str(caught.value) and not trap.exists()
    pickle.loads(file.read_bytes())
    assert trap.is_dir(), "the trap works where it is let"


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"a": np.array(["x", None], object)}, "only numbers"),
        ({"a": np.zeros(2, [("x", "f8")])}, "only numbers"),
        ({"a": np.array(["text"])}, "only numbers"),
        ({"a": [1, 2]}, "'a' is none"),
        ({1: np.zeros(2)}, "a dictionary by name"),
        (np.zeros(2), "a dictionary by name"),
        ({"a": np.float64(1)}, "it names"),
    ],
)
def test_what_is_no_array_of_numbers_is_named(tmp_path: Path, value: Any, what: str) -> None:
    with pytest.raises(RequestError, match=what):
        read_arrays(write(tmp_path / "file", value))


@pytest.mark.parametrize(
    "content", [b"", b"no pickle", pickle.dumps({"a": np.zeros(9)})[:-20], b"\x80\x04cos\nsystem\n."]
)
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(RequestError, match="file: not a pickle of arrays") as caught:
        read_arrays(tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_a_shape_that_its_bytes_do_not_fill_is_refused(tmp_path: Path) -> None:
    whole = pickle.dumps({"a": np.zeros((2, 3))}, protocol=3)
    (tmp_path / "file").write_bytes(whole.replace(b"K\x02K\x03\x86", b"K\x02K\x04\x86"))
    with pytest.raises(RequestError, match="not a pickle of arrays"):
        read_arrays(tmp_path / "file")
