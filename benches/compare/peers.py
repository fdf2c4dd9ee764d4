# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Runs one public console parser each and says what it found.

Every class takes the path of an installed peer and has `read(file)`, which returns the list of the peer's findings in
its own words, in its own order. Nothing here decides what is right.
"""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import types


def output(command, **kwargs):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, **kwargs)
    return done.stdout.decode(errors="replace"), done


def text(file):
    with open(file, errors="replace", newline="") as console:
        return console.read()


class Vfrace:
    """`vfrace judge`, on the console alone."""

    name = "vfrace"

    def __init__(self, path):
        self.path = path

    def judge(self, file, *options):
        printed, done = output([self.path, "judge", file, "--format", "json", *options])
        try:
            return json.loads(printed)
        except ValueError as problem:
            raise RuntimeError(done.stderr.decode(errors="replace")[-300:]) from problem

    def read(self, file):
        judged = self.judge(file)
        found = [f"{f['class']}: {f['title']} [{f.get('frame') or '-'}]" for f in judged["findings"]]
        for kind, name in (("lockdep_off", "BLIND"), ("gap", "GAP")):
            if judged["remarks"].get(kind):
                found.append(f"{name}: {judged['remarks'][kind]}")
        return found


class Syzkaller:
    """syzkaller's pkg/report, built by syzkaller/build.sh: `path` is the program syz-read."""

    name = "syzkaller"

    def __init__(self, path):
        self.path = path

    def read(self, file):
        return self.read_many([file])[0]

    def read_many(self, files):
        """One process for all consoles of an architecture: its start takes longer than most consoles."""
        answers = {}
        for arch in ("amd64", "s390x"):
            mine = [f for f in files if ("s390x" in os.path.basename(f)) == (arch == "s390x")]
            printed, done = output([self.path, *mine], env={**os.environ, "CONSOLE_ARCH": arch})
            if done.returncode:
                raise RuntimeError(done.stderr.decode(errors="replace"))
            for answer in map(json.loads, printed.split("\n")[:-1]):
                answers[answer["file"]] = [
                    r["title"] + (" (corrupted)" if r["corrupted"] else "") + (" (suppressed)" if r["suppressed"] else "")
                    for r in answer["reports"]
                ]
        return [answers[f] for f in files]


class Logspec:
    """KernelCI's logspec: `path` is its source tree. Its search for kernel errors is given the whole console; its parsers
    for boots look only at what comes before the first shell prompt."""

    name = "logspec"

    def __init__(self, path):
        sys.path.insert(0, path)
        self.find = importlib.import_module("logspec.utils.linux_kernel_errors").find_kernel_error

    def read(self, file):
        left, found = text(file), []
        while error := self.find(left):
            left = left[error["_end"]:]
            if error["error"]:
                found.append(f"{error['error'].error_type}: {error['error'].error_summary}")
        return found


class Tuxparse:
    """LKFT's tuxparse (the parser of SQUAD's plugin as well): `path` is the folder that it is installed in.
    `unknown-boot-failure` is left out: it says that no login prompt was seen, which none of these guests has."""

    name = "tuxparse"

    def __init__(self, path):
        sys.path.append(path)
        self.parser = importlib.import_module("tuxparse.boot_test_parser").BootTestParser()

    def read(self, file):
        with open(file, errors="replace") as console:
            suites = self.parser.parse_log(console, False)
        return [
            test
            for suite in suites.values()
            for test, what in suite.items()
            if what.get("result") == "fail" and not test.startswith("unknown-boot-failure")
        ]


class Lava:
    """LAVA's LinuxKernelMessages (lava_dispatcher/utils/messages.py), run on the console as its dispatcher runs it on a
    serial line: `path` is LAVA's source tree. Needs pexpect."""

    name = "LAVA"

    def __init__(self, path):
        sys.path.insert(0, path)
        logs = types.ModuleType("lava_common.log")
        logs.YAMLLogger = type("YAMLLogger", (), {})
        sys.modules["lava_common.log"] = logs
        self.messages = importlib.import_module("lava_dispatcher.utils.messages")
        self.pexpect = importlib.import_module("pexpect")

    def read(self, file):
        import pexpect.fdpexpect

        with tempfile.NamedTemporaryFile() as line:
            # a serial line ends its lines so, and the patterns ask for it
            line.write(re.sub(r"\r*\n", "\r\n", text(file)).encode())
            line.flush()
            with open(line.name, "rb") as console:
                raw = pexpect.fdpexpect.fdspawn(console.fileno(), encoding="utf-8", codec_errors="replace", maxread=65536)
                return self.messages_of(raw)

    def messages_of(self, raw):
        prompts = self.messages.LinuxKernelMessages.get_init_prompts()
        kinds = []

        class Connection:
            prompt_str = prompts
            raw_connection = raw

            def wait(self, _end=None, max_searchwindowsize=False, job_error_message=None):
                return raw.expect(self.prompt_str, timeout=60)

        class Logger:
            def debug(self, *_):
                pass

            def warning(self, message, *_):
                if ": kernel " in message:
                    kinds.append(message.split(": kernel ")[1].strip("'"))

            error = warning

        action = types.SimpleNamespace(
            name="messages", force_prompt=False, logger=Logger(), errors_add=lambda _: None, parameters={}, level="1"
        )
        try:
            found = self.messages.LinuxKernelMessages.parse_failures(Connection(), action, time.monotonic() + 3600, None)
        except Exception as halt:  # a panic ends the job with an error that carries its text
            return kinds[:-1] + ["panic: " + str(halt).strip().splitlines()[0]]
        return [f"{f['kind']}: {f['message'].strip().splitlines()[0]}" for f in found]


