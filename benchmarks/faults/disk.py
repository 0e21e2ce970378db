"""Each call that writes, fails once: a full disk, in turn at every write, fsync, rename and open.

A shim before libc counts the calls that concern the folder of the output and fails one of them,
and all that follow, as a full disk does; the next round fails the next one. After each failure:
one line that says so, exit 1, the previous table untouched; and without the shim the same command
goes on to the bytes of an unbroken run. At the end the same on a small tmpfs that is truly full.
"""

import argparse
import ctypes
import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from runs import check, start, write_checkpoint, write_films

_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static long left = -1;
static int code = ENOSPC;
static char folder[4096];

void shim_arm(const char *path, long call, int error) {
    strcpy(folder, path); left = call; code = error;
}
long shim_left(void) { return left; }

static int fails(const char *path) {
    if (left < 0 || !folder[0] || !path || !strstr(path, folder)) return 0;
    if (left > 1) { left--; return 0; }
    left = 1;
    errno = code;
    return 1;
}
static int fails_at(int fd) {
    char link[64], path[4096];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    errno = saved;
    if (n < 0) return 0;
    path[n] = 0;
    return fails(path);
}
#define REAL(type, name, ...) type (*real)(__VA_ARGS__) = dlsym(RTLD_NEXT, name)
ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return fails_at(fd) ? -1 : real(fd, data, size);
}
int fsync(int fd) {
    REAL(int, "fsync", int);
    return fails_at(fd) ? -1 : real(fd);
}
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return fails(to) ? -1 : real(from, to);
}
static int opening(const char *name, const char *path, int flags, mode_t mode) {
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
    return (flags & O_ACCMODE) != O_RDONLY && fails(path) ? -1 : real(path, flags, mode);
}
int open(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
    return opening("open", path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
    return opening("open64", path, flags, mode);
}
"""


def with_shim() -> None:
    """Start this script anew with the shim before libc, if it is not there yet."""
    if "shim.so" in os.environ.get("LD_PRELOAD", ""):
        return
    folder = Path(tempfile.mkdtemp())
    (folder / "shim.c").write_text(_SHIM)
    compiler = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(folder / "shim.so")]
    subprocess.run([*compiler, str(folder / "shim.c"), "-ldl"], check=True)
    os.environ["LD_PRELOAD"] = str(folder / "shim.so")
    os.execv(sys.executable, [sys.executable, *sys.argv])


def check_failure(code: int, log: Path, reason: str) -> None:
    """One line that says what the disk said, and the exit code of a failure."""
    lines = log.read_text().splitlines()
    check(code == 1, f"exit {code}: {lines[-3:]}")
    errors = [line for line in lines if not line.startswith("going on")]
    check(len(errors) == 1 and reason in errors[0], f"not one clear line: {errors}")


def fail_each_call(
    words: list[str], output: Path, expected: bytes, number: int, *, most: int
) -> int:
    """Fail each call in turn; gives how many there were."""
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    reason, log = os.strerror(number), output.parent.parent / "log"

    def armed(call: int) -> Callable[[], object]:
        place = os.fsencode(f"{output.parent}/")
        return lambda: shim.shim_arm(place, ctypes.c_long(call), number)

    for call in range(1, most):
        output.write_bytes(b"previous")
        code = start([*words, "--overwrite"], log, before=armed(call)).wait()
        if code == 0:
            check(output.read_bytes() == expected, "the table of a run without a failure")
            return call - 1
        check_failure(code, log, reason)
        before = output.read_bytes()
        # Where the last sync of all fails, the table has its name already, and is whole.
        check(before in (b"previous", expected), f"the previous table is lost at call {call}")
        code = start([*words, "--overwrite"], log).wait()
        check(code == 0, f"going on after call {call}: {log.read_text()[-300:]}")
        check(output.read_bytes() == expected, f"other bytes after a failure at call {call}")
        check([path.name for path in output.parent.iterdir()] == [output.name], "files are left")
    raise SystemExit(f"FAILED: more than {most} calls")


def fill_a_small_disk(words: list[str], output: Path, expected: bytes, folder: Path) -> str:
    """The same on a tmpfs of some kilobytes, where this user may mount one."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={len(expected) // 2}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return "tmpfs: not permitted here, left out"
    try:
        on_disk = [disk / output.name if word == str(output) else word for word in words]
        again, log = [str(word) for word in on_disk], folder / "log"
        check_failure(start(again, log).wait(), log, os.strerror(errno.ENOSPC))
        check(not (disk / output.name).exists(), "a table on a full disk")
        subprocess.run(["mount", "-o", "remount,size=50M", str(disk)], check=True)
        check(start(again, log).wait() == 0, "going on with space")
        check((disk / output.name).read_bytes() == expected, "other bytes after a full disk")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    return "tmpfs: full, one line, gone on with to the same bytes"


def main() -> None:
    """Fail every call, with two errors, then fill a real disk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=30)
    parser.add_argument("--shard", type=int, default=15)
    parser.add_argument("--most-calls", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with_shim()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CONFIG_HOME"] = str(folder / "config")
        write_films(folder / "archive", options.files, seed=options.seed)
        output = folder / "out" / "r.parquet"
        output.parent.mkdir()
        words = ["score", str(folder / "archive"), "--workers", "1", "--batch-size", "8"]
        words += ["--checkpoint", str(write_checkpoint(folder / "tiny.safetensors"))]
        words += ["--commit-every", str(options.shard), "-o", str(output)]
        check(start(words, folder / "log").wait() == 0, "the unbroken run")
        expected = output.read_bytes()
        counts = [
            fail_each_call(words, output, expected, number, most=options.most_calls)
            for number in (errno.ENOSPC, errno.EIO)
        ]
        tmpfs = fill_a_small_disk(words, output, expected, folder)
    print(
        f"{counts[0]} calls failed in turn with ENOSPC, {counts[1]} with EIO: one line each, the "
        f"previous table intact, gone on with to the same bytes each time; {tmpfs}"
    )


if __name__ == "__main__":
    main()
