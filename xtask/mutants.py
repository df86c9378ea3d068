#!/usr/bin/env python3
"""Judges the mutants of `cargo mutants --list` with one build.

cargo-mutants builds a crate and its tests again for each of 1500 mutants, a minute each. Here every
mutated body is an arm of a switch in its function, and an environment variable chooses the arm. A
mutant costs one run of the tests that reach its function, the likeliest first. Arms that do not
build are found by the compiler's errors and left out.

  python3 xtask/mutants.py PACKAGE [--skip TESTS,..] [--again] [--apart] FILE..     (files below crates/PACKAGE/src)

Results go to target/mutants/PACKAGE.jsonl. A mutant is judged once; --again judges the missed ones
again. A `const fn` becomes a plain one where no constant needs it, and an `impl Iterator` a boxed
one. Constants, and functions that take and return an `impl Trait`, can have no switch: --apart
judges only these, with a build for each. Needs cargo-mutants. A test that hangs or takes more than
5 GiB counts as failed.
"""
import collections, json, os, re, signal, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# These share state of the whole program, or are slow, so each is a program of its own. All others
# are merged into one program, so that the mutants are built once.
ALONE = {"arenas", "reuse_race", "crash", "threads"}

SWITCH = """
pub(crate) mod mutants {
    extern crate std;
    pub(crate) use std::boxed::Box;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
    const UNKNOWN: u32 = u32::MAX;
    const RECORD: u32 = u32::MAX - 1;
    static CHOSEN: AtomicU32 = AtomicU32::new(UNKNOWN);
    static SEEN: [AtomicBool; 4096] = [const { AtomicBool::new(false) }; 4096];
    #[inline(always)]
    pub(crate) fn chosen(function: usize) -> u32 {
        let chosen = CHOSEN.load(Relaxed);
        if chosen < RECORD { chosen } else { first(function) }
    }
    #[cold]
    fn first(function: usize) -> u32 {
        use std::io::Write;
        let record = std::env::var("MUTANT_REACHED");
        if CHOSEN.load(Relaxed) == UNKNOWN {
            let mutant = std::env::var("MUTANT").map_or(0, |n| n.parse().unwrap());
            CHOSEN.store(if record.is_ok() { RECORD } else { mutant }, Relaxed);
            return if record.is_ok() { first(function) } else { mutant };
        }
        if let Ok(path) = record && !SEEN[function].swap(true, Relaxed) {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
            file.write_all(std::format!("{function}\\n").as_bytes()).unwrap();
        }
        0
    }
}
"""