class Lkp:
    """The 0-day robot's lkp-tests: `path` is its source tree, whose programs/dmesg/parse is run. Needs Ruby with
    tty-command and activesupport."""

    name = "lkp-tests"

    def __init__(self, path):
        self.path = os.path.abspath(path)

    def read(self, file):
        return self.read_many([file])[0]

    def read_many(self, files):
        """programs/dmesg/parse in a fork each, its libraries loaded once."""
        script = (
            "require ENV['LKP_SRC'] + '/lib/dmesg'; $VERBOSE = nil; parse = ARGV.shift\n"
            "ARGV.dup.each { |f| puts \"=file #{f}\"; $stdout.flush\n"
            "Process.wait(fork { $0 = parse; ARGV.replace([f]); load parse }) }\n"
        )
        with tempfile.TemporaryDirectory() as directory:
            copies = [os.path.join(directory, str(n)) for n in range(len(files))]
            for file, copy in zip(files, copies):
                shutil.copy(file, copy)  # it rewrites its input
            printed, done = output(
                ["ruby", "-e", script, os.path.join(self.path, "programs/dmesg/parse"), *copies],
                env={**os.environ, "LKP_SRC": self.path, "LC_ALL": "C.UTF-8"},
            )
        answers = printed.split("=file ")[1:]
        if len(answers) != len(files):
            raise RuntimeError(done.stderr.decode(errors="replace")[-300:])
        return [re.findall(r"^message:(.*?): ", a, re.M) for a in answers]


class Abrt:
    """abrt-dump-oops's extractor, built by abrt/build.sh: `path` is the program abrt-read."""

    name = "abrt"

    def __init__(self, path):
        self.path = path

    def read(self, file):
        printed, done = output([self.path, file])
        if done.returncode:
            raise RuntimeError(f"abrt-read: {done.returncode}")
        return printed.splitlines()


class Nipa:
    """Netdev's CI: `path` is NIPA's source tree, whose contest/remote/lib/crash.py is used."""

    name = "NIPA"

    def __init__(self, path):
        sys.path.insert(0, os.path.join(path, "contest/remote/lib"))
        self.crash = importlib.import_module("crash")

    def read(self, file):
        console = text(file).replace("\r", "")
        if not self.crash.has_crash(console):
            return []
        _, prints = self.crash.extract_crash(console, "", lambda: None)
        return sorted(p for p in prints if p) or ["crash"]


class Fstests:
    """xfstests and blktests decide by one list of words each: `path` is the file that has `_check_dmesg` (common/rc,
    check). The function is taken out of it and run."""

    def __init__(self, path, name):
        self.name = name
        source = text(path)
        self.functions = ""
        for function in ("_check_dmesg_filter", "_check_dmesg"):
            if found := re.search(rf"^{function}\(\).*?^\}}$", source, re.M | re.S):
                self.functions += found.group(0) + "\n"

    def read(self, file):
        return self.read_many([file])[0]

    def read_many(self, files):
        with tempfile.TemporaryDirectory() as directory:
            script = (
                f"RESULT_DIR={directory} RESULTS_DIR={directory} TEST_NAME=t seqres={directory}/t CHECK_DMESG=1\n"
                "DMESG_FILTER=cat; _dump_err() { :; }\n"
                f'_dmesg_since_test_start() {{ cat "$console"; }}\n{self.functions}\n'
                f'for console; do touch {directory}/check_dmesg; _check_dmesg; echo "=$?"; done'
            )
            printed, _ = output(["bash", "-c", script, "bash", *map(os.path.abspath, files)])
        answers = re.findall(r"^=(\d+)$", printed, re.M)
        if len(answers) != len(files):
            raise RuntimeError(f"{self.name}: its function has changed")
        return [["something"] if a == "1" else [] for a in answers]


class Ktest:
    """The kernel tree's ktest.pl: `path` is the script. It wants a machine to boot, so only its two conditions for a
    failure (a call trace, a panic; `monitor`) are read out of it and applied to the lines."""

    name = "ktest.pl"

    def __init__(self, path):
        source = text(path)
        wanted = set(re.findall(r"\$full_line =~ /(call trace:|Kernel panic -)/(i?)", source))
        self.patterns = [re.compile(p, re.I if flag else 0) for p, flag in wanted]
        if len(self.patterns) != 2:
            raise RuntimeError("ktest.pl has changed: its patterns were not found")

    def read(self, file):
        return [line.strip() for line in text(file).splitlines() if any(p.search(line) for p in self.patterns)]


PEERS = {
    "VFRACE": Vfrace,
    "SYZKALLER": Syzkaller,
    "LOGSPEC": Logspec,
    "TUXPARSE": Tuxparse,
    "LAVA": Lava,
    "LKP": Lkp,
    "ABRT": Abrt,
    "NIPA": Nipa,
    "XFSTESTS": lambda path: Fstests(path, "xfstests"),
    "BLKTESTS": lambda path: Fstests(path, "blktests"),
    "KTEST": Ktest,
}


def installed():
    """The peers whose paths are in the environment, and the reason for each that cannot be used."""
    peers, problems = [], []
    for variable, make in PEERS.items():
        if path := os.environ.get(variable):
            try:
                peers.append(make(path))
            except Exception as problem:
                problems.append(f"{variable}: {problem}")
    return peers, problems
