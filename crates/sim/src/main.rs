//! `cargo xtask simulate [SCENARIO] [--plot DIR]`: runs the scenarios, prints the table, and says by its exit code whether
//! every band was held.

use std::path::PathBuf;
use std::process::ExitCode;

use fusewire_sim::{Verdict, cases, draw, print, run};

fn main() -> ExitCode {
    match simulate(std::env::args().skip(1)) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("simulate: {message}");
            ExitCode::from(2)
        }
    }
}

fn simulate(args: impl Iterator<Item = String>) -> Result<ExitCode, String> {
    let (mut wanted, mut plots) = (Vec::new(), None);
    let mut args = args;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--plot" => plots = Some(PathBuf::from(args.next().ok_or("--plot needs a folder")?)),
            _ => wanted.push(arg),
        }
    }
    let mut cases = cases();
    if !wanted.is_empty() {
        // `S16` means all of its rows.
        let names = |name: &str| wanted.iter().any(|w| name == w || name.split([' ', '/']).next() == Some(w));
        cases.retain(|case| names(&case.name));
    }
    if cases.is_empty() {
        return Err(format!("no scenario is named {}", wanted.join(", ")));
    }
    let began = std::time::Instant::now();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let done = run(&cases, threads);
    print!("{}", print(&done));
    println!("{:.1} s on {threads} threads", began.elapsed().as_secs_f64());
    if let Some(folder) = plots {
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        for one in &done {
            let Some(svg) = draw(one) else { continue };
            let path = folder.join(format!("{}.svg", one.name.replace([' ', '/'], "-")));
            std::fs::write(&path, svg).map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    let broken = done.iter().any(|one| one.verdict() == Verdict::Broken);
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
