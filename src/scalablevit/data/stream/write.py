"""Write a data set as shards: in parallel, going on where a killed run stopped, and checked at the end."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scalablevit.abridged import abridged
from scalablevit.data.cores import available_cores
from scalablevit.data.stream.download import litdata_package
from scalablevit.data.stream.index import (
    INDEX_NAME,
    FileTable,
    Shard,
    ShardsError,
    StoredPart,
    StreamIndex,
    digest,
    encoded_names,
    file_digest,
    files_name,
)
from scalablevit.data.stream.shard_file import ShardDamageError, ShardFiles
from scalablevit.data.stream.source import ShardSource, SourceSample, TarMember
from scalablevit.safe_write import WriteError, write_atomically, write_json

_log = logging.getLogger(__name__)

WORK_FOLDER = ".sharding"
_PLAN = "plan.json"
_LITDATA_INDEX = "index.json"
_MOST_WORKERS = 16


@dataclass(frozen=True)
class ShardTask:
    """One shard to be written.

    Args:
        out: folder of all shards.
        part: name of the part.
        number: of the shard in the part.
        samples: that it shall hold.
    """

    out: Path
    part: str
    number: int
    samples: Sequence[SourceSample]

    @property
    def file(self) -> Path:
        """The shard."""
        return self.out / self.part / f"chunk-0-{self.number}.bin"  # LitData's name of it

    @property
    def record(self) -> Path:
        """File that says what the finished shard holds."""
        return self.out / WORK_FOLDER / f"{self.part}-{self.number}.json"


@dataclass(frozen=True)
class Written:
    """What was written.

    Args:
        index: of the folder.
        kept: shards that an earlier run had finished.
        unreadable: files whose bytes could not be read; they are in the shards as empty files.
    """

    index: StreamIndex
    kept: int
    unreadable: list[str]


def write_shards(
    source: ShardSource,
    out: Path,
    *,
    version: str,
    size_mb: float = 64.0,
    num_workers: int | Literal["auto"] = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write files of a data set as shards, byte for byte.

    Samples lie in the shards in an order by a hash of their names, so that each shard has some of all classes; their
    order in the data set is kept in the table of files.

    Args:
        source: what to write.
        out: folder to write to: empty, missing, or with the unfinished shards of the same data, which are gone on with.
        version: of the package.
        size_mb: target size of a shard, in 10^6 bytes; a sample is never split.
        num_workers: processes that write; 0 writes in this one; "auto" takes all cores, 16 at most.
        on_progress: called with (shards done, all shards).

    Raises:
        ValueError: an argument is out of range, or `out` holds anything else.
        ShardsError: a finished shard does not hold what was read.
        OSError: the disk is full, or does not let write.
    """
    if not size_mb > 0 or size_mb > 2000:
        raise ValueError(f"size_mb must be above 0 and at most 2000 (LitData's limit is 4 GB), got {size_mb}")
    litdata_package()
    tasks, tables, key = _plan(source, out, int(size_mb * 1e6))
    with _claimed(out, key):
        kept = sum(_is_finished(task) for task in tasks)
        todo = [task for task in tasks if not _is_finished(task)]
        try:
            _for_all(_write, todo, num_workers, on_progress, kept, len(tasks))
            _for_all(_check, tasks, num_workers, None, 0, 0)
            index = _finish(source, out, tasks, tables, version)
        except OSError as error:
            raise _explained(error, out) from error
        records = [json.loads(task.record.read_bytes()) for task in tasks]
        shutil.rmtree(out / WORK_FOLDER, ignore_errors=True)
        return Written(index, kept, [file for record in records for file in record["unreadable"]])


