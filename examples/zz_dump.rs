#![allow(missing_docs, clippy::all)]
fn main() {
    for f in std::env::args().skip(1) {
        let b = std::fs::read(&f).unwrap();
        let t = std::time::Instant::now();
        let c = vfrace::oracle::Console::read(&b, Some(0));
        println!(
            "== {f} {} bytes {:?} blind={:?} gap={:?} omitted={}",
            b.len(),
            t.elapsed(),
            c.blind,
            c.gap,
            c.omitted
        );
        for r in c.armed.iter().take(40) {
            println!(
                "{:?} {} | {} | {:?} {} fp={:?} taint={:?} lockdep={:?} {} {} {:?}",
                r.class,
                r.rule,
                r.title,
                r.frame,
                if r.complete { "complete" } else { "CUT" },
                r.fingerprint,
                r.taint,
                r.lockdep,
                r.writer,
                r.followed,
                r.span
            );
        }
    }
}
