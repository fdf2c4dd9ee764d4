#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""What vfrace and public console parsers make of the same consoles, as Markdown.

    compare.py consoles FILE...     one row a console, one column a parser
    compare.py recordings DIR...    runs (console.log and events.jsonl): what needs more than the console
    compare.py theirs DIR           vfrace on syzkaller's own test consoles (pkg/report/testdata/linux/report)
    compare.py speed FILE...        seconds for 100 MB made of these consoles

DETAILS=yes adds what each parser said. CALLERS=no takes printk's callers (`[   T93]`) off, which some parsers do not read. LIMIT=SECONDS is for `speed`, ONLY=NAME,... leaves parsers out.
The parsers are those whose paths are in the environment, see peers.py and run.sh.
"""

import collections
import json
import os
import re
import signal
import sys
import tempfile
import time

import peers

# How a parser may call a finding of a class. Generous: a parser that says "something about locks" has caught a lockdep
# report, and what matters here is that it was not silent and did not take it for something else.
NAMES = {
    "BLIND": r"lockdep|lock debugging|turned off|too low",
    "GAP": r"dropped|lost|truncat",
    "ASSERT": r"warning|sleeping|scheduling|atomic|preempt|remove",
    "DEADLOCK": r"hung|blocked|hang|deadlock",
    "DOUBLE-REMOVAL": r"warning|kernfs|sysfs|irq|resource|ida_|klist|kobject",
    "LEAK": r"leak|unreferenced|unregister_netdevice|ref_tracker",
    "LIST-CORRUPTION": r"list|general.protection|dead0000|kernel bug",
    "LOCK-ORDER": r"lock|circular|recursi|rcu|context|non-static|inconsistent",
    "OOPS": r"oops|bug|panic|fault|null|unable|opcode|divide|int3|stack|error|rip:|reboot",
    "OTHER": r".",
    "REFCOUNT": r"refcount|kobject|warning",
    "STALL": r"lockup|stall|csd|watchdog|timed out|hung",
    "USE-AFTER-FREE": r"free|kasan|kfence|odebug|slab|redzone|poison|bug|warning",
    "WARN": r"warning",
}
# Seconds that a parser gets for the long console.
LIMIT = int(os.environ.get("LIMIT", "300"))
# These say only that there was something.
TELLS_NOTHING = ("xfstests", "blktests", "NIPA", "ktest.pl")
CALLER = re.compile(r"^(\[ *\d+\.\d{6}\])\[ *[CT]\d+\]", re.M)
TIMED = re.compile(r"^\[ *\d+\.\d{6}\]", re.M)


class Console:
    """A console of a corpus, its header taken off: `# finding: CLASS RULE FRAME complete|cut TITLE`, `# blind: ...`,
    `# gap: ...` or `# none`, up to `# ---` (tests/fixtures/README.md). If there is no header and the kernel printed no
    times, every line gets one: some parsers read only lines that have it, and all are to see the same."""

    def __init__(self, path, directory):
        self.name = os.path.basename(path)
        for suffix in (".log", ".txt"):
            self.name = self.name.removesuffix(suffix)
        lines = peers.text(path).splitlines(keepends=True)
        self.header, self.wanted, self.rules = False, [], []
        while lines and lines[0].startswith("# "):
            self.header = True
            kind, _, said = lines.pop(0)[2:].strip().partition(": ")
            if kind == "finding":
                words = said.split(None, 2)
                self.wanted.append(words[0])
                self.rules.append(words[1])
            elif kind in ("blind", "gap"):
                self.wanted.append(kind.upper())
        body = "".join(lines)
        if not self.header and not TIMED.search(body):
            body = "".join(f"[{n / 1000:12.6f}] {line}" for n, line in enumerate(lines))
        if os.environ.get("CALLERS") == "no":
            body = CALLER.sub(r"\1", body)
        self.file = os.path.join(directory, self.name + ".log")
        with open(self.file, "w", newline="") as out:
            out.write(body)


def distinct(found):
    counts = collections.Counter(found)
    return [f"{title} ({n}x)" if n > 1 else title for title, n in counts.items()]


def cell(text, most=90):
    text = re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
    return text if len(text) <= most else text[: most - 3] + "..."


def ask(parser, file):
    try:
        return parser.read(file)
    except Exception as problem:
        print(f"{parser.name} on {file}: {problem}", file=sys.stderr)
        return None


def ask_all(parser, files):
    if hasattr(parser, "read_many"):
        try:
            return parser.read_many(files)
        except Exception as problem:
            print(f"{parser.name}: {problem}; asked for each console", file=sys.stderr)
    return [ask(parser, file) for file in files]


def mark(parser, wanted, found):
    """yes, part (of several), other (found something, but not by a name for this), no; false and quiet where there is
    nothing to find."""
    if found is None:
        return "failed"
    if not wanted:
        return "false" if found else "quiet"
    if not found:
        return "no"
    if parser.name in TELLS_NOTHING:
        return "yes"
    # that lockdep is off behind it is a remark, not what it is
    wanted = [w for w in wanted if w != "BLIND"] or wanted
    if parser.name == "vfrace":
        named = [any(f.startswith(w + ":") for f in found) for w in wanted]
    else:
        named = [any(re.search(NAMES.get(w, "."), f, re.I) for f in found) for w in wanted]
    return "yes" if all(named) else "part" if any(named) else "other"


def row(*cells):
    print("| " + " | ".join(cells) + " |")


def head(*cells):
    row(*cells)
    row(*("---" for _ in cells))


MARKS = ("yes", "part", "other", "no", "quiet", "false", "failed")


def consoles(files, parsers):
    tally = {p.name: collections.Counter() for p in parsers}
    details = []
    with tempfile.TemporaryDirectory() as directory:
        prepared = [Console(path, directory) for path in sorted(files, key=os.path.basename)]
        said = {p.name: ask_all(p, [c.file for c in prepared]) for p in parsers}
        head("console", "what it is", *(p.name for p in parsers))
        for nth, console in enumerate(prepared):
            answers = {p.name: said[p.name][nth] for p in parsers}
            wanted = console.wanted
            if not console.header:  # nobody has said what is right: as vfrace sees it, which proves nothing for vfrace
                wanted = sorted({f.split(":")[0] for f in answers.get("vfrace") or []} - {"BLIND", "GAP"})
            marks = [mark(p, wanted, answers[p.name]) for p in parsers]
            for parser, is_so in zip(parsers, marks):
                tally[parser.name][is_so] += 1
            row(console.name, ", ".join(distinct(wanted)) or "nothing", *marks)
            details.append((console, answers))
    print()
    head("parser", *MARKS)
    for parser in parsers:
        row(parser.name, *(str(tally[parser.name][m]) for m in MARKS))
    if not os.environ.get("DETAILS"):
        return
    print()
    for console, answers in details:
        print(f"- {console.name}")
        for parser in parsers:
            if parser.name not in TELLS_NOTHING:
                print(f"  - {parser.name}: {short(parser, answers[parser.name] or [])}")


def recorded(directory):
    """What a run was, what was judged in the end, and on what ground: the console or the guest's invariants."""
    name, verdict, grounds = os.path.basename(directory), "none", collections.defaultdict(set)
    with open(os.path.join(directory, "events.jsonl"), errors="replace") as events:
        for event in map(json.loads, events):
            if event["event"] == "run-started":
                name = f"{event['scenario']} on {event['kernel']}"
            elif event["event"] == "finding" and event["standing"] != "known":
                grounds["console" if event.get("console") else "invariants"].add(event["class"])
            elif event["event"] == "finding":
                grounds["known"].add(event["class"])
            elif event["event"] == "judged":
                verdict = event["verdict"]
    said = "; ".join(f"{ground}: {', '.join(sorted(classes))}" for ground, classes in sorted(grounds.items()))
    return name, f"{verdict} ({said})" if said else verdict