def _plan(source: ShardSource, out: Path, size: int) -> tuple[list[ShardTask], dict[str, FileTable], str]:
    """Choose which samples each shard holds; also give a key that tells these shards from others."""
    key = hashlib.blake2b(json.dumps([source.task, source.layout, size], sort_keys=True).encode(), digest_size=16)
    tasks, tables = [], {}
    for part, content in source.parts.items():
        samples = content.samples
        if not samples:
            raise ValueError(f"there are no samples in the part {part!r}; nothing was written")
        names = [name for sample in samples for name in sample.names]
        if len(set(names)) < len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise ValueError(f"{twice!r} is there twice in the part {part!r}; remove it from one")
        sizes = [_sizes(sample, key) for sample in samples]
        files_each = len(samples[0].names)
        shard_of, place_of = np.zeros(len(samples), np.int32), np.zeros(len(samples), np.int32)
        members: list[list[int]] = [[]]
        filled = 0
        for i in sorted(range(len(samples)), key=lambda i: hashlib.sha256(os.fsencode(samples[i].names[0])).digest()):
            if members[-1] and filled + sizes[i] > size:
                members.append([])
                filled = 0
            shard_of[i], place_of[i] = len(members) - 1, len(members[-1])
            members[-1].append(i)
            filled += sizes[i]
        tasks += [ShardTask(out, part, n, [samples[i] for i in chosen]) for n, chosen in enumerate(members)]
        tables[part] = FileTable(
            encoded_names(names),
            shard_of.repeat(files_each),
            place_of.repeat(files_each),
            np.tile(np.arange(files_each, dtype=np.int8), len(samples)),
        )
    return tasks, tables, key.hexdigest()


def _sizes(sample: SourceSample, key: Any) -> int:
    """Bytes of the files of a sample, which `key` learns, with their times of change."""
    total = 0
    for name, file in zip(sample.names, sample.files, strict=True):
        try:
            status = os.stat(file.tar if isinstance(file, TarMember) else file)
            size, changed = file.size if isinstance(file, TarMember) else status.st_size, status.st_mtime_ns
        except OSError:
            size, changed = 0, 0
        total += size + len(name)
        key.update(f"{name}\0{size}\0{changed}\n".encode(errors="surrogateescape"))
    return total


@contextlib.contextmanager
def _claimed(out: Path, key: str) -> Iterator[None]:
    """Have the folder to oneself; refuse one that another process writes to, or that holds anything else."""
    from filelock import FileLock, Timeout

    plan = out / WORK_FOLDER / _PLAN
    _refuse_others(out, key)
    plan.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(str(plan.with_suffix(".lock")), timeout=0):
            _refuse_others(out, key)  # another process may have been here meanwhile
            write_json(plan, {"key": key})
            yield
    except Timeout:
        raise ValueError(
            f"{out}: another `scalablevit shard` writes to this folder; wait until it ends, or name another folder"
        ) from None


def _refuse_others(out: Path, key: str) -> None:
    """Refuse a folder that holds anything but the unfinished shards of the same data."""
    plan = out / WORK_FOLDER / _PLAN
    try:
        names = {entry.name for entry in out.iterdir()} if out.exists() else set()
    except NotADirectoryError:
        raise ValueError(f"{out} is a file; name a folder to write shards to") from None
    if INDEX_NAME in names:
        raise ValueError(f"{out}: it holds shards already; name another folder, or remove it to shard the data anew")
    if plan.exists():
        try:
            found = json.loads(plan.read_bytes())["key"]
        except (ValueError, KeyError, TypeError):
            found = None
        if found != key:
            raise ValueError(
                f"{out}: it holds unfinished shards of other data, of these data before they were changed, or of "
                "another size of shards; name another folder, or remove it"
            )
        return
    if names - {WORK_FOLDER}:
        raise ValueError(
            f"{out}: the folder is not empty, and holds no unfinished shards ({abridged(sorted(names))}); "
            "name another folder"
        )