class Run:
    def __init__(self, package, files, skip, again, apart):
        self.package, self.files, self.skip, self.again, self.apart = package, files, skip, again, apart
        self.keeps_const = apart
        self.work = ROOT / "target" / "mutants" / package
        self.crate = self.work / "tree" / "crates" / package
        self.results = self.work.with_suffix(".jsonl")
        self.env = dict(os.environ, CARGO_TARGET_DIR=str(self.work / "target"), RUSTFLAGS="--cap-lints allow",
                        CARGO_PROFILE_DEV_DEBUG="0", CARGO_INCREMENTAL="0", RUST_BACKTRACE="0")

    def list(self):
        """Returns the mutants, each with the number of its function, or the reason for no switch."""
        command = ["cargo", "mutants", "-p", self.package, "--list", "--json"]
        for file in self.files:
            command += ["-f", f"crates/{self.package}/src/{file}"]
        mutants = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
        # Tests below `cfg(all(test, ..))`, which cargo-mutants takes for code.
        mutants = [m for m in mutants if " tests::" not in m["name"]]
        functions = {}
        for n, mutant in enumerate(mutants, 1):
            mutant["id"], function = n, mutant["function"]
            if function is None:
                mutant["alone"] = "a constant"
                continue
            start = function["span"]["start"]
            mutant["fn"] = functions.setdefault((mutant["file"], start["line"], start["column"]), len(functions))
            text = cut((ROOT / mutant["file"]).read_text(), function["span"])
            signature = text[:body_start(text)]
            iterator = re.fullmatch(r"-> impl (Iterator *<.*>)", function["return_type"] or "", re.S)
            if re.search(r"\bconst (unsafe )?fn\b", signature) and self.keeps_const:
                mutant["alone"] = "a const fn"
            elif iterator and "impl " not in signature[: signature.index("->")]:
                mutant["boxed"] = iterator[1]
            elif "impl " in (function["return_type"] or ""):
                mutant["alone"] = "returns an impl Trait"
        return mutants

    def copy(self, mutated):
        """Copies everything except the mutated files, and merges most tests into one program."""
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0"):
            source = ROOT / name
            if name and name not in mutated and source.is_file() and source.parent != ROOT / "crates" / self.package:
                write(self.work / "tree" / name, source.read_bytes())
        tests = {path.stem: path.name for path in (ROOT / "crates" / self.package / "tests").glob("*.rs")
                 if not re.search(r"^#!\[cfg\((?!not\()", path.read_text(), re.M)}
        merged = sorted(tests.keys() - ALONE)
        write(self.crate / "tests" / "merged.rs", "".join(f'#[path = "{n}.rs"]\nmod {n};\n' for n in merged).encode())
        toml = (ROOT / "crates" / self.package / "Cargo.toml").read_text()
        toml = toml.replace("[package]\n", "[package]\nautotests = false\n", 1)
        alone = {n: f"{n}.rs" for n in tests.keys() & ALONE}
        alone |= {path.parent.name: f"{path.parent.name}/main.rs" for path in (self.crate / "tests").glob("*/main.rs")}
        for name, path in {"merged": "merged.rs", **alone}.items():
            toml += f'\n[[test]]\nname = "{name}"\npath = "tests/{path}"\n'
        write(self.crate / "Cargo.toml", toml.encode())
        return merged

    def generate(self, mutants, dropped):
        """Writes the mutated files. Returns the lines of each arm, by file."""
        by_function = collections.defaultdict(lambda: collections.defaultdict(list))
        for mutant in mutants:
            if mutant["id"] not in dropped and "alone" not in mutant:
                span = mutant["function"]["span"]
                by_function[mutant["file"]][span["start"]["line"], span["start"]["column"]].append(mutant)
        arms = {}
        library = f"crates/{self.package}/src/lib.rs"
        for file in {mutant["file"] for mutant in mutants} | {library}:
            text = (ROOT / file).read_text()
            out, at, arms[file] = "", 0, []
            for _, group in sorted(by_function[file].items()):
                start, end = (place(text, group[0]["function"]["span"][side]) for side in ("start", "end"))
                body = start + body_start(text[start:end])
                out += text[at:body] + f"{{\nmatch crate::mutants::chosen({group[0]['fn']}) {{\n"
                box, unbox = "", ""
                if "boxed" in group[0]:
                    box, unbox = "crate::mutants::Box::new(", f") as crate::mutants::Box<dyn {group[0]['boxed']} + '_>,"
                for mutant in group:
                    first, last = (place(text, mutant["span"][side]) for side in ("start", "end"))
                    line = out.count("\n") + 1
                    out += f"{mutant['id']} => {box}{text[body:first]}{mutant['replacement']}{text[last:end]}{unbox}\n"
                    arms[file].append((line, out.count("\n"), mutant["id"]))
                out, at = out + f"_ => {box}{text[body:end]}{unbox}\n}}\n}}", end
            out = (out + text[at:]).replace("#[inline(always)]", "#[inline]") + (SWITCH if file == library else "")
            if not self.keeps_const:
                out = re.sub(r"\bconst ((unsafe )?fn\b)", r"\1", out)
            write(self.work / "tree" / file, out.encode())
        return arms

    def build(self, mutants, dropped):
        """Builds, and drops the mutants that do not build. Returns the test programs."""
        while True:
            programs, bad, said = self.compile(self.generate(mutants, dropped))
            if not said:
                return programs
            if not bad and self.keeps_const:
                sys.exit(said[-3000:])
            if not bad:
                # A constant is made by one of the functions.
                self.keeps_const = True
                mutants[:] = self.list()
            dropped |= bad

    def build_one(self, mutant, file):
        """Builds with one mutant, or with none. Returns the test programs, or none if it fails."""
        text = (ROOT / file).read_text()
        if mutant:
            first, last = (place(text, mutant["span"][side]) for side in ("start", "end"))
            text = text[:first] + mutant["replacement"] + text[last:]
        write(self.work / "tree" / file, text.encode())
        programs, _, said = self.compile({})
        return [] if said else programs

    def compile(self, arms):
        """Returns the test programs, the mutants that do not build, and the compiler's errors."""
        programs, bad = [], set()
        command = ["cargo", "test", "-p", self.package, "--lib", "--tests", "--no-run", "--message-format=json"]
        built = subprocess.run(command, cwd=self.work / "tree", env=self.env, capture_output=True, text=True)
        for line in built.stdout.splitlines():
            message = json.loads(line)
            if message["reason"] == "compiler-artifact" and message["executable"] and message["profile"]["test"]:
                programs.append((message["target"]["name"], message["executable"]))
            if message["reason"] == "compiler-message" and message["message"]["level"] == "error":
                for span in sorted(message["message"]["spans"], key=lambda span: not span["is_primary"]):
                    while span["file_name"] not in arms and span.get("expansion"):
                        span = span["expansion"]["span"]
                    of = arms.get(span["file_name"], [])
                    hit = {mutant for first, last, mutant in of if first <= span["line_start"] <= last}
                    bad |= hit
                    if hit:
                        break
        return programs, bad, built.stderr if built.returncode else ""

    def test(self, program, mutant, seconds, **extra):
        """Runs one test program, or the part of the merged one that `program` names."""
        path, *only = program
        log = (self.work / "log").open("w+b")
        child = subprocess.Popen([path, "--quiet", *only], cwd=self.crate, stdout=log, stderr=subprocess.STDOUT,
                                 env=dict(self.env, MUTANT=str(mutant), **extra), start_new_session=True)
        end, pause, status = time.time() + seconds, 0.005, None
        while status is None:
            try:
                status = "passed" if child.wait(pause) == 0 else "noticed"
            except subprocess.TimeoutExpired:
                pause = min(0.25, pause * 1.5)
                pages = Path(f"/proc/{child.pid}/statm").read_text().split()
                if time.time() > end or len(pages) > 1 and int(pages[1]) * 4096 > 5 << 30:
                    status = "hangs"
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        return status

    def judge(self):
        mutants = self.list()
        done = {}
        if self.results.exists():
            done = {r["name"]: r["status"] for r in map(json.loads, self.results.read_text().splitlines())}
            # A mutant may have a switch now.
            done = {name: status for name, status in done.items() if status != "alone" or self.apart}
        if self.again:
            mutants = [m for m in mutants if done.get(m["name"], "missed") == "missed"]
        if self.apart:
            mutants = [m for m in mutants if "alone" in m and done.get(m["name"], "alone") in ("alone", "missed")]
            merged, dropped = self.copy(set()), set()
            programs = self.build_one(None, mutants[0]["file"])
        else:
            merged = self.copy({m["file"] for m in mutants} | {f"crates/{self.package}/src/lib.rs"})
            dropped = {m["id"] for m in mutants if done.get(m["name"]) == "does not build"}
            programs = self.build(mutants, dropped)
        tests = parts(programs, merged)
        took, reached = {}, {}
        for name, program in tests.items():
            if name in self.skip:
                continue
            start = time.time()
            if self.test(program, 0, 300) != "passed":
                sys.exit(f"{name} fails without a mutant: {(self.work / 'log').read_text()[-2000:]}")
            took[name] = time.time() - start
            hits = self.work / "reached"
            hits.unlink(missing_ok=True)
            if not self.apart:
                self.test(program, 0, 300, MUTANT_REACHED=str(hits))
            reached[name] = {int(line) for line in hits.read_text().split()} if hits.exists() else set()
            print(f"{name}: {took[name]:.1f} s", flush=True)
        noticed = collections.Counter()
        with self.results.open("a") as out:
            for mutant in mutants:
                if not self.apart and done.get(mutant["name"], "missed") != "missed":
                    continue
                if not self.apart and mutant["name"] in done and not self.again:
                    continue
                by, status = "", "missed"
                if self.apart:
                    tests = parts(self.build_one(mutant, mutant["file"]), merged)
                if mutant["id"] in dropped or not tests:
                    status = "does not build"
                elif "alone" in mutant and not self.apart:
                    status, by = "alone", mutant["alone"]
                else:
                    function = mutant.get("fn")
                    weight = lambda t: took[t] / (0.05 + noticed[function, t] + 0.2 * noticed[mutant["file"], t])
                    for name in sorted((t for t in took if self.apart or function in reached[t]), key=weight):
                        status = self.test(tests[name], mutant["id"], max(20, 6 * took[name]))
                        if status != "passed":
                            by = name
                            noticed.update({(function, name): 1, (mutant["file"], name): 1})
                            break
                    status = "missed" if status == "passed" else status
                if self.apart:
                    write(self.work / "tree" / mutant["file"], (ROOT / mutant["file"]).read_bytes())
                if status in ("missed", "hangs"):
                    print(status, mutant["name"], flush=True)
                out.write(json.dumps({"name": mutant["name"], "file": mutant["file"], "status": status, "by": by}) + "\n")
                out.flush()