def recordings(directories, parsers):
    head("run", "judged with the recording", *(p.name for p in parsers))
    for directory in directories:
        name, judged = recorded(directory)
        with tempfile.TemporaryDirectory() as scratch:
            console = Console(os.path.join(directory, "console.log"), scratch)
            answers = [ask(p, console.file) for p in parsers]
        row(name, judged, *("failed" if a is None else short(p, a) for p, a in zip(parsers, answers)))


def short(parser, found):
    """Three of the distinct findings, without numbers that differ from run to run."""
    if not found:
        return "nothing"
    if parser.name in TELLS_NOTHING:
        return "something"
    titles = [re.sub(r"-[0-9a-f]{8}$| *\[ *\d+\.\d+\](\[ *[CT]\d+\])?", "", f) for f in found]
    titles = distinct(titles)
    return "; ".join(cell(t, 60) for t in titles[:3]) + (f"; {len(titles) - 3} more" if len(titles) > 3 else "")


def theirs(directory, parsers):
    """syzkaller's tests: a header with TITLE (none: nothing is wrong), an empty line, the console, and sometimes the
    report that is expected."""
    ours = next(p for p in parsers if p.name == "vfrace")
    kinds, missed, false, count = collections.Counter(), collections.Counter(), [], 0
    with tempfile.TemporaryDirectory() as scratch:
        for name in sorted(os.listdir(directory)):
            with open(os.path.join(directory, name), "rb") as test:
                header, _, body = test.read().partition(b"\n\n")
            title = re.search(rb"^TITLE: (.*)$", header, re.M)
            file = os.path.join(scratch, name + ".log")
            with open(file, "wb") as out:
                out.write(body.split(b"\nREPORT:\n")[0])
            found = ask(ours, file)
            count += 1
            if title is None:
                if found:
                    false.append(f"{name}: {found[0]}")
                continue
            kind = re.sub(r" in .*| (Read|Write)$", "", title.group(1).decode(errors="replace"))
            kind = re.sub(r" (Read|Write).*", "", kind)
            kinds[kind] += 1
            if not found:
                missed[kind] += 1
    print(f"{count} consoles, {sum(kinds.values())} with a report; vfrace says nothing about {sum(missed.values())} of these,")
    print(f"and something about {len(false)} of the others.\n")
    head("kind (syzkaller's name)", "consoles", "of these, nothing from vfrace")
    for kind, n in sorted(missed.items(), key=lambda item: -item[1]):
        row(cell(kind), str(kinds[kind]), str(n))
    for line in false:
        print(f"- false: {cell(line)}")


