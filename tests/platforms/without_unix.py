"""Runs commands of gptlite in a Python that lacks what Windows lacks: python without_unix.py < COMMANDS.

Standard input holds a JSON list of commands, each a list of arguments. After each command a line on standard error says
its exit code. docs/explain/platforms.md lists what is simulated.

- The modules fcntl, resource, pwd and grp; calls such as os.fork, os.symlink, os.geteuid; signals such as SIGHUP; calls
  relative to an open directory; /proc, except for psutil, which reads it in place of Windows' own calls; any program on
  the path, so that there is no C compiler: all absent.
- Directories cannot be opened. Files that are open or mapped can be neither deleted, renamed nor replaced.
- Paths of more than 259 characters, of folders more than 247, are not found, as on Windows without long paths.
- Names that differ only in case are one, and names with characters that Windows forbids are refused.
- Text files have the encoding cp1252 and line ends of two characters unless the program says otherwise.
"""

import _signal
import builtins
import errno
import io
import json
import mmap
import os
import shutil
import sys

SHARING_VIOLATION, TOO_LONG = 32, 206
LONGEST_PATH, LONGEST_FOLDER = 259, 247
FORBIDDEN = set('<>:"|?*\\')
real_open, real_stat, real_listdir, real_readlink = io.open, os.stat, os.listdir, os.readlink


def busy(path):
    """The error of Windows for a file that is open, or a folder with an open file in it."""
    error = PermissionError(errno.EACCES, "the process cannot access the file because it is being used", str(path))
    error.winerror = SHARING_VIOLATION
    return error


def in_use():
    """Every file that this process has open or mapped."""
    found = set()
    for descriptor in real_listdir("/proc/self/fd"):
        try:
            found.add(real_readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:
            continue
    with real_open("/proc/self/maps", encoding="utf-8") as maps:
        found.update(line.split(maxsplit=5)[5].rstrip("\n") for line in maps if line.count("/"))
    return found


def check_unused(path):
    place = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    place = os.path.join(place, os.path.basename(os.fspath(path)))
    for name in in_use():
        if name == place or name.startswith(place + os.sep):
            raise busy(path)


def check_length(path, longest=LONGEST_PATH):
    if len(os.path.abspath(path)) > longest:
        error = FileNotFoundError(errno.ENOENT, "the file name or extension is too long", os.fspath(path))
        error.winerror = TOO_LONG
        raise error


def check_name(path):
    """Raises the errors of Windows for a new name."""
    folder, name = os.path.split(os.path.abspath(path))
    if FORBIDDEN & set(name) or name.endswith((" ", ".")):
        raise OSError(errno.EINVAL, "the file name is incorrect", str(path))
    if os.path.isdir(folder):
        same = [other for other in real_listdir(folder) if other.casefold() == name.casefold() and other != name]
        if same:
            raise FileExistsError(errno.EEXIST, f"it is the same name as {same[0]}", str(path))


def is_hidden(path):
    """Is it in /proc, and asked for by another module than psutil?"""
    caller = sys._getframe(2).f_globals.get("__name__", "")
    return str(path).startswith("/proc") and not caller.startswith("psutil")


def without_directories(real, *changes):
    """A call that has no dir_fd; `changes` are the numbers of those arguments that may not be in use."""

    def call(*arguments, **options):
        if any(options.pop(name, None) is not None for name in ("dir_fd", "src_dir_fd", "dst_dir_fd")):
            raise NotImplementedError("dir_fd is not available on this platform")
        for i in changes:
            check_unused(arguments[i])
        if real.__name__ == "mkdir":
            check_length(arguments[0], LONGEST_FOLDER)
        for name in arguments if real.__name__ in ("rename", "replace") else ():
            check_length(name)
        if real.__name__ in ("rename", "mkdir"):
            check_name(arguments[-1] if real.__name__ == "rename" else arguments[0])
        if real.__name__ == "rename" and os.path.lexists(arguments[1]):
            raise FileExistsError(errno.EEXIST, "cannot create a file when that file already exists", arguments[1])
        return real(*arguments, **options)

    call.__name__ = real.__name__
    return call


def open_descriptor(path, flags, mode=0o777, *, dir_fd=None, real=os.open):
    if dir_fd is not None:
        raise NotImplementedError("dir_fd is not available on this platform")
    check_length(path)
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, "permission denied", str(path))
    if is_hidden(path):
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    if flags & os.O_CREAT:
        check_name(path)
    return real(path, flags, mode)