def parts(programs, merged):
    """Returns the tests by name: programs, or parts of the merged one."""
    tests = {n: (path, f"{n}::") for name, path in programs if name == "merged" for n in merged}
    return tests | {name: (path,) for name, path in programs if name != "merged"}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


def place(text, at):
    """Returns the offset of a line and a column in a text."""
    lines = text.splitlines(keepends=True)
    return sum(map(len, lines[: at["line"] - 1])) + at["column"] - 1


def cut(text, span):
    return text[place(text, span["start"]) : place(text, span["end"])]


def body_start(text):
    """Returns the offset of the brace that opens a function's body."""
    at, depth = 0, 0
    while text[at] != "{" or depth:
        if text.startswith("//", at):
            at = text.index("\n", at)
        elif text.startswith("->", at):
            at += 1
        depth += (text[at] in "([") - (text[at] in ")]")
        at += 1
    return at


def main():
    arguments, skip = sys.argv[1:], []
    if "--skip" in arguments:
        at = arguments.index("--skip")
        skip = arguments[at + 1].split(",")
        del arguments[at : at + 2]
    again, apart = "--again" in arguments, "--apart" in arguments
    arguments = [a for a in arguments if a not in ("--again", "--apart")]
    if len(arguments) < 2:
        sys.exit(__doc__)
    Run(arguments[0], arguments[1:], skip, again, apart).judge()


main()