def late(*_):
    raise TimeoutError(f"no answer in {LIMIT} s")


def speed(files, parsers, size=100_000_000):
    signal.signal(signal.SIGALRM, late)
    with tempfile.TemporaryDirectory() as directory:
        parts = [open(Console(f, directory).file, "rb").read() for f in sorted(files)]
        big = os.path.join(directory, "big.log")
        with open(big, "wb") as out:
            while out.tell() < size:
                for part in parts:
                    out.write(part)
        head("parser", "seconds for 100 MB", "findings")
        for parser in parsers:
            begun = time.monotonic()
            signal.alarm(LIMIT)
            try:
                found = ask(parser, big)
            finally:
                signal.alarm(0)
            seconds = time.monotonic() - begun
            told = f"more than {LIMIT}" if found is None and seconds >= LIMIT else f"{seconds:.1f}"
            row(parser.name, told, "none" if found is None else str(len(found)))
            sys.stdout.flush()


def main():
    parsers, problems = peers.installed()
    only = os.environ.get("ONLY")
    if only:
        parsers = [p for p in parsers if p.name in only.split(",")]
    for problem in problems:
        print(f"not used: {problem}", file=sys.stderr)
    if len(sys.argv) < 3 or not parsers:
        sys.exit(__doc__)
    what, *paths = sys.argv[1:]
    if what == "consoles":
        consoles(paths, parsers)
    elif what == "recordings":
        recordings(paths, parsers)
    elif what == "theirs":
        theirs(paths[0], parsers)
    elif what == "speed":
        speed(paths, parsers)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
