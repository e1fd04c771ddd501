"""A bag that is written is whole or not there, and a run that was cut off goes on where it was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader
from ruamel.yaml import YAML

from stmem_ros.bag.io.reader import Bag, BagError
from stmem_ros.bag.io.typestore import ros2_typestore
from stmem_ros.bag.io.writer import LATCHED, BagWriter

TEXT, LABEL_INFO = "std_msgs/msg/String", "vision_msgs/msg/LabelInfo"
START_NS = 1_700_000_000_000_000_000
TYPES = ros2_typestore()

Row = tuple[str, int, bytes]


def text(words: object) -> Any:
    return TYPES.types[TEXT](data=str(words))


def write(writer: BagWriter, numbers: Iterable[int]) -> None:
    """Two messages for each number."""
    for topic in ("/one", "/two"):
        writer.add(topic, TEXT)
    for number in numbers:
        writer.write("/one", text(number), START_NS + 10 * number)
        writer.write("/two", TYPES.serialize_cdr(text(-number), TEXT), START_NS + 10 * number + 1)


def make(path: Path, count: int = 10, **options: Any) -> Path:
    with BagWriter(path, **options) as writer:
        write(writer, range(count))
    return path


def rows(path: Path) -> list[Row]:
    """As rosbags reads them."""
    with AnyReader([path]) as reader:
        return [(connection.topic, time, bytes(data)) for connection, time, data in reader.messages()]


def expected(count: int) -> list[Row]:
    found = []
    for number in range(count):
        time = START_NS + 10 * number
        found.append(("/one", time, bytes(TYPES.serialize_cdr(text(number), TEXT))))
        found.append(("/two", time + 1, bytes(TYPES.serialize_cdr(text(-number), TEXT))))
    return found


def metadata(path: Path) -> dict[str, Any]:
    content = YAML(typ="safe").load((path / "metadata.yaml").read_text())
    return dict(content["rosbag2_bagfile_information"])


def assert_one_line(caught: pytest.ExceptionInfo[BagError], *parts: str) -> None:
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


class TestBag:
    @pytest.mark.parametrize("compress", [True, False])
    @pytest.mark.parametrize("options", [{}, {"part_messages": 6}, {"part_bytes": 100}, {"part_messages": 1}])
    def test_others_read_what_was_written(self, tmp_path: Path, compress: bool, options: dict[str, int]) -> None:
        bag = make(tmp_path / "new" / "out", compress=compress, **options)
        assert rows(bag) == expected(10)
        with Bag(bag) as opened:
            assert [(each.topic, each.recorded_ns, each.data) for each in opened.messages()] == expected(10)
            assert (opened.lost, opened.notes) == ([], [])
        assert [each.name for each in bag.parent.iterdir()] == ["out"]

    def test_metadata_is_of_all_files(self, tmp_path: Path) -> None:
        bag = make(tmp_path / "out", part_messages=8, settings={"checkpoint": "abc"})
        found = metadata(bag)
        files = ["out_0.mcap", "out_1.mcap", "out_2.mcap"]
        assert sorted(each.name for each in bag.iterdir()) == ["metadata.yaml", *files]
        assert found["version"] == 8 and found["storage_identifier"] == "mcap"
        assert found["relative_file_paths"] == files
        assert found["message_count"] == 20
        assert found["starting_time"]["nanoseconds_since_epoch"] == START_NS
        assert found["duration"]["nanoseconds"] == 91
        assert found["custom_data"] == {"checkpoint": "abc"}
        assert [
            (each["path"], each["message_count"], each["starting_time"]["nanoseconds_since_epoch"] - START_NS)
            for each in found["files"]
        ] == [(files[0], 8, 0), (files[1], 8, 40), (files[2], 4, 80)]
        assert {
            each["topic_metadata"]["name"]: each["message_count"] for each in found["topics_with_message_count"]
        } == {"/one": 10, "/two": 10}

    def test_every_file_can_be_read_alone_and_defines_its_types(self, tmp_path: Path) -> None:
        message = TYPES.types[LABEL_INFO](
            header=TYPES.types["std_msgs/msg/Header"](
                stamp=TYPES.types["builtin_interfaces/msg/Time"](sec=1, nanosec=2), frame_id=""
            ),
            class_map=[TYPES.types["vision_msgs/msg/VisionClass"](class_id=3, class_name="road")],
            threshold=0.5,
        )
        with BagWriter(tmp_path / "out", part_messages=1) as writer:
            writer.add("/label_info", LABEL_INFO, [LATCHED])
            for number in range(2):
                writer.write("/label_info", message, START_NS + number)
        for number in range(2):
            with Reader(tmp_path / "out" / f"out_{number}.mcap") as reader:
                (connection,) = reader.connections
            assert "class_map" in connection.msgdef.data and "uint16 class_id" in connection.msgdef.data
            assert [each.durability.name for each in connection.ext.offered_qos_profiles] == ["TRANSIENT_LOCAL"]
            with AnyReader([tmp_path / "out" / f"out_{number}.mcap"]) as alone:
                ((connection, _, data),) = alone.messages()
                assert alone.deserialize(data, connection.msgtype).class_map[0].class_name == "road"
        (topic,) = metadata(tmp_path / "out")["topics_with_message_count"]
        # Humble reads profiles as a text, and their fields as numbers.
        profiles = YAML(typ="safe").load(topic["topic_metadata"]["offered_qos_profiles"])
        assert [(each["durability"], each["reliability"], each["depth"]) for each in profiles] == [(1, 1, 1)]

    def test_a_type_that_nobody_knows_is_handed_on(self, tmp_path: Path) -> None:
        with BagWriter(tmp_path / "out") as writer:
            writer.add("/odd", "odd_msgs/msg/Odd")
            write(writer, range(3))
            writer.write("/odd", b"\0\1\0\0what", START_NS + 1000)
        assert rows(tmp_path / "out") == [*expected(3), ("/odd", START_NS + 1000, b"\0\1\0\0what")]
        with Bag(tmp_path / "out") as bag:
            assert bag.topics["/odd"].type == "odd_msgs/msg/Odd"

    def test_topics_without_messages(self, tmp_path: Path) -> None:
        with BagWriter(tmp_path / "out") as writer:
            writer.add("/one", TEXT)
        assert rows(tmp_path / "out") == []
        with Bag(tmp_path / "out") as bag:
            assert bag.topics["/one"].count == 0

    def test_the_same_messages_make_the_same_files(self, tmp_path: Path) -> None:
        for folder in ("a", "b"):
            make(tmp_path / folder / "out", 200, part_messages=50)
        for file in (tmp_path / "a" / "out").iterdir():
            assert file.read_bytes() == (tmp_path / "b" / "out" / file.name).read_bytes()

    def test_a_topic_has_one_type(self, tmp_path: Path) -> None:
        with BagWriter(tmp_path / "out") as writer:
            writer.add("/one", TEXT)
            writer.add("/one", TEXT)
            with pytest.raises(BagError) as caught:
                writer.add("/one", LABEL_INFO)
        assert_one_line(caught, "topic /one", TEXT, LABEL_INFO)

    def test_memory_does_not_grow_with_the_bag(self, tmp_path: Path) -> None:
        data = bytes(4000)
        with BagWriter(tmp_path / "out", part_messages=2000, compress=False) as writer:
            writer.add("/one", TEXT)
            writer.write("/one", data, START_NS)
            tracemalloc.start()
            try:
                for number in range(1, 10_000):
                    writer.write("/one", data, START_NS + number)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert peak < 8e6, f"{peak / 1e6:.1f} MB for 40 MB of messages"
        assert metadata(tmp_path / "out")["message_count"] == 10_000


class Stop(Exception):
    pass


def interrupt(path: Path, count: int, ending_at: int | None = None, **options: Any) -> None:
    """A run that fails after `count` numbers, and ends a part after `ending_at` of them."""
    with suppress(Stop), BagWriter(path, **options) as writer:
        if ending_at is not None:
            write(writer, range(ending_at))
            writer.end_part()
        write(writer, range(ending_at or 0, count))
        raise Stop


class TestResume:
    def test_a_run_that_was_cut_off_leaves_no_bag_but_its_parts(self, tmp_path: Path) -> None:
        interrupt(tmp_path / "out", 5, part_messages=4)
        assert [each.name for each in tmp_path.iterdir()] == ["out.partial"]
        with pytest.raises(BagError) as caught:
            Bag(tmp_path / "out.partial")
        assert_one_line(caught, str(tmp_path / "out.partial"), "unfinished")

    def test_it_goes_on_behind_the_parts_that_are_whole(self, tmp_path: Path) -> None:
        interrupt(tmp_path / "out", 5, part_messages=4)
        with BagWriter(tmp_path / "out", resume=True, part_messages=4) as writer:
            assert [part.file for part in writer.parts] == ["out_0.mcap", "out_1.mcap"]
            assert writer.counts == {"/one": 4, "/two": 4}
            assert writer.until_ns == START_NS + 31
            write(writer, range(4, 10))
        assert rows(tmp_path / "out") == expected(10)
        assert [each.name for each in tmp_path.iterdir()] == ["out"]
        make(tmp_path / "at once" / "out", part_messages=4)
        for file in (tmp_path / "out").iterdir():
            assert file.read_bytes() == (tmp_path / "at once" / "out" / file.name).read_bytes()

    def test_a_part_can_be_ended_where_it_suits(self, tmp_path: Path) -> None:
        interrupt(tmp_path / "out", 5, ending_at=3)
        with BagWriter(tmp_path / "out", resume=True) as writer:
            assert writer.counts == {"/one": 3, "/two": 3}
            write(writer, range(3, 6))
        assert rows(tmp_path / "out") == expected(6)

    def test_where_no_part_is_whole_nothing_stays(self, tmp_path: Path) -> None:
        interrupt(tmp_path / "out", 5)
        assert not list(tmp_path.iterdir())

    def test_without_resume_it_begins_anew(self, tmp_path: Path) -> None:
        interrupt(tmp_path / "out", 5, part_messages=4)
        make(tmp_path / "out", 3)
        assert rows(tmp_path / "out") == expected(3)

    @pytest.mark.parametrize("resume", [True, False])
    def test_nothing_to_resume_is_a_new_bag(self, tmp_path: Path, resume: bool) -> None:
        assert rows(make(tmp_path / "out", 3, resume=resume)) == expected(3)

    def test_other_settings_are_refused(self, tmp_path: Path) -> None:
        interrupt(tmp_path / "out", 5, part_messages=4, settings={"checkpoint": "a", "window": "causal"})
        with pytest.raises(BagError) as caught:
            BagWriter(tmp_path / "out", resume=True, settings={"checkpoint": "b", "window": "causal"})
        assert_one_line(caught, str(tmp_path / "out.partial"), "checkpoint 'a'", "'b'")
        settings = {"window": "causal", "checkpoint": "a"}
        with BagWriter(tmp_path / "out", resume=True, settings=settings) as writer:
            assert len(writer.parts) == 2

    def test_a_damaged_part_and_those_behind_it_are_not_kept(self, tmp_path: Path) -> None:
        interrupt(tmp_path / "out", 9, part_messages=4)
        damaged = tmp_path / "out.partial" / "out_1.mcap"
        damaged.write_bytes(damaged.read_bytes()[:-20])
        with BagWriter(tmp_path / "out", resume=True, part_messages=4) as writer:
            assert [part.file for part in writer.parts] == ["out_0.mcap"]
            write(writer, range(2, 4))
        assert rows(tmp_path / "out") == expected(4)
        assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
            "metadata.yaml",
            "out_0.mcap",
            "out_1.mcap",
        ]

    def test_killed_at_any_moment(self, tmp_path: Path) -> None:
        code = (
            "import sys; sys.path.insert(0, 'test'); from pathlib import Path; from test_bag_writer import *\n"
            "with BagWriter(Path(sys.argv[1]), part_messages=4) as writer:\n"
            "    write(writer, range(7)); print('there', flush=True); sys.stdin.read()\n"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "out")]
        root = Path(__file__).resolve().parents[1]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
            with pytest.raises(BagError) as caught:
                BagWriter(tmp_path / "out", resume=True)
            assert_one_line(caught, "being written by another process")
            process.send_signal(signal.SIGKILL)
        assert [each.name for each in tmp_path.iterdir()] == ["out.partial"]
        with BagWriter(tmp_path / "out", resume=True) as writer:
            assert writer.counts == {"/one": 6, "/two": 6}
            write(writer, range(6, 8))
        assert rows(tmp_path / "out") == expected(8)

    @pytest.mark.parametrize("moment", ["metadata_text", "Unfinished.finish"])
    def test_stopped_at_the_very_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
        def stop(*_: object) -> None:
            raise Stop

        with monkeypatch.context() as patch:
            patch.setattr(f"stmem_ros.bag.io.writer.{moment}", stop)
            with pytest.raises(Stop):
                make(tmp_path / "out")
        assert [each.name for each in tmp_path.iterdir()] == ["out.partial"]
        with BagWriter(tmp_path / "out", resume=True) as writer:
            assert writer.counts == {"/one": 10, "/two": 10}
            with pytest.raises(BagError):
                Bag(tmp_path / "out.partial")
        assert rows(tmp_path / "out") == expected(10)
        assert [each.name for each in tmp_path.iterdir()] == ["out"]


class TestPlace:
    def test_an_existing_bag_is_refused(self, tmp_path: Path) -> None:
        make(tmp_path / "out", 3)
        with pytest.raises(BagError) as caught:
            BagWriter(tmp_path / "out")
        assert_one_line(caught, f"{tmp_path / 'out'} exists")
        assert rows(tmp_path / "out") == expected(3)

    def test_overwriting_keeps_the_old_one_until_the_new_one_is_whole(self, tmp_path: Path) -> None:
        make(tmp_path / "out", 3)
        with BagWriter(tmp_path / "out", overwrite=True) as writer:
            write(writer, range(5))
            assert rows(tmp_path / "out") == expected(3)
        assert rows(tmp_path / "out") == expected(5)
        interrupt(tmp_path / "out", 7, overwrite=True)
        assert rows(tmp_path / "out") == expected(5)
        assert [each.name for each in tmp_path.iterdir()] == ["out"]

    def test_a_kill_between_the_two_leaves_the_old_one(self, tmp_path: Path) -> None:
        make(tmp_path / "out", 3)
        (tmp_path / "out").rename(tmp_path / "out.replaced")
        with pytest.raises(BagError):
            BagWriter(tmp_path / "out")
        assert rows(tmp_path / "out") == expected(3)

    @pytest.mark.parametrize("kind", ["folder", "file"])
    def test_what_is_no_bag_is_never_overwritten(self, tmp_path: Path, kind: str) -> None:
        if kind == "folder":
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "thesis.txt").write_text("mine")
        else:
            (tmp_path / "out").write_text("mine")
        with pytest.raises(BagError) as caught:
            BagWriter(tmp_path / "out", overwrite=True)
        assert_one_line(caught, f"{tmp_path / 'out'} is no bag")
        assert [each.name for each in tmp_path.iterdir()] == ["out"]

    def test_a_folder_of_others_is_no_partial_output(self, tmp_path: Path) -> None:
        (tmp_path / "out.partial").mkdir()
        (tmp_path / "out.partial" / "thesis.txt").write_text("mine")
        with pytest.raises(BagError) as caught:
            BagWriter(tmp_path / "out")
        assert_one_line(caught, f"{tmp_path / 'out.partial'} is in the way")
        assert (tmp_path / "out.partial" / "thesis.txt").read_text() == "mine"

    def test_a_place_that_cannot_be_written_to(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(BagError) as caught:
            BagWriter(tmp_path / "file" / "out")
        assert_one_line(caught, str(tmp_path / "file" / "out"), "Not a directory")


class TestFullDisk:
    def test_one_line_and_what_is_whole_can_be_resumed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        def fill(patch: pytest.MonkeyPatch) -> None:
            with BagWriter(tmp_path / "out", part_messages=4) as writer:
                write(writer, range(5))
                patch.setattr("rosbags.rosbag2.storage_mcap.McapWriter.close_chunk", full)
                write(writer, range(5, 10))

        with monkeypatch.context() as patch, pytest.raises(BagError) as caught:
            fill(patch)
        assert_one_line(caught, str(tmp_path / "out.partial"), "No space left on device", "2 parts", "resumed")
        assert [each.name for each in tmp_path.iterdir()] == ["out.partial"]
        with BagWriter(tmp_path / "out", resume=True, part_messages=4) as writer:
            assert writer.counts == {"/one": 4, "/two": 4}
            write(writer, range(4, 10))
        assert rows(tmp_path / "out") == expected(10)

    def fill(self, path: Path) -> None:
        with BagWriter(path, part_bytes=300_000) as writer:
            writer.add("/one", TEXT)
            for number in range(1000):
                writer.write("/one", b"\0\1\0\0" + os.urandom(10_000), START_NS + number)

    def test_on_a_disk_that_is_full(self, tmp_path: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = shutil.which("mount")
        if (
            os.geteuid()
            or mount is None
            or subprocess.run(
                [mount, "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], capture_output=True, check=False
            ).returncode
        ):
            pytest.skip("a small file system can be mounted by root only")
        try:
            with pytest.raises(BagError) as caught:
                self.fill(disk / "out")
            assert_one_line(caught, str(disk / "out.partial"), "No space left on device", "resumed")
            assert [each.name for each in disk.iterdir()] == ["out.partial"]
            (disk / "out.partial" / "out_0.mcap").stat()
            with BagWriter(disk / "out", resume=True) as writer:
                assert 100 < writer.counts["/one"] < 210
            assert len(rows(disk / "out")) == writer.counts["/one"]
        finally:
            subprocess.run(["umount", str(disk)], check=True)
