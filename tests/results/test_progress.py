"""Where a run is, in a file that whoever looks on can read at any time."""

from layerprobe.results.progress import ProgressFile, read_progress


def test_it_is_written_now_and_then_and_at_once_where_asked(tmp_path):
    assert read_progress(tmp_path) == {}
    file = ProgressFile(tmp_path, every_n_seconds=1000.0)
    file.write(epoch=0, step=1)
    file.write(epoch=0, step=2)
    assert read_progress(tmp_path)["step"] == 1
    file.write(at_once=True, epoch=0, step=3)
    assert read_progress(tmp_path)["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]


def test_what_cannot_be_written_is_passed_over(tmp_path):
    (tmp_path / "progress.json").mkdir()
    ProgressFile(tmp_path).write(step=1)
    assert read_progress(tmp_path) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]
