"""A person points at a bag, whatever recorded it and whatever became of it, and gets what is whole in it, in order."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import tracemalloc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.convert.converter import default_message
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from stmem_ros.bag.io.reader import Bag, BagError, Message

TYPES = get_typestore(Stores.ROS2_JAZZY)
IMAGE, TEXT = "sensor_msgs/msg/Image", "std_msgs/msg/String"
START_NS = 1_700_000_000_000_000_000
STEP_NS = 10_000_000
LATE_NS = 3_000_000
MCAP, SQLITE = StoragePlugin.MCAP, StoragePlugin.SQLITE3
NONE, FILE, MESSAGE, CHUNK = (
    CompressionMode.NONE,
    CompressionMode.FILE,
    CompressionMode.MESSAGE,
    CompressionMode.STORAGE,
)
EVERY_KIND = [(MCAP, mode) for mode in (NONE, FILE, MESSAGE, CHUNK)] + [
    (SQLITE, mode) for mode in (NONE, FILE, MESSAGE)
]

Row = tuple[str, int, bytes]


def image(stamp_ns: int, number: int = 0, size: int = 64, types: Any = TYPES, **header: Any) -> bytes:
    """CDR of a grey image of noise, another one for each number."""
    stamp = types.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
    fields = {"height": 1, "width": size, "encoding": "mono8", "is_bigendian": 0, "step": size}
    data = np.random.default_rng(number).integers(0, 256, size, np.uint8)
    message = types.types[IMAGE](
        header=types.types["std_msgs/msg/Header"](stamp=stamp, frame_id="camera", **header), data=data, **fields
    )
    return bytes((types.serialize_ros1 if header else types.serialize_cdr)(message, IMAGE))


def text(words: str) -> bytes:
    return bytes(TYPES.serialize_cdr(TYPES.types[TEXT](data=words), TEXT))


def drive(count: int = 40, size: int = 64, first: int = 0) -> list[Row]:
    """An image every 10 ms, stamped 3 ms before it is recorded, and a word with every third."""
    rows: list[Row] = []
    for number in range(first, first + count):
        recorded = START_NS + number * STEP_NS
        rows.append(("/camera", recorded, image(recorded - LATE_NS, number, size)))
        if number % 3 == 0:
            rows.append(("/words", recorded + 1, text(str(number))))
    return rows


def write(
    path: Path, rows: Iterable[Row], storage: StoragePlugin = MCAP, mode: CompressionMode = NONE, **types: str
) -> Path:
    """A rosbag2 of these rows; topics are images unless they are `/words` or named in `types`."""
    writer = Writer(path, version=9, storage_plugin=storage)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {}
        for topic, recorded, data in rows:
            if topic not in connections:
                kind = TEXT if topic == "/words" else IMAGE
                connections[topic] = writer.add_connection(topic, kind, typestore=TYPES)
            writer.write(connections[topic], recorded, data)
    return path


def write_split(path: Path, parts: int, storage: StoragePlugin = MCAP, metadata: bool = True) -> list[Row]:
    """A bag of several files, as recorders split them; returns all rows."""
    path.mkdir()
    rows, names, files = [], [], []
    for number in range(parts):
        part = drive(6, first=6 * number)
        write(path / f"{path.name}_{number}", part, storage)
        (file,) = (each for each in (path / f"{path.name}_{number}").iterdir() if each.suffix != ".yaml")
        file.rename(path / file.name)
        shutil.rmtree(path / f"{path.name}_{number}")
        names.append(file.name)
        files.append(f"{{path: {file.name}, message_count: {len(part)}}}")
        rows += part
    if metadata:
        (path / "metadata.yaml").write_text(
            f"rosbag2_bagfile_information: {{version: 5, relative_file_paths: [{', '.join(names)}], "
            f"message_count: {len(rows)}, files: [{', '.join(files)}]}}\n"
        )
    return rows


def storage_file(folder: Path) -> Path:
    (file,) = (each for each in folder.iterdir() if each.suffix != ".yaml")
    return file


def rows_of(messages: Iterable[Message]) -> list[Row]:
    return [(each.topic, each.recorded_ns, each.data) for each in messages]


def read(path: Path) -> tuple[list[Row], list[str]]:
    """All messages, and what was lost; what is promised of a whole bag holds."""
    with Bag(path) as bag:
        rows = rows_of(bag.messages())
        if not bag.lost:
            assert sum(topic.count for topic in bag.topics.values()) == len(rows)
        return rows, bag.lost


def assert_one_line(caught: pytest.ExceptionInfo[BagError], *parts: str) -> None:
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


class TestWholeBags:
    @pytest.mark.parametrize(("storage", "mode"), EVERY_KIND)
    def test_every_storage_and_compression_gives_the_same_messages(
        self, tmp_path: Path, storage: StoragePlugin, mode: CompressionMode
    ) -> None:
        bag = write(tmp_path / "drive", drive(), storage, mode)
        for path in (bag, storage_file(bag)):
            with Bag(path) as opened:
                assert {name: (each.type, each.count) for name, each in opened.topics.items()} == {
                    "/camera": (IMAGE, 40),
                    "/words": (TEXT, 14),
                }
                assert rows_of(opened.messages()) == drive()
                assert (opened.lost, opened.notes) == ([], [])

    @pytest.mark.parametrize(("storage", "mode"), EVERY_KIND)
    def test_without_its_metadata(self, tmp_path: Path, storage: StoragePlugin, mode: CompressionMode) -> None:
        bag = write(tmp_path / "drive", drive(), storage, mode)
        (bag / "metadata.yaml").unlink()
        assert read(bag) == (drive(), [])

    @pytest.mark.parametrize("content", ["", "nonsense: [", "rosbag2_bagfile_information: {version: 5}", "7"])
    def test_with_damaged_metadata(self, tmp_path: Path, content: str) -> None:
        bag = write(tmp_path / "drive", drive())
        (bag / "metadata.yaml").write_text(content)
        with Bag(bag) as opened:
            assert rows_of(opened.messages()) == drive()
            assert opened.notes == ["metadata.yaml is damaged: the files are read in the order of their names"]

    @pytest.mark.parametrize("storage", [MCAP, SQLITE])
    @pytest.mark.parametrize("metadata", [True, False])
    def test_split_into_files_in_the_order_of_their_numbers(
        self, tmp_path: Path, storage: StoragePlugin, metadata: bool
    ) -> None:
        rows = write_split(tmp_path / "drive", 12, storage, metadata)
        assert read(tmp_path / "drive") == (rows, [])

    def test_a_file_that_metadata_does_not_list_because_the_robot_died_before(self, tmp_path: Path) -> None:
        rows = write_split(tmp_path / "drive", 2)
        metadata = tmp_path / "drive" / "metadata.yaml"
        metadata.write_text(metadata.read_text().replace(", drive_1.mcap]", "]"))
        with Bag(tmp_path / "drive") as bag:
            assert rows_of(bag.messages()) == rows
            assert bag.notes == ["drive_1.mcap is read though metadata.yaml does not list it"]

    @pytest.mark.parametrize("name", ["drive #1", "100%20", "what?", "fahrt für alle"])
    @pytest.mark.parametrize("storage", [MCAP, SQLITE])
    def test_any_name(self, tmp_path: Path, storage: StoragePlugin, name: str) -> None:
        write(tmp_path / "drive", drive(), storage)
        shutil.copytree(tmp_path / "drive", tmp_path / name)
        with Bag(tmp_path / name) as bag:
            assert bag.name == name
            assert rows_of(bag.messages()) == drive()

    def test_topics_are_chosen_and_stamps_are_the_headers(self, tmp_path: Path) -> None:
        with Bag(write(tmp_path / "drive", drive())) as bag:
            images = list(bag.messages(["/camera"]))
            words = list(bag.messages(["/words"]))
            assert [each.stamp_ns for each in images] == [each.recorded_ns - LATE_NS for each in images]
            assert [each.stamp_ns for each in words] == [each.recorded_ns for each in words]
            assert len(images) == 40 and len(words) == 14
            assert bag.decode(words[1]).data == "3"
            assert bag.decode(images[0]).encoding == "mono8"

    def test_a_header_without_stamp_has_its_time_of_recording(self, tmp_path: Path) -> None:
        with Bag(write(tmp_path / "drive", [("/camera", START_NS, image(0))])) as bag:
            assert [each.stamp_ns for each in bag.messages()] == [START_NS]

    def test_what_a_recorder_had_not_moved_out_of_its_journal_is_there(self, tmp_path: Path) -> None:
        file = storage_file(write(tmp_path / "drive", drive(), SQLITE))
        with_journal = tmp_path / "killed" / "drive.db3"
        with_journal.parent.mkdir()
        database = sqlite3.connect(file)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(
            "INSERT INTO messages SELECT id + 100, topic_id, timestamp + 1000, data FROM messages WHERE id = 1"
        )
        database.commit()
        for ending in ("", "-wal"):  # as they lie when the recorder is killed
            shutil.copy(f"{file}{ending}", f"{with_journal}{ending}")
        database.close()
        before = {each.name: each.read_bytes() for each in with_journal.parent.iterdir()}
        rows, lost = read(with_journal)
        assert len(rows) == len(drive()) + 1 and lost == []
        assert {each.name: each.read_bytes() for each in with_journal.parent.iterdir()} == before

    def test_nothing_stays_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        bag = write(tmp_path / "drive", drive(), SQLITE, FILE)
        (tmp_path / "tmp").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
        with Bag(bag) as opened:
            next(opened.messages())
            assert len(list((tmp_path / "tmp").iterdir())) == 1
        assert not list((tmp_path / "tmp").iterdir())


class TestTypes:
    def test_a_type_of_the_bag_itself(self, tmp_path: Path) -> None:
        own = get_typestore(Stores.ROS2_HUMBLE)
        own.register(get_types_from_msg("std_msgs/Header header\nfloat64 depth\n", "diver_msgs/msg/Depth"))
        stamp = own.types["builtin_interfaces/msg/Time"](5, 6)
        message = own.types["diver_msgs/msg/Depth"](own.types["std_msgs/msg/Header"](stamp, "diver"), 7.5)
        with Writer(tmp_path / "drive", version=9, storage_plugin=MCAP) as writer:
            connection = writer.add_connection("/depth", "diver_msgs/msg/Depth", typestore=own)
            writer.write(connection, START_NS, own.serialize_cdr(message, "diver_msgs/msg/Depth"))
        with Bag(tmp_path / "drive") as bag:
            (found,) = bag.messages()
            assert found.stamp_ns == 5_000_000_006
            assert bag.decode(found).depth == 7.5

    def test_a_type_that_nobody_knows_passes_undecoded(self, tmp_path: Path) -> None:
        with Writer(tmp_path / "drive", version=9, storage_plugin=SQLITE) as writer:
            odd = writer.add_connection("/odd", "odd_msgs/msg/Odd", msgdef="", rihs01="RIHS01_0")
            camera = writer.add_connection("/camera", IMAGE, typestore=TYPES)
            writer.write(odd, START_NS, b"\0\1\0\0what")
            writer.write(camera, START_NS, image(START_NS))
        with Bag(tmp_path / "drive") as bag:
            odd_message, camera_message = bag.messages()
            assert odd_message == Message("/odd", "odd_msgs/msg/Odd", START_NS, START_NS, b"\0\1\0\0what")
            assert bag.decode(camera_message).width == 64
            with pytest.raises(BagError) as caught:
                bag.decode(odd_message)
        assert_one_line(caught, "topic /odd", "odd_msgs/msg/Odd", str(tmp_path / "drive"))

    def test_a_type_name_without_its_kind(self, tmp_path: Path) -> None:
        with Writer(tmp_path / "drive", version=9, storage_plugin=MCAP) as writer:
            definition, _ = TYPES.generate_msgdef(IMAGE, ros_version=2)
            camera = writer.add_connection("/camera", "sensor_msgs/Image", msgdef=definition, rihs01="RIHS01_0")
            writer.write(camera, START_NS, image(START_NS - LATE_NS))
        with Bag(tmp_path / "drive") as bag:
            assert bag.choose_images([]) == ["/camera"]
            (found,) = bag.messages()
            assert (found.stamp_ns, bag.decode(found).width) == (START_NS - LATE_NS, 64)

    def test_a_message_that_is_not_of_its_type(self, tmp_path: Path) -> None:
        cut = write(tmp_path / "drive", [("/camera", START_NS, image(1)[:30])])
        with Bag(cut) as bag, pytest.raises(BagError) as caught:
            bag.decode(next(bag.messages()))
        assert_one_line(caught, "/camera", str(START_NS), IMAGE)


class TestRos1:
    NOETIC = get_typestore(Stores.ROS1_NOETIC)

    def write(self, path: Path, count: int = 40) -> list[Row]:
        old = self.NOETIC
        with Writer1(path) as writer:
            camera = writer.add_connection("/camera", IMAGE, typestore=old)
            map_name = writer.add_connection("/map_name", TEXT, typestore=old, latching=1)
            rows: list[Row] = []
            for number in range(count):
                recorded = START_NS + number * STEP_NS
                writer.write(camera, recorded, image(recorded - LATE_NS, number, types=old, seq=number))
                rows.append(("/camera", recorded, image(recorded - LATE_NS, number)))
            writer.write(map_name, recorded + 1, old.serialize_ros1(old.types[TEXT](data="yard"), TEXT))
        return rows

    def test_messages_are_as_ros_2_would_have_written_them(self, tmp_path: Path) -> None:
        rows = self.write(tmp_path / "drive.bag")
        with Bag(tmp_path / "drive.bag") as bag:
            assert rows_of(bag.messages(["/camera"])) == rows
            messages = list(bag.messages())
            assert [each.stamp_ns for each in messages[:40]] == [recorded - LATE_NS for _, recorded, _ in rows]
            assert bag.decode(messages[0]).header.frame_id == "camera"
            assert bag.decode(messages[-1]).data == "yard"
            assert [each.durability.name for each in bag.topics["/map_name"].qos] == ["TRANSIENT_LOCAL"]

    def test_a_type_whose_definition_ros_2_changed_has_that_of_ros_2(self, tmp_path: Path) -> None:
        old, kind = self.NOETIC, "visualization_msgs/msg/Marker"
        message: Any = default_message(old, kind)
        message.header.stamp.sec, message.text = 1, "here"
        with Writer1(tmp_path / "drive.bag") as writer:
            connection = writer.add_connection("/marker", kind, typestore=old)
            writer.write(connection, START_NS, old.serialize_ros1(message, kind))
        with Bag(tmp_path / "drive.bag") as bag:
            found = bag.decode(next(bag.messages()))
        assert (found.header.stamp.sec, found.text, found.texture_resource) == (1, "here", "")

    def test_one_that_was_cut_off_is_told_what_to_do(self, tmp_path: Path) -> None:
        self.write(tmp_path / "drive.bag")
        content = (tmp_path / "drive.bag").read_bytes()
        (tmp_path / "drive.bag").write_bytes(content[: len(content) // 2])
        with pytest.raises(BagError) as caught:
            Bag(tmp_path / "drive.bag")
        assert_one_line(caught, "drive.bag", "rosbag reindex")

    def test_a_damaged_chunk_costs_its_own_messages_only(self, tmp_path: Path) -> None:
        path, old = tmp_path / "drive.bag", self.NOETIC
        writer = Writer1(path)
        writer.set_compression(Writer1.CompressionFormat.BZ2)
        with writer:
            camera = writer.add_connection("/camera", IMAGE, typestore=old)
            for number in range(100):
                recorded = START_NS + number * STEP_NS
                writer.write(camera, recorded, image(recorded, number, 25_000, types=old, seq=0))
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 1000] = bytes(1000)
        path.write_bytes(content)
        with Bag(path) as bag:
            times = [each.recorded_ns for each in bag.messages()]
            assert times == sorted(set(times)) and times[0] == START_NS and times[-1] == START_NS + 99 * STEP_NS
            assert 20 < len(times) < 100
            assert len(bag.lost) == 1 and "drive.bag: damaged after 2023-11-14" in bag.lost[0]


class TestDamage:
    """Everything that is whole is read, and what is not is told."""

    ROWS = drive(1000, size=3000)

    @pytest.fixture(scope="class")
    @staticmethod
    def bags(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[StoragePlugin, CompressionMode], Path]:
        folder = tmp_path_factory.mktemp("whole")
        return {kind: write(folder / f"{kind[0].name}{kind[1].name}", TestDamage.ROWS, *kind) for kind in EVERY_KIND}

    @pytest.mark.parametrize("mode", [NONE, FILE, MESSAGE, CHUNK])
    @pytest.mark.parametrize("share", [0.15, 0.5, 0.9, 0.999])
    @pytest.mark.parametrize("alone", [False, True])
    def test_a_recording_that_ends_in_the_middle_of_a_chunk(
        self, bags: dict[Any, Path], tmp_path: Path, mode: CompressionMode, share: float, alone: bool
    ) -> None:
        shutil.copytree(bags[MCAP, mode], tmp_path / "drive")
        file = storage_file(tmp_path / "drive")
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
        rows, lost = read(file if alone else tmp_path / "drive")
        # Messages are even along the file; zstd gives what lies before the cut by blocks of 128 KiB.
        assert rows == self.ROWS[: len(rows)]
        assert len(self.ROWS) * (share - 0.05) < len(rows) <= len(self.ROWS)
        assert lost and all(file.name in line for line in lost)

    def test_the_line_says_which_file_from_when_and_how_much(self, bags: dict[Any, Path], tmp_path: Path) -> None:
        file = tmp_path / "drive.mcap"
        file.write_bytes(storage_file(bags[MCAP, NONE]).read_bytes()[:100_000])
        rows, lost = read(file)
        assert lost == [
            "drive.mcap: cut off in the 99957 bytes from byte 43 on: "
            f"messages after 2023-11-14 22:13:20.{(rows[-1][1] - START_NS) // 10**6:03d} UTC are lost"
        ]

    @pytest.mark.parametrize("mode", [NONE, CHUNK])
    def test_a_chunk_that_is_damaged_costs_its_own_messages_only(
        self, bags: dict[Any, Path], tmp_path: Path, mode: CompressionMode
    ) -> None:
        file = tmp_path / "drive.mcap"
        content = bytearray(storage_file(bags[MCAP, mode]).read_bytes())
        content[1_500_000:1_600_000] = b"\xff" * 100_000
        file.write_bytes(content)
        rows, lost = read(file)
        # Where a chunk has neither checksum nor compression, nothing tells of the message in which the damage begins.
        assert len(set(rows) - set(self.ROWS)) == (mode == NONE)
        assert rows[:300] == self.ROWS[:300] and rows[-300:] == self.ROWS[-300:]
        assert len(lost) == 1 and f"{len(self.ROWS) - len(rows)} messages" in lost[0]

    def test_what_no_checksum_and_no_reader_tells_of(self, bags: dict[Any, Path], tmp_path: Path) -> None:
        file = tmp_path / "drive.mcap"
        content = bytearray(storage_file(bags[MCAP, NONE]).read_bytes())
        record = content.index(self.ROWS[500][2]) - 31
        content[record : record + 9] = struct.pack("<BQ", 12, 1 << 40)  # metadata that reach beyond the chunk
        file.write_bytes(content)
        with AnyReader([file]) as reader:
            assert len(list(reader.messages())) < len(self.ROWS)
        rows, lost = read(file)
        assert rows[:500] == self.ROWS[:500] and rows[-400:] == self.ROWS[-400:]
        assert len(lost) == 1 and f": {len(self.ROWS) - len(rows)} messages" in lost[0]

    @pytest.mark.parametrize("mode", [NONE, MESSAGE])
    def test_a_database_that_is_cut_off(self, bags: dict[Any, Path], tmp_path: Path, mode: CompressionMode) -> None:
        file = tmp_path / "drive.db3"
        content = storage_file(bags[SQLITE, mode]).read_bytes()
        file.write_bytes(content[: len(content) * 9 // 10])
        rows, lost = read(file)
        assert rows == self.ROWS[: len(rows)] and len(rows) > len(self.ROWS) * 0.8
        assert len(lost) == 1 and "drive.db3: " in lost[0] and ".recover" in lost[0]

    @pytest.mark.parametrize("mode", [NONE, FILE])
    def test_a_database_with_a_hole(self, bags: dict[Any, Path], tmp_path: Path, mode: CompressionMode) -> None:
        plain = storage_file(bags[SQLITE, NONE]).read_bytes()
        content = bytearray(plain)
        middle = len(content) // 2 // 4096 * 4096
        content[middle : middle + 3 * 4096] = bytes(3 * 4096)
        file = tmp_path / "drive.db3"
        file.write_bytes(content)
        if mode == FILE:
            from stmem_ros.bag.io.compression import zstd

            file.unlink()
            file = tmp_path / "drive.db3.zstd"
            file.write_bytes(zstd.compress(bytes(content)))
        rows, lost = read(file)
        assert 0 < len(self.ROWS) - len(rows) < 20
        assert [row for row in self.ROWS if row in set(rows)] == rows
        assert lost and f"{file.name}: " in lost[0]

    @pytest.mark.parametrize("storage", [MCAP, SQLITE])
    @pytest.mark.parametrize("metadata", [True, False])
    def test_one_damaged_file_of_several(self, tmp_path: Path, storage: StoragePlugin, metadata: bool) -> None:
        rows = write_split(tmp_path / "drive", 3, storage, metadata)
        damaged = sorted(each for each in (tmp_path / "drive").iterdir() if each.suffix != ".yaml")[1]
        damaged.write_bytes(b"")
        found, lost = read(tmp_path / "drive")
        assert found == rows[:8] + rows[16:]
        assert len(lost) == 1 and damaged.name in lost[0] and "is empty" in lost[0]

    def test_one_missing_file_of_several(self, tmp_path: Path) -> None:
        rows = write_split(tmp_path / "drive", 3)
        (tmp_path / "drive" / "drive_1.mcap").unlink()
        assert read(tmp_path / "drive") == (
            rows[:8] + rows[16:],
            ["drive_1.mcap with 8 messages is missing, and metadata.yaml lists it"],
        )

    def test_reading_twice_and_side_by_side_tells_once(self, bags: dict[Any, Path], tmp_path: Path) -> None:
        file = tmp_path / "drive.mcap"
        content = bytearray(storage_file(bags[MCAP, CHUNK]).read_bytes())
        content[1_500_000:1_600_000] = b"\xff" * 100_000
        file.write_bytes(content)
        with Bag(file) as bag:
            one, two = bag.messages(), bag.messages(["/camera"])
            pairs = list(zip(one, two, strict=False))
            assert len(bag.lost) == 1
            assert rows_of(each for each, _ in pairs) == rows_of(bag.messages())[: len(pairs)]
            assert len(bag.lost) == 1


class TestStampOrder:
    def stamps(self, path: Path, topics: Sequence[str] = ("/camera",)) -> tuple[list[int], list[str]]:
        """Milliseconds after the start."""
        with Bag(path) as bag:
            found = list(bag.in_stamp_order(topics))
            assert sorted(rows_of(found)) == sorted(rows_of(bag.messages(topics)))
            return [(each.stamp_ns - START_NS) // 10**6 for each in found], bag.notes

    def bag(self, path: Path, stamps: Sequence[float], topic: str = "/camera") -> Path:
        """A message each 10 ms, with these stamps in milliseconds after the start."""
        return write(path, self.rows(stamps, topic))

    def rows(self, stamps: Sequence[float], topic: str = "/camera", late: int = 0) -> list[Row]:
        return [
            (topic, START_NS + place * STEP_NS + late, image(START_NS + int(stamp * 10**6), place))
            for place, stamp in enumerate(stamps)
        ]

    def test_messages_that_overtook_each_other_are_sorted(self, tmp_path: Path) -> None:
        order = np.arange(300) * 10
        shuffled = [*order[:100], *np.random.default_rng(0).permutation(order[100:180]), *order[180:]]
        assert self.stamps(self.bag(tmp_path / "drive", shuffled)) == (list(order), [])

    def test_a_bag_that_was_looped_stays_two_drives(self, tmp_path: Path) -> None:
        once = list(range(0, 3000, 10))
        stamps, notes = self.stamps(self.bag(tmp_path / "drive", once + once))
        assert stamps == once + once
        assert notes == [
            "/camera: the stamp of message 300 is 2.990 s before an earlier one's: a new stretch begins there"
        ]

    def test_a_single_old_message_stays_where_it_was_recorded(self, tmp_path: Path) -> None:
        ordered = list(range(0, 5000, 10))
        stamps, notes = self.stamps(self.bag(tmp_path / "drive", [*ordered[:400], 500, *ordered[400:]]))
        assert sorted(stamps) == sorted([*ordered, 500])
        assert [stamp for stamp in stamps if stamp != 500] == [stamp for stamp in ordered if stamp != 500]
        assert notes == [
            "/camera: the stamp of message 400 is 3.490 s before an earlier one's: it stays where it was recorded"
        ]

    def test_many_jumps_are_counted(self, tmp_path: Path) -> None:
        once = [0, 500, 1000, 1500, 2000]
        stamps, notes = self.stamps(self.bag(tmp_path / "drive", once * 10))
        assert stamps == once * 10
        assert len(notes) == 4 and notes[-1] == "/camera: 6 more such places"

    def test_jumps_one_after_the_other(self, tmp_path: Path) -> None:
        stamps, _ = self.stamps(self.bag(tmp_path / "drive", [9000, 9010, 6000, 3000, 3010, 0, 10, 20]))
        assert stamps == [9000, 9010, 6000, 3000, 3010, 0, 10, 20]

    def test_labels_that_were_recorded_at_the_end_come_with_their_images(self, tmp_path: Path) -> None:
        stamps = list(range(0, 3000, 10))
        rows = self.rows(stamps) + self.rows(stamps, "/labels", late=10**10)
        with Bag(write(tmp_path / "drive", rows)) as bag:
            found = [(each.stamp_ns, each.topic) for each in bag.in_stamp_order(["/camera", "/labels"])]
        assert found == [(START_NS + stamp * 10**6, topic) for stamp in stamps for topic in ("/camera", "/labels")]

    def test_two_topics_of_a_looped_bag_stay_together(self, tmp_path: Path) -> None:
        once = list(range(0, 3000, 10))
        rows = sorted(
            self.rows(once + once) + self.rows(once + once, "/labels", late=15_000_000), key=lambda row: row[1]
        )
        assert self.stamps(write(tmp_path / "drive", rows), ["/camera", "/labels"])[0] == sorted(once * 2) * 2

    @pytest.mark.parametrize(
        ("storage", "mode", "order", "whole"),
        [
            (MCAP, NONE, "recording", True),
            (MCAP, CHUNK, "stamps", True),
            (MCAP, NONE, "recording", False),
            (SQLITE, NONE, "stamps", True),
        ],
    )
    def test_memory_does_not_grow_with_the_bag(
        self, tmp_path: Path, storage: StoragePlugin, mode: CompressionMode, order: str, whole: bool
    ) -> None:
        data = image(0, size=4000)
        rows = (
            ("/camera", START_NS + number * 33_000_000, data[:4] + _stamp(START_NS + number * 33_000_000) + data[12:])
            for number in range(10_000)
        )
        bag_path = write(tmp_path / "drive", rows, storage, mode)
        if not whole:
            os.truncate(storage_file(bag_path), storage_file(bag_path).stat().st_size - 100)
        with Bag(bag_path) as bag:
            next(bag.messages())
            tracemalloc.start()
            try:
                messages = bag.messages() if order == "recording" else bag.in_stamp_order(["/camera"])
                assert sum(1 for _ in messages) == 10_000
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert peak < 8e6, f"{peak / 1e6:.1f} MB for 40 MB of messages"


def _stamp(stamp_ns: int) -> bytes:
    return b"".join(part.to_bytes(4, "little") for part in divmod(stamp_ns, 10**9))


class TestRefusals:
    """One line each, which names the bag."""

    def test_a_topic_that_is_not_there(self, tmp_path: Path) -> None:
        rows = [*drive(3), ("/rear", START_NS, image(START_NS))]
        with Bag(write(tmp_path / "drive", rows)) as bag:
            assert bag.image_topics == ["/camera", "/rear"]
            assert bag.choose_images(["rear", "/camera", "/rear"]) == ["/rear", "/camera"]
            with pytest.raises(BagError) as caught:
                bag.choose_images(["/front"])
            assert_one_line(caught, f"{tmp_path / 'drive'} has no image topic /front; its image topics: /camera, /rear")
            with pytest.raises(BagError) as caught:
                bag.choose_images([])
            assert_one_line(caught, "has 2 image topics, name one of: /camera, /rear")
            with pytest.raises(BagError) as caught:
                bag.messages(["/front"])
            assert_one_line(caught, "has no topic /front; its topics: /camera, /rear, /words")

    def test_a_topic_of_a_type_that_is_no_image(self, tmp_path: Path) -> None:
        with Bag(write(tmp_path / "drive", drive(3))) as bag, pytest.raises(BagError) as caught:
            bag.choose_images(["words"])
        assert_one_line(
            caught, "topic /words has messages of std_msgs/msg/String: images are sensor_msgs/msg/Image or "
        )
        assert "its image topics: /camera" in str(caught.value)

    def test_packets_of_a_film(self, tmp_path: Path) -> None:
        kind = "foxglove_msgs/msg/CompressedVideo"
        film = get_types_from_msg("string data\n", kind)
        types = get_typestore(Stores.ROS2_JAZZY)
        types.register(film)
        with Writer(tmp_path / "drive", version=9, storage_plugin=MCAP) as writer:
            writer.write(writer.add_connection("/film", kind, typestore=types), START_NS, text("packet"))
        with Bag(tmp_path / "drive") as bag, pytest.raises(BagError) as caught:
            bag.choose_images(["/film"])
        assert_one_line(caught, "topic /film has messages of foxglove_msgs/msg/CompressedVideo", "republish")

    @pytest.mark.parametrize("wanted", [[], ["/camera"]])
    def test_raw_and_compressed_images_on_one_topic(self, tmp_path: Path, wanted: list[str]) -> None:
        compressed = "sensor_msgs/msg/CompressedImage"
        with Writer(tmp_path / "drive", version=9, storage_plugin=MCAP) as writer:
            for kind in (IMAGE, compressed):
                connection = writer.add_connection("/camera", kind, typestore=TYPES)
                writer.write(connection, START_NS, image(START_NS))
        with Bag(tmp_path / "drive") as bag, pytest.raises(BagError) as caught:
            bag.choose_images(wanted)
        both = f"topic /camera has messages of {compressed} and {IMAGE}, and one type can be read at a time"
        assert_one_line(caught, both, f"--exclude-msgtype {compressed}")

    @pytest.mark.parametrize("storage", [MCAP, SQLITE])
    def test_ros_1_messages_in_a_ros_2_file(self, tmp_path: Path, storage: StoragePlugin) -> None:
        with Writer(tmp_path / "drive", version=9, storage_plugin=storage) as writer:
            connection = writer.add_connection("/camera", IMAGE, typestore=TYPES, serialization_format="ros1")
            writer.write(connection, START_NS, image(START_NS, types=get_typestore(Stores.ROS1_NOETIC), seq=0))
        with pytest.raises(BagError) as caught:
            Bag(tmp_path / "drive")
        assert_one_line(caught, "topic /camera has ROS 1's messages in a ROS 2 file", "rosbags-convert --src IN.bag")

    def test_no_image_topic(self, tmp_path: Path) -> None:
        with Bag(write(tmp_path / "drive", [("/words", START_NS, text("yes"))])) as bag:
            with pytest.raises(BagError) as caught:
                bag.choose_images([])
            assert_one_line(caught, "has no image topic; its topics: /words (std_msgs/msg/String)")

    def test_an_image_topic_without_messages(self, tmp_path: Path) -> None:
        with Writer(tmp_path / "drive", version=9, storage_plugin=MCAP) as writer:
            writer.add_connection("/camera", IMAGE, typestore=TYPES)
            words = writer.add_connection("/words", TEXT, typestore=TYPES)
            writer.write(words, START_NS, text("hello"))
        with Bag(tmp_path / "drive") as bag, pytest.raises(BagError) as caught:
            bag.choose_images([])
        assert_one_line(caught, f"{tmp_path / 'drive'} has no message on image topic /camera")

    @pytest.mark.parametrize("storage", [MCAP, SQLITE])
    def test_a_bag_without_messages(self, tmp_path: Path, storage: StoragePlugin) -> None:
        with Bag(write(tmp_path / "drive", [], storage)) as bag:
            assert list(bag.messages()) == []
            with pytest.raises(BagError) as caught:
                bag.choose_images([])
        assert_one_line(caught, f"{tmp_path / 'drive'} is empty: it has no messages")

    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("missing", None, "does not exist"),
            ("notes.txt", "hello", "is no bag: its name ends in none of .mcap, .db3 and .bag"),
            ("drive.mcap", "", "drive.mcap is empty"),
            ("drive.mcap", "hello", "is no MCAP file"),
            ("drive.db3", "", "is empty"),
            ("drive.db3", "hello" * 1000, "not a database"),
            ("drive.bag", "hello", "File magic is invalid"),
            ("drive.mcap.zstd", "hello", "cannot be read as a bag"),
        ],
    )
    def test_what_is_no_bag(self, tmp_path: Path, name: str, content: str | None, reason: str) -> None:
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(BagError) as caught:
            Bag(tmp_path / name)
        assert_one_line(caught, str(tmp_path / name), reason)

    def test_a_folder_that_is_no_bag(self, tmp_path: Path) -> None:
        with pytest.raises(BagError) as caught:
            Bag(tmp_path)
        assert_one_line(caught, f"{tmp_path} is no bag: it has neither metadata.yaml nor")
        TestRos1().write(tmp_path / "drive_0.bag")
        with pytest.raises(BagError) as caught:
            Bag(tmp_path)
        assert_one_line(caught, f"such as {tmp_path / 'drive_0.bag'}")

    def test_a_bag_of_which_nothing_can_be_read(self, tmp_path: Path) -> None:
        write(tmp_path / "drive", drive())
        file = storage_file(tmp_path / "drive")
        file.write_bytes(file.read_bytes()[:60])
        with pytest.raises(BagError) as caught:
            Bag(tmp_path / "drive")
        assert_one_line(caught, f"{tmp_path / 'drive'} has no message that can be read: drive.mcap: cut off")

    def test_a_full_disk_where_it_is_unpacked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        bag = write(tmp_path / "drive", drive(), MCAP, FILE)

        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("stmem_ros.bag.io.scratch.Scratch._unpack", full)
        with pytest.raises(BagError) as caught:
            Bag(bag)
        assert_one_line(caught, str(storage_file(bag)), "No space left on device", "TMPDIR")


@pytest.mark.parametrize(("storage", "mode"), EVERY_KIND)
def test_rosbags_own_reader_agrees(tmp_path: Path, storage: StoragePlugin, mode: CompressionMode) -> None:
    bag = write(tmp_path / "drive", drive(), storage, mode)
    with AnyReader([bag]) as reader:
        expected = [(connection.topic, time, bytes(data)) for connection, time, data in reader.messages()]
    assert read(bag) == (expected, [])