def _is_finished(task: ShardTask) -> bool:
    try:
        return task.file.stat().st_size == json.loads(task.record.read_bytes())["shard"]["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _for_all(
    work: Callable[[ShardTask], None],
    tasks: Sequence[ShardTask],
    num_workers: int | Literal["auto"],
    on_progress: Callable[[int, int], None] | None,
    done: int,
    total: int,
) -> None:
    """Do something with shards, in several processes."""
    auto = min(available_cores(), _MOST_WORKERS)
    processes = min(auto if num_workers == "auto" else num_workers, len(tasks))
    pool = ProcessPoolExecutor(processes) if processes > 1 else None
    try:
        for i, _ in enumerate(map(work, tasks) if pool is None else pool.map(work, tasks), start=done + 1):
            if on_progress is not None:
                on_progress(i, total)
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _write(task: ShardTask) -> None:
    """Write a shard, then its record."""
    from litdata.streaming.writer import BinaryWriter

    folder = task.out / WORK_FOLDER / f"{task.part}-{task.number}.tmp"
    shutil.rmtree(folder, ignore_errors=True)
    writer = BinaryWriter(str(folder), chunk_size=len(task.samples), chunk_index=task.number)
    content = hashlib.blake2b(digest_size=16)
    unreadable = []
    for i, sample in enumerate(task.samples):
        values: list[bytes] = []
        for name, file in zip(sample.names, sample.files, strict=True):
            try:
                data = file.read() if isinstance(file, TarMember) else Path(file).read_bytes()
            except OSError as error:
                unreadable.append(f"{file}: {error.strerror or error}")
                data = b""
            values += [os.fsencode(name), data]
        for value in values:
            content.update(value)
        writer[i] = values
    writer.done()
    made = sorted(folder.glob("*.bin"))
    if len(made) != 1:
        raise ShardsError(f"{folder}: LitData wrote {len(made)} files for one shard; report this with its version")
    with made[0].open("rb") as chunk:
        os.fsync(chunk.fileno())
    [litdata_index] = folder.glob("*index.json")
    config = json.loads(litdata_index.read_bytes())["config"]
    task.file.parent.mkdir(exist_ok=True)
    os.replace(made[0], task.file)
    shard = Shard(task.file.name, len(task.samples), task.file.stat().st_size, file_digest(task.file))
    record = {"shard": asdict(shard), "content": content.hexdigest(), "config": config, "unreadable": unreadable}
    write_json(task.record, record)
    shutil.rmtree(folder, ignore_errors=True)


def _check(task: ShardTask) -> None:
    """Compare a shard with what was read of the files.

    Raises:
        ShardsError: it is another.
    """
    record = json.loads(task.record.read_bytes())
    shard = Shard(**record["shard"])
    content = hashlib.blake2b(digest_size=16)
    try:
        for value in _all_values(task.file, shard, 2 * len(task.samples[0].names)):
            content.update(value)
        is_same = content.hexdigest() == record["content"] and file_digest(task.file) == shard.digest
    except ShardDamageError:
        is_same = False
    if not is_same:
        task.record.unlink()
        raise ShardsError(
            f"{task.file}: it does not hold what was read of the {shard.samples:,} samples; check the disk, and run "
            "the same command again, which writes this shard anew"
        )


def _all_values(path: Path, shard: Shard, count: int) -> Iterator[bytes]:
    files = ShardFiles()
    files.open("", path, samples=shard.samples, size=shard.bytes)
    for place in range(shard.samples):
        yield from files.values("", place, count) or ()


def _finish(
    source: ShardSource, out: Path, tasks: Sequence[ShardTask], tables: dict[str, FileTable], version: str
) -> StreamIndex:
    """Write LitData's indexes, the tables of files, the extra files, and last the index that makes all of it valid."""
    parts = {}
    for part, table in tables.items():
        records = [json.loads(task.record.read_bytes()) for task in tasks if task.part == part]
        shards = tuple(Shard(**record["shard"]) for record in records)
        chunks = [
            {"chunk_bytes": shard.bytes, "chunk_size": shard.samples, "dim": None, "filename": shard.file}
            for shard in shards
        ]
        config = {**records[0]["config"], "chunk_size": max(shard.samples for shard in shards)}
        write_json(out / part / _LITDATA_INDEX, {"chunks": chunks, "config": config}, indent=None)
        content = table.to_bytes()
        write_atomically(out / files_name(part), content)
        samples = sum(shard.samples for shard in shards)
        parts[part] = StoredPart(samples, len(source.parts[part].samples[0].names), shards, digest(content))
        if samples != len(source.parts[part].samples):
            raise ShardsError(f"{out}: {samples:,} samples of {len(source.parts[part].samples):,} were written")
    extra = {}
    for name, file in source.extra.items():
        content = Path(file).read_bytes()
        write_atomically(out / name, content)
        extra[name] = digest(content)
    index = StreamIndex(source.task, version, source.layout, parts, extra)
    write_atomically(out / INDEX_NAME, index.to_json())
    return index


def _explained(error: OSError, out: Path) -> OSError:
    """Say what to do where the disk lets nothing be written."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    return WriteError(
        error.errno,
        f"{out}: the disk is full ({os.strerror(error.errno)}); free disk space and run the same command again, which "
        "keeps the shards that are finished, or remove the folder",
    )