def open_file(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
    if isinstance(file, (str, os.PathLike)):
        check_length(file)
        if is_hidden(file):
            raise FileNotFoundError(errno.ENOENT, "no such file", str(file))
        if set("wax") & set(mode):
            check_name(file)
    if "b" not in mode:
        encoding = "cp1252" if encoding in (None, "locale") else encoding
        newline = "\r\n" if newline is None and set("wax") & set(mode) else newline
    return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)


def look(path, *, dir_fd=None, follow_symlinks=True):
    if dir_fd is not None:
        raise NotImplementedError("dir_fd is not available on this platform")
    if not isinstance(path, int) and is_hidden(path):
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    return real_stat(path, follow_symlinks=follow_symlinks)


def forget_unix():
    for name in ("fcntl", "resource", "pwd", "grp", "termios"):
        sys.modules[name] = None
    gone = {
        os: "fork forkpty symlink geteuid getuid getgid getegid killpg getpgid setsid memfd_create posix_fadvise "
        "posix_fallocate sched_getaffinity mkfifo O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_CLOEXEC O_NOCTTY O_PATH",
        _signal: "SIGHUP SIGKILL SIGCONT SIGSTOP SIGPIPE SIGUSR1 SIGUSR2 SIGALRM SIGCHLD pthread_sigmask",
        mmap: "MAP_PRIVATE MAP_ANONYMOUS MADV_HUGEPAGE",
    }
    for module, names in gone.items():
        for name in names.split():
            if hasattr(module, name):
                delattr(module, name)
    if "signal" in sys.modules:
        for name in gone[_signal].split():
            if hasattr(sys.modules["signal"], name):
                delattr(sys.modules["signal"], name)
    os.supports_dir_fd, os.supports_follow_symlinks = set(), set()
    shutil._use_fd_functions = False
    for name, changes in {"rename": (0,), "replace": (0, 1), "unlink": (0,), "remove": (0,), "rmdir": ()}.items():
        setattr(os, name, without_directories(getattr(os, name), *changes))
    os.mkdir = without_directories(os.mkdir)
    os.open, os.stat = open_descriptor, look
    io.open = builtins.open = open_file
    os.environ["PATH"] = ""
    os.environ.pop("CC", None)


def check_simulation():
    """See that an open file cannot be deleted, nor a folder be renamed that holds one."""
    os.mkdir("simulated")
    name = os.path.join("simulated", "file")
    with open(name, "w") as file:
        file.write("\u20ac\n")
        for call, *paths in ((os.unlink, name), (os.rename, "simulated", "renamed"), (os.replace, name, "new")):
            try:
                call(*paths)
            except PermissionError:
                continue
            raise AssertionError("the simulation lets open files go")
    with open(name, "rb") as file:
        assert file.read() == b"\x80\r\n"
    shutil.rmtree("simulated")


def main():
    commands = json.loads(sys.stdin.buffer.read())
    # Libraries that on Windows are made for Windows, and choose by what they find when they are loaded.
    import platformdirs  # noqa: F401
    import psutil  # noqa: F401
    import torch  # noqa: F401

    forget_unix()
    from gptlite.cli.main import main as gptlite

    check_simulation()
    for command in commands:
        try:
            gptlite(command)
        except SystemExit as ended:
            sys.stdout.flush()
            print(f"EXIT {ended.code}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
